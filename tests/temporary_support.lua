-- Temporary files that are this test's own: others run beside it and make theirs in the
-- same folder under the same kind of name. Loaded with dofile.

local fs = require("sbx.fs")

local temporary = {}

---A folder in which `fs.tmpfile` makes what it makes, until the value is closed.
---@async
---@return { path: string }
function temporary.own()
  local folder, tmpfile = fs.tmpdir({}), fs.tmpfile
  fs.tmpfile = function(options)
    local given = { dir = folder.path }
    for name, value in pairs(options or {}) do
      given[name] = value
    end
    return tmpfile(given)
  end
  return setmetatable({ path = folder.path }, { __close = function()
    fs.tmpfile = tmpfile
    folder:close()
  end })
end

local function collect(value, found, seen)
  if type(value) == "string" then
    for name in value:gmatch("/tmp/(%.sbx%-%x+)") do
      found[name] = true
    end
  elseif type(value) == "table" and not seen[value] then
    seen[value] = true
    for _, item in pairs(value) do
      collect(item, found, seen)
    end
  end
end

---The files in /tmp, of those kinds that the client makes in sandboxes, which `calls`
---speak of: a sandbox that runs on this machine has left them.
---@async
---@param calls table  what the sandbox was asked, however deep
---@return string[]
function temporary.left_by(calls)
  local mine, left = {}, {}
  collect(calls, mine, {})
  assert(next(mine), "no call names a file")
  for _, name in ipairs(fs.list("/tmp")) do
    if mine[name:match("^%.sbx%-%x+")] then left[#left + 1] = name end
  end
  return left
end

return temporary
