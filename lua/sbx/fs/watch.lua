-- Watching a file or a folder.
--
-- Events are pulled: the kernel keeps them until somebody waits. In a tree every
-- folder is watched on its own, and a folder that appears is first watched and
-- then listed, so that whatever is made in it is told of, by the kernel or from
-- the list. Beside what is watched its parent is watched too: only there the
-- kernel says at once that a folder is gone which somebody still has open.
--
-- Events name a folder, and by the time it is looked for the name may be another
-- one's. So a folder that was found counts only after all events up to then were
-- read, if none of them moved it or what it is in; else it is looked for again.

local check = require("sbx.check")
local core = require("sbx.core.watch")
local errors = require("sbx.errors")
local event_queue = require("sbx.fs.event_queue")
local fs_core = require("sbx.core.fs")
local path = require("sbx.path")
local task = require("sbx.task")
local turns = require("sbx.fs.turns")
local watch_nodes = require("sbx.fs.watch_nodes")

local ENOUGH = 1024 -- events kept here before the kernel is asked for more
local SECOND_HALF = 0.02 -- seconds for the other half of a move
local IN_A_ROW = 64 -- takes, until folders get their turn all the same

---@class sbx.fs.Event
---@field kind "create"|"change"|"delete"|"rename"|"overflow"
---@field path string    the new one where it is a rename
---@field from? string   of a rename: the old one
---@field is_dir? boolean

-- A folder that is to be watched: `name` in `parent`, or the root. `quiet`: what it
-- holds is no news. `missed`: where it was last looked for in vain.
---@class sbx.fs.Watch.Item
---@field parent? sbx.fs.Watch.Node
---@field name? string
---@field quiet boolean
---@field missed? string

---@class sbx.fs.Watch
---@field path string
---@field private core sbx.core.watch.Watcher
---@field private real string          `path` without links
---@field private beside? integer      wd of the parent
---@field private is_file boolean
---@field private recursive boolean
---@field private on_error? async fun(err: any, path: string)
---@field private nodes sbx.fs.Watch.Nodes
---@field private queue sbx.fs.EventQueue
---@field private todo sbx.fs.Watch.Item[]
---@field private found? table         a folder that does not count yet, with its events
---@field private listing? table       what a new folder holds, with its events
---@field private fresh sbx.fs.Watch.Node[]  nodes with `listed`
---@field private moved? table         the first half of a move
---@field private stale? sbx.fs.Watch.Nodes  the old ones, while all is looked for again
---@field private taken integer        takes since a folder was looked for
---@field private breathe async fun()  many events may come without a wait
---@field private ended boolean
---@field private waiting boolean
---@field private closed boolean
local Watch = {}
Watch.__index = Watch
Watch.__name = "sbx.fs.Watch"

local function path_of(self, node, name)
  return path.join(self.path, watch_nodes.below(node, name))
end

local function finish(self, event)
  if self.ended then return end
  self.queue:push(event or { kind = "delete", path = self.path, is_dir = not self.is_file })
  self.ended = true
  self.todo, self.found, self.listing, self.stale, self.moved = {}, nil, nil, nil, nil
end

-- A folder left the tree: its events, and those of all below, are not ours.
local function forget(self, node)
  for _, wd in ipairs(self.nodes:remove(node)) do
    self.core:remove(wd)
  end
end

local function forget_child(self, node, name)
  local child = node.children[name]
  if child then forget(self, child) end
end

local function remember(self, node, name, quiet)
  table.insert(self.todo, { parent = node, name = name, quiet = quiet })
end

-- An event about `name` in a folder.
local function tell(self, kind, node, name, is_dir, from)
  self.queue:push({ kind = kind, path = path_of(self, node, name), from = from, is_dir = is_dir })
end

-- ------------------------------------------------------- folders to be watched

local vanished = { ENOENT = true, ENOTDIR = true, ELOOP = true }

