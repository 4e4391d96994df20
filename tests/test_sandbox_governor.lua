local endpoints = require("sbx.sandbox.endpoints")
local fs = require("sbx.fs")
local governor = require("sbx.sandbox.governor")
local host = require("sbx.core.host")
local json = require("sbx.json")
local pace = require("sbx.sandbox.pace")
local process = require("sbx.process")
local rate_headers = require("sbx.sandbox.rate_headers")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local test_module = require("sbx.test")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local limiters = dofile(here .. "peers/limiters.lua")

local CONFIG = { api_key = "test-key-4711", base_url = "http://api.example", is_local = false }
local LIBRARY = os.getenv("SBXLUA_LUA")
local VIRTUAL = { clock = "virtual" }

state.use(false) -- a test that needs a folder has one of its own

-- A state folder for the test that runs.
local function with_state()
  local outer = fs.tmpdir({})
  state.use(outer.path .. "/state")
  test_module.after(function()
    state.use(false)
    outer:close()
  end)
  return outer.path .. "/state/limits/" .. state.account(CONFIG)
end

-- Sends one request; the server's answer is what `answer()` returns.
---@async
local function send(g, class, answer, id)
  local grant <close> = assert(g:admit(class, id, math.huge, false))
  local reply = answer()
  g:learn(grant, { status = reply.status, headers = reply.headers or {},
    retry_after = reply.retry_after })
  return reply
end

local function ok() return { status = 200 } end

local function refuse(seconds)
  return function() return { status = 429, retry_after = seconds } end
end

-- ---------------------------------------------------------------------- classes

test("governor: requests have the class of their endpoint, some the id of a sandbox", function()
  local function class(method, path)
    local name, id = endpoints.class_of(method, path)
    return name .. (id and " of " .. id or "")
  end
  assert(class("POST", "/sandbox") == "create")
  assert(class("GET", "/sandbox?page=1&per_page=100") == "list")
  assert(class("DELETE", "/sandbox") == "bulk_delete")
  assert(class("DELETE", "/sandbox/sbx-1") == "delete")
  assert(class("GET", "/sandbox/sbx-1") == "get of sbx-1")
  assert(class("POST", "/sandbox/sbx-1/auth") == "auth of sbx-1")
  assert(class("GET", "/sandbox/sbx-1/error-context") == "context of sbx-1")
  assert(class("GET", "/sandbox/sbx-1/logs") == "logs of sbx-1")
  assert(class("POST", "/sandbox/sbx-1/expose") == "expose of sbx-1")
  assert(class("DELETE", "/sandbox/sbx-1/expose/exp-1") == "unexpose of sbx-1")
  assert(class("GET", "/sandbox/sbx-1/expose") == "exposed of sbx-1")
  assert(class("GET", "/sandbox/expose/all") == "exposures")
  assert(class("PUT", "/sandbox/sbx-1/egress-policy") == "set_egress of sbx-1")
  assert(class("POST", "/sandbox/sbx-1/ssh-session") == "ssh of sbx-1")
  assert(class("POST", "/sandbox/status:batchGet") == "statuses")
  assert(class("POST", "/sandbox/background-jobs/status:batchGet") == "job_statuses")
  assert(class("GET", "/images?limit=5") == "images" and class("GET", "/") == "")
end)

-- ---------------------------------------------------------------------- headers

test("governor: rate headers under all their names", function()
  local function read(headers)
    local told = rate_headers(headers, 1800000000)
    return told and ("%s %s %s %s"):format(told.limit, told.window, told.remaining, told.reset)
  end
  assert(read({ ["x-ratelimit-limit"] = "100", ["x-ratelimit-remaining"] = "7",
    ["x-ratelimit-reset"] = "30" }) == "100 nil 7 30")
  assert(read({ ["x-rate-limit-remaining"] = "7", ["x-rate-limit-reset"] = "1800000030" })
    == "nil nil 7 30")
  assert(read({ ["ratelimit-limit"] = "100, 100;w=60", ["ratelimit-remaining"] = "0",
    ["ratelimit-reset"] = "5" }) == "100 nil 0 5")
  assert(read({ ["ratelimit"] = "limit=100, remaining=50, reset=5" }) == "100 nil 50 5")
  assert(read({ ["ratelimit"] = '"default";r=50;t=30',
    ["ratelimit-policy"] = '"default";q=100;w=60' }) == "100 60 50 30")
  assert(read({ ["ratelimit-policy"] = "100;w=60" }) == "100 60 nil nil")
  assert(read({ ["x-ratelimit-reset"] = "1800000030000", ["x-ratelimit-remaining"] = "1" })
    :find("^nil nil 1 30"))
  assert(read({}) == nil and read({ ["content-type"] = "application/json" }) == nil)
end)

test("governor: rate headers that make no sense are none", function()
  for _, text in ipairs({ "", "many", "-1", "1e400", ("9"):rep(400), "nan", ";;;=" }) do
    local told = rate_headers({
      ["x-ratelimit-remaining"] = text, ["ratelimit"] = text, ["ratelimit-policy"] = text,
    }, 0)
    if told then
      for name, value in pairs(told) do
        assert(value == value and value >= 0 and value < 1e18, name .. " of " .. text)
      end
    end
  end
end)

