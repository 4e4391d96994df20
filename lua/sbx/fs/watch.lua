-- Watching a file or a folder.
--
-- Events are pulled: the kernel keeps them until somebody waits. In a tree every
-- folder is watched on its own, and a folder that appears is first watched and
-- then listed, so that whatever is made in it is told of, by the kernel or from
-- the list. Beside what is watched its parent is watched too: only there the
-- kernel says at once that a folder is gone which somebody still has open.

local check = require("sbx.check")
local core = require("sbx.core.watch")
local errors = require("sbx.errors")
local fs_core = require("sbx.core.fs")
local path = require("sbx.path")
local task = require("sbx.task")
local tree = require("sbx.core.tree")
local turns = require("sbx.fs.turns")

local ENOUGH = 1024 -- events kept here before the kernel is asked for more
local SECOND_HALF = 0.02 -- seconds for the other half of a move

---@class sbx.fs.Event
---@field kind "create"|"change"|"delete"|"rename"|"overflow"
---@field path string    the new one where it is a rename
---@field from? string   of a rename: the old one
---@field is_dir? boolean

-- A folder that is watched. `listed` has the names that a list told of and the
-- kernel may tell of again.
---@class sbx.fs.Watch.Node
---@field wd integer
---@field parent? sbx.fs.Watch.Node  nil for the root
---@field name? string
---@field children table<string, sbx.fs.Watch.Node>
---@field listed? table<string, true>

---@class sbx.fs.Watch
---@field path string
---@field private core sbx.core.watch.Watcher
---@field private real string                 `path` without links
---@field private beside? integer             wd of the parent
---@field private is_file boolean
---@field private recursive boolean
---@field private on_error? async fun(err: any, path: string)
---@field private nodes table<integer, sbx.fs.Watch.Node>
---@field private root? sbx.fs.Watch.Node
---@field private queue sbx.fs.Event[]
---@field private first integer               of the queue
---@field private last integer
---@field private latest table<string, sbx.fs.Event>  the last event for a path, if queued
---@field private todo table[]                folders to watch: { parent, name, quiet }
---@field private listing? table              what a new folder holds: { node, list, quiet }
---@field private fresh sbx.fs.Watch.Node[]   nodes with `listed`
---@field private moved? table                the first half of a move
---@field private stale? table<integer, sbx.fs.Watch.Node>  after an overflow: the old nodes
---@field private breathe async fun()         many events may come without a wait
---@field private ended boolean
---@field private waiting boolean
local Watch = {}
Watch.__index = Watch
Watch.__name = "sbx.fs.Watch"

local function path_of(self, node, name)
  while node.parent do
    name, node = node.name .. "/" .. name, node.parent
  end
  return path.join(self.path, name)
end

-- ----------------------------------------------------------------- the queue

local function push(self, event)
  local latest = self.latest[event.path]
  if event.kind == "change" and latest
    and (latest.kind == "change" or latest.kind == "create") then
    return
  end
  -- What is told of a path after that is about another file.
  if event.is_dir and event.kind == "rename" then self.latest = {} end
  if event.from then self.latest[event.from] = event end
  self.latest[event.path] = event
  self.last = self.last + 1
  self.queue[self.last] = event
end

local function pop(self)
  local event = self.queue[self.first]
  self.queue[self.first] = nil
  self.first = self.first + 1
  for _, name in ipairs({ event.path, event.from }) do
    if self.latest[name] == event then self.latest[name] = nil end
  end
  return event
end

local function queued(self)
  return self.last - self.first + 1
end

local function finish(self, event)
  if self.ended then return end
  push(self, event or { kind = "delete", path = self.path, is_dir = not self.is_file })
  self.ended = true
  self.todo, self.listing, self.stale = {}, nil, nil
end

-- ------------------------------------------------------------- nodes of a tree

local function attach(self, node, parent, name)
  node.parent, node.name = parent, name
  parent.children[name] = node
  self.nodes[node.wd] = node
