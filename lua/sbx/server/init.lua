-- The local server: the wire of the hosted service, on this machine. It owns
-- its sandboxes: when it ends, for whatever reason, so do they.

local check = require("sbx.check")
local fleet = require("sbx.server.fleet")
local http = require("sbx.server.http")
local log = require("sbx.log")
local routes = require("sbx.server.routes")
local task = require("sbx.task")
local tokens = require("sbx.server.tokens")

---@class sbx.server
local server = {}

---@class sbx.server.Options
---@field driver table            what isolates, as `sbx.server.driver.bwrap`
---@field api_key string
---@field host? string            a loopback address (default "127.0.0.1")
---@field port? integer           default: any free one
---@field notice? fun(line: string)  told once what people must know
---@field minute? number          seconds in a minute of a lifetime (default 60)
---@field max_active? integer     sandboxes at once

---@class sbx.server.Server
---@field url string      "http://127.0.0.1:PORT", without a slash at the end
---@field port integer
---@field api_key string
---@field fleet sbx.server.Fleet
---@field tokens sbx.server.Tokens
---@field scope sbx.Scope  all that it does runs in here
---@field private task sbx.Task
---@field private stopping table
local Server = {}
Server.__index = Server

-- The life of a server, in a task of its own. `ready` is woken once: with
-- nothing when it listens, with the failure when it cannot.
local function live(self, options, ready)
  local ok, failure = pcall(task.scope, function(scope)
    self.scope = scope
    self.fleet = fleet.new {
      driver = options.driver,
      scope = scope,
      notice = options.notice,
      minute = options.minute,
      max_active = options.max_active,
    }
    local listener = http.serve {
      host = options.host, port = options.port, routes = routes.all(self), scope = scope,
    }
    self.port = listener.port
    self.url = ("http://%s:%d"):format(options.host:find(":", 1, true)
      and "[" .. options.host .. "]" or options.host, listener.port)
    local _ <close> = setmetatable({}, {
      __close = function()
        -- In this order, so that commands under way still get their answers.
        self.fleet:close("server stopped")
        listener:close()
        scope:cancel("server stopped")
      end,
    })
    ready:wake()
    self.stopping:wait()
  end)
  if ok then return end
  if not self.port then
    ready:wake(failure)
    return
  end
  error(failure, 0)
end

local function log_notice(line)
  log.warn(line)
end

---Starts a server in the background of the current scope. It ends with `stop`,
---at `<close>`, or with the scope.
---@async
---@param options sbx.server.Options
---@return sbx.server.Server
function server.start(options)
  local opts = check.options(options, {
    driver = check.none,
    api_key = check.none,
    host = "127.0.0.1",
    port = 0,
    notice = log_notice,
    minute = 60,
    max_active = check.none,
  })
  check.table(opts.driver, "driver")
  check.string(opts.api_key, "api_key")
  local self = setmetatable({
    api_key = opts.api_key,
    tokens = tokens.new(),
    stopping = task.waiter("the server to be stopped"),
  }, Server)

  local ready = task.waiter("the server to listen")
  self.task = task.daemon(live, self, opts, ready)
  local failure = ready:wait()
  if failure then error(failure, 0) end
  return self
end

---Waits until the server ends; raises what made it fail.
---@async
function Server:wait()
  self.task:join()
end

---Stops listening, ends every sandbox and waits for all of it.
---@async
function Server:stop()
  self.stopping:wake()
  task.shield(30, function()
    self.task:pjoin()
  end)
end

Server.__close = Server.stop

return server
