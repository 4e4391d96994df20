-- The local server: the wire of the hosted service, on this machine. It owns
-- its sandboxes: when it ends, for whatever reason, so do they, unless they are kept for
-- the next server on its state.

local addresses = require("sbx.server.addresses")
local check = require("sbx.check")
local execs = require("sbx.server.execs")
local errors = require("sbx.errors")
local fleet = require("sbx.server.fleet")
local hash = require("sbx.hash")
local http = require("sbx.server.http")
local key_store = require("sbx.server.key_store")
local keys = require("sbx.server.keys")
local limits = require("sbx.server.limits")
local log = require("sbx.log")
local metrics = require("sbx.server.metrics")
local profile = require("sbx.server.profile")
local routes = require("sbx.server.routes")
local rpc = require("sbx.server.rpc")
local services = require("sbx.server.services")
local task = require("sbx.task")
local time = require("sbx.core.time")
local tokens = require("sbx.server.tokens")

---@class sbx.server
local server = {}

-- How long a key that was taken away may go on.
local KEYS_SECONDS = 2
local STOP_SECONDS = 60
-- For those whose sandbox has just been ended to be told so.
local ANSWER_SECONDS = 1

---@class sbx.server.Options
---@field driver table            what isolates, as `sbx.server.driver.bwrap`
---@field api_key string
---@field host? string            a numeric address (default "127.0.0.1"); others than loopback need `tls`
---@field host_names? string[]    names of this machine that clients use, besides loopback ones
---@field tls? {cert: string, key: string}  PEM text; without it, plain HTTP
---@field limits? table<string, sbx.server.LimitRule>  see `sbx.server.limits`; default none
---@field token_lifetime? number  seconds that a gateway token is good for (default 1800)
---@field max_per_peer? integer   connections of one address at once (default: all of them)
---@field expose_host? string     numeric address of exposed ports (default "127.0.0.1")
---@field port? integer           default: any free one
---@field notice? fun(line: string)  told once what people must know
---@field minute? number          seconds in a minute of a lifetime (default 60)
---@field max_active? integer     sandboxes at once
---@field state? sbx.server.State  what it remembers; open for as long as the server runs
---@field keep? boolean           sandboxes outlive the server; needs `state`
---@field profile? sbx.server.Profile  what sandboxes are (default "container")
---@field keepalive? number       seconds between signs of life on a silent stream (default 10)
---@field metrics_open? boolean   `GET /metrics` needs no key
---@field chaos? sbx.server.Chaos  faults on demand; open for as long as the server runs
---@field logins? sbx.server.Logins  for registries that images come from
---@field drain? number           seconds that requests under way get at the end (default 5)

---@class sbx.server.Server
---@field url string      "http://127.0.0.1:PORT", without a slash at the end
---@field port integer
---@field api_key string
---@field fleet sbx.server.Fleet
---@field tokens sbx.server.Tokens
---@field keys sbx.server.Keys
---@field limits sbx.server.Limits
---@field scheme "http"|"https"
---@field host_names table<string, boolean>  lower case
---@field profile sbx.server.Profile
---@field keepalive number
---@field run string           tells this run of the server from others
---@field metrics sbx.server.Metrics
---@field metrics_open boolean  they can be read without a key
---@field execs sbx.server.Execs
---@field scope sbx.Scope  all that it does runs in here
---@field private task sbx.Task
---@field private stopping table
---@field private under_way integer  requests
---@field private quiet? sbx.core.Waiter  woken when there are none left
local Server = {}
Server.__index = Server

-- The same routes, with the requests under way counted.
local function counted(self, list)
  local all = {}
  for index, route in ipairs(list) do
    local handler = route[3]
    all[index] = { route[1], route[2], function(request, params)
      self.under_way = self.under_way + 1
      local _ <close> = setmetatable({}, {
        __close = function()
          self.under_way = self.under_way - 1
          if self.under_way == 0 and self.quiet then self.quiet:wake() end
        end,
      })
      return handler(request, params)
    end }
  end
  return all
end

-- Counts what happens to sandboxes, from the first one that is taken up again.
local function observe_fleet(self)
  local store = self.fleet.store
  self.fleet.events:observe(function(event)
    local record = event.sandbox_id and store:get(event.sandbox_id)
    if record then self.metrics:changed(event.kind, record) end
    if record and event.kind == "ended" then self.ssh:forget(record) end
  end)
end

local function request_observer(self)
  return {
    began = function()
      self.metrics:request_began()
    end,
    ended = function(request, route, seconds)
      self.metrics:request_ended(request, route, seconds)
    end,
  }
end

-- Lets the requests under way come to their answers, for some time.
local function await_answers(self, seconds)
  if self.under_way == 0 then return end
  self.quiet = task.waiter("requests to be answered")
  task.move_on(seconds, self.quiet.wait, self.quiet)
