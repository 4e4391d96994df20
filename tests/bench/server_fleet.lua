-- How the server carries a large fleet: N simulated sandboxes created, listed and
-- deleted through the API, with what each takes of time and memory.
--
--   sbxlua tests/bench/server_fleet.lua [N]        (default 100000)
--
-- Server and client share this process; the memory is that of both, with the client's
-- part small: it keeps ids only.

local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local server = require("sbx.server")
local sim = require("sbx.server.driver.sim")
local task = require("sbx.task")

local COUNT = math.tointeger(tonumber(arg[1] or "100000")) or 100000
local AT_ONCE = 32

local function resident()
  return (tonumber(fs.read("/proc/self/status"):match("VmRSS:%s*(%d+)")) or 0) * 1024
end

local function settled()
  collectgarbage()
  collectgarbage()
  return resident()
end

local running

local function call(method, path, body)
  local res = http.request(method, running.url .. "/api/v1" .. path, {
    headers = { Authorization = "Bearer k" }, json = body, timeout = 120,
  })
  assert(res.status < 300, res.body)
  return json.decode(res.body)
end

local function timed(what, count, fn)
  local began = task.now()
  fn()
  local seconds = task.now() - began
  print(("%-28s %8.2f s %10.0f a second %8.0f MB"):format(what, seconds, count / seconds,
    resident() / 1e6))
end

local function numbers()
  local at = 0
  return function()
    at = at + 1
    return at <= COUNT and at or nil
  end
end

local driver = sim.open()
running = server.start { driver = driver, api_key = "k", notice = print }
local ids = {}
local before, heap = settled(), collectgarbage("count")

timed("create", COUNT, function()
  task.map(numbers(), function(number)
    ids[number] = call("POST", "/sandbox", {
      name = "bench-" .. number, docker_image = "x", labels = { "bench", "n" .. number % 10 },
    }).id
    return true
  end, { limit = AT_ONCE })
end)
timed("until all run", COUNT, function()
  while call("GET", "/sandbox?status=RUNNING&per_page=1").total < COUNT do
    task.sleep(0.05)
  end
end)
local after = settled()
print(("memory for each %29.0f bytes (%.0f of the Lua heap)"):format((after - before) / COUNT,
  (collectgarbage("count") - heap) * 1024 / COUNT))

for _, query in ipairs { "", "&labels=bench", "&is_active=true", "&status=RUNNING" } do
  timed("list all, 1000 a page " .. query, COUNT, function()
    local page, seen = 1, 0
    repeat
      local answer = call("GET", ("/sandbox?per_page=1000&page=%d%s"):format(page, query))
      seen, page = seen + #answer.sandboxes, page + 1
    until not answer.has_next
    assert(seen == COUNT, seen)
  end)
end
timed("first page of 50, 100 times", 100, function()
  for _ = 1, 100 do
    call("GET", "/sandbox")
  end
end)
timed("get, 1000 times", 1000, function()
  task.map(table.move(ids, 1, math.min(1000, COUNT), 1, {}), function(id)
    call("GET", "/sandbox/" .. id)
  end, { limit = AT_ONCE })
end)
timed("delete half, one by one", COUNT // 2, function()
  task.map(table.move(ids, 1, COUNT // 2, 1, {}), function(id)
    call("DELETE", "/sandbox/" .. id)
    return true
  end, { limit = AT_ONCE })
end)
timed("delete the rest, 500 at once", COUNT - COUNT // 2, function()
  for first = COUNT // 2 + 1, COUNT, 500 do
    call("DELETE", "/sandbox", {
      sandbox_ids = json.array(table.move(ids, first, math.min(first + 499, COUNT), 1, {})),
    })
  end
end)
print(("left %d; memory %.0f MB"):format(call("GET", "/sandbox?is_active=true").total,
  settled() / 1e6))
running:stop()
driver:close()
