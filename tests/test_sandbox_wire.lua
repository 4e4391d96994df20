-- What the client does about each way in which a call to the control plane can fail:
-- how often it sends it, and what its caller is told.

local fs = require("sbx.fs")
local json = require("sbx.json")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local test_module = require("sbx.test")
local wire = require("sbx.sandbox.wire")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local faults = dofile(here .. "peers/faults.lua")
local support = dofile(here .. "fault_support.lua")

-- One call of each kind. What may run twice is `safe`.
local calls = {
  get = { method = "GET", path = "/sandbox/sbx-1", safe = true },
  set_egress = { method = "PUT", path = "/sandbox/sbx-1/egress-policy", body = {}, safe = true },
  delete = { method = "DELETE", path = "/sandbox/sbx-1", safe = true },
  bulk_delete = { method = "DELETE", path = "/sandbox", body = {}, safe = true },
  create = { method = "POST", path = "/sandbox", body = {}, idempotent = true, safe = true },
  auth = { method = "POST", path = "/sandbox/sbx-1/auth", idempotent = true, safe = true },
  expose = { method = "POST", path = "/sandbox/sbx-1/expose", body = {} },
}

---@async
local function send(client, name)
  local call = { op = name, sandbox_id = "sbx-1" }
  for field, value in pairs(calls[name]) do
    if field ~= "safe" then call[field] = value end
  end
  return wire.call(client, call)
end

-- Each row: what the server does; how often a safe call and another one are sent; the
-- error, and whether it says of a call that changes something that this may be done.
local rows = {
  { "closed before an answer", { cut = "close" }, 3, 1, { kind = "api", cause = "http" }, true },
  { "reset before an answer", { cut = "reset" }, 3, 1, { kind = "api", cause = "http" }, true },
  { "closed in the head", { cut = "head" }, 3, 1, { kind = "api", cause = "http" }, true },
  { "closed in the body", { cut = "body" }, 3, 1, { kind = "api", cause = "http" }, true },
  { "502", { status = 502 }, 3, 1, { kind = "api", status = 502, retryable = true }, true },
  { "503", { status = 503 }, 3, 1, { kind = "api", status = 503, retryable = true }, true },
  { "504", { status = 504 }, 3, 1, { kind = "api", status = 504, retryable = true }, true },
  { "500", { status = 500 }, 1, 1, { kind = "api", status = 500 }, true },
  { "524", { status = 524 }, 1, 1, { kind = "api", status = 524 }, true },
  { "401", { status = 401 }, 1, 1, { kind = "unauthorized", status = 401 } },
  { "402", { status = 402 }, 1, 1, { kind = "payment_required", status = 402 } },
  { "400", { status = 400 }, 1, 1, { kind = "api", status = 400 } },
  { "403", { status = 403 }, 1, 1, { kind = "api", status = 403 } },
  { "404", { status = 404 }, 1, 1, { kind = "api", status = 404 } },
  { "408", { status = 408 }, 1, 1, { kind = "api", status = 408 } },
  { "409", { status = 409 }, 1, 1, { kind = "api", status = 409 } },
  { "413", { status = 413 }, 1, 1, { kind = "api", status = 413 } },
  { "422", { status = 422 }, 1, 1, { kind = "api", status = 422 } },
  { "a list", { body = "[1, 2]" }, 1, 1, { kind = "api", code = "BAD_ANSWER" }, true },
  { "a bare value", { body = "42" }, 1, 1, { kind = "api", code = "BAD_ANSWER" }, true },
  { "no JSON", { body = "<html>" }, 1, 1, { kind = "api", code = "BAD_ANSWER" }, true },
  { "half of an object", { body = '{"id": ' }, 1, 1, { kind = "api", code = "BAD_ANSWER" }, true },
}

for _, row in ipairs(rows) do
  local name, reply, safe_count, other_count, expected, unknown = table.unpack(row, 1, 6)
  test("wire: " .. name, function()
    for op, about in pairs(calls) do
      local server <close> = faults.start({ [op] = function() return reply end })
      server.leave = reply.cut == "reset"
      local client <close> = server:client()
      local err = support.failure(send, client, op)
      local what = about.method .. " " .. op
      local count = about.safe and safe_count or other_count
      assert(server:count(op) == count, ("%s came %d times"):format(what, server:count(op)))
      assert(err.attempts == count, what .. ": attempts " .. tostring(err.attempts))
      support.expect(err, expected, what)
      support.expect(err, { unknown = unknown and about.method ~= "GET" or false }, what)
    end
  end)
