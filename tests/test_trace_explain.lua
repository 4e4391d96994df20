-- sbxlua explain: figures of traces whose figures are known, and files that are none.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require("sbx.json")
local support = dofile(here .. "run_support.lua")

local HEAD = '{"displayTimeUnit":"ms","otherData":{"sbxlua":"0","v":1,"start":1700000000.5},\n'
  .. '"traceEvents":[\n'

---Runs `explain` on events, or on a text.
---@async
local function explain(events, ...)
  local folder <close> = fs.tmpdir({ prefix = "explain-" })
  local path = folder.path .. "/run.json"
  local text = events
  if type(events) == "table" then
    local lines = {}
    for i, event in ipairs(events) do
      lines[i] = json.encode(event)
    end
    text = HEAD .. table.concat(lines, ",\n") .. "\n]}\n"
  end
  fs.write(path, text)
  return support.run({ "explain", path, ... })
end

local function task_events(id, parent, from, to, name)
  return { ph = "B", pid = 1, tid = id, ts = from, name = "task",
    args = { parent = parent, site = "s.lua:" .. id } },
    { ph = "E", pid = 1, tid = id, ts = to, args = { name = name, result = "done" } }
end

local function wait(id, from, to, name, by, at)
  return { ph = "X", pid = 1, tid = id, ts = from, dur = to - from, cat = "wait", name = name,
    args = { by = by or 0, at = at or to } }
end

local function phase(id, name, from, to)
  return { ph = "X", pid = 3, tid = id, ts = from, dur = to - from, cat = "phase", name = name,
    args = { sandbox = "sbx-" .. id } }
end

