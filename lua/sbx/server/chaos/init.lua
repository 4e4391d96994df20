-- Faults on demand: stands between the listener and the handlers, and between the
-- server and its driver, and does what a file says with the probability it says.

local check = require("sbx.check")
local driver = require("sbx.server.chaos.driver")
local json = require("sbx.json")
local record = require("sbx.server.chaos.record")
local requests = require("sbx.server.chaos.request")
local rules = require("sbx.server.chaos.rules")
local script = require("sbx.server.script")
local task = require("sbx.task")
local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Chaos
---@field private rules sbx.server.chaos.Rules
---@field private record sbx.server.chaos.Record|nil
---@field private counts table<string, integer>  requests so far, by class
---@field private began number
local Chaos = {}
Chaos.__index = Chaos

local chaos = {}

-- ----------------------------------------------------------------------- classes

local API = "/api/v1"

local CLASS_OF = {
  ["POST /sandbox"] = "create",
  ["GET /sandbox"] = "list",
  ["DELETE /sandbox"] = "bulk_delete",
  ["GET /sandbox/{id}"] = "get",
  ["DELETE /sandbox/{id}"] = "delete",
  ["GET /sandbox/{id}/logs"] = "logs",
  ["POST /sandbox/{id}/auth"] = "auth",
  ["GET /sandbox/{id}/error-context"] = "error_context",
  ["POST /sandbox/status:batchGet"] = "batch_status",
  ["GET /sandbox/{id}/egress-policy"] = "egress",
  ["PUT /sandbox/{id}/egress-policy"] = "egress",
  ["POST /sandbox/{id}/expose"] = "expose",
  ["GET /sandbox/{id}/expose"] = "exposures",
  ["GET /sandbox/expose/all"] = "exposures",
  ["DELETE /sandbox/{id}/expose/{exposure_id}"] = "unexpose",
}

local GATEWAY_CLASS = {
  exec = "exec", upload = "upload", download = "download", ["read-file"] = "read_file",
}

