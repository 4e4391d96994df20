-- Copying files, links and trees. Each file appears whole or not at all: it is
-- written under another name, and renamed once it is complete.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local errors = require("sbx.errors")
local hash = require("sbx.core.hash")
local path = require("sbx.path")
local task = require("sbx.task")
local tree = require("sbx.core.tree")
local walk = require("sbx.fs.walk")

local CLEANUP = 10 -- seconds for removing a temporary link in a cancelled task

local copy = {}

---A free name in the folder of `target`, as short however long that one is.
---@param target string
---@return string
function copy.beside(target)
  return path.join(path.dirname(target), (".%016x.tmp"):format(string.unpack("I8", hash.random(8))))
end

---What went wrong with a file beside `target`, told of `target`: nobody knows the other name.
---@param err any  returned as it is where it is no error of a file
---@param target string
---@return any
function copy.told_of(err, target)
  local why = errors.is_error(err) and err.kind == "io" and err.message:match(": ([^:]*)$")
  if why then err.message = ("write %s: %s"):format(target, why) end
  return err
end

local function refuse(from, to, code, why)
  errors.raise({
    kind = "io",
    op = "copy",
    code = code,
    message = ("copy %s to %s: %s"):format(from, to, why),
  })
end

---@async
local function copy_link(from, to, opts)
  local target = core.readlink(from)
  if not opts.overwrite then return core.symlink(target, to) end
  local temporary = copy.beside(to)
  -- A cancel in between would leave the name beside it: it comes before or after.
  task.shield(CLEANUP, function()
    core.symlink(target, temporary)
    local ok, err = pcall(core.rename, temporary, to)
    if ok then return end
    pcall(core.unlink, temporary)
    error(err, 0)
  end)
end

---@async
local function copy_one(from, kind, to, opts)
  if kind == "file" then
    return tree.copy_file(from, to, copy.beside(to), opts.overwrite, opts.preserve)
  end
  if kind == "symlink" then return copy_link(from, to, opts) end
  refuse(from, to, "EINVAL", "is a " .. kind)
end

-- Folders

-- Makes the folder, or takes the one that is there. Returns whether it is new.
-- Until it is filled its owner may do all with it.
---@async
local function make_folder(to, mode, opts)
  local _, err = errors.try(core.mkdir, to, mode & 511 | 448)
  if not err then return true end
  local there = opts.overwrite and errors.is_error(err) and err.code == "EEXIST"
  if there and core.lstat(to).type == "directory" then return false end
  error(err, 0)
end

-- The folder is filled: now its mode and time may be as they should.
---@async
local function finish_folder(folder, opts)
  if folder.new and (opts.preserve or folder.mode & 448 ~= 448) then
    tree.copy_facts(folder.from, folder.to, opts.preserve)
  end
end

---@async
local function begin_folder(from, to, opts)
  local mode = core.lstat(from).mode
  return { from = from, to = to, mode = mode, new = make_folder(to, mode, opts) }
end

---@async
local function refuse_inside(from, to)
  local parent, err = errors.try(core.realpath, path.dirname(to))
  -- Where there is no such folder, making one will say so.
  if err then return end
  local place = path.join(parent, path.basename(to))
  if path.inside(core.realpath(from), place) then
    refuse(from, to, "EINVAL", "a folder cannot go into itself")
  end
end

-- Runs `fn(...)`; its failure goes to `on_error`, if there is one.
---@async
local function attempt(opts, from, fn, ...)
  if not opts.on_error then return fn(...) end
  local result, err = errors.try(fn, ...)
  if err ~= nil then opts.on_error(err, from) end
  return result
end

---@async
local function copy_folder(from, to, opts)
  refuse_inside(from, to)
  local open = { begin_folder(from, to, opts) } -- from the root down, by depth + 1
  local function finish_below(depth)
    while #open > depth do
      attempt(opts, open[#open].from, finish_folder, open[#open], opts)
      open[#open] = nil
    end
  end
  local walker = walk.start(from, {
    hidden = true, follow = false, on_error = opts.on_error,
  })
  while true do
    local source, entry = walker:next()
    if not entry then break end
    finish_below(entry.depth)
    local target = path.join(open[entry.depth].to, entry.name)
    if entry.type == "directory" then
      local folder = attempt(opts, source, begin_folder, source, target, opts)
      if folder then
        open[#open + 1] = folder
      else
        entry:skip()
      end
    else
      attempt(opts, source, copy_one, source, entry.type, target, opts)
    end
  end
  finish_below(0)
end

---@async
function copy.copy(from, to, options)
  check.string(from, "from")
  check.string(to, "to")
  local opts = check.options(options, {
    recursive = false, overwrite = false, preserve = false, on_error = check.none,
  })
  for _, name in ipairs({ "recursive", "overwrite", "preserve" }) do
    check.boolean(opts[name], name)
  end
  if opts.on_error ~= nil then check.fn(opts.on_error, "on_error") end
  local kind = core.lstat(from).type
  if kind ~= "directory" then return copy_one(from, kind, to, opts) end
  if not opts.recursive then
    refuse(from, to, "EISDIR", "is a directory: recursive = true copies it")
  end
  copy_folder(from, to, opts)
end

return copy
