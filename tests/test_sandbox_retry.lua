-- What the client does about each way in which a request to a sandbox's gateway can
-- fail: how often it sends it, and what its caller is told.

local fs = require("sbx.fs")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local faults = dofile(here .. "peers/faults.lua")
local support = dofile(here .. "fault_support.lua")

local OPS = { "exec", "upload", "download", "read" }

local calls = {
  exec = function(client) return client:execute_command("sbx-1", "x", { timeout = 9 }) end,
  upload = function(client) return client:upload_bytes("sbx-1", "/tmp/a", "bytes") end,
  download = function(client)
    local folder <close> = fs.tmpdir({})
    local size = client:download_file("sbx-1", "/tmp/a", folder.path .. "/a")
    assert(fs.read(folder.path .. "/a") == "bytes")
    return size
  end,
  read = function(client) return client:read_file("sbx-1", "/tmp/a") end,
}

---@async
local function send(client, op)
  return calls[op](client)
end

-- Each row: what the gateway does; how often each operation is sent; the error, with
-- what differs for one of them; and whether a command may have run.
local rows = {
  { "closed before an answer", { cut = "close" }, { 1, 4, 4, 4 }, { kind = "api" }, true },
  { "reset before an answer", { cut = "reset" }, { 1, 4, 4, 4 }, { kind = "api" }, true },
  { "closed in the head", { cut = "head" }, { 1, 4, 4, 4 }, { kind = "api" }, true },
  -- A download goes on where it was; the first time almost at once.
  { "closed in the body", { cut = "body" }, { 1, 4, 5, 4 }, { kind = "api" }, true },
  { "500", { status = 500 }, { 1, 4, 4, 4 }, { kind = "api", status = 500 }, true },
  { "502", { status = 502 }, { 1, 4, 4, 4 }, { kind = "api", status = 502 }, true },
  { "503", { status = 503 }, { 1, 4, 4, 4 }, { kind = "api", status = 503 }, true },
  { "504", { status = 504 }, { 1, 4, 4, 4 }, { kind = "api", status = 504 }, true },
  { "524", { status = 524 }, { 1, 4, 4, 4 }, { kind = "api", status = 524 }, true },
  { "502 gateway_error", { status = 502, body = { error = "gateway_error", code = 502 } },
    { 1, 4, 4, 4 }, { kind = "api", status = 502 }, true },
  { "502 sandbox_not_found",
    { status = 502, body = { error = "sandbox_not_found", message = "Gone", code = 502 } },
    { 1, 1, 1, 1 },
    { kind = "not_running", status = "TERMINATED", error_type = "SANDBOX_NOT_FOUND" } },
  { "408", { status = 408 }, { 1, 4, 1, 4 },
    { kind = "api", status = 408, exec = { kind = "command_timeout", timeout = 9 } } },
  { "400", { status = 400 }, { 1, 1, 1, 1 }, { kind = "api", status = 400 } },
  { "402", { status = 402 }, { 1, 1, 1, 1 }, { kind = "api", status = 402 } },
  { "404", { status = 404 }, { 1, 1, 1, 1 }, {
    kind = "api", status = 404,
    read = { kind = "file_not_found" }, download = { kind = "file_not_found" },
  } },
  { "413", { status = 413 }, { 1, 1, 1, 1 }, { kind = "file_too_large", status = 413 } },
  { "418", { status = 418 }, { 1, 1, 1, 1 }, { kind = "api", status = 418 } },
  { "409 of one that runs", { status = 409 }, { 4, 4, 4, 4 }, { kind = "api", status = 409 } },
}

local function expected_of(row, op)
  local expected = {}
  for name, value in pairs(row[4]) do
    if not calls[name] then expected[name] = value end
  end
  for name, value in pairs(row[4][op] or {}) do
    expected[name] = value
  end
  expected.unknown = op == "exec" and row[5] or false
  expected.sandbox_id = "sbx-1"
  return expected
end

for _, row in ipairs(rows) do
  local name, reply, counts = row[1], row[2], row[3]
  test("gateway: " .. name, function()
    for i, op in ipairs(OPS) do
      local server <close> = faults.start({ [op] = function() return reply end })
      server.leave = reply.cut == "reset"
      local client <close> = server:client()
      local err = support.failure(send, client, op)
      assert(server:count(op) == counts[i],
        ("%s came %d times, expected %d"):format(op, server:count(op), counts[i]))
      support.expect(err, expected_of(row, op), op)
      assert(server:count("auth") == 1, "the token had no part in it")
    end
  end)
end

test("gateway: one that cannot be reached is tried four times, and no command ran", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start()
    server.gateway_url = api.dead_url()
    local client <close> = server:client()
    local err = support.failure(send, client, op)
    support.expect(err, { kind = "api", attempts = 4, cause = "connect", unknown = false }, op)
  end
end)