-- Looks for a folder and watches it. Done again after a cancellation it comes to
-- the same end.
---@async
local function look_for(self, item)
  local below = item.parent and watch_nodes.below(item.parent, item.name) or ""
  local wd, list = self.core:folder(path.join(self.real, below), self.recursive)
  self.found = { item = item, below = below, wd = wd, list = list, events = {} }
end

-- An unreadable folder, or one too many.
---@async
local function report(self, err, where)
  if not self.on_error then error(err, 0) end
  self.on_error(err, where)
end

---@async
local function next_folder(self)
  local item = table.remove(self.todo)
  local ok, err = pcall(look_for, self, item)
  if ok then return end
  local is_error = errors.is_error(err)
  if is_error and err.kind == "cancelled" then
    table.insert(self.todo, item)
    error(err, 0)
  end
  local gone = is_error and vanished[err.code]
  if not item.parent then
    -- The root: when it is looked for again it may be gone.
    if gone and self.stale then return finish(self) end
    error(err, 0)
  end
  local where = path_of(self, item.parent, item.name)
  if not gone then return report(self, err, where) end
  -- It was removed, or moved: the events that are read next tell.
  if item.missed == where then return end
  item.missed = where
  table.insert(self.todo, item)
end

-- The kernel has dropped events, or they made no sense: anything may have happened.
-- All folders are looked for again, and only then is the script told.
local function start_over(self)
  self.stale = self.stale or self.nodes
  self.nodes, self.todo, self.fresh = watch_nodes.new(), {}, {}
  self.found, self.listing, self.moved = nil, nil, nil
  if not self.is_file then self.todo = { { quiet = true } } end
  -- What happened until now is covered by that.
  for _ = 1, IN_A_ROW do
    if #self.core:take() == 0 then break end
  end
end

---@async
local function end_starting_over(self)
  if self.is_file then
    local facts, err = errors.try(fs_core.lstat, self.real)
    if not facts and errors.is_error(err) and vanished[err.code] then return finish(self) end
  end
  for wd in pairs(self.stale.by_wd) do
    if not self.nodes.by_wd[wd] then self.core:remove(wd) end
  end
  self.stale = nil
  self.queue:push({ kind = "overflow", path = self.path })
end

-- All events up to when the folder was found are read: whether it was the one that
-- was looked for is known now.
local function settle(self)
  local found = self.found
  local parent, name = found.item.parent, found.item.name
  local known = self.nodes.by_wd[found.wd]
  local expected = self.nodes.root
  self.found = nil
  if parent then
    expected = parent.children[name]
    local same = not found.touched and found.below == watch_nodes.below(parent, name)
    if not self.nodes:has(parent) or not same then
      if not known then self.core:remove(found.wd) end
      if self.nodes:has(parent) then table.insert(self.todo, found.item) end
      return
    end
  end
  if known ~= expected then return start_over(self) end
  if known then return end
  local node = { wd = found.wd, children = {} }
  self.nodes:attach(node, parent, name)
  self.listing = { node = node, list = found.list, quiet = found.item.quiet, events = found.events }
end

local on_event

-- Tells of what a new folder held when it was listed, and puts the folders among
-- it on the list of those to be watched; then comes what happened in it since.
---@async
local function take_listing(self)
  local listing = self.listing
  local node = listing.node
  for _ = 1, 64 do
    local name, kind
    if listing.list then name, kind = listing.list:next() end
    if not name then
      self.listing = nil
      for _, event in ipairs(listing.events) do
        on_event(self, event)
      end
      return
    end
    if not listing.quiet then
      if not node.listed then
        node.listed = {}
        table.insert(self.fresh, node)
      end
      node.listed[name] = true
      tell(self, "create", node, name, kind == "directory")
    end
    if kind == "directory" then remember(self, node, name, listing.quiet) end
  end
  self.breathe()
end

-- ---------------------------------------------------------- what the kernel says