end

-- Keys may be added and taken away beside a running server.
local function watch_keys(self, store)
  local database <close> = store
  while true do
    task.sleep(KEYS_SECONDS)
    local ok, rows = pcall(database.list, database)
    if ok then
      self.keys:replace(rows)
    elseif errors.is_error(rows) and rows.kind == "cancelled" then
      error(rows, 0)
    else
      log.error("the API keys could not be read again", { error = rows })
    end
  end
end

-- Takes up the keys that have names. Of the server's own, only the one of now is good.
local function take_keys(self, kept, scope)
  if not kept then return end
  local store = key_store.open(kept.folder)
  local own = hash.sha256(self.api_key)
  local rows = store:list()
  for _, row in ipairs(rows) do
    if row.name == nil and row.hash ~= own then kept:remove_api_key(row.hash) end
  end
  kept:put_api_key(own, nil, time.wall())
  self.keys:replace(rows)
  scope:daemon(watch_keys, self, store)
end

local function url_of(self, options, port)
  local host = options.host
  if not addresses.is_loopback(host) then host = options.host_names[1] or host end
  return ("%s://%s:%d"):format(self.scheme, addresses.in_url(host), port)
end

-- The life of a server, in a task of its own. `ready` is woken once: with
-- nothing when it listens, with the failure when it cannot.
local function live(self, options, ready)
  local ok, failure = pcall(task.scope, function(scope)
    self.scope = scope
    self.fleet = fleet.new {
      driver = options.chaos and options.chaos:driver(options.driver) or options.driver,
      scope = scope,
      notice = options.notice,
      minute = options.minute,
      max_active = options.max_active,
      state = options.state,
      keep = options.keep,
      expose_at = { host = options.expose_host, name = options.host_names[1] },
    }
    local listener
    local _ <close> = setmetatable({}, {
      __close = function()
        -- In this order, so that commands under way still get their answers.
        self.fleet:close("server stopped")
        await_answers(self, ANSWER_SECONDS)
        if listener then listener:close() end
        self.builds:close()
        scope:cancel("server stopped")
      end,
    })
    observe_fleet(self)
    self.fleet.resume = function(record, session, noted)
      rpc.resume(self, record, session, noted)
    end
    self.fleet:recover()
    self.metrics:restore(self.fleet)
    take_keys(self, options.state, scope)
    local list = routes.all(self)
    if options.chaos then list = options.chaos:wrap(list) end
    listener = http.serve {
      host = options.host, port = options.port, routes = counted(self, list),
      observe = request_observer(self),
      scope = scope, tls = options.tls, max_per_peer = options.max_per_peer,
    }
    self.port = listener.port
    self.url = url_of(self, options, listener.port)
    ready:wake()
    self.stopping:wait()
    self.fleet:drain()
    await_answers(self, options.drain)
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
    host_names = {},
    tls = check.none,
    limits = {},
    token_lifetime = check.none,
    max_per_peer = check.none,
    expose_host = "127.0.0.1",
    state = check.none,
    keep = false,
    profile = "container",
    keepalive = 10,
    logins = check.none,
    metrics_open = false,
    drain = 5,
    chaos = check.none,
  })
  check.table(opts.driver, "driver")
  check.string(opts.api_key, "api_key")
  if not profile.NAMES[opts.profile] then
    check.fail('profile: expected "container", "vm" or "both"')
  end
  if not (opts.tls or addresses.is_loopback(opts.host)) then
    check.fail("host: others than loopback addresses need tls")
  end
  local host_names = { [opts.host:lower()] = not addresses.is_any(opts.host) or nil }
  for _, name in ipairs(opts.host_names) do
    host_names[name:lower()] = true
  end
  local figures = metrics.new { driver = opts.driver.name, profile = opts.profile }
  local self = setmetatable({
    run = hash.random_hex(8),
    metrics = figures,
    metrics_open = opts.metrics_open == true,
    execs = execs.new(figures),
    api_key = opts.api_key,
    profile = opts.profile,
    keepalive = check.number(opts.keepalive, "keepalive", 0.001),
    tokens = tokens.new(opts.token_lifetime),
    keys = keys.new(opts.api_key),
    limits = limits.new(opts.limits),
    scheme = opts.tls and "https" or "http",
    host_names = host_names,
    under_way = 0,
    stopping = task.waiter("the server to be stopped"),
  }, Server)
  services.equip(self, opts)

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

---Creates nothing more, gives requests under way some time, ends every sandbox or lets
---go of it, stops listening, and waits for all of it.
---@async
function Server:stop()
  self.stopping:wake()
  task.shield(STOP_SECONDS, function()
    self.task:pjoin()
  end)
end

Server.__close = Server.stop

return server