test("gateway: a connection that does not come about is no timeout of the command", function()
  local mute <close> = faults.start()
  local _ <close> = support.impatient("^https:", 5, 0.1)
  for _, op in ipairs(OPS) do
    local server <close> = faults.start()
    server.gateway_url = mute.url:gsub("^http", "https")
    local client <close> = server:client()
    local err = support.failure(send, client, op)
    support.expect(err, {
      kind = "api_timeout", phase = "connect", attempts = op == "read" and 4 or 1, unknown = false,
    }, op)
  end
end)

test("gateway: silence ends with the timeout of its kind", function()
  local kinds = {
    exec = "command_timeout", upload = "upload_timeout", download = "download_timeout",
    read = "api_timeout",
  }
  local _ <close> = support.impatient("/gw/", 0.5)
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({ [op] = function() return { hang = true } end })
    local client <close> = server:client()
    local err = support.failure(send, client, op)
    assert(server:count(op) == (op == "read" and 4 or 1), op .. ": " .. server:count(op))
    support.expect(err, { kind = kinds[op], unknown = op == "exec" }, op)
    assert(err.timeout == (op == "exec" and 9 or err.timeout) and err.timeout, op)
  end
end)

test("gateway: a timeout of a sandbox that has ended says so", function()
  local _ <close> = support.impatient("/exec$", 0.5)
  local kinds = { TERMINATED = "not_running", ERROR = "oom", TIMEOUT = "sandbox_timeout" }
  for status, kind in pairs(kinds) do
    for _, reply in ipairs({ { hang = true }, { status = 408 } }) do
      local server <close> = faults.start({
        exec = function() return reply end,
        context = function()
          return { body = { status = status, errorType = kind == "oom" and "OOM_KILLED" or nil } }
        end,
      })
      local client <close> = server:client()
      local err = support.failure(send, client, "exec")
      support.expect(err, { kind = kind, status = status, cause = "command_timeout" }, status)
      assert(err:is("not_running") and server:count("exec") == 1)
    end
  end
end)

test("gateway: 409 of one that does not run is told at once, whatever its state", function()
  local states = {
    PENDING = "not_running", PROVISIONING = "not_running", PAUSED = "not_running",
    TERMINATED = "not_running", TIMEOUT = "sandbox_timeout", unknown = "not_running",
  }
  for state, kind in pairs(states) do
    for _, op in ipairs(OPS) do
      local server <close> = faults.start({
        [op] = function() return { status = 409 } end,
        context = function()
          return { body = { status = state ~= "unknown" and state or nil, more = 1 } }
        end,
      })
      local client <close> = server:client()
      local err = support.failure(send, client, op)
      assert(server:count(op) == 1, op)
      support.expect(err, { kind = kind, unknown = false }, state .. " " .. op)
    end
  end
end)

test("gateway: 409 passes when the sandbox runs by then", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({
      [op] = function(n) return n < 4 and { status = 409 } or nil end,
    })
    local client <close> = server:client()
    local ok, answer = support.at_once(send, client, op)
    assert(ok and answer, tostring(answer))
    assert(server:count(op) == 4)
  end
end)

test("gateway: what may run twice succeeds at the next try", function()
  local passing = { { cut = "close" }, { cut = "body" }, { status = 500 }, { status = 503 } }
  for _, reply in ipairs(passing) do
    for _, op in ipairs({ "upload", "download", "read" }) do
      local server <close> = faults.start({ [op] = function(n) return n < 4 and reply or nil end })
      local client <close> = server:client()
      local ok, answer = support.at_once(send, client, op)
      assert(ok, tostring(answer))
      assert(server:count(op) == 4, op)
    end
  end
end)

test("gateway: 503 with Retry-After is not asked again before", function()
  local server <close> = faults.start({ read = function(n)
    return n == 1 and { status = 503, headers = { ["Retry-After"] = "20" } } or nil
  end })
  local client <close> = server:client()
  local clock = test_module.clock()
  local start = clock:elapsed()
  assert(support.at_once(send, client, "read"))
  assert(clock:elapsed() - start >= 20 and server:count("read") == 2)
end)

-- ------------------------------------------------------------------- 401 and 429

test("gateway: 401 is answered by one new token, and a second 401 is an error", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({
      [op] = function(n) return n == 1 and { status = 401 } or nil end,
    })
    local client <close> = server:client()
    assert(send(client, op))
    assert(server:count("auth") == 2 and server:count(op) == 2, op)
    server.scripts[op] = function() return { status = 401 } end
    local err = api.failure(send, client, op)
    support.expect(err, { kind = "api", status = 401, attempts = 2, unknown = false }, op)
    assert(server:count("auth") == 3 and server:count(op) == 4, op)
  end
end)

