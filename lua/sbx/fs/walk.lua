-- Walking a tree: one entry at a time, folder before content, the names of a
-- folder sorted by bytes. Between two entries nothing is open, and what is held
-- are the names of the folders on the way down.

local check = require("sbx.check")
local errors = require("sbx.errors")
local tree = require("sbx.core.tree")
local turns = require("sbx.fs.turns")

---@class sbx.fs.Entry
---@field path string
---@field name string
---@field type "file"|"directory"|"symlink"|"fifo"|"socket"|"device"|"unknown"
---@field depth integer  1 for what the root holds
---@field link boolean   with `follow`: it is a link, and `type` is its target's
---@field package skipped? boolean
local Entry = {}
Entry.__index = Entry
Entry.__name = "sbx.fs.Entry"

---Leaves out what this folder holds.
function Entry:skip()
  self.skipped = true
end

---@class sbx.fs.Walker
---@field private frames table[]         a listing and a prefix for each folder
---@field private last? sbx.fs.Entry     given last, perhaps to be entered now
---@field private depth number           of entries, at most
---@field private follow boolean
---@field private hidden boolean
---@field private on_error? async fun(err: any, path: string)
---@field private seen? table<string, boolean>  with `follow`: folders entered
---@field private breathe async fun()    a large folder is many entries without a wait
local Walker = {}
Walker.__index = Walker

---@async
local function enter(self, path, nested)
  local listing = tree.list(path, self.follow, nested and not self.follow)
  if self.seen then
    local identity = listing:identity()
    if self.seen[identity] then return end
    self.seen[identity] = true
  end
  local prefix = path:sub(-1) == "/" and path or path .. "/"
  table.insert(self.frames, { listing = listing, prefix = prefix })
end

-- A folder that is gone, or that something else has taken the place of.
local vanished = { ENOENT = true, ENOTDIR = true, ELOOP = true }

-- Enters the folder that was given last, unless it was skipped.
---@async
local function descend(self)
  local last = self.last
  if last and last.type == "directory" and not last.skipped and last.depth < self.depth then
    local _, err = errors.try(enter, self, last.path, true)
    self.last = nil
    if err ~= nil and not (errors.is_error(err) and vanished[err.code]) then
      if not self.on_error then error(err, 0) end
      self.on_error(err, last.path)
    end
  end
end

---The next path and its entry; nothing at the end.
---@async
---@return string|nil, sbx.fs.Entry|nil
function Walker:next()
  self.breathe()
  descend(self)
  while #self.frames > 0 do
    local depth = #self.frames
    local frame = self.frames[depth]
    local name, kind, link = frame.listing:next()
    if not name then
      self.frames[depth] = nil
    elseif self.hidden or name:byte() ~= 46 then
      local entry = setmetatable({
        path = frame.prefix .. name, name = name, type = kind, depth = depth, link = link,
      }, Entry)
      self.last = entry
      return entry.path, entry
    end
  end
end

local walk = {}

---A walker that stands before the first entry of `root`.
---@async
---@param root string
---@param options table  `depth` `follow` `hidden` `on_error`, all but depth and on_error given
---@return sbx.fs.Walker
function walk.start(root, options)
  local self = setmetatable({
    frames = {}, depth = options.depth or math.huge, follow = options.follow,
    hidden = options.hidden, on_error = options.on_error,
    seen = options.follow and {} or nil, breathe = turns.new(),
  }, Walker)
  enter(self, root, false)
  return self
end

---@async
function walk.walk(root, options)
  check.string(root, "path")
  local opts = check.options(options, {
    depth = check.none, follow = false, hidden = true, on_error = check.none,
  })
  if opts.depth ~= nil then check.integer(opts.depth, "depth", 1) end
  check.boolean(opts.follow, "follow")
  check.boolean(opts.hidden, "hidden")
  if opts.on_error ~= nil then check.fn(opts.on_error, "on_error") end
  local walker = walk.start(root, opts)
  return function()
    return walker:next()
  end
end

return walk