---The class of a route, or nil where chaos leaves it alone.
---@param method string
---@param pattern string
---@return string|nil
function chaos.class_of(method, pattern)
  if pattern:sub(1, #API) == API then
    local path = pattern:sub(#API + 1)
    if path:find("^/images") or path:find("^/template") then return "images" end
    if path:find("/ssh%-session") then return "ssh" end
    return CLASS_OF[method .. " " .. path] or "other"
  end
  local operation = pattern:match("^/gw/{[^/]+}/{[^/]+}/(.+)$")
  if not operation then return nil end
  return GATEWAY_CLASS[operation] or "rpc"
end

-- ------------------------------------------------------------------------- clock

local STAMPED = {
  createdAt = true, updatedAt = true, startedAt = true, terminatedAt = true, expires_at = true,
  created_at = true, timestamp = true,
}

-- Seconds since 1970 of an ISO 8601 time in UTC.
local function seconds_of(stamp)
  local year, month, day, hour, minute, second =
    stamp:match("^(%d+)%-(%d+)%-(%d+)T(%d+):(%d+):(%d+)Z$")
  if not year then return nil end
  local function number(digits) return math.tointeger(tonumber(digits)) end
  year, month = number(year), number(month)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5
    + number(day) - 719469
  return ((days * 24 + number(hour)) * 60 + number(minute)) * 60 + number(second)
end

-- An answer as a server says it whose clock is off.
local function skewed(self, request)
  local skew = self.rules:skew(time.now() - self.began)
  if skew == 0 then return request end
  return requests.changed(request, function(status, headers, body)
    local all = {}
    for name, value in pairs(headers or {}) do
      all[name] = value
    end
    all.Date = os.date("!%a, %d %b %Y %H:%M:%S GMT", math.floor(time.wall() + skew))
    body = body and body:gsub('"([%a_]+)":"([%dTZ:-]+)"', function(name, stamp)
      local seconds = STAMPED[name] and seconds_of(stamp)
      if not seconds then return nil end
      return ('"%s":"%s"'):format(name, text.timestamp(seconds + skew))
    end)
    return status, all, body
  end)
end

-- ---------------------------------------------------------------------- requests

-- An answer that both planes of the API can read, as something on the way gives it.
local function respond_fault(request, plan)
  local headers = { ["Content-Type"] = "application/json" }
  for name, value in pairs(plan.headers or {}) do
    headers[name] = value
  end
  if plan.retry_after then headers["Retry-After"] = ("%g"):format(plan.retry_after) end
  local words = "chaos: " .. plan.status
  request:respond(plan.status, headers, plan.body or json.encode {
    detail = words, error = "chaos", message = words, code = plan.status,
  })
end

-- Serves a request twice where the plan says so, and with the answer it says.
local function serve(handler, request, params, plan)
  local answer = request
  if plan.status or plan.lost then
    answer = requests.mute(request)
  elseif plan.cut then
    answer = requests.cut(request, plan.cut)
  end
  if not plan.duplicate then
    handler(answer, params)
    return
  end
  local first, again = requests.kept(answer)
  handler(requests.mute(first), params)
  local second = again()
  if second then
    handler(second, params)
  else
    request:cut() -- it was too long to be kept: that answer is lost
  end
end


local function handle(self, class, handler, request, params)
  local n = (self.counts[class] or 0) + 1
  self.counts[class] = n
  local plan = self.rules:request(class, n)
  if next(plan) then self:note(class, n, plan) end
  if plan.latency then task.sleep(plan.latency) end
  request = skewed(self, request)
  if plan.status and not plan.after then
    respond_fault(request, plan)
    return
  end
  serve(handler, request, params, plan)
  if plan.status then
    respond_fault(request, plan)
  elseif plan.lost then
    request:cut()
  end
end

---@private
function Chaos:note(class, n, plan)
  if not self.record then return end
  local entry = { class = class, n = n }
  for name, value in pairs(plan) do
    if name ~= "body" and name ~= "headers" then entry[name] = value end
  end
  self.record:add(entry)
end

---The same routes, {method, pattern, handler(request, params)}, under chaos.
---@param list table[]
---@return table[]
function Chaos:wrap(list)
  local wrapped = {}
  for index, route in ipairs(list) do
    local class = chaos.class_of(route[1], route[2])
    local handler = route[3]
    wrapped[index] = not class and route or {
      route[1], route[2], function(request, params)
        return handle(self, class, handler, request, params)
      end,
    }
  end
  return wrapped
end

---The same driver, under chaos.
---@param real sbx.server.Driver
---@return sbx.server.Driver
function Chaos:driver(real)
  return driver.over(real, function()
    local n = (self.counts.sandbox or 0) + 1
    self.counts.sandbox = n
    local plan = self.rules:sandbox(n)
    if next(plan) then self:note("sandbox", n, plan) end
    return plan
  end)
end

---@class sbx.server.chaos.Options
---@field path? string   a Lua file that returns what is to happen
---@field rules? table   the same as a table
---@field seed? integer  (default 1)
---@field log? string    a file for what was decided

---Raises kind `script` for a file that makes no sense, with its place.
---@async
---@param options sbx.server.chaos.Options
---@return sbx.server.Chaos  a `<close>` value
function chaos.open(options)
  local opts = check.options(options, {
    path = check.none, rules = check.none, seed = 1, log = check.none,
  })
  local loaded = opts.path and script.load(opts.path) or script.of(opts.rules or {}, "chaos")
  local made = rules.of(loaded, opts.seed)
  return setmetatable({
    rules = made, record = opts.log and record.open(opts.log) or nil, counts = {},
    began = time.now(),
  }, Chaos)
end

---Brings the log into its order and closes it.
---@async
function Chaos:close()
  if self.record then self.record:close() end
end

Chaos.__close = Chaos.close

return chaos
