-- `sbxlua serve key`: API keys for several users of one server. A new key goes to a file
-- that only its owner can read; the server keeps its hash.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local key_store = require("sbx.server.key_store")
local keys = require("sbx.server.keys")
local time = require("sbx.time")

local serve_key = {}

local PRIVATE_FILE = 384 -- 0600

local function usage_error(message)
  errors.raise { kind = "usage", message = message }
end

local function check_name(name)
  local ok, problem = keys.check_name(name)
  if not ok then usage_error("key: " .. name .. ": " .. problem) end
end

local function add(store, name, path)
  -- The file first: a key that nobody got to see is of no use.
  local file <close> = fs.open(path, "wx", { perm = PRIVATE_FILE })
  local ok, key = pcall(store.add, store, name)
  if not ok then
    fs.remove(path)
    error(key, 0)
  end
  file:write(key .. "\n")
  file:sync()
  host.write(1, path .. "\n")
end

local function list(store, out)
  local rows = {}
  for _, row in ipairs(store:list()) do
    if row.name then
      rows[#rows + 1] = { name = row.name, created_at = time.iso(math.floor(row.created_at)) }
    end
  end
  if out.format ~= "table" and out.format ~= "wide" then return out:rows(rows, {}, "name") end
  for _, row in ipairs(rows) do
    host.write(1, ("%s\t%s\n"):format(row.name, row.created_at))
  end
end

local function remove(store, name)
  if store:remove(name) then return end
  errors.raise { kind = "conflict", message = "there is no key named " .. name }
end

---Runs `serve key NAME …`. Returns the exit status; raises kind `usage`.
---@async
---@param name "add"|"ls"|"rm"
---@param given table
---@param out sbx.cli.Output
---@param state_folder async fun(advice: string): string  our folder of states
---@return integer
function serve_key.run(name, given, out, state_folder)
  for _, option in ipairs({ "state", "out" }) do
    if given[option] == "" then usage_error(("--%s needs a value"):format(option)) end
  end
  if given.name then check_name(given.name) end
  local folder = given.state or state_folder("--state") .. "/server"
  local ok, failure = pcall(function()
    local store <close> = key_store.open(folder)
    if name == "add" then
      add(store, given.name, given.out or folder .. "/" .. given.name .. ".key")
    elseif name == "rm" then
      remove(store, given.name)
    else
      list(store, out)
    end
  end)
  if ok then return 0 end
  local is_plain = errors.is_error(failure) and (failure.kind == "conflict" or failure.kind == "io")
  if not is_plain then error(failure, 0) end
  out:failure(failure, 1)
  return 1
end

return serve_key
