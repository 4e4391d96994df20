---@meta sbx.core.tree

-- Work on folders, each call one job of a thread. Errors are objects of kind "io".

---@class sbx.core.tree
local tree = {}

---@class sbx.core.tree.Listing
local Listing = {}

---The entries of a folder, sorted by bytes, without "." and "..". The path may be
---longer than the kernel takes at once.
---@async
---@param path string
---@param follow boolean  look at where links lead
---@param nested boolean  refuse a link in the folder's place
---@return sbx.core.tree.Listing
function tree.list(path, follow, nested) end

---Follows no link. The mode is the source's, less the umask, never set-user-id.
---@async
---@param from string       a regular file
---@param to string
---@param temporary string  a free name in the same folder
---@param overwrite boolean
---@param preserve boolean  the time of change too, and the mode whatever the umask
function tree.copy_file(from, to, temporary, overwrite, preserve) end

---Gives a folder the mode of another one and with `preserve` its time of change.
---@async
---@param from string
---@param to string
---@param preserve boolean
function tree.copy_facts(from, to, preserve) end

---Removes a file, a link itself, or a folder with all it holds.
---@async
---@param path string
function tree.remove(path) end

---Nothing at the end.
---@return string|nil name
---@return string type
---@return boolean link  with `follow`: the type is that of what a link leads to
function Listing:next() end

---Appends names to a list.
---@param list string[]
---@param max integer
---@return boolean more  are left
function Listing:names(list, max) end

---A text that no other folder has at the time. Not after the last entry.
---@return string
function Listing:identity() end

return tree
