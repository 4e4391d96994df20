local json = require("sbx.json")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

-- An auth answer that sends commands to another address.
local function gateway_at(url, lifetime)
  return function(_, server)
    server.tokens = server.tokens + 1
    local time = require("sbx.core.time")
    return 200, {
      token = "gateway-token-" .. server.tokens, gateway_url = url .. "/gw",
      user_ns = "ns", job_id = "job", expires_at = time.iso(time.wall() + (lifetime or 600)),
    }
  end
end

test("exec: sends what was asked and returns what came", function()
  local server <close> = api.start({
    exec = function()
      return 200, { stdout = "a\0b\nß", stderr = "oops", exit_code = 3, extra = true }
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local result = client:execute_command("sbx-1", "make", {
    working_dir = "/w", env = { A = "b" }, timeout = 6.2,
  })
  assert(result.stdout == "a\0b\nß" and result.stderr == "oops" and result.exit_code == 3)
  assert(not result.stdout_truncated)

  local call = server.calls[#server.calls]
  assert(call.headers.authorization == "Bearer gateway-token-1")
  local body = call.body
  assert(body.command == "make" and body.working_dir == "/w" and body.env.A == "b")
  assert(body.timeout == 7 and body.sandbox_id == "sbx-1" and body.user == nil)
end)

test("exec: what was not given is sent as the API wants it", function()
  local seen
  local server <close> = api.start({
    exec = function(call) seen = call.body end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local box = client:get("sbx-1")
  box:exec("true")
  assert(seen.working_dir == json.null and seen.timeout == 300)
  assert(json.encode(seen.env) == "{}")
end)

test("exec: a lost answer is unknown, and the command is not sent again", function()
  for _, reply in ipairs({ "", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"stdout\"" }) do
    local raw <close> = api.raw(function() return reply end)
    local server <close> = api.start({ auth = gateway_at(raw.url) })
    local client <close> = server:client()
    server:add("sbx-1")
    local err = api.failure(client.execute_command, client, "sbx-1", "rm -rf /x")
    assert(err.kind == "api" and err.outcome == "unknown" and err.attempts == 1, tostring(err))
    assert(err.sandbox_id == "sbx-1" and raw.connections == 1)
  end
end)

test("exec: a kept connection that dies does not send the command twice", function()
  local body = '{"stdout":"","stderr":"","exit_code":0}'
  local seen = 0
  local function note(bytes)
    if bytes:find('"two"', 1, true) then seen = seen + 1 end
  end
  local raw <close> = api.raw(function(bytes, _, stream)
    note(bytes)
    stream:write(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body))
    note(stream:read() or "")
    return ""
  end)
  local server <close> = api.start({ auth = gateway_at(raw.url) })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "one").exit_code == 0)
  local err = api.failure(client.execute_command, client, "sbx-1", "two")
  assert(err.outcome == "unknown" and raw.connections == 1 and seen == 1, tostring(err))
end)

test("exec: a gateway that cannot be reached is tried again, for nothing ran", function()
  local dead = api.dead_url()
  local server <close> = api.start({
    auth = function(call, server)
      return gateway_at(call.n == 1 and dead or server.url)(call, server)
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  task.scope(function(scope)
    scope:spawn(function()
      -- Let the first try fail, then hand out a token for a living gateway.
      while server:count("auth") == 0 do task.sleep(0.01) end
      task.sleep(0.2)
      client:clear_auth_cache()
    end)
    local ok, result = pcall(client.execute_command, client, "sbx-1", "hi")
    assert(not ok or result.exit_code == 0)
    -- The second token leads to /gw/ns/job: the sandbox's usual exec answers.
    assert(ok, tostring(result))
  end)
  assert(server:count("exec") == 1 and server:count("auth") == 2)
end)

test("exec: an answer that is no result is unknown, never exit code 0", function()
  for _, body in ipairs({
    "{}", "<html>", '{"stdout":"a","stderr":"b"}', '{"stdout":null,"stderr":"","exit_code":0}',
    '{"stdout":"","stderr":"","exit_code":"0"}', '{"stdout":"","stderr":"","exit_code":1.5}',
  }) do
    local server <close> = api.start({ exec = function() return 200, body end })
    local client <close> = server:client()
    server:add("sbx-1")
    local err = api.failure(client.execute_command, client, "sbx-1", "x")
    assert(err.kind == "api" and err.outcome == "unknown", tostring(err))
    assert(server:count("exec") == 1)
  end
end)

test("exec: 5xx is not repeated and leaves the outcome unknown", function()
  local server <close> = api.start({
    exec = function() return 502, { error = "gateway_error", message = "hm", code = 502 } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "x")
  assert(err.status == 502 and err.outcome == "unknown" and server:count("exec") == 1)
end)

test("exec: 502 sandbox_not_found is not_running, and its token is dropped", function()
  local server <close> = api.start({
    exec = function() return 502, { error = "sandbox_not_found", message = "Gone", code = 502 } end,
    context = function() return 200, { status = "ERROR", errorType = "OOM_KILLED" } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "x")
  assert(err.kind == "oom" and err:is("not_running"))
  assert(err.status == "TERMINATED" and err.error_type == "OOM_KILLED")
  pcall(client.execute_command, client, "sbx-1", "x")
  assert(server:count("auth") == 2)
end)

test("exec: 408 is a command_timeout that names the seconds", function()
  local server <close> = api.start({
    exec = function() return 408, { error = "command_timeout", message = "m", code = 408 } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "sleep 9", { timeout = 2 })
  assert(err.kind == "command_timeout" and err:is("timeout") and err.timeout == 2)
  assert(err.message:find("2 s", 1, true) and err.message:find("sbx-1", 1, true))
  assert(server:count("exec") == 1 and server:count("context") == 1)
end)

test("exec: 408 of a sandbox that is over is not_running", function()
  local server <close> = api.start({
    exec = function() return 408, { error = "command_timeout", message = "m", code = 408 } end,
    context = function() return 200, { status = "TIMEOUT" } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "x")
  assert(err.kind == "sandbox_timeout" and err:is("not_running"))
end)

test("exec: 409 is repeated while the API says RUNNING, else not_running", function()
  local server <close> = api.start({
    exec = function(call) if call.n < 3 then return 409, { error = "e", code = 409 } end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "x").exit_code == 0)
  assert(server:count("exec") == 3)

  server.handlers.exec = function() return 409, { error = "e", code = 409 } end
  server.handlers.context = function() return 200, { status = "PENDING" } end
  local err = api.failure(client.execute_command, client, "sbx-1", "x")
  assert(err.kind == "not_running" and err.status == "PENDING" and server:count("exec") == 4)
end)

test("exec: where error-context is missing, the sandbox itself is asked", function()
  local server <close> = api.start({
    exec = function(call) if call.n == 1 then return 409, { error = "e", code = 409 } end end,
    context = function() return 404, { detail = "no such call" } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "x").exit_code == 0)
  assert(server:count("get") == 2) -- the other one asked whether it is a virtual machine
end)

test("exec: 429 is waited out: a refused command did not run", function()
  local server <close> = api.start({
    exec = function(call) if call.n < 4 then return 429, { error = "slow", code = 429 } end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "x").exit_code == 0 and server:count("exec") == 4)
end)

test("exec: a silent gateway ends with the deadline around the call", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(task.timeout, 0.2, client.execute_command, client, "sbx-1", "x")
  assert(err.kind == "timeout")
end)

test("exec: the gateway token shows in no error", function()
  local server <close> = api.start({
    exec = function(call) return 400, { message = "bad " .. call.headers.authorization } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "x")
  for name, value in pairs(err) do
    assert(not tostring(value):find("gateway-token", 1, true), "the token shows in " .. name)
  end
end)

test("exec: 100 at once in one sandbox fetch one token", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  local list = {}
  for i = 1, 100 do
    list[i] = i
  end
  local results = task.map(list, function(i)
    return client:execute_command("sbx-1", "echo " .. i)
  end, { limit = 100 })
  for i, result in ipairs(results) do
    assert(result.stdout == ("ran: echo %d\n"):format(i))
  end
  assert(server:count("auth") == 1)
end)