-- A script that waits for two tasks: the second is the longer one, and what counts is its
-- request, not its sleep before.
local function example()
  local events = {}
  local function add(...)
    for _, event in ipairs({ ... }) do
      events[#events + 1] = event
    end
  end
  add(task_events(1, 0, 0, 1000000, "script"))
  add(task_events(2, 1, 100000, 500000, "short"))
  add(task_events(3, 1, 200000, 900000, "long"))
  add(wait(2, 100000, 500000, "sleep"))
  add(wait(3, 200000, 300000, "sleep"))
  add({ ph = "b", cat = "http", id = "1", pid = 2, tid = 0, ts = 300000, name = "GET /x",
    args = { task = 3 } })
  add(wait(3, 310000, 890000, "http"))
  add({ ph = "e", cat = "http", id = "1", pid = 2, tid = 0, ts = 895000, name = "GET /x",
    args = { status = 503, queue_ms = 10, dns_ms = 0, connect_ms = 30, first_byte_ms = 130 } })
  add(wait(1, 200000, 900000, "the end of its tasks", 3, 900000))
  for i, cause in ipairs({ "503", "timeout connect", "503" }) do
    add({ ph = "i", s = "t", cat = "retry", name = "retry", pid = 1, tid = 3, ts = 1000 * i,
      args = { op = "get", cause = cause, pause_ms = 500 } })
  end
  for i = 1, 100 do
    add({ ph = "B", pid = 3, tid = i, ts = 0, name = "sandbox", args = { sandbox = "sbx-" .. i } })
    add(phase(i, "boot", 0, 1000 * i), phase(i, "use", 1000 * i, 900000))
    add({ ph = "E", pid = 3, tid = i, ts = 900000, args = { status = "TERMINATED" } })
  end
  return events
end

test("explain: the critical path, phases, retries, the slowest sandbox", function()
  local result = explain(example(), "-o", "json")
  assert(result.code == 0, result.stderr)
  local found = json.decode(result.stdout)
  assert(found.v == 1 and found.seconds == 1 and found.whole and found.tasks == 3)
  assert(found.requests == 1 and found.failed_requests == 1 and found.sandboxes == 100)
  assert(found.start == "2023-11-14T22:13:20.500Z", found.start)
  local steps = {}
  for i, step in ipairs(found.critical_path) do
    steps[i] = ("%s %s %g %g"):format(step.task, step.what, step.at, step.seconds)
  end
  local path = table.concat(steps, "; ")
  assert(path == "script runs 0 0.2; long sleep 0.2 0.1; long runs 0.3 0.01; "
    .. "long GET /x 0.31 0.58; long runs 0.89 0.01; script runs 0.9 0.1", path)
  local phases = {}
  for _, row in ipairs(found.phases) do
    phases[row.of .. " " .. row.phase] = row
  end
  local boot = phases["sandbox boot"]
  assert(boot.count == 100 and boot.p50 == 0.05 and boot.p95 == 0.095 and boot.p99 == 0.099)
  assert(boot.max == 0.1)
  assert(phases["request queue"].p50 == 0.01 and phases["request connect"].p50 == 0.03)
  assert(phases["request server"].p50 == 0.1 and phases["request total"].p50 == 0.595)
  assert(#found.retries == 2 and found.retries[1].cause == "503")
  assert(found.retries[1].count == 2 and found.retries[1].paused == 1)
  assert(found.retries[2].ops.get == 1)
  assert(found.slowest_sandbox.id == "sbx-100" and found.slowest_sandbox.seconds == 0.1)
end)

test("explain: the table, the longest steps only, and the name", function()
  local result = explain(example(), "--steps", "2")
  assert(result.code == 0, result.stderr)
  for _, text in ipairs({
    "1.000 s: 3 tasks, 1 request (1 failed), 100 sandboxes\n",
    "\nCritical path (the longest 2 of 6 steps)\n", "\n0.310 s  0.580 s  58 %   long    GET /x\n",
    "\nsandbox boot     100    0.050 s  0.095 s  0.099 s  0.100 s\n",
    "\n503              2        1.000 s  get\n",
    "\nSlowest sandbox: sbx-100, 0.100 s until it was of use\n",
  }) do
    assert(result.stdout:find(text, 1, true), text .. "is not in\n" .. result.stdout)
  end
  assert(not result.stdout:find("s.lua:3", 1, true))
  assert(explain(example(), "-o", "wide").stdout:find("s.lua:3", 1, true))
  assert(explain(example(), "-q").stdout == "sbx-100\n")
end)

test("explain: a run without sandboxes and requests", function()
  local result = explain({ task_events(1, 0, 0, 2500000, "script") })
  assert(result.code == 0 and result.stdout:find("2.500 s: 1 task, 0 requests", 1, true))
  assert(not result.stdout:find("Retries", 1, true))
  result = explain({}, "-o", "json")
  assert(result.code == 0, result.stderr)
  local found = json.decode(result.stdout)
  assert(#found.critical_path == 0 and found.slowest_sandbox == json.null)
end)

test("explain: a trace of a run that was killed, and one that was written anew", function()
  local begin = json.encode((task_events(1, 0, 0, 0, "")))
  local result = explain(HEAD .. begin .. ',\n{"ph":"X","pid":1,"ti')
  assert(result.code == 0, result.stderr)
  assert(result.stdout:find("its end is missing: the program was killed", 1, true), result.stdout)
  result = explain(json.encode({
    otherData = { sbxlua = "0", v = 1, start = 1 }, traceEvents = example(),
  }, { pretty = true }), "-q")
  assert(result.stdout == "sbx-100\n", result.stderr)
end)

test("explain: files that are no traces", function()
  for text, reason in pairs({
    [""] = "the file is empty", ["hello"] = "not a trace: it is no JSON",
    ["{}"] = "not a trace: it has no traceEvents", ["[1]"] = "it has no traceEvents",
    ['{"traceEvents":[]}'] = "not a trace of sbxlua",
    ['{"displayTimeUnit":"ms"}'] = "not a trace of sbxlua",
    ['{"traceEvents":[],"otherData":{"sbxlua":"9","v":7}}'] = "a trace of version 7",
    ['{"traceEvents":[3],"otherData":{"sbxlua":"9","v":1}}'] = "one of its events is no object",
    ['{"traceEvents":[{"ph":"X"}],"otherData":{"sbxlua":"9","v":1}}'] = "an event 'X' has no ts",
  }) do
    local result = explain(text)
    assert(result.code == 2 and result.stdout == "", text)
    assert(result.stderr:find(reason, 1, true), text .. ": " .. result.stderr)
    assert(result.stderr:find("`sbxlua --trace FILE script.lua` writes one", 1, true))
  end
  local result = support.run({ "explain", "/no/such/file", "-o", "json" })
  assert(result.code == 1 and json.decode(result.stderr).error.code == "ENOENT", result.stderr)
  assert(support.run({ "explain" }).code == 2)
end)
