-- What a trace says, in figures: the critical path, how long phases take, what was tried
-- again and why, which sandbox was the slowest. Times are seconds.

local critical = require("sbx.trace.critical")

local explain = {}

local SANDBOX_PHASES = { "accept", "schedule", "boot", "first exec", "use", "delete" }
local REQUEST_PHASES = { "queue", "dns", "connect", "tls", "server", "total" }
local READY = { accept = true, schedule = true, boot = true, ["first exec"] = true }

-- Seconds, to the microsecond.
local function seconds(microseconds)
  return math.floor(microseconds + 0.5) / 1e6
end

-- The value that so large a share does not exceed.
local function percentile(sorted, share)
  return sorted[math.max(1, math.ceil(share * #sorted))]
end

local function summary(of, phase, values)
  if #values == 0 then return nil end
  table.sort(values)
  return {
    of = of, phase = phase, count = #values, p50 = seconds(percentile(values, 0.5)),
    p95 = seconds(percentile(values, 0.95)), p99 = seconds(percentile(values, 0.99)),
    max = seconds(values[#values]),
  }
end

local function add(values, name, value)
  local list = values[name]
  if not list then
    list = {}
    values[name] = list
  end
  list[#list + 1] = value
end

local function sandbox_values(data)
  local values = {}
  for _, sandbox in ipairs(data.sandboxes) do
    for _, phase in ipairs(sandbox.phases) do
      if not phase.unfinished then add(values, phase.name, phase.ended - phase.began) end
    end
  end
  return values
end

-- curl counts each moment from the admission on; what lies between them is what counts.
local function request_values(data)
  local values = {}
  for _, request in ipairs(data.requests) do
    local args = request.args
    if request.ended and args.status then
      add(values, "total", request.ended - request.began)
      local queue, first = args.queue_ms, args.first_byte_ms
      if queue then add(values, "queue", queue * 1000) end
      local set_up = 0
      if not args.reused then
        for _, name in ipairs({ "dns", "connect", "tls" }) do
          local until_then = args[name .. "_ms"] or 0
          if until_then > 0 then
            add(values, name, math.max(0, until_then - set_up) * 1000)
            set_up = math.max(set_up, until_then)
          end
        end
      end
      if first and first > 0 then add(values, "server", math.max(0, first - set_up) * 1000) end
    end
  end
  return values
end

local function phases_of(data)
  local rows = {}
  local of_sandboxes, of_requests = sandbox_values(data), request_values(data)
  for _, name in ipairs(SANDBOX_PHASES) do
    rows[#rows + 1] = summary("sandbox", name, of_sandboxes[name] or {})
  end
  for _, name in ipairs(REQUEST_PHASES) do
    rows[#rows + 1] = summary("request", name, of_requests[name] or {})
  end
  return rows
end

local function retries_of(data)
  local rows, by_cause = {}, {}
  for _, retry in ipairs(data.retries) do
    local row = by_cause[retry.cause]
    if not row then
      row = { cause = retry.cause, count = 0, paused = 0, ops = {} }
      by_cause[retry.cause] = row
      rows[#rows + 1] = row
    end
    row.count = row.count + 1
    row.paused = row.paused + retry.pause
    row.ops[retry.op or "?"] = (row.ops[retry.op or "?"] or 0) + 1
  end
  table.sort(rows, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.cause < b.cause
  end)
  for _, row in ipairs(rows) do
    row.paused = math.floor(row.paused * 1e6 + 0.5) / 1e6
  end
  return rows
end

-- The time until a sandbox could be used, or while it could not.
local function slowest_of(data)
  local best, most
  for _, sandbox in ipairs(data.sandboxes) do
    local total, phases = 0, {}
    for _, phase in ipairs(sandbox.phases) do
      if READY[phase.name] then
        total = total + phase.ended - phase.began
        phases[#phases + 1] = { phase = phase.name, seconds = seconds(phase.ended - phase.began) }
      end
    end
    if #phases > 0 and (not most or total > most) then
      best, most = { id = sandbox.id, status = sandbox.status, phases = phases }, total
    end
  end
  if best then best.seconds = seconds(most) end
  return best
end

local function name_of(task)
  if task.name ~= "" then return task.name end
  return ("task %d"):format(task.id)
end

local function path_of(data)
  local rows = {}
  for _, step in ipairs(critical.path(data)) do
    rows[#rows + 1] = {
      at = seconds(step.began), seconds = seconds(step.ended - step.began),
      task = name_of(step.task), site = step.task.site, what = step.what,
    }
  end
  return rows
end

local function count(map)
  local number = 0
  for _ in pairs(map) do
    number = number + 1
  end
  return number
end

---The figures of a trace.
---@param data sbx.trace.Data
---@return table  seconds, whole, tasks, requests, sandboxes, failed_requests, critical_path,
---  phases, retries, slowest_sandbox
function explain.of(data)
  local failed = 0
  for _, request in ipairs(data.requests) do
    local status = request.args.status
    if request.args.error or status and status >= 400 then failed = failed + 1 end
  end
  return {
    seconds = seconds(data.ended), whole = data.whole, start = data.start,
    tasks = count(data.tasks), requests = #data.requests, failed_requests = failed,
    sandboxes = #data.sandboxes, critical_path = path_of(data), phases = phases_of(data),
    retries = retries_of(data), slowest_sandbox = slowest_of(data),
  }
end

return explain