test("governor: nothing is sent when the server says that nothing is left", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local headers = { ["x-ratelimit-remaining"] = "0", ["x-ratelimit-reset"] = "30" }
  send(g, "create", function() return { status = 200, headers = headers } end)
  local start = time.now()
  send(g, "create", ok)
  assert(time.now() - start > 29.9)
end)

test("governor: little that is left is spread out until there is more", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local headers = { ["ratelimit"] = "limit=100, remaining=10, reset=20" }
  send(g, "statuses", function() return { status = 200, headers = headers } end)
  local start = time.now()
  for _ = 1, 11 do
    send(g, "statuses", ok)
  end
  local took = time.now() - start
  assert(took > 15 and took < 25, took)
  -- Then it is as before.
  task.sleep(20)
  start = time.now()
  for _ = 1, 50 do
    send(g, "statuses", ok)
  end
  assert(time.now() - start < 1)
end)

test("governor: a limit that the server itself names takes the place of ours", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local headers = { ["ratelimit-policy"] = "6000;w=60" }
  local start = time.now()
  for _ = 1, 500 do
    send(g, "create", function() return { status = 200, headers = headers } end)
  end
  local took = time.now() - start
  assert(took > 3 and took < 8, took)
end)

-- ----------------------------------------------------------------- turns and pauses

