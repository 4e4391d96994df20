-- `sbxlua serve --limit`: what is counted, for whom, and what the answer says.

local hash = require("sbx.hash")
local limits = require("sbx.server.limits")
local task = require("sbx.task")
local memory_driver = dofile("tests/peers/memory_driver.lua")
local support = dofile("tests/server_support.lua")

local function rules(...)
  local made = {}
  for _, text in ipairs { ... } do
    limits.parse(made, text)
  end
  return made
end

local function with_limits(list, fn)
  support.with_server(fn, { driver = memory_driver.open(), limits = rules(table.unpack(list)) })
end

-- The statuses of `count` requests, and the last answer.
local function statuses(count, fn)
  local seen, last = {}, nil
  for index = 1, count do
    seen[index], last = fn()
  end
  return table.concat(seen, " "), last
end

test("limits: the words of --limit", function()
  local made = rules("create=500/60s", "list=3/1m", "list=4/2m")
  assert(made.create.count == 500 and made.create.seconds == 60)
  assert(rules("get=5/60").get.seconds == 60) -- a plain number is seconds
  assert(made.list.count == 4 and made.list.seconds == 120)
  local vendor = rules("vendor", "get=1/1s")
  assert(vendor.create.count == 500 and vendor.bulk_delete.count == 50 and vendor.auth.count == 120)
  assert(vendor.expose_all.seconds == 60 and vendor.get.seconds == 1 and vendor.exec == nil)
  for _, text in ipairs {
    "", "create", "create=", "create=5", "create=0/60s", "create=5/0s", "create=-1/60s",
    "create=1e3/60s", "nothing=5/60s", "create=5/60s/2", "Vendor",
    "create=5/never", "create=99999999999999999999/60s", "create=5/1000000s",
  } do
    local ok, failure = pcall(rules, text)
    assert(not ok and failure.kind == "usage" and failure.message:find("--limit", 1, true), text)
  end
end)

test("limits: one too many is 429, with a pause and a body that clients can read", function()
  with_limits({ "list=3/60s" }, function(api)
    local seen, body = statuses(4, function()
      return api:call("GET", "/sandbox")
    end)
    assert(seen == "200 200 200 429", seen)
    assert(type(body.detail) == "string" and body.code == 429)
    local _, _, res = api:call("GET", "/sandbox")
    local pause = math.tointeger(tonumber(res.headers["retry-after"]))
    assert(res.status == 429 and pause >= 1 and pause <= 60)
    -- Clients take `sbxlua` for a server without limits.
    assert(res.headers.server == nil)
    -- Another kind of request has its own window, or none.
    assert(api:call("GET", "/sandbox/expose/all") == 200)
  end)
  support.with_server(function(api)
    local _, _, res = api:call("GET", "/sandbox")
    assert(res.headers.server == "sbxlua")
  end, { driver = memory_driver.open() })
end)

test("limits: a window ends, and another one begins", function()
  with_limits({ "list=1/1s" }, function(api)
    task.timeout(60, function()
      assert(api:call("GET", "/sandbox") == 200)
      while api:call("GET", "/sandbox") == 429 do
        task.sleep(0.1)
      end
    end)
  end)
end)

test("limits: each class where it belongs; a sandbox of its own where the wire says so", function()
  local calls = {
    logs = { "GET", "/logs" }, error_context = { "GET", "/error-context" },
    expose = { "POST", "/expose", { port = 8000 } }, exposure_list = { "GET", "/expose" },
    get = { "GET", "" }, auth = { "POST", "/auth" },
  }
  for class, call in pairs(calls) do
    with_limits({ class .. "=1/60s" }, function(api)
      local ids = { api:create().id, api:create().id }
      for _, id in ipairs(ids) do
        assert(api:call(call[1], "/sandbox/" .. id .. call[2], call[3]) ~= 429, class)
        assert(api:call(call[1], "/sandbox/" .. id .. call[2], call[3]) == 429, class)
      end
    end)
  end
end)

test("limits: deleting is counted in all, a batch for each sandbox in it", function()
  with_limits({ "delete=1/60s", "batch_get=2/60s", "bulk_delete=1/60s" }, function(api)
    local one, other = api:create().id, api:create().id
    local function ask(...)
      return (api:call("POST", "/sandbox/status:batchGet", { sandbox_ids = { ... } }))
    end
    assert(ask(one, other) == 200 and ask(one) == 200 and ask(one) == 429)
    assert(ask(other) == 200 and ask(other, one) == 429)
    assert(api:call("DELETE", "/sandbox/" .. one) == 200)
    assert(api:call("DELETE", "/sandbox/" .. other) == 429)
    assert(api:call("DELETE", "/sandbox", { sandbox_ids = { one } }) == 200)
    assert(api:call("DELETE", "/sandbox", { sandbox_ids = { one } }) == 429)
  end)
end)

test("limits: the gateway's are for each sandbox, and count only what has a token", function()
  with_limits({ "exec=2/60s" }, function(api)
    local _, gateway = api:running()
    local _, neighbour = api:running()
    for _ = 1, 5 do
      assert(gateway:request("POST", "/exec", { token = "wrong", json = {} }).status == 401)
    end
    local seen, body = statuses(3, function()
      return gateway:exec("x")
    end)
    assert(seen == "200 200 429" and body.error == "rate_limited", seen)
    assert(neighbour:exec("x") == 200)
  end)
end)

test("limits: a wrong key spends nothing, nor do ids that nobody has", function()
  with_limits({ "list=1/60s", "get=2/60s" }, function(api)
    for _ = 1, 3 do
      assert(api:call("GET", "/sandbox", nil, { headers = { Authorization = "Bearer no" } }) == 401)
    end
    assert(api:call("GET", "/sandbox") == 200)
    local id = api:create().id
    -- All unknown ids share one window: they must not cost memory each.
    local seen = statuses(3, function()
      return (api:call("GET", "/sandbox/sbx-" .. hash.random_hex(4)))
    end)
    assert(seen == "404 404 429", seen)
    assert(api:call("GET", "/sandbox/" .. id) == 200)
  end)
end)

test("limits: their memory is bounded", function()
  local counted = limits.new(rules("get=1/0.05s"), 10)
  local refused = 0
  for index = 1, 30 do
    local ok, failure = pcall(counted.check, counted, "get", "me", "here", "sbx-" .. index)
    if not ok then
      assert(failure.status == 429 and failure.headers["Retry-After"] == "1")
      refused = refused + 1
    end
  end
  assert(refused == 20, refused)
  task.sleep(0.06)
  counted:check("get", "me", "here", "sbx-100") -- what is over makes room
end)
