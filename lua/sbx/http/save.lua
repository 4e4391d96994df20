-- A file that has its name only once it is whole.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local task = require("sbx.task")

local CLEANUP = 10 -- seconds for removing a temporary file in a cancelled task

local function copy(source, path, mode, perm)
  local file <close> = fs.open(path, mode, { perm = perm })
  local size = 0
  for bytes in source do
    file:write(bytes)
    size = size + #bytes
  end
  return size
end

local function fill_and_rename(source, temporary, path, facts)
  local size = copy(source, temporary, "wx", facts and 384 or 438)
  if facts then fs.chmod(temporary, facts.mode & 511) end
  fs.rename(temporary, path)
  return size
end

---Writes what `source` returns, until it returns nil, to a file beside `path`
---that then takes its place, and its mode. A link is followed; what is not a
---plain file, such as /dev/null, is written in place. Returns the bytes written.
---@async
---@param path string
---@param source async fun(): string|nil
---@return integer
return function(path, source)
  local facts
  if fs.exists(path) then
    path = fs.realpath(path)
    facts = fs.stat(path)
    if facts.type ~= "file" then return copy(source, path, "w") end
  end
  local temporary = ("%s.%s.part"):format(path, hash.random_hex(8))
  local ok, result = pcall(fill_and_rename, source, temporary, path, facts)
  if ok then return result end
  pcall(task.shield, CLEANUP, fs.remove, temporary, { missing_ok = true })
  return error(result, 0)
end
