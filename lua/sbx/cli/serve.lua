-- The verb `serve`: a wire-compatible server on this machine, until it is told
-- to stop. With `--private` it serves one script and ends with it.

local chaos = require("sbx.server.chaos")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local images = require("sbx.server.images")
local json = require("sbx.json")
local program = require("sbx.cli.program")
local serve_key = require("sbx.cli.serve_key")
local serve_options = require("sbx.cli.serve_options")
local serve_safety = require("sbx.cli.serve_safety")
local registry = require("sbx.server.services.registry")
local server = require("sbx.server")
local state = require("sbx.server.state")
local stream = require("sbx.core.stream")
local task = require("sbx.task")

local serve = {}

local USAGE_ERROR = 2

local function say(text)
  -- Nobody may be reading any more; that is no reason to stop serving.
  pcall(host.write, 2, text)
end

local function usage_error(message)
  errors.raise { kind = "usage", message = message }
end

-- Calls `fn`; what it cannot read or make is told with the option that it comes from, and
-- with what can be done about it.
local function for_option(option, advice, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local failure = results[2]
  if not errors.is_error(failure) or failure.kind ~= "io" then error(failure, 0) end
  errors.raise { kind = "state", message = ("%s: %s; %s"):format(option, failure.message, advice) }
end

-- ------------------------------------------------------------------ arguments

-- What no option can tell by itself. Returns the options.
local function checked(given)
  for _, option in ipairs(serve_options.description.options) do
    local name = option.name:gsub("-", "_")
    if given[name] == "" then usage_error("--" .. option.name .. " needs a value") end
  end
  given.limits, given.host_names = given.limit, given.host_name
  if given.disks and not given.driver:find("^bwrap") then
    usage_error("--disks: only for the driver bwrap")
  end
  if given.chaos_log and not given.chaos then
    usage_error("--chaos-log: there is nothing to log without --chaos FILE")
  end
  if given.no_state and (given.state or given.keep) then
    usage_error("--no-state remembers nothing: it goes with neither --state nor --keep")
  end
  return given
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
  return name, number
end

-- ------------------------------------------------------------------------ key

-- Our folder among the states of programs; `advice` is for when there is no such place.
local function state_folder(advice)
  local base = os.getenv("XDG_STATE_HOME")
  if not base or base == "" then
    local home = os.getenv("HOME")
    if not home or home == "" then
      usage_error("neither XDG_STATE_HOME nor HOME is set: give " .. advice)
    end
    base = home .. "/.local/state"
  end
  local folder = base .. "/sbxlua"
  for_option(folder, "give " .. advice .. ", or set XDG_STATE_HOME to a folder that you can"
    .. " write to", fs.mkdir, folder, { parents = true, mode = 448 }) -- 0700
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
  local path = options.key_file or state_folder("--key-file or PRIME_API_KEY") .. "/server.key"
  local function read_or_make()
    if not fs.exists(path) then
      fs.write_atomic(path, hash.random_hex(32) .. "\n", { mode = 384 }) -- 0600
    end
    return read_key(path)
  end
  return for_option("--key-file " .. path, "name a file of yours, in a folder that is there, or"
    .. " set PRIME_API_KEY", read_or_make), path
end

-- -------------------------------------------------------------------- serving

local function notice(line)
  say("sbxlua: " .. line .. "\n")
end

-- What the driver may keep between runs, beside the state.
local function driver_folder(kept, name)
  if not kept then return nil end
  local folder = kept.folder .. "/driver-" .. name
  fs.mkdir(folder, { parents = true, mode = 448 }) -- 0700
  return folder
end

-- The module of the driver that `text` names, and what stood behind NAME=.
local function find_driver(text)
  local name, argument = text:match("^([%w_]+)=(.+)$")
  name = name or text
  if not name:match("^[%w_]+$") then usage_error("--driver: unknown driver " .. name) end
  local found, module = pcall(require, "sbx.server.driver." .. name)
  if not found or type(module) ~= "table" or not module.open then
    usage_error("--driver: unknown driver " .. name)
  end
  return module, argument
end

-- Whether the driver has shown that it isolates on this machine.
local function works(driver)
  local report = driver:check()
  if report.ok then return true end

  say("sbxlua serve: driver " .. driver.name .. " cannot isolate sandboxes on this machine:\n")
  for _, problem in ipairs(report.problems) do
    say("  - " .. problem .. "\n")
  end
  say("refusing to run anything unisolated\n")
  return false
end

local function greet(running, driver, key_path, keep)
  local key = "the same PRIME_API_KEY as here"
  if key_path then key = ('export PRIME_API_KEY="$(cat %s)"'):format(key_path) end
  say(([[
sbxlua serve: listening on %s, driver %s. From another shell:
  export PRIME_API_BASE_URL=%s
  %s
  sbxlua script.lua
What runs is to be seen in a browser at %s/
Ctrl-C stops the server and %s.
]]):format(running.url, driver.name, running.url, key, running.url,
    keep and "keeps the sandboxes for the next one" or "deletes every sandbox"))
end

-- Runs `fn` until SIGINT or SIGTERM. Having stopped because of one is success:
-- that is how a server is told that its work is done. Only what `fn` itself does is
-- cut short; what was opened before comes to its own end.
local function until_signalled(fn)
  return task.scope({ name = "serve" }, function(scope)
    core.set_root(scope)
    return fn()
  end)
end

-- The state, or nil for a server that remembers nothing.
local function open_state(options)
  if options.no_state then return nil end
  local folder = options.state or state_folder("--state or --no-state") .. "/server"
  return for_option("--state " .. folder, "name a folder that is yours or can be made, or give"
    .. " --no-state", state.open, folder)
end

-- Faults on demand, or nil. What is wrong with their file is told before anything starts.
local function open_chaos(options)
  if not options.chaos then return nil end
  return chaos.open { path = options.chaos, seed = options.seed, log = options.chaos_log }
end

-- For registries that want to know who asks.
local function find_logins(options)
  if not options.registry_credentials then return registry.none() end
  return for_option("--registry-credentials", "name a file that you can read", registry.load,
    options.registry_credentials)
end

-- The images of this machine; nil where there is no place for them.
local function open_images(options, module)
  if module.name ~= "bwrap" then return nil end
  local folder = options.images or errors.try(images.default_folder)
  return folder and images.open(folder)
end

local function serve_public(options)
  local name, port = address(options.listen)
  local safety = serve_safety.options(options, name)
  local key, key_path = find_key(options)
  local module, argument = find_driver(options.driver)
  local logins = find_logins(options)
  local kept <close> = open_state(options)
  local faults <close> = open_chaos(options)
  local driver = module.open {
    notice = notice, argument = argument, keep = options.keep, seed = options.seed,
    folder = driver_folder(kept, module.name), disks = options.disks,
    images = open_images(options, module), strict_images = options.strict_images,
    credentials = function(...) return logins:find(...) end,
  }
  local _ <close> = setmetatable({}, {
    __close = function()
      driver:close()
    end,
  })
  if options.keep and not driver.adopt then
    usage_error("--keep: driver " .. driver.name .. " cannot keep sandboxes")
  end
  local works_here = until_signalled(function()
    return works(driver) and "yes" or "no"
  end)
  if works_here ~= "yes" then return works_here and 1 or 0 end
  local running <close> = server.start {
    host = name, port = port, api_key = key, driver = driver, notice = notice,
    state = kept, keep = options.keep, profile = options.profile, chaos = faults,
    logins = logins, tls = safety.tls, host_names = safety.host_names, limits = safety.limits,
    token_lifetime = safety.token_lifetime, max_per_peer = safety.max_per_peer,
    expose_host = safety.expose_host, metrics_open = options.metrics_open,
  }
  until_signalled(function()
    greet(running, driver, key_path, options.keep)
    running:wait()
  end)
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

-- Ends with its script, and so does all that it runs: nobody's requests are to be waited
-- for, and nothing is remembered.
local function serve_private(options)
  return until_signalled(function()
    local module, argument = find_driver(options.driver)
    local driver = module.open {
      notice = notice, argument = argument, seed = options.seed,
      images = open_images(options, module), strict_images = options.strict_images,
      disks = options.disks,
    }
    local _ <close> = setmetatable({}, {
      __close = function()
        driver:close()
      end,
    })
    if not works(driver) then return 1 end
    local key = hash.random_hex(32)
    local running <close> = server.start {
      host = "127.0.0.1", port = 0, api_key = key, driver = driver, notice = notice, drain = 0,
      profile = options.profile,
    }
    host.write(1, json.encode { url = running.url, api_key = key } .. "\n")
    io.stdout:flush()
    pcall(wait_for_owner)
    return 0
  end) or 0
end

-- Runs `fn(...)`; what it raises is told in a few words. Returns the exit status.
---@async
local function told(fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  if errors.is_error(result) and result.kind == "usage" then
    say("sbxlua serve: " .. result.message .. "\nTry 'sbxlua serve --help'.\n")
    return USAGE_ERROR
  elseif errors.is_error(result) and result.kind ~= "cancelled" then
    local hint = result.code == "EADDRINUSE"
      and "; give another one with --listen, such as 127.0.0.1:0 for any that is free" or ""
    say("sbxlua serve: " .. result.message .. hint .. "\n")
    return 1
  end
  error(result, 0)
end

---Serves until it is told to stop. Returns the exit status.
---@async
---@param given table  what the options say
---@return integer
function serve.run(given)
  return program.run_command(function()
    return told(function()
      local options = checked(given)
      return (options.private and serve_private or serve_public)(options)
    end)
  end)
end

---Runs one of the commands of `serve key`. Returns the exit status.
---@async
---@param name "add"|"ls"|"rm"
---@param given table
---@param out sbx.cli.Output
---@return integer
function serve.key(name, given, out)
  return program.run_command(function()
    return told(serve_key.run, name, given, out, state_folder)
  end)
end

return serve