test("gateway: 429 is waited out by all, commands as well: they did not run", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({ [op] = function(n)
      return n <= 3 and { status = 429, headers = { ["Retry-After"] = "3" } } or nil
    end })
    local client <close> = server:client()
    local clock = test_module.clock()
    local start = clock:elapsed()
    local ok, answer = support.at_once(send, client, op)
    assert(ok, tostring(answer))
    assert(server:count(op) == 4 and clock:elapsed() - start >= 9, op)
  end
end)

test("gateway: 429 beyond patience is an error that says how long", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({ [op] = function()
      return { status = 429, headers = { ["Retry-After"] = "500" } }
    end })
    local client <close> = server:client()
    local err = support.failure(send, client, op)
    support.expect(err, {
      kind = "api", status = 429, retry_after = 500, unknown = false,
    }, op)
    assert(server:count(op) == 1)
  end
end)

-- -------------------------------------------------------------- the token's failures

test("gateway: a token that cannot be had fails with the control plane's error", function()
  local cases = {
    { { status = 403 }, 1, { kind = "api", status = 403 } },
    { { status = 401 }, 1, { kind = "unauthorized", status = 401 } },
    { { status = 402 }, 1, { kind = "payment_required", status = 402 } },
    { { status = 502 }, 3, { kind = "api", status = 502 } },
    { { cut = "close" }, 3, { kind = "api" } },
    { { body = "[]" }, 1, { kind = "api", code = "BAD_ANSWER" } },
    { { status = 404 }, 1, { kind = "not_running", error_type = "SANDBOX_NOT_FOUND" } },
  }
  for _, case in ipairs(cases) do
    for _, op in ipairs(OPS) do
      local server <close> = faults.start({ auth = function() return case[1] end })
      local client <close> = server:client()
      local err = support.failure(send, client, op)
      support.expect(err, case[3], op)
      assert(server:count("auth") == case[2] and server:count(op) == 0, op)
    end
  end
end)

test("gateway: no answer about the sandbox's state leaves the first failure as it is", function()
  local _ <close> = support.impatient("/error%-context$", 0.5)
  local _ <close> = support.impatient("/sandbox/[^/]+$", 0.5)
  local replies = { { cut = "close" }, { status = 500 }, { body = "[]" }, { hang = true } }
  for _, reply in ipairs(replies) do
    local server <close> = faults.start({
      exec = function() return { status = 408 } end,
      context = function() return reply end, get = function() return reply end,
    })
    local client <close> = server:client()
    local err = support.failure(send, client, "exec")
    support.expect(err, { kind = "command_timeout" }, "exec")
  end
end)

-- ---------------------------------------------------------------- a lost answer

test("gateway: a lost answer of a command: it ran at most once, and may have", function()
  for _, cut in ipairs({ "close", "reset", "head", "body" }) do
    local server <close> = faults.start({ exec = function() return { cut = cut } end })
    server.leave = cut == "reset"
    local client <close> = server:client()
    local err = support.failure(send, client, "exec")
    assert(server:count("exec") == 1 and err.outcome == "unknown" and not err.retryable, cut)
  end
end)

test("gateway: a command on a kept connection that dies is not sent a second time", function()
  local server <close> = faults.start({
    exec = function(n) return n == 2 and { cut = "close" } or nil end,
  })
  local client <close> = server:client()
  assert(send(client, "exec").stdout == "ok\n")
  local err = support.failure(send, client, "exec")
  assert(server:count("exec") == 2 and err.outcome == "unknown")
  assert(send(client, "exec").stdout == "ok\n")
end)

test("gateway: an answer to a command that makes no sense is no result", function()
  local bodies = {
    "", "<html>", "[]", "{}", '{"stdout":"","stderr":"","exit_code":null}',
    '{"stdout":null,"stderr":"","exit_code":0}', '{"stdout":"","stderr":"","exit_code":1.5}',
  }
  for _, body in ipairs(bodies) do
    local server <close> = faults.start({ exec = function() return { body = body } end })
    local client <close> = server:client()
    local err = api.failure(send, client, "exec")
    assert(err.kind == "api" and err.code == "BAD_ANSWER" and err.outcome == "unknown", body)
    assert(server:count("exec") == 1)
  end
end)

test("gateway: cancelled in a pause between two tries", function()
  local server <close> = faults.start({ read = function() return { status = 503 } end })
  local client <close> = server:client()
  expect.cancelled_once(function(running)
    return server:count("read") == 1 and running.waiting_on == "sleep"
  end, send, client, "read")
  assert(server:count("read") == 1)
end)

test("gateway: the token shows in no error", function()
  for _, op in ipairs(OPS) do
    local server <close> = faults.start({ [op] = function()
      return {
        status = 400, body = { message = "bad gateway-token-1" },
        headers = { ["X-Request-Id"] = "gateway-token-1" },
      }
    end })
    local client <close> = server:client()
    local err = api.failure(send, client, op)
    for name, value in pairs(err) do
      assert(not tostring(value):find("gateway-token", 1, true), "the token shows in " .. name)
    end
  end
end)
