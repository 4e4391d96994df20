-- Finding paths by a pattern. Of a tree only the folders are entered that can
-- hold a match.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local errors = require("sbx.errors")
local path = require("sbx.path")
local pattern = require("sbx.path.pattern")
local walk = require("sbx.fs.walk")

-- Splits a pattern into the folders that it names outright and the rest. The
-- last name always belongs to the rest.
local function split(text)
  local rest = text:match("^/*") --[[@as string]]
  local at = #rest + 1
  while true do
    local stop = text:find("/", at, true)
    if not stop or text:sub(at, stop - 1):find("[*?%[{\\]") then break end
    at = stop + 1
  end
  return text:sub(1, at - 1), text:sub(at)
end

local missing = { ENOENT = true, ENOTDIR = true, ELOOP = true }

-- Whether something is at `found`; with `folder`, whether that is a folder, also
-- behind a link.
---@async
local function is_there(found, folder)
  local facts, err = errors.try(folder and core.stat or core.lstat, found)
  if facts then return not folder or facts.type == "directory" end
  if errors.is_error(err) and missing[err.code] then return false end
  error(err, 0)
end

---@async
local function start_walk(base, opts)
  local walker, err = errors.try(walk.start, base == "" and "." or base, opts)
  if walker then return walker end
  if errors.is_error(err) and missing[err.code] then return nil end
  if not opts.on_error then error(err, 0) end
  opts.on_error(err, base)
end

-- Whether the entry, which matches, is wanted.
---@async
local function wanted(entry, folders)
  if not folders or entry.type == "directory" then return true end
  return entry.type == "symlink" and is_there(entry.path, true)
end

---@async
local function collect(walker, machine, prefix, folders)
  local found = {}
  local sets = { [0] = machine.start } -- by depth, before a name of that folder
  local names = { [0] = prefix }
  while true do
    local _, entry = walker:next()
    if not entry then return found end
    local depth = entry.depth
    local set = machine:advance(sets[depth - 1], entry.name)
    if set and set.accepts and wanted(entry, folders) then
      found[#found + 1] = names[depth - 1] .. entry.name
    end
    if entry.type == "directory" then
      local below = set and machine:advance(set, "/")
      if below then
        sets[depth], names[depth] = below, names[depth - 1] .. entry.name .. "/"
      else
        entry:skip()
      end
    end
  end
end

local glob = {}

---@async
function glob.glob(text, options)
  check.string(text, "pattern")
  local opts = check.options(options, {
    root = check.none, follow = false, hidden = false, on_error = check.none,
  })
  check.boolean(opts.follow, "follow")
  check.boolean(opts.hidden, "hidden")
  if opts.root ~= nil then check.string(opts.root, "root") end
  if opts.on_error ~= nil then check.fn(opts.on_error, "on_error") end
  if text == "" then error("pattern: is empty", 2) end

  local trimmed = text:match("^(.*[^/])/*$")
  local folders = trimmed ~= text
  if not trimmed then return { "/" } end
  local prefix, rest = split(trimmed)
  local machine, problem = pattern.compile(rest, opts.hidden)
  if not machine then error("pattern: " .. problem, 2) end
  if opts.root and prefix:sub(1, 1) ~= "/" then
    prefix = path.join(opts.root, prefix)
    if prefix ~= "" and prefix:sub(-1) ~= "/" then prefix = prefix .. "/" end
  end
  if not rest:find("[*?%[{\\]") then
    return is_there(prefix .. rest, folders) and { prefix .. rest } or {}
  end
  local walker = start_walk(prefix, {
    follow = opts.follow, hidden = true, on_error = opts.on_error,
  })
  return walker and collect(walker, machine, prefix, folders) or {}
end

return glob
