---@meta sbx.core.watch

-- What happens in folders, by inotify.

---@class sbx.core.watch
local watch = {}

---@class sbx.core.watch.Watcher
local Watcher = {}

---@class sbx.core.watch.Event
---@field wd integer
---@field kind "create"|"change"|"delete"|"from"|"to"|"gone"|"moved"|"ignored"|"overflow"
---@field is_dir boolean
---@field cookie integer  the same in both halves of a move
---@field name? string    nil where it is about the folder itself

---@return sbx.core.watch.Watcher
function watch.new() end

---Watches what leaves the folder, or with `all` all that happens in it.
---@async
---@param path string
---@param all boolean
---@return integer wd
function Watcher:beside(path, all) end

---Watches what happens in the folder and to it. Follows no link.
---@async
---@param path string
---@param list boolean
---@return integer wd  the same for a folder that is watched already
---@return sbx.core.tree.Listing|nil listing  with `list`: what it held afterwards
function Watcher:folder(path, list) end

---@param wd integer
function Watcher:remove(wd) end

---Returns once there is something to take.
---@async
function Watcher:ready() end

---What there is now, oldest first; never waits.
---@return sbx.core.watch.Event[]
function Watcher:take() end

---Who waits gets EBADF. Again is harmless.
function Watcher:close() end

return watch