-- Only the first half of a move came: it went elsewhere.
local function flush_moved(self)
  local moved = self.moved
  self.moved = nil
  if not moved then return end
  if not moved.node then return finish(self) end
  tell(self, "delete", moved.node, moved.name, moved.is_dir)
  forget_child(self, moved.node, moved.name)
end

local on_content = {}

function on_content.create(self, node, event)
  if node.listed and node.listed[event.name] then
    node.listed[event.name] = nil
    return
  end
  tell(self, "create", node, event.name, event.is_dir)
  if event.is_dir and self.recursive then
    forget_child(self, node, event.name) -- what it took the place of
    remember(self, node, event.name, false)
  end
end

function on_content.change(self, node, event)
  tell(self, "change", node, event.name, event.is_dir)
end

function on_content.delete(self, node, event)
  if node.listed then node.listed[event.name] = nil end
  tell(self, "delete", node, event.name, event.is_dir)
  if event.is_dir then forget_child(self, node, event.name) end
end

on_content["from"] = function(self, node, event)
  if node.listed then node.listed[event.name] = nil end
  self.moved = { node = node, name = event.name, cookie = event.cookie, is_dir = event.is_dir }
end

on_content["to"] = function(self, node, event)
  local moved = self.moved
  if not moved then return on_content.create(self, node, event) end
  self.moved = nil
  tell(self, "rename", node, event.name, event.is_dir, path_of(self, moved.node, moved.name))
  if not (event.is_dir and self.recursive) then return end
  local child = moved.node.children[moved.name]
  forget_child(self, node, event.name) -- what it took the place of
  if child then
    self.nodes:attach(child, node, event.name)
  else
    remember(self, node, event.name, false)
  end
end

-- Events of the folder that holds what is watched. Of a file it tells all, of a
-- folder its end.
local function on_beside(self, event)
  local mine = event.name == path.basename(self.real)
  if event.kind == "ignored" then
    self.beside = nil
    if self.is_file then finish(self) end
  elseif event.kind == "to" and self.moved then
    local target = path.join(path.dirname(self.path), event.name)
    finish(self, { kind = "rename", path = target, from = self.path, is_dir = event.is_dir })
  elseif not mine then
    return
  elseif event.kind == "delete" then
    finish(self)
  elseif event.kind == "from" then
    self.moved = { cookie = event.cookie }
  elseif self.is_file then
    self.queue:push({ kind = "change", path = self.path, is_dir = false })
  end
end

-- Events of a watched folder itself.
local function on_folder(self, node, event)
  if event.kind == "ignored" then
    self.nodes:detach(node)
    self.nodes.by_wd[node.wd] = nil
  end
  if node ~= self.nodes.root then return end
  if event.kind == "change" then
    self.queue:push({ kind = "change", path = self.path, is_dir = true })
  elseif event.kind ~= "moved" or not self.beside then
    finish(self)
  end
end

-- Events that come while a folder is being looked for: its own are for later, and
-- those of its name say that it may be another one.
local function on_found(self, event, node)
  local found = self.found
  if not node and event.wd == found.wd then
    table.insert(found.events, event)
  elseif node and node == found.item.parent and event.name == found.item.name then
    found.touched = found.touched or event.kind ~= "change"
  end
end

function on_event(self, event)
  if self.ended then return end
  local moved = self.moved
  local beside = event.wd == self.beside
  -- A move from the tree to the folder beside it is no rename in the tree.
  if moved and not (event.kind == "to" and event.cookie == moved.cookie
    and beside == (moved.node == nil)) then
    flush_moved(self)
  end
  if event.kind == "overflow" then return start_over(self) end
  if beside then return on_beside(self, event) end
  local node = self.nodes.by_wd[event.wd]
  if self.found then on_found(self, event, node) end
  if not node then return end
  if event.name then
    local handler = on_content[event.kind]
    if handler then handler(self, node, event) end
  else
    on_folder(self, node, event)
  end
