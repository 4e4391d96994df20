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

test("time: timers far apart do not disturb each other", function()
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
