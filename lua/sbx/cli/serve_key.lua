-- `sbxlua serve key`: API keys for several users of one server. A new key goes to a file
-- that only its owner can read; the server keeps its hash.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local key_store = require("sbx.server.key_store")
local keys = require("sbx.server.keys")

local serve_key = {}

local PRIVATE_FILE = 384 -- 0600

local function usage_error(message)
  errors.raise { kind = "usage", message = message }
end

local function parse(args)
  local words, options, index = {}, {}, 2
  while index <= #args do
    local name, value = args[index]:match("^(%-%-[%w-]+)=(.*)$")
    name = name or args[index]
    if name == "--state" or name == "--out" then
      if not value then
        index = index + 1
        value = args[index]
      end
      if not value or value == "" then usage_error(name .. " needs a value") end
      options[name:sub(3)] = value
    elseif name:sub(1, 1) == "-" then
      usage_error("key: unknown argument " .. name)
    else
      words[#words + 1] = args[index]
    end
    index = index + 1
  end
  return words, options
end

local function name_of(words)
  if #words ~= 2 then usage_error("key " .. words[1] .. ": expected one NAME") end
  local ok, problem = keys.check_name(words[2])
  if not ok then usage_error("key: " .. words[2] .. ": " .. problem) end
  return words[2]
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

local function list(store)
  for _, row in ipairs(store:list()) do
    if row.name then
      host.write(1, ("%s\t%s\n"):format(row.name, os.date("!%Y-%m-%dT%H:%M:%SZ",
        math.floor(row.created_at))))
    end
  end
end

local function remove(store, name)
  if store:remove(name) then return end
  errors.raise { kind = "conflict", message = "there is no key named " .. name }
end

---Runs `serve key …`. Returns the exit status; raises kind `usage`.
---@async
---@param args string[]  the first is "key"
---@param state_folder async fun(advice: string): string  our folder of states
---@return integer
function serve_key.run(args, state_folder)
  local words, options = parse(args)
  local verb = words[1]
  if verb ~= "add" and verb ~= "ls" and verb ~= "rm" then
    usage_error("key: expected add NAME, ls or rm NAME")
  elseif verb == "ls" and #words > 1 then
    usage_error("key ls takes no name")
  elseif options.out and verb ~= "add" then
    usage_error("--out: only with key add")
  end
  local name = verb ~= "ls" and name_of(words)
  local folder = options.state or state_folder("--state") .. "/server"
  local ok, failure = pcall(function()
    local store <close> = key_store.open(folder)
    if verb == "add" then
      add(store, name, options.out or folder .. "/" .. name .. ".key")
    elseif verb == "rm" then
      remove(store, name)
    else
      list(store)
    end
  end)
  if ok then return 0 end
  local is_plain = errors.is_error(failure) and (failure.kind == "conflict" or failure.kind == "io")
  if not is_plain then error(failure, 0) end
  host.write(2, "sbxlua serve key: " .. failure.message .. "\n")
  return 1
end

return serve_key