end

test("wire: an empty answer is one to a delete alone", function()
  local empty = { status = 204 }
  local server <close> = faults.start({
    get = function() return empty end, delete = function() return empty end,
  })
  local client <close> = server:client()
  assert(next((send(client, "delete"))) == nil)
  local err = api.failure(send, client, "get")
  assert(err.kind == "api" and err.code == "BAD_ANSWER" and server:count("get") == 1)
end)

test("wire: a server that cannot be reached is tried three times, whatever the call", function()
  local client <close> = sandbox.client({ api_key = faults.KEY, base_url = api.dead_url() })
  for op in pairs(calls) do
    local err = support.failure(send, client, op)
    support.expect(err, { kind = "api", cause = "connect", attempts = 3, unknown = false }, op)
  end
end)

test("wire: a connection that does not come about is a timeout, and nothing was sent", function()
  local mute <close> = faults.start()
  local client <close> = sandbox.client({
    api_key = faults.KEY, base_url = (mute.url:gsub("^http", "https")),
  })
  local _ <close> = support.impatient("^https:", 5, 0.1)
  for op in pairs(calls) do
    local err = api.failure(send, client, op)
    support.expect(err, {
      kind = "api_timeout", phase = "connect", attempts = 1, unknown = false,
    }, op)
  end
end)

test("wire: silence ends with a timeout and is not asked again", function()
  local _ <close> = support.impatient("^http:", 0.5)
  for op, about in pairs(calls) do
    local server <close> = faults.start({ [op] = function() return { hang = true } end })
    local client <close> = server:client()
    local err = api.failure(send, client, op)
    assert(server:count(op) == 1)
    support.expect(err, {
      kind = "api_timeout", attempts = 1, unknown = about.method ~= "GET",
    }, op)
  end
end)

test("wire: every call has a deadline of its own", function()
  local http = require("sbx.http")
  local request, seen = http.request, {}
  local _ <close> = setmetatable({}, { __close = function() http.request = request end })
  http.request = function(method, url, options)
    seen = options
    return request(method, url, options)
  end
  local server <close> = faults.start()
  local client <close> = server:client()
  for op in pairs(calls) do
    send(client, op)
    assert(seen.timeout == 30 and seen.connect_timeout == 10, op)
  end
end)

test("wire: what failed in passing succeeds at the next try", function()
  for _, reply in ipairs({ { cut = "close" }, { cut = "body" }, { status = 503 } }) do
    for op, about in pairs(calls) do
      if about.safe then
        local server <close> = faults.start({
          [op] = function(n) return n < 3 and reply or nil end,
        })
        local client <close> = server:client()
        local ok, answer, attempts = support.at_once(send, client, op)
        assert(ok, tostring(answer))
        assert(attempts == 3 and server:count(op) == 3)
      end
    end
  end
end)

test("wire: 503 with Retry-After is not asked again before, nor if it is too long", function()
  local server <close> = faults.start({
    get = function(n)
      return n == 1 and { status = 503, headers = { ["Retry-After"] = "7" } } or nil
    end,
    expose = function() return { status = 503, headers = { ["Retry-After"] = "1" } } end,
    delete = function() return { status = 503, headers = { ["Retry-After"] = "900" } } end,
  })
  local client <close> = server:client()
  local clock = test_module.clock()
  local start = clock:elapsed()
  assert(support.at_once(send, client, "get"))
  assert(clock:elapsed() - start >= 7 and server:count("get") == 2)
  assert(support.failure(send, client, "expose").attempts == 1)
  local err = support.failure(send, client, "delete")
  assert(err.attempts == 1 and err.retry_after == 900)
end)

-- ------------------------------------------------------------------------- 429

local function refusal(retry_after)
  return { status = 429, headers = { ["Retry-After"] = retry_after }, body = { detail = "slow" } }
end

test("wire: 429 is waited out for every kind of call, and nothing was done", function()
  for op in pairs(calls) do
    local server <close> = faults.start({
      [op] = function(n) return n <= 5 and refusal() or nil end,
    })
    local client <close> = server:client()
    local ok, answer = support.at_once(send, client, op)
    assert(ok, tostring(answer))
    assert(server:count(op) == 6, op)
  end
end)

