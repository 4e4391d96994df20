local clock = require("sbx.time")
local expect = dofile("tests/expect.lua")
local harness = require("sbx.test")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")
local time = require("sbx.core.time")

local function fails(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok and tostring(err):find(pattern), tostring(err))
end

test("time: sleep takes at least as long as it was told", function()
  for _, seconds in ipairs({ 0, 0.001, 0.01 }) do
    local start = time.now()
    assert(select("#", time.sleep(seconds)) == 0)
    local took = time.now() - start
    assert(took >= seconds and took < 30)
  end
end)

test("time: sleep refuses what is no number of seconds", function()
  for _, value in ipairs({ -1, -1e-9, 0 / 0, math.huge, -math.huge, 1e10, math.mininteger }) do
    fails("expected seconds from 0 to 1000000000", time.sleep, value)
  end
  fails("number expected, got no value", time.sleep)
  fails("number expected, got table", time.sleep, {})
  fails("number expected, got nil", time.sleep, nil)
  fails("number expected, got string", time.sleep, "soon")
end)

test("time: the longest sleep can begin and be cancelled", function()
  assert(task.move_on(0.005, time.sleep, 1e9) == false)
  assert(task.move_on(0.005, time.sleep, 999999999) == false)
end)

test("time: timers far apart do not disturb each other", { clock = "virtual" }, function()
  local order = {}
  task.scope(function(scope)
    scope:daemon(time.sleep, 1e9)
    for i = 20, 1, -1 do
      scope:spawn(function()
        time.sleep(i / 1000)
        order[#order + 1] = i
      end)
    end
    local dropped = {}
    for i = 1, 100 do
      dropped[i] = scope:spawn(time.sleep, i)
    end
    task.yield()
    for i = 1, 100 do
      dropped[i * 37 % 100 + 1]:cancel()
    end
  end)
  for i = 1, 20 do
    assert(order[i] == i)
  end
end)

test("time: now never goes back", function()
  local last = time.now()
  for _ = 1, 1000 do
    local now = time.now()
    assert(math.type(now) == "float" and now >= last)
    last = now
  end
end)

test("time: wall is the time of day", function()
  local wall = time.wall()
  assert(math.abs(wall - os.time()) < 5)
end)

test("time: iso writes RFC 3339 in UTC", function()
  assert(time.iso(0) == "1970-01-01T00:00:00Z")
  assert(time.iso(1e9) == "2001-09-09T01:46:40Z")
  assert(time.iso(1e9 + 0.25) == "2001-09-09T01:46:40.250Z")
  assert(time.iso(-1) == "1969-12-31T23:59:59Z")
  assert(time.iso(-0.5) == "1969-12-31T23:59:59.500Z")
  assert(time.iso(951782400) == "2000-02-29T00:00:00Z")
  assert(time.iso():find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[.%d]*Z$"))
end)

test("time: iso refuses what is no time", function()
  for _, value in ipairs({ 0 / 0, math.huge, -math.huge, 1e300, math.maxinteger }) do
    fails("out of range", time.iso, value)
  end
  fails("number expected", time.iso, "now")
end)

-- -------------------------------------------------------------------- sbx.time

test("time: iso rounds to the digits asked for", function()
  assert(clock.iso(0) == "1970-01-01T00:00:00Z" and clock.iso(1.5) == "1970-01-01T00:00:01.500Z")
  assert(clock.iso(1.26, { digits = 1 }) == "1970-01-01T00:00:01.3Z")
  assert(clock.iso(1.26, { digits = 0 }) == "1970-01-01T00:00:01Z")
  assert(clock.iso(1, { digits = 6 }) == "1970-01-01T00:00:01.000000Z")
  assert(clock.iso(59.9999, { digits = 3 }) == "1970-01-01T00:01:00.000Z")
  assert(clock.iso(59.9999) == "1970-01-01T00:01:00Z")
  assert(clock.iso(-62167219200) == "0000-01-01T00:00:00Z")
  assert(clock.iso(253402300798) == "9999-12-31T23:59:58Z")
  assert(#clock.iso() >= 20 and #clock.iso(nil, { digits = 9 }) == 30)
  expect.misuse("digits: expected", clock.iso, 0, { digits = 10 })
  expect.misuse("unknown option", clock.iso, 0, { digit = 1 })
  expect.misuse("seconds: expected", clock.iso, 1e15)
  expect.misuse("seconds: expected", clock.iso, "0")
end)

test("time: parse_iso takes RFC 3339 and nothing else", function()
  for text, seconds in pairs({
    ["1970-01-01T00:00:00Z"] = 0, ["1970-01-01t00:00:00z"] = 0, ["1970-01-01T00:00:00-00:00"] = 0,
    ["2001-09-09T01:46:40Z"] = 1000000000, ["2001-09-09T03:46:40.25+02:00"] = 1000000000.25,
    ["2001-09-08T22:16:40-03:30"] = 1000000000, ["2000-02-29T00:00:00Z"] = 951782400,
    ["1969-12-31T23:59:59.5Z"] = -0.5, ["0000-01-01T00:00:00Z"] = -62167219200,
    ["9999-12-31T23:59:59Z"] = 253402300799, ["2016-12-31T23:59:60Z"] = 1483228800,
    ["2017-01-01T00:59:60+01:00"] = 1483228800,
  }) do
    assert(clock.parse_iso(text) == seconds, text)
    assert(math.type(clock.parse_iso(text)) == math.type(seconds), text)
  end
  for text, problem in pairs({
    [""] = "form", ["2001-09-09"] = "form", ["2001-09-09 01:46:40Z"] = "form",
    ["2001-9-9T01:46:40Z"] = "form", ["2001-09-09T01:46Z"] = "form", [("1"):rep(1000)] = "form",
    ["2001-09-09T01:46:40"] = "offset", ["2001-09-09T01:46:40.Z"] = "offset",
    ["2001-09-09T01:46:40+0100"] = "offset", ["2001-09-09T01:46:40+24:00"] = "offset",
    ["2001-09-09T01:46:40+01:60"] = "offset", ["2001-09-09T01:46:40Zx"] = "offset",
    ["2001-00-09T01:46:40Z"] = "month", ["2001-13-09T01:46:40Z"] = "month",
    ["2001-02-29T01:46:40Z"] = "day", ["1900-02-29T00:00:00Z"] = "day",
    ["2001-04-31T00:00:00Z"] = "day", ["2001-01-00T00:00:00Z"] = "day",
    ["2001-01-01T24:00:00Z"] = "time of day", ["2001-01-01T23:60:00Z"] = "time of day",
    ["2001-01-01T12:00:60Z"] = "time of day", ["2001-01-01T23:59:61Z"] = "time of day",
    ["2001-01-01T23:59:60+01:00"] = "time of day",
  }) do
    local err = expect.failure(clock.parse_iso, text)
    assert(err.kind == "syntax" and err.message:find(problem, 1, true), err.message)
  end
  expect.misuse("text: expected a string", clock.parse_iso, 12)
end)

test("time: random points in time mean the same to Python", function()
  math.randomseed(6, 6)
  local work = {}
  for i = 1, 2000 do
    -- Python begins with the year 1 and ends in 9999.
    local seconds = math.random(-62135596800 + 86400, 253402300799 - 86400)
    local offset = math.random(-1439, 1439)
    work[i] = { seconds = seconds, offset = offset }
  end
  local found, result = pcall(process.run, { "python3", "-c", [==[
import datetime, json, sys
utc = datetime.timezone.utc
start = datetime.datetime(1970, 1, 1, tzinfo=utc)
texts = []
for one in json.load(sys.stdin):
    at = start + datetime.timedelta(seconds=one["seconds"])
    zone = datetime.timezone(datetime.timedelta(minutes=one["offset"]))
    texts.append([at.isoformat(), at.astimezone(zone).isoformat()])
json.dump(texts, sys.stdout)
]==] }, { input = json.encode(work), check = true })
  if not found and result.code == "ENOENT" then skip("python3 is missing") end
  assert(found, tostring(result))
  for i, texts in ipairs(json.decode(result.stdout)) do
    local seconds = work[i].seconds
    assert(clock.parse_iso(texts[1]) == seconds and clock.parse_iso(texts[2]) == seconds, texts[2])
    assert(clock.iso(seconds) == texts[1]:gsub("%+00:00$", "Z"), texts[1])
  end
end)

test("time: a time with its milliseconds survives the way through text", function()
  math.randomseed(9, 1)
  for _ = 1, 2000 do
    local seconds = math.random(0, 4000000000000) / 1000
    assert(clock.parse_iso(clock.iso(seconds)) == seconds, clock.iso(seconds))
  end
end)

test("time: duration reads lengths of time", function()
  for text, seconds in pairs({
    ["250ms"] = 0.25, ["30s"] = 30, ["10m"] = 600, ["2h"] = 7200, ["1d"] = 86400, ["1w"] = 604800,
    ["1h30m"] = 5400, ["1.5h"] = 5400, ["1d 2h"] = 93600, ["500us"] = 0.0005, ["0s"] = 0,
    ["90"] = 90, ["1.5"] = 1.5, ["3m2s500ms"] = 182.5, ["100ms"] = 0.1, ["36h"] = 129600,
  }) do
    assert(clock.duration(text) == seconds, text)
  end
  assert(clock.duration(2.5) == 2.5 and clock.duration(0) == 0)
end)

test("time: duration says what is wrong", function()
  for text, problem in pairs({
    [""] = "nothing", [" "] = "nothing", ["s"] = "no number", ["10x"] = 'unknown unit "x"',
    ["1h30"] = "no unit after 30", ["-5s"] = "sign", ["+5s"] = "sign", ["5 s"] = "no unit after 5",
    ["30m1h"] = "largest to the smallest", ["1h1h"] = "largest to the smallest",
    ["1.2.3s"] = "no number", ["1e3s"] = 'unknown unit "e"', ["0x1s"] = 'unknown unit "x"',
    ["10M"] = 'unknown unit "M"', ["inf"] = "no number", ["nan"] = "no number",
    ["99999999w"] = "too long", ["1,5h"] = "no number", [" 5s"] = "no number",
  }) do
    local err = expect.failure(clock.duration, text)
    assert(err.kind == "syntax" and err.message:find(problem, 1, true), err.message)
    assert(err.message:find(("%q"):format(text), 1, true), err.message)
  end
  assert(#expect.failure(clock.duration, ("x"):rep(10000)).message < 300)
  for _, value in ipairs({ -1, 0 / 0, math.huge, 1e12 }) do
    expect.misuse("duration: expected a number", clock.duration, value)
  end
  expect.misuse("duration: expected a string", clock.duration, {})
  expect.misuse("duration: expected a string", clock.duration, nil)
end)

test("time: format_duration writes two units at most", function()
  for text, seconds in pairs({
    ["0s"] = 0, ["250ms"] = 0.25, ["1s"] = 0.9999, ["1.5s"] = 1.5, ["12.3s"] = 12.34,
    ["59.9s"] = 59.94, ["1m"] = 59.96, ["2m5s"] = 125.2, ["1h"] = 3599.7, ["1h30m"] = 5400,
    ["1d"] = 86399, ["3d4h"] = 273600, ["1us"] = 1e-6, ["1ms"] = 0.0009999, ["2.5us"] = 2.5e-6,
    ["-1m"] = -60, ["100d"] = 8640000,
  }) do
    assert(clock.format_duration(seconds) == text, clock.format_duration(seconds))
  end
  expect.misuse("seconds: expected a number", clock.format_duration, 0 / 0)
  expect.misuse("seconds: expected a number", clock.format_duration, math.huge)
end)

test("time: what format_duration writes, duration reads", function()
  math.randomseed(2, 9)
  for _ = 1, 5000 do
    local seconds = 10 ^ (math.random() * 14 - 5)
    local again = clock.duration(clock.format_duration(seconds))
    assert(math.abs(again - seconds) <= 0.03 * seconds + 1e-6, clock.format_duration(seconds))
  end
end)

local function near(a, b)
  return math.abs(a - b) < 1e-6
end

test("time: after is one point in time for many waits", function()
  harness.clock()
  local after = clock.after(30)
  assert(not after:passed() and near(after:left(), 30))
  assert(task.move_on(10, after.wait, after) == false and near(after:left(), 20))
  after:wait()
  assert(after:passed() and after:left() == 0)
  clock.sleep(5)
  after:wait()
  assert(after:left() == 0)
  expect.misuse("seconds: expected", clock.after, -1)
end)

-- The ticks that came and when, while the body of a loop takes `busy` after the first.
local function ticks(seconds, busy, count)
  local start, seen = clock.now(), {}
  for tick in clock.every(seconds) do
    seen[#seen + 1] = ("%d@%g"):format(tick, clock.now() - start)
    if #seen == count then break end
    clock.sleep(#seen == 1 and busy or 3)
  end
  return table.concat(seen, " ")
end

test("time: every counts by the clock and drops what it was late for", function()
  harness.clock()
  assert(ticks(10, 3, 4) == "1@10 2@20 3@30 4@40")
  -- The last missed one comes at once, those before it do not.
  assert(ticks(10, 45, 4) == "1@10 5@55 6@60 7@70", ticks(10, 45, 4))
  assert(ticks(10, 10, 3) == "1@10 2@20 3@30", ticks(10, 10, 3))
end)

test("time: every can be cancelled, and goes on with the same tick", function()
  harness.clock()
  local start = clock.now()
  local next_tick = clock.every(10)
  assert(task.move_on(4, next_tick) == false)
  assert(next_tick() == 1 and near(clock.now() - start, 10))
  assert(select("#", clock.every(1)) == 1)
  for _, value in ipairs({ 0, -1, 0 / 0, 1e10 }) do
    expect.misuse("seconds: expected", clock.every, value)
  end
end)
