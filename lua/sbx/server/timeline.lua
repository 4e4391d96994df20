-- What changes in the fleet, for those who watch: two requests beyond the wire that wait
-- until there is news. A caller gets what its key may see.

local json = require("sbx.json")
local keys = require("sbx.server.keys")
local reply = require("sbx.server.reply")
local task = require("sbx.task")
local time = require("sbx.core.time")

local timeline = {}

local MAX_WAIT = 30
local TICK_SECONDS = 0.1 -- also: no more answers a second than this allows
local MAX_EVENTS = 500
local MAX_LOG = 262144

local function whole(request, name, most)
  local given = reply.query(request, name)
  if not given or given == "" then return nil end
  local number = math.tointeger(tonumber(given))
  if not number or number < 0 or number > most then
    reply.invalid(name, "expected a whole number from 0 to " .. most)
  end
  return number
end

-- Seconds that the caller wants to wait for news.
local function patience(request)
  return whole(request, "wait", MAX_WAIT) or 0
end

-- Calls `look` until it returns something true, the time is over, or nobody waits any
-- more. Returns what the last look did.
---@async
local function await_news(server, request, seconds, look)
  local ends = time.now() + seconds
  while true do
    local found = look()
    local left = ends - time.now()
    if found or left <= 0 or request.gone or server.fleet:is_stopping() then return found end
    task.sleep(math.min(TICK_SECONDS, left))
  end
end

local function or_null(value)
  if value == nil then return json.null end
  return value
end

local function exposures_of(record)
  local list = {}
  for _, one in pairs(record.exposures) do
    list[#list + 1] = one
  end
  table.sort(list, function(a, b)
    return a.opened < b.opened
  end)
  for index, one in ipairs(list) do
    list[index] = one:view()
  end
  return json.array(list)
end

local function event_view(event)
  return {
    number = event.number, at = event.at, kind = event.kind,
    sandbox_id = or_null(event.sandbox_id), detail = or_null(event.detail),
  }
end

-- Events after `after` that the caller may see, the sandboxes that they are about, and
-- the number of the last one looked at.
local function collect(server, caller, after)
  local store = server.fleet.store
  local events, views, seen = {}, {}, {}
  for _, event in ipairs(server.fleet.events:since(after)) do
    local record = event.sandbox_id and store:get(event.sandbox_id)
    if caller.admin or record and keys.may_use(caller, record) then
      events[#events + 1] = event_view(event)
      if record and not seen[record] then
        seen[record] = true
        local view = record:view()
        view.exposures = exposures_of(record)
        views[#views + 1] = view
      end
    end
    after = event.number
    if #events >= MAX_EVENTS then break end
  end
  return events, views, after
end

---`GET /events?after=&wait=`: what happened after event number `after`, with the present
---state of each sandbox that is concerned; without `after` only the number to begin with.
---Numbers begin anew with each server, which `run` tells apart. `lost`: what came right
---after `after` is forgotten.
---@async
function timeline.events(server, request, _, caller)
  local events = server.fleet.events
  local after, seconds = whole(request, "after", math.maxinteger), patience(request)
  local _, newest = events:range()
  local answer = {
    run = server.run, now = time.wall(), after = newest, lost = false,
    events = json.array {}, sandboxes = json.array {},
  }
  if not after then return 200, answer end
  await_news(server, request, seconds, function()
    local oldest, last_one = events:range()
    if after > last_one or after < oldest - 1 then
      answer.lost, answer.after = true, last_one
      return true
    end
    local found, views, last = collect(server, caller, after)
    answer.after, after = last, last
    answer.events, answer.sandboxes = json.array(found), json.array(views)
    return #found > 0
  end)
  answer.now = time.wall()
  return 200, answer
end

local function count(set)
  local total = 0
  for _ in pairs(set) do
    total = total + 1
  end
  return total
end

local function exec_view(one)
  return {
    number = one.number, command = one.command, began = one.began,
    seconds = or_null(one.seconds), result = or_null(one.result),
    exit_code = or_null(one.exit_code),
  }
end

---`GET /sandbox/{id}/activity?log=&execs=&wait=`: the lines of its log after number `log`,
---its commands after change number `execs`, and its exposed ports. Answers at once unless
---both numbers are given.
---@async
function timeline.activity(server, request, params)
  local record = server.fleet.store:get(params.id)
  if not record then reply.refuse(404, "Sandbox not found") end
  local after = whole(request, "log", math.maxinteger)
  local changed = whole(request, "execs", math.maxinteger)
  local status, exposed = record.status, count(record.exposures)

  local execs, lines, last, lost
  await_news(server, request, patience(request), function()
    execs = server.execs:since(record.id, changed or 0)
    lines, last, lost = record.logs:since(after or 0, MAX_LOG)
    return not (after and changed) or #execs > 0 or lines ~= ""
      or record.status ~= status or count(record.exposures) ~= exposed
  end)
  local views = {}
  for index, one in ipairs(execs) do
    views[index] = exec_view(one)
  end
  return 200, {
    run = server.run, status = record.status,
    log = lines, log_after = last, log_lost = lost,
    execs = json.array(views), execs_after = server.execs.changes,
    exposures = exposures_of(record),
  }
end

return timeline
