-- The verb `serve`: a wire-compatible server on this machine, until it is told
-- to stop. With `--private` it serves one script and ends with it.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local server = require("sbx.server")
local stream = require("sbx.core.stream")
local task = require("sbx.task")

local serve = {}

local DEFAULT_LISTEN = "127.0.0.1:8701"

local USAGE = [[
usage: sbxlua serve [--listen 127.0.0.1:PORT] [--driver bwrap] [--key-file FILE]

Runs sandboxes on this machine for whoever holds the API key. Ctrl-C ends the
server and every sandbox.

  --listen HOST:PORT  where to listen; loopback only (default 127.0.0.1:8701,
                      port 0 takes any free one)
  --driver NAME       what isolates the sandboxes (default bwrap)
  --key-file FILE     holds the API key; made with a new key when it is missing
]]

local USAGE_ERROR = 2

local function say(text)
  -- Nobody may be reading any more; that is no reason to stop serving.
  pcall(host.write, 2, text)
end

local function usage_error(message)
  errors.raise { kind = "usage", message = message }
end

-- ------------------------------------------------------------------ arguments

local named = {
  ["--listen"] = "listen", ["--driver"] = "driver", ["--key-file"] = "key_file",
}

-- `--name value` and `--name=value`; returns the options.
local function parse(args)
  local options = { listen = DEFAULT_LISTEN, driver = "bwrap" }
  local index = 1
  while index <= #args do
    local name, value = args[index]:match("^(%-%-[%w-]+)=(.*)$")
    name = name or args[index]
    if name == "--help" or name == "-h" then
      options.help = true
    elseif name == "--private" then
      options.private = true
    elseif named[name] then
      if not value then
        index = index + 1
        value = args[index]
      end
      if not value or value == "" then usage_error(name .. " needs a value") end
      options[named[name]] = value
    else
      usage_error("unknown argument " .. name)
    end
    index = index + 1
  end
  return options
end

local function is_loopback(name)
  return name == "localhost" or name == "::1" or name:match("^127%.%d+%.%d+%.%d+$") ~= nil
end

-- Splits HOST:PORT or [HOST]:PORT.
local function address(text)
  local name, port = text:match("^%[([^%]]+)%]:(%d+)$")
  if not name then
    name, port = text:match("^([^:]+):(%d+)$")
  end
  local number = port and math.tointeger(tonumber(port))
  if not number or number > 65535 then
    usage_error("--listen: expected HOST:PORT, got " .. text)
  end
  if not is_loopback(name) then
    usage_error("--listen: " .. name .. " is not a loopback address; this server speaks plain"
      .. " HTTP and runs commands for whoever reaches it: use 127.0.0.1 and a tunnel")
  end
  return name, number
end

-- ------------------------------------------------------------------------ key

local function state_folder()
  local base = os.getenv("XDG_STATE_HOME")
  if not base or base == "" then
    local home = os.getenv("HOME")
    if not home or home == "" then
      usage_error("neither XDG_STATE_HOME nor HOME is set: give --key-file or PRIME_API_KEY")
    end
    base = home .. "/.local/state"
  end
  local folder = base .. "/sbxlua"
  fs.mkdir(folder, { parents = true, mode = 448 }) -- 0700
  return folder
end

local function read_key(path)
  local mode = fs.stat(path).mode & 511
  if mode & 63 ~= 0 then -- group or others
    usage_error(("%s: its mode is %03o; a key file must be readable by its owner only"
      .. " (chmod 600)"):format(path, mode))
  end
  local key = fs.read(path, { max = 4096 }):match("^%s*(%S+)%s*$")
  if not key then usage_error(path .. ": holds no API key") end
  return key
end

-- The API key and where people find it. A new one goes to a file that only its
-- owner can read, never to the terminal or a log.
local function find_key(options)
  if not options.key_file then
    local given = os.getenv("PRIME_API_KEY")
    if given and given ~= "" then return given, nil end
  end
  local path = options.key_file or state_folder() .. "/server.key"
  if not fs.exists(path) then
    fs.write_atomic(path, hash.random_hex(32) .. "\n", { mode = 384 }) -- 0600
  end
  return read_key(path), path
end

-- -------------------------------------------------------------------- serving

-- The driver, once it has shown that it isolates on this machine.
local function working_driver(name)
  if not name:match("^[%w_]+$") then usage_error("--driver: unknown driver " .. name) end
  local found, driver = pcall(require, "sbx.server.driver." .. name)
  if not found then usage_error("--driver: unknown driver " .. name) end
  local report = driver.check()
  if report.ok then return driver end

  say("sbxlua serve: driver " .. name .. " cannot isolate sandboxes on this machine:\n")
  for _, problem in ipairs(report.problems) do
    say("  - " .. problem .. "\n")
  end
  say("refusing to run anything unisolated\n")
  return nil
end

local function notice(line)
  say("sbxlua: " .. line .. "\n")
end

local function greet(running, driver, key_path)
  local key = "the same PRIME_API_KEY as here"
  if key_path then key = ('export PRIME_API_KEY="$(cat %s)"'):format(key_path) end
  say(([[
sbxlua serve: listening on %s, driver %s. From another shell:
  export PRIME_API_BASE_URL=%s
  %s
  sbxlua script.lua
Ctrl-C stops the server and deletes every sandbox.
]]):format(running.url, driver.name, running.url, key))
end

-- Runs `fn` until SIGINT or SIGTERM. Having stopped because of one is success:
-- that is how a server is told that its work is done.
local function until_signalled(fn)
  return task.scope({ name = "serve" }, function(scope)
    core.set_root(scope)
    return fn()
  end) or 0
end

local function serve_public(options)
  local name, port = address(options.listen)
  local key, key_path = find_key(options)
  local driver = working_driver(options.driver)
  if not driver then return 1 end
  local running <close> = server.start {
    host = name, port = port, api_key = key, driver = driver, notice = notice,
  }
  greet(running, driver, key_path)
  running:wait()
  return 0
end

-- Until the script closes its end of our input, which also happens when it is
-- killed outright.
local function wait_for_owner()
  local input <close> = stream.open(0)
  repeat
    local bytes = input:read()
  until not bytes
end

local function serve_private(options)
  local driver = working_driver(options.driver)
  if not driver then return 1 end
  local key = hash.random_hex(32)
  local running <close> = server.start {
    host = "127.0.0.1", port = 0, api_key = key, driver = driver, notice = notice,
  }
  host.write(1, json.encode { url = running.url, api_key = key } .. "\n")
  io.stdout:flush()
  pcall(wait_for_owner)
  return 0
end

---Runs the verb. Returns the exit status.
---@async
---@param args string[]  what follows the verb
---@return integer
function serve.run(args)
  local ok, result = pcall(function()
    local options = parse(args)
    if options.help then
      host.write(1, USAGE)
      return 0
    end
    return until_signalled(function()
      return (options.private and serve_private or serve_public)(options)
    end)
  end)
  if ok then return result end
  if errors.is_error(result) and result.kind == "usage" then
    say("sbxlua serve: " .. result.message .. "\n\n" .. USAGE)
    return USAGE_ERROR
  end
  error(result, 0)
end

return serve