test("wire: Retry-After in seconds and as a date is the least pause", function()
  -- Dates are of the real clock, and whole seconds.
  local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 20)
  for form, least in pairs({ ["12"] = 12, ["0.5"] = 0.5, [date] = 17 }) do
    local server <close> = faults.start({
      get = function(n) return n == 1 and refusal(form) or nil end,
    })
    local client <close> = server:client()
    local clock = test_module.clock()
    local start = clock:elapsed()
    assert(support.at_once(send, client, "get"))
    local took = clock:elapsed() - start
    assert(took >= least and took < least + 8, ("%s took %g s"):format(form, took))
  end
end)

test("wire: a Retry-After that makes no sense is none", function()
  for _, form in ipairs({ "soon", "-5", "", "1e99", "nan", ("9"):rep(300) }) do
    local server <close> = faults.start({
      get = function(n) return n == 1 and refusal(form) or nil end,
    })
    local client <close> = server:client()
    assert(support.at_once(send, client, "get"))
    assert(server:count("get") == 2, form)
  end
end)

test("wire: refusals in a row end with patience, and are an error then", function()
  local server <close> = faults.start({ get = function() return refusal() end })
  local client <close> = server:client({ throttle_timeout = 60 })
  local clock = test_module.clock()
  local start = clock:elapsed()
  local err = support.failure(send, client, "get")
  support.expect(err, { kind = "api", status = 429, retryable = true, unknown = false }, "get")
  assert(server:count("get") >= 6 and server:count("get") <= 12, server:count("get"))
  assert(clock:elapsed() - start <= 65)
end)

test("wire: a pause that the server asked for is kept by calls that come later", function()
  local server <close> = faults.start({ list = function() return refusal("100") end })
  local client <close> = server:client({ throttle_timeout = 5 })
  local list = { op = "list", method = "GET", path = "/sandbox?page=1" }
  local err = api.failure(wire.call, client, list)
  assert(err.status == 429 and err.retry_after == 100)
  list = { op = "list", method = "GET", path = "/sandbox?page=1" }
  err = api.failure(wire.call, client, list)
  assert(err.status == 429 and err.retry_after > 95 and server:count("list") == 1)
  assert(err.message:find("asked for a pause", 1, true), err.message)
end)

test("wire: a caller may want to see the 429", function()
  local server <close> = faults.start({ get = function() return refusal("3") end })
  local client <close> = server:client()
  local err = api.failure(wire.call, client, {
    op = "look", method = "GET", path = "/sandbox/sbx-1", raise_429 = true,
  })
  assert(err.status == 429 and err.retry_after == 3 and server:count("get") == 1)
end)

test("wire: cancelled while it waits out a 429, and while it waits for its turn", function()
  local server <close> = faults.start({ list = function() return refusal("30") end })
  local client <close> = server:client()
  local list = { op = "list", method = "GET", path = "/sandbox?page=1" }
  for _ = 1, 2 do
    local copy = { op = list.op, method = list.method, path = list.path }
    expect.cancelled_once(function(running)
      return server:count("list") == 1 and running.waiting_on and running.waiting_on ~= "http"
    end, wire.call, client, copy)
  end
  assert(server:count("list") == 1)
end)

-- --------------------------------------------------------------- what errors say

test("wire: an error carries the name that the server gives to the request", function()
  for _, header in ipairs({ "X-Request-Id", "Request-Id", "CF-Ray" }) do
    for _, reply in ipairs({ { status = 404 }, { status = 500 }, { body = "[]" } }) do
      local server <close> = faults.start({ get = function()
        return { status = reply.status, body = reply.body, headers = { [header] = "req-77" } }
      end })
      local client <close> = server:client()
      local err = api.failure(send, client, "get")
      assert(err.request_id == "req-77", header)
    end
  end
end)

