-- Moves a new tree into a folder that is there: files and links replace those of
-- their name, folders are added to. No link in the old tree is followed.

local core = require("sbx.core.fs")
local errors = require("sbx.errors")
local fs = require("sbx.fs")

-- The type of what is at `path`, nil for nothing.
---@async
local function type_of(path)
  local facts, err = errors.try(core.lstat, path)
  if facts then return facts.type end
  if errors.is_error(err) and err.code == "ENOENT" then return nil end
  error(err, 0)
end

local function in_the_way(path, there)
  errors.raise({
    kind = "io",
    code = there == "directory" and "EISDIR" or "ENOTDIR",
    op = "copy_tree_down",
    message = ("copy_tree_down: %s is a %s, what comes is %s"):format(path, there,
      there == "directory" and "none" or "a folder"),
  })
end

---@async
local function merge(from, to, prefix, kept)
  for _, name in ipairs(fs.list(from)) do
    local old, new = to .. "/" .. name, from .. "/" .. name
    local there = type_of(old)
    local is_folder = there ~= nil and type_of(new) == "directory"
    if is_folder and there == "directory" then
      kept[prefix .. name] = true
      merge(new, old, prefix .. name .. "/", kept)
    elseif there and is_folder ~= (there == "directory") then
      in_the_way(old, there)
    else
      core.rename(new, old)
    end
  end
end

---Moves all that `from` holds into `to`, on the same file system. Returns a set of
---the folders that were there before, by their paths in the tree; "" is one.
---@async
---@param from string
---@param to string
---@return table<string, boolean>
return function(from, to)
  local kept = { [""] = true }
  merge(from, to, "", kept)
  return kept
end
