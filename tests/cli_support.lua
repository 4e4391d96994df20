-- What the tests of the commands share: a server of this program's own with real
-- sandboxes, and the program as people call it.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")

local support = {}

local LONGEST = 60 -- seconds for one run: only shows that it does not hang

-- Nothing of whoever runs the tests.
local CLEAN = {
  PRIME_API_KEY = false, PRIME_API_BASE_URL = false, PRIME_BASE_URL = false,
  PRIME_TEAM_ID = false, PRIME_USER_ID = false, XDG_CONFIG_HOME = false, XDG_STATE_HOME = false,
  SBXLUA_SLOW_STEP = "0", SBXLUA_LOG = false, TERM = "xterm", CI = false, NO_COLOR = false,
}

---@class tests.Cli
---@field home string
---@field env table
local Cli = {}
Cli.__index = Cli
support.Cli = Cli

function Cli:environment(changes)
  local env = { HOME = self.home }
  for _, source in ipairs({ CLEAN, self.env or {}, changes or {} }) do
    for name, value in pairs(source) do
      env[name] = value
    end
  end
  return env
end

---Runs a command to its end.
---@async
---@param words string[]
---@param options? table  of `process.run`
---@return sbx.process.Result
function Cli:run(words, options)
  local opts = { timeout = LONGEST }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  opts.env = self:environment(opts.env)
  return process.run({ host.executable(), table.unpack(words) }, opts)
end

---Runs a command that has to succeed; its stdout.
---@async
function Cli:out(words, options)
  local result = self:run(words, options)
  if result.code ~= 0 then
    error(("%s: %d: %s"):format(table.concat(words, " "), result.code, result.stderr), 2)
  end
  return result.stdout, result.stderr
end

---Runs a command that has to fail with this status, saying all of these texts.
---@async
function Cli:fails(status, words, ...)
  local result = self:run(words)
  local line = table.concat(words, " ")
  if result.code ~= status then
    error(("%s: %d instead of %d: %s"):format(line, result.code, status, result.stderr), 2)
  end
  for _, text in ipairs({ ... }) do
    if not result.stderr:find(text, 1, true) then
      error(("%s: no %q in %s"):format(line, text, result.stderr), 2)
    end
  end
  return result
end

---The JSON that a command prints.
---@async
function Cli:json(words)
  return json.decode((self:out(words)))
end

---Makes a sandbox by the command line; its id.
---@async
function Cli:create(...)
  local words = { "create", ... }
  words[#words + 1] = "debian"
  return (self:out(words):gsub("\n", ""))
end

---Starts a command and lets it run: a process.
function Cli:start(words, options)
  local opts = { stdout = "pipe", stderr = "pipe", grace = 0 }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  opts.env = self:environment(opts.env)
  return process.spawn({ host.executable(), table.unpack(words) }, opts)
end

---Reads what a started command writes until `text` is there.
---@async
function support.await(child, text, name)
  return task.timeout(LONGEST, function()
    local all = ""
    while not all:find(text, 1, true) do
      local bytes = child[name or "stdout"]:read()
      if not bytes then error(("no %q in %q"):format(text, all), 2) end
      all = all .. bytes
    end
    return all
  end)
end

---Runs `fn(cli)` without any server.
---@async
function support.alone(fn, env)
  local home <close> = fs.tmpdir({ prefix = "cli-" })
  fn(setmetatable({ home = home.path, env = env }, Cli))
end

---Runs `fn(cli)` with a server that the environment names.
---@async
---@param fn async fun(cli: tests.Cli)
---@param options? string[]  of `serve`
function support.with_server(fn, options)
  local home <close> = fs.tmpdir({ prefix = "cli-" })
  local cli = setmetatable({ home = home.path, key_file = home.path .. "/key" }, Cli)
  local words = { "serve", "--no-state", "--listen", "127.0.0.1:0", "--key-file", cli.key_file }
  table.move(options or {}, 1, #(options or {}), #words + 1, words)
  local server <close> = cli:start(words, { stdout = "null" })
  local text = support.await(server, "Ctrl-C", "stderr")
  cli.url = text:match("http://127%.0%.0%.1:%d+")
  cli.key = fs.read(cli.key_file):match("%S+")
  cli.env = { PRIME_API_BASE_URL = cli.url, PRIME_API_KEY = cli.key }
  fn(cli)
  server:kill("TERM")
  local code = task.timeout(LONGEST, server.wait, server)
  assert(code == 0, "serve: " .. tostring(code))
end

return support
