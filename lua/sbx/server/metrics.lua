-- The figures of one server, for `GET /metrics`. Everything is counted when it happens,
-- so that asking costs the same with one sandbox and with 100,000.

local figures = require("sbx.server.metrics_text")
local host = require("sbx.core.host")
local process = require("sbx.server.metrics_process")
local time = require("sbx.core.time")

---@class sbx.server.Metrics
---@field private all table<string, sbx.server.metrics.Family>
---@field private order sbx.server.metrics.Family[]
---@field private began number
---@field private store? sbx.server.Store
local Metrics = {}
Metrics.__index = Metrics

local metrics = {}

metrics.CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

local FAST = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60 }
local SLOW = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800 }

local METHODS = { GET = 1, POST = 1, PUT = 1, DELETE = 1, HEAD = 1 }
local LIVING = { PENDING = true, PROVISIONING = true, RUNNING = true }

-- kind, name without "sbxlua_", help, labels, buckets; in the order of the answer.
local FAMILIES = {
  { "gauge", "build_info", "Always 1; what runs is in the labels.",
    { "version", "driver", "profile" } },
  { "gauge", "uptime_seconds", "Seconds since this server began." },
  { "counter", "http_requests_total", "Requests answered.", { "method", "route", "code" } },
  { "histogram", "http_request_seconds", "From a request's headers to the end of its handler.",
    { "method", "route" }, FAST },
  { "gauge", "http_requests_under_way", "Requests that have no whole answer yet." },
  { "counter", "http_received_bytes_total", "Bytes of requests' bodies.", { "method", "route" } },
  { "counter", "http_sent_bytes_total", "Bytes of answers' bodies.", { "method", "route" } },
  { "counter", "limits_hit_total", "Requests refused with 429.", { "method", "route" } },
  { "gauge", "sandboxes", "Sandboxes that have not ended.", { "status" } },
  { "counter", "sandboxes_created_total", "Sandboxes accepted." },
  { "counter", "sandboxes_ended_total", "Sandboxes that ended: deleted, timed out, died and so on.",
    { "status", "cause" } },
  { "histogram", "sandbox_wait_seconds", "From a sandbox's create to the begin of its boot.",
    nil, SLOW },
  { "histogram", "sandbox_boot_seconds", "From the begin of a sandbox's boot until it runs.",
    nil, SLOW },
  { "gauge", "execs_running", "Commands under way." },
  { "histogram", "exec_seconds", "Time that commands took.", nil, SLOW },
  { "counter", "execs_total", "Commands that ended.", { "result" } },
  { "gauge", "exposures", "Exposed ports." },
  { "gauge", "tasks", "Tasks of this process." },
  { "gauge", "lua_memory_bytes", "Memory that Lua values take." },
}

-- The usual names for what the kernel knows; field of `process.look`.
local PROCESS = {
  { "resident", "gauge", "process_resident_memory_bytes", "Resident memory size in bytes." },
  { "virtual", "gauge", "process_virtual_memory_bytes", "Virtual memory size in bytes." },
  { "cpu", "counter", "process_cpu_seconds_total", "User and system CPU time in seconds." },
  { "started", "gauge", "process_start_time_seconds", "Start of the process, since 1970." },
  { "fds", "gauge", "process_open_fds", "Number of open file descriptors." },
  { "max_fds", "gauge", "process_max_fds", "Maximum number of open file descriptors." },
}

-- Why a sandbox may end. They begin at 0, for a rate needs a value before the first.
local CAUSES = {
  { "TERMINATED", "DELETED" }, { "TERMINATED", "SERVER" }, { "TIMEOUT", "TIMEOUT" },
  { "ERROR", "SANDBOX_DIED" }, { "ERROR", "OOM_KILLED" }, { "ERROR", "BOOT_FAILED" },
  { "ERROR", "IMAGE_PULL_FAILED" },
}

---@param facts {driver: string, profile: string}
---@return sbx.server.Metrics
function metrics.new(facts)
  local self = setmetatable({ all = {}, order = {}, began = time.now() }, Metrics)
  for index, row in ipairs(FAMILIES) do
    local kind, name, help, labels, bounds = table.unpack(row, 1, 5)
    local made = kind == "histogram" and figures.histogram("sbxlua_" .. name, help, bounds, labels)
      or figures.family(kind, "sbxlua_" .. name, help, labels)
    self.all[name], self.order[index] = made, made
  end
  self.all.build_info:set(1, host.version, facts.driver, facts.profile)
  for status in pairs(LIVING) do
    self.all.sandboxes:set(0, status)
  end
  for _, cause in ipairs(CAUSES) do
    self.all.sandboxes_ended_total:add(0, cause[1], cause[2])
  end
  return self