end

-- Takes what the kernel has. Returns false when that was nothing.
local function take(self)
  local events = self.core:take()
  for _, event in ipairs(events) do
    on_event(self, event)
  end
  if #events > 0 then return true end
  -- Nothing is under way: what a list told of will not be told of again.
  for _, node in ipairs(self.fresh) do
    node.listed = nil
  end
  self.fresh = {}
  return false
end

-- The same, unless there is so much that no folder would ever be looked for.
local function take_first(self)
  local busy = self.found or #self.todo > 0
  if busy and not self.moved and self.taken >= IN_A_ROW then return false end
  self.taken = self.taken + 1
  return take(self)
end

-- One step towards the next event. True when there is nothing left to do but to
-- wait for the kernel.
---@async
local function step(self)
  if self.listing then
    take_listing(self)
  elseif take_first(self) then
    return false
  elseif self.moved then
    if not task.move_on(SECOND_HALF, self.core.ready, self.core) then flush_moved(self) end
  elseif self.found then
    settle(self)
  elseif #self.todo > 0 then
    self.taken = 0
    next_folder(self)
  elseif self.stale then
    end_starting_over(self)
  else
    return true
  end
  return false
end

---@async
local function next_event(self)
  self.breathe()
  while not self.closed do
    if self.ended or self.queue:count() >= ENOUGH or step(self) then
      if self.queue:count() > 0 then return self.queue:pop() end
      if self.ended then return nil end
      self.core:ready()
    end
  end
end

---What happened next; nil once what is watched is gone, or the watch is closed.
---@async
---@return sbx.fs.Event|nil
function Watch:wait()
  if self.waiting then error("another task waits for this watch", 2) end
  self.waiting = true
  local ok, event = pcall(next_event, self)
  self.waiting = false
  if ok then return event end
  if self.closed and errors.is_error(event) and event.code == "EBADF" then return nil end
  error(event, 0)
end

---An iterator over what happens, for a generic `for`.
---@return async fun(): sbx.fs.Event|nil
function Watch:events()
  return function()
    return self:wait()
  end
end

---Stops watching: who waits gets nil. Again is harmless; never waits.
function Watch:close()
  self.closed = true
  self.core:close()
end

Watch.__close = Watch.close

check.methods(Watch, "watch")

-- ------------------------------------------------------------------- beginning

-- Watches the parent, if there is one that may be read.
---@async
local function watch_beside(self)
  local parent = path.dirname(self.real)
  if parent == self.real then return end
  local wd, err = errors.try(self.core.beside, self.core, parent, self.is_file)
  if wd then
    self.beside = wd
  elseif self.is_file or not (errors.is_error(err) and err.code == "EACCES") then
    error(err, 0)
  end
end

---@async
local function begin(self)
  watch_beside(self)
  if self.is_file then
    fs_core.lstat(self.real) -- gone meanwhile?
    return
  end
  self.todo = { { quiet = true } }
  while self.listing or self.found or #self.todo > 0 do
    step(self)
  end
end

local watch = {}

---@async
function watch.new(root, options)
  check.string(root, "path")
  local opts = check.options(options, { recursive = false, on_error = check.none })
  check.boolean(opts.recursive, "recursive")
  if opts.on_error ~= nil then check.fn(opts.on_error, "on_error") end
  local real = fs_core.realpath(root)
  local self = setmetatable({
    core = core.new(), path = root:match("^(.*[^/])/*$") or "/", real = real,
    is_file = fs_core.stat(real).type ~= "directory",
    recursive = opts.recursive, on_error = opts.on_error,
    nodes = watch_nodes.new(), queue = event_queue.new(), todo = {}, fresh = {}, taken = 0,
    breathe = turns.new(), ended = false, waiting = false, closed = false,
  }, Watch)
  local ok, err = pcall(begin, self)
  if ok then return self end
  self:close()
  error(err, 0)
end

return watch