end

local function detach(node)
  if node.parent and node.parent.children[node.name] == node then
    node.parent.children[node.name] = nil
  end
end

-- A folder left the tree: its events, and those of all below, are not ours.
local function forget(self, top)
  detach(top)
  local left = { top }
  while #left > 0 do
    local node = table.remove(left)
    self.core:remove(node.wd)
    self.nodes[node.wd] = nil
    for _, child in pairs(node.children) do
      left[#left + 1] = child
    end
  end
end

-- ------------------------------------------------------- folders to be watched

-- An unreadable folder, or one too many.
local function report(self, err, where)
  if not self.on_error then error(err, 0) end
  self.on_error(err, where)
end

local vanished = { ENOENT = true, ENOTDIR = true, ELOOP = true }

-- Watches and lists a folder. Done again after a cancellation it comes to the
-- same end.
---@async
local function look_into(self, item)
  local node = item.parent
  local where = node and path_of(self, node, item.name) or self.path
  local real = node and path.join(self.real, where:sub(#self.path + 1)) or self.real
  local wd = self.core:add(real, "folder")
  local known = self.nodes[wd]
  if known then return where end
  local list = self.recursive and tree.list(real, false, true)
  local new = { wd = wd, children = {} }
  if node then
    attach(self, new, node, item.name)
  else
    self.root, self.nodes[wd] = new, new
  end
  if list then self.listing = { node = new, list = list, quiet = item.quiet } end
end

---@async
local function next_folder(self)
  local item = self.todo[#self.todo]
  local _, err = errors.try(look_into, self, item)
  self.todo[#self.todo] = nil
  if err == nil then return end
  local gone = errors.is_error(err) and vanished[err.code]
  if not item.parent then
    -- The root: after an overflow it may be gone.
    if gone and self.stale then return finish(self) end
    error(err, 0)
  end
  if not gone then report(self, err, path_of(self, item.parent, item.name)) end
end

-- Tells of what a new folder held when it was listed, and puts the folders among
-- it on the list of those to be watched.
---@async
local function take_listing(self)
  local listing = self.listing
  local node = listing.node
  for _ = 1, 64 do
    local name, kind = listing.list:next()
    if not name or self.nodes[node.wd] ~= node then
      self.listing = nil
      return
    end
    if not listing.quiet then
      if not node.listed then
        node.listed = {}
        table.insert(self.fresh, node)
      end
      node.listed[name] = true
      push(self, {
        kind = "create", path = path_of(self, node, name), is_dir = kind == "directory",
      })
    end
    if kind == "directory" then
      table.insert(self.todo, { parent = node, name = name, quiet = listing.quiet })
    end
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
  push(self, {
    kind = "delete", path = path_of(self, moved.node, moved.name), is_dir = moved.is_dir,
  })
  local child = moved.node.children[moved.name]
  if child then forget(self, child) end
end

local on_content = {}

function on_content.create(self, node, event)
  if node.listed and node.listed[event.name] then
    node.listed[event.name] = nil
    return
  end
  push(self, {
    kind = "create", path = path_of(self, node, event.name), is_dir = event.is_dir,
  })
  if event.is_dir and self.recursive then
    table.insert(self.todo, { parent = node, name = event.name, quiet = false })
  end
end

function on_content.change(self, node, event)
  push(self, {
    kind = "change", path = path_of(self, node, event.name), is_dir = event.is_dir,
  })
end

function on_content.delete(self, node, event)
  if node.listed then node.listed[event.name] = nil end
  push(self, {
    kind = "delete", path = path_of(self, node, event.name), is_dir = event.is_dir,
  })
end

on_content["from"] = function(self, node, event)
  if node.listed then node.listed[event.name] = nil end
  self.moved = { node = node, name = event.name, cookie = event.cookie, is_dir = event.is_dir }
end

on_content["to"] = function(self, node, event)
  local moved = self.moved
  if not moved then return on_content.create(self, node, event) end
  self.moved = nil
  push(self, {
    kind = "rename", path = path_of(self, node, event.name),
    from = path_of(self, moved.node, moved.name), is_dir = event.is_dir,
  })
  if not (event.is_dir and self.recursive) then return end
  local child = moved.node.children[moved.name]
  if child then
    detach(child)
    attach(self, child, node, event.name)
  else
    table.insert(self.todo, { parent = node, name = event.name, quiet = false })
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
    self.moved = nil
    finish(self, { kind = "rename", path = target, from = self.path, is_dir = event.is_dir })
  elseif not mine then
    return
  elseif event.kind == "delete" then
    finish(self)
  elseif event.kind == "from" then
    self.moved = { cookie = event.cookie }
  elseif self.is_file then
    push(self, { kind = "change", path = self.path, is_dir = false })
  end
end

-- Events of a watched folder itself.
local function on_folder(self, node, event)
  if event.kind == "ignored" then
    detach(node)
    self.nodes[node.wd] = nil
  end
  if node ~= self.root then return end
  if event.kind == "change" then
    push(self, { kind = "change", path = self.path, is_dir = true })
  elseif event.kind ~= "moved" or not self.beside then
    finish(self)
  end
end

-- The kernel has dropped events: anything may have happened. All folders are
-- looked for again, and only then is the script told.
local function on_overflow(self)
  self.stale = self.stale or self.nodes
  self.nodes, self.todo, self.listing, self.moved, self.fresh = {}, {}, nil, nil, {}
  if not self.is_file then self.todo = { { quiet = true } } end
end

---@async
local function end_overflow(self)
  if self.is_file then
    local facts, err = errors.try(fs_core.lstat, self.real)
    if not facts and errors.is_error(err) and vanished[err.code] then return finish(self) end
  end
  for wd in pairs(self.stale) do
    if not self.nodes[wd] then self.core:remove(wd) end
  end
  self.stale = nil
  push(self, { kind = "overflow", path = self.path })
end

local function on_event(self, event)
  local moved = self.moved
  local beside = event.wd == self.beside
  -- A move from the tree to the folder beside it is no rename in the tree.
  if moved and not (event.kind == "to" and event.cookie == moved.cookie
    and beside == (moved.node == nil)) then
    flush_moved(self)
  end
  if event.kind == "overflow" then return on_overflow(self) end
  if beside then return on_beside(self, event) end
  local node = self.nodes[event.wd]
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
    if not self.ended then on_event(self, event) end
  end
  if #events > 0 then return true end
  -- Nothing is under way: what a list told of will not be told of again.
  for _, node in ipairs(self.fresh) do
    node.listed = nil
  end
  self.fresh = {}
  return false
end

---@async
local function wait_for_more(self)
  if not self.moved then return self.core:ready() end
  if not task.move_on(SECOND_HALF, self.core.ready, self.core) then flush_moved(self) end
end

-- One step towards the next event. True when there is nothing left to do but to
-- wait for the kernel.
---@async
local function step(self)
  if self.listing then
    take_listing(self)
  elseif #self.todo > 0 then
    next_folder(self)
  elseif self.stale then
    end_overflow(self)
  else
    return not take(self)
  end
  return false
end

---@async
local function next_event(self)
  self.breathe()
  while not self.closed do
    if self.ended or queued(self) >= ENOUGH or step(self) then
      if queued(self) > 0 then return pop(self) end
      if self.ended then return nil end
      wait_for_more(self)
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
  local wd, err = errors.try(self.core.add, self.core, parent,
    self.is_file and "content" or "names")
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
  while self.listing or #self.todo > 0 do
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
    nodes = {}, queue = {}, first = 1, last = 0, latest = {}, todo = {}, fresh = {},
    breathe = turns.new(), ended = false, waiting = false, closed = false,
  }, Watch)
  local ok, err = pcall(begin, self)
  if ok then return self end
  self:close()
  error(err, 0)
end

return watch