test("wire: a request id is cleaned and cut, and of several the first known one counts", function()
  local server <close> = faults.start({ get = function(n)
    if n == 1 then
      return { status = 404, headers = { ["X-Request-Id"] = "\27[31m" .. ("x"):rep(5000) } }
    end
    return { status = 404, headers = { ["CF-Ray"] = "ray", ["X-Request-Id"] = faults.KEY } }
  end })
  local client <close> = server:client()
  local id = api.failure(send, client, "get").request_id
  assert(#id <= 110 and not id:find("\27", 1, true))
  id = api.failure(send, client, "get").request_id
  assert(id == "***", id)
end)

test("wire: the key shows in no error and no log line, whatever the server does with it", function()
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  log.set_level("debug")
  local _ <close> = setmetatable({}, { __close = function()
    log.set_writer(nil)
    log.set_level("info")
  end })
  local echo = "you sent Bearer " .. faults.KEY
  local replies = {
    { status = 400, body = echo }, { status = 400, body = { detail = echo } },
    { status = 422, body = { detail = json.array({ { loc = json.array({ "a" }), msg = echo } }) } },
    { status = 200, body = "[" .. echo }, { status = 429, body = echo },
    { status = 404, headers = { ["Retry-After"] = echo, ["X-Request-Id"] = echo } },
    { cut = "head" },
  }
  for _, reply in ipairs(replies) do
    local server <close> = faults.start({ get = function() return reply end })
    local client <close> = server:client({ throttle_timeout = 0 })
    local err = support.failure(send, client, "get")
    for name, value in pairs(err) do
      assert(not tostring(value):find(faults.KEY, 1, true), "the key shows in " .. name)
    end
  end
  assert(not table.concat(lines):find(faults.KEY, 1, true), "the key shows in the log")
end)

test("wire: values that a create hides are hidden when the server quotes them", function()
  local server <close> = faults.start({ create = function()
    return { status = 422, body = { detail = "bad value hunter2hunter2 in secrets" } }
  end })
  local client <close> = server:client()
  local err = api.failure(client.create, client, {
    name = "a", docker_image = "b", secrets = { PASS = "hunter2hunter2" },
  })
  assert(err.detail == "bad value *** in secrets", err.detail)
end)

-- -------------------------------------------------------------------- not cut off

test("wire: a shielded request is answered although its task is cancelled", function()
  local server <close> = faults.start({ create = function() task.sleep(0.1) end })
  local client <close> = server:client()
  local call = {
    op = "create", method = "POST", path = "/sandbox", body = {}, idempotent = true, shield = 5,
  }
  local answer
  local running = task.pspawn(function() answer = wire.call(client, call) end)
  while server:count("create") == 0 do task.sleep(0.002) end
  running:cancel()
  running:pjoin()
  assert(answer and answer.id == "sbx-1" and call.sent)
end)

test("wire: a call says whether the server may have done it", function()
  local replies = {
    { { status = 404 }, false }, { { status = 429 }, false }, { { status = 503 }, true },
    { { cut = "close" }, true }, { { body = "[]" }, true },
  }
  for _, case in ipairs(replies) do
    local server <close> = faults.start({ create = function() return case[1] end })
    local client <close> = server:client({ throttle_timeout = 0 })
    local call = {
      op = "create", method = "POST", path = "/sandbox", body = {}, idempotent = true,
    }
    support.failure(wire.call, client, call)
    assert((call.sent or false) == case[2], json.encode(case[1]))
  end
  local dead <close> = sandbox.client({ api_key = faults.KEY, base_url = api.dead_url() })
  local call = { op = "create", method = "POST", path = "/sandbox", body = {}, idempotent = true }
  support.failure(wire.call, dead, call)
  assert(not call.sent)
end)

test("wire: a refusal after a lost answer does not make the outcome known", function()
  local server <close> = faults.start({ delete = function(n)
    return n == 1 and { cut = "close" } or { status = 409 }
  end })
  local client <close> = server:client()
  local err = support.failure(send, client, "delete")
  assert(err.status == 409 and err.attempts == 2 and err.outcome == "unknown")
end)

test("wire: cancelled while the server is silent", function()
  local server <close> = faults.start({ get = function() return { hang = true } end })
  local client <close> = server:client()
  expect.cancelled_once(function() return server:count("get") == 1 end, send, client, "get")
  assert(server:count("get") == 1)
end)

test("wire: nothing of a test run is written outside of it", function()
  local server <close> = faults.start()
  local client <close> = server:client()
  send(client, "get")
  local state = require("sbx.sandbox.state")
  assert(state.folder("limits") == nil)
  local folder <close> = fs.tmpdir({})
  state.use(folder.path .. "/state")
  local _ <close> = setmetatable({}, { __close = function() state.use(false) end })
  assert(state.folder("limits") == folder.path .. "/state/limits")
end)