end

-- ---------------------------------------------------------------------- requests

---A request has arrived.
function Metrics:request_began()
  self.all.http_requests_under_way:add(1)
end

---A request's handler is through.
---@param request sbx.core.Request
---@param route string|nil  the pattern that its path fits
---@param seconds number
function Metrics:request_ended(request, route, seconds)
  local all = self.all
  local method = METHODS[request.method] and request.method or "other"
  route = route or "other"
  local status, received, sent = request:account()
  all.http_requests_under_way:add(-1)
  all.http_requests_total:add(1, method, route, tostring(status or 500))
  all.http_request_seconds:observe(seconds, method, route)
  all.http_received_bytes_total:add(received, method, route)
  all.http_sent_bytes_total:add(sent, method, route)
  if status == 429 then all.limits_hit_total:add(1, method, route) end
end

-- ------------------------------------------------------------------------- fleet

-- Puts a sandbox under its present status.
local function count_status(self, record)
  local before, now = record.counted, LIVING[record.status] and record.status or nil
  if before == now then return end
  if before then self.all.sandboxes:add(-1, before) end
  if now then self.all.sandboxes:add(1, now) end
  record.counted = now
end

local function cause_of(record)
  if record.status == "TERMINATED" then
    return record.termination_reason == "deleted" and "DELETED" or "SERVER"
  elseif record.status == "TIMEOUT" then
    return "TIMEOUT"
  end
  return record.error_type or "ERROR"
end

local changes = {}

function changes.created(self)
  self.all.sandboxes_created_total:add(1)
end

function changes.booting(self, record)
  self.all.sandbox_wait_seconds:observe(math.max(0, record.provisioned_at - record.created_at))
end

function changes.running(self, record)
  local seconds = record.started_at - (record.provisioned_at or record.started_at)
  self.all.sandbox_boot_seconds:observe(math.max(0, seconds))
end

function changes.ended(self, record)
  self.all.sandboxes_ended_total:add(1, record.status, cause_of(record))
  self.all.exposures:add(-(record.exposed or 0))
  record.exposed = nil
end

function changes.exposed(self, record)
  record.exposed = (record.exposed or 0) + 1
  self.all.exposures:add(1)
end

function changes.unexposed(self, record)
  if not record.exposed then return end
  record.exposed = record.exposed - 1
  self.all.exposures:add(-1)
end

---Something has happened to a sandbox; see `sbx.server.Events`.
---@param kind string
---@param record sbx.server.Sandbox
function Metrics:changed(kind, record)
  if changes[kind] then changes[kind](self, record) end
  count_status(self, record)
end

---Takes in the sandboxes that an earlier server has left to this one. To be called once.
---@param fleet sbx.server.Fleet
function Metrics:restore(fleet)
  for record in pairs(fleet.living) do
    count_status(self, record)
    for _ in pairs(record.exposures) do
      changes.exposed(self, record)
    end
  end
end

---A command begins. To be called with what became of it once it is through: "success",
---"failure" for another exit code than 0, "timeout", or "error" when it could not be
---started or its sandbox went away.
---@return fun(result: string): number  returns the seconds it took
function Metrics:exec_began()
  local began = time.now()
  self.all.execs_running:add(1)
  return function(result)
    local seconds = time.now() - began
    self.all.execs_running:add(-1)
    self.all.execs_total:add(1, result)
    self.all.exec_seconds:observe(seconds)
    return seconds
  end
end

-- ------------------------------------------------------------------------ answer

---The text for Prometheus.
---@async
---@return string
function Metrics:text()
  local found = process.look()
  self.all.uptime_seconds:set(time.now() - self.began)
  self.all.tasks:set(found.tasks)
  self.all.lua_memory_bytes:set(found.lua_memory)
  local list = { table.unpack(self.order) }
  for _, row in ipairs(PROCESS) do
    local field, kind, name, help = table.unpack(row)
    if found[field] then
      local family = figures.family(kind, name, help)
      family:set(found[field])
      list[#list + 1] = family
    end
  end
  return figures.render(list)
end

---The handler of `GET /metrics`.
---@async
function metrics.handle(server, request)
  request:respond(200, {
    ["Content-Type"] = metrics.CONTENT_TYPE, ["Cache-Control"] = "no-store",
    ["X-Content-Type-Options"] = "nosniff",
  }, server.metrics:text())
end

return metrics