test("governor: those who wait go in the order of coming", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local order = {}
  task.scope(function(scope)
    for i = 1, 60 do
      scope:spawn(function()
        send(g, "create", function()
          order[#order + 1] = i
          return { status = 201 }
        end)
      end)
    end
  end)
  for i = 1, 60 do
    assert(order[i] == i, i)
  end
end)

test("governor: a pause holds for all of its class, and for no other", VIRTUAL, function()
  local g = governor.new(CONFIG)
  send(g, "create", refuse(20))
  local start = time.now()
  send(g, "delete", ok)
  send(g, "statuses", ok)
  assert(time.now() == start)
  task.gather({ function() send(g, "create", ok) end, function() send(g, "create", ok) end })
  assert(time.now() - start >= 20)
end)

test("governor: a pause of one sandbox is not one of another", VIRTUAL, function()
  local g = governor.new(CONFIG)
  send(g, "get", refuse(20), "sbx-1")
  local start = time.now()
  send(g, "get", ok, "sbx-2")
  assert(time.now() == start)
  send(g, "get", ok, "sbx-1")
  assert(time.now() - start >= 20)
end)

test("governor: one sandbox is asked no more often than is published", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local limiter, refused, start = limiters.sliding(20, 60), 0, time.now()
  for _ = 1, 60 do
    send(g, "expose", function()
      refused = refused + (limiter(time.now()) and 0 or 1)
      return { status = 200 }
    end, "sbx-1")
  end
  assert(refused == 0 and time.now() - start < 320, refused)
end)

test("governor: who was refused does not stand in line once more", VIRTUAL, function()
  local g = governor.new(CONFIG)
  send(g, "create", refuse(5))
  local order = {}
  task.scope(function(scope)
    for i = 1, 10 do
      scope:spawn(function()
        send(g, "create", function()
          order[#order + 1] = i
          return { status = 201 }
        end)
      end)
    end
    scope:spawn(function()
      task.sleep(1)
      local grant <close> = g:admit("create", nil, math.huge, true)
      order[#order + 1] = "again"
      return grant
    end)
  end)
  assert(order[1] == "again" or order[2] == "again", json.encode(order))
end)

test("governor: a pause longer than patience is told, not waited for", VIRTUAL, function()
  local g = governor.new(CONFIG)
  send(g, "create", refuse(100))
  local start = time.now()
  local grant, seconds = g:admit("create", nil, 30, false)
  assert(grant == nil and seconds > 99 and time.now() == start)
  -- Waiting one's turn is no such pause.
  g = governor.new(CONFIG)
  for _ = 1, 100 do
    assert(g:admit("create", nil, 0, false)):close()
  end
  assert(time.now() - start > 5)
end)

test("governor: cancelled while it waits, it holds up nobody", VIRTUAL, function()
  local g = governor.new(CONFIG)
  send(g, "create", refuse(10))
  local start = time.now()
  task.scope(function(scope)
    for _ = 1, 30 do
      scope:spawn(function()
        assert(not task.move_on(5, g.admit, g, "create", nil, math.huge, false))
      end)
    end
  end)
  send(g, "create", ok)
  assert(time.now() - start < 12, time.now() - start)
end)

test("governor: no more at once than the server bears", function()
  local g = governor.new(CONFIG)
  local active, most = 0, 0
  local list = {}
  for i = 1, 200 do
    list[i] = i
  end
  local function burst(status)
    most = 0
    task.map(list, function()
      local grant <close> = g:admit("images", nil, math.huge, false)
      active = active + 1
      most = math.max(most, active)
      task.sleep(0.001)
      active = active - 1
      g:learn(grant, { status = status, headers = {} })
    end, { limit = 200 })
    return most
  end
  assert(burst(200) == 200)
  burst(503)
  assert(burst(503) <= 32)
  local after = burst(503)
  assert(after <= 16, after)
  for _ = 1, 20 do
    burst(200)
  end
  assert(burst(200) >= 2 * after, most)
end)

-- ------------------------------------------------------------------ no limits

test("governor: with a private server there are none, but a 429 is honoured", VIRTUAL, function()
  local file = with_state()
  local g = governor.new({
    api_key = "k-123456", base_url = "http://127.0.0.1:1", is_local = true,
  })
  local start = time.now()
  for _ = 1, 2000 do
    send(g, "create", ok)
  end
  assert(time.now() == start)
  send(g, "create", refuse(3))
  send(g, "create", ok)
  assert(time.now() - start >= 3)
  -- And what it was refused after is no limit.
  start = time.now()
  for _ = 1, 500 do
    send(g, "create", ok)
  end
  assert(time.now() == start)
  assert(not fs.exists(file:match("^(.*)/limits")))
end)

test("governor: a server that says it is ours has no limits", VIRTUAL, function()
  local g = governor.new(CONFIG)
  local start = time.now()
  for _ = 1, 300 do
    send(g, "create", function() return { status = 201, headers = { server = "sbxlua" } } end)
  end
  assert(time.now() - start < 1)
end)

-- --------------------------------------------------------------- the shared file

test("governor: a file that makes no sense is none, and is written anew", function()
  local file = with_state()
  state.folder("limits")
  local good = pace.new({ count = 500, burst = 40, window = 60 }, time.wall())
  local function record(fields)
    local copy = {}
    for name, value in pairs(good) do
      copy[name] = value
    end
    for name, value in pairs(fields) do
      copy[name] = value
    end
    return json.encode({ create = copy })
  end
  local texts = {
    "", "{", "[]", "null", '{"create":5}', '{"create":{}}', ("[" ):rep(5000),
    record({ rate = -1 }), record({ rate = "fast" }), record({ tokens = 1e300 }),
    record({ burst = 0 }), record({ paused_until = 1e11 }), record({ at = 1e11 }),
    record({ stamp = 1e11, at = 1e11, paused_until = 1e11, last = 1e11 }),
    record({ epoch = -5, sent = -5, refusals = -100, opened = 7 }),
  }
  for _, text in ipairs(texts) do
    fs.write(file, text)
    local g = governor.new(CONFIG)
    local grant, seconds = g:admit("create", nil, 10, false)
    -- A pause of an hour is the most that anybody may ask for.
    assert(grant or seconds <= 3600, text)
    if grant then grant:close() end
    if grant then assert(pace.is_valid(state.read(file).create), text) end
  end
end)

test("governor: a clock that was set back makes no pause", function()
  local file = with_state()
  state.folder("limits")
  local future = pace.new({ count = 500, burst = 40, window = 60 }, time.wall() + 5000)
  fs.write(file, json.encode({ create = future }))
  local g = governor.new(CONFIG)
  assert(g:admit("create", nil, 1, false)):close()
end)

test("governor: a pause is known to the user's other processes", function()
  with_state()
  local one, other = governor.new(CONFIG), governor.new(CONFIG)
  send(one, "create", refuse(50))
  local grant, seconds = other:admit("create", nil, 1, false)
  assert(grant == nil and seconds > 45)
end)

test("governor: a process that holds the file and stands still holds up nobody", function()
  local file = with_state()
  state.folder("limits")
  local child = process.spawn({ host.executable(), "-e", [[
    local held = require("sbx.fs").lock(arg[1])
    print("held")
    io.stdout:flush()
    io.read()
    held:close()
  ]], file .. ".lock" }, {
    stdin = "pipe", stdout = "pipe", env = { SBXLUA_LUA = LIBRARY or false },
  })
  assert(child.stdout:read():find("held", 1, true))
  child:kill("STOP")
  local g = governor.new(CONFIG)
  local start = task.now()
  for _ = 1, 15 do
    send(g, "create", ok)
  end
  assert(task.now() - start < 5, "they waited for a process that stands still")
  child:kill("KILL")
  child:wait()
end)

test("governor: without a place for the file each goes by its own knowledge", function()
  state.use("/proc/nowhere")
  test_module.after(function() state.use(false) end)
  local g = governor.new(CONFIG)
  for _ = 1, 10 do
    send(g, "create", ok)
  end
end)

test("governor: what is kept for single sandboxes does not grow for ever", VIRTUAL, function()
  local g = governor.new(CONFIG)
  for round = 1, 4 do
    for i = 1, 1500 do
      send(g, "auth", ok, ("sbx-%d-%d"):format(round, i))
    end
    task.sleep(120)
  end
  local count = 0
  for _ in pairs(g.sandboxes) do
    count = count + 1
  end
  assert(count <= 3600, count)
end)
