local task = require("sbx.task")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local function token_answer(server, fields)
  server.tokens = server.tokens + 1
  local answer = {
    token = "gateway-token-" .. server.tokens, gateway_url = server.gateway_url,
    user_ns = "ns", job_id = "sbx-1", expires_at = time.iso(time.wall() + 600),
  }
  for name, value in pairs(fields or {}) do
    answer[name] = value
  end
  return 200, answer
end

---@async
local function until_count(server, op, count)
  while server:count(op) < count do
    task.sleep(0.001)
  end
end

test("tokens: one token serves many calls, clear_auth_cache ends that", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  client:execute_command("sbx-1", "a")
  client:upload_bytes("sbx-1", "/tmp/a", "x")
  assert(server:count("auth") == 1)
  client:clear_auth_cache()
  client:execute_command("sbx-1", "a")
  assert(server:count("auth") == 2)
end)

test("tokens: a 401 fetches one new token and repeats the call once", function()
  local server <close> = api.start({
    exec = function(call)
      if call.headers.authorization == "Bearer gateway-token-1" then
        return 401, { error = "unauthorized", message = "Token expired", code = 401 }
      end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "a").exit_code == 0)
  assert(server:count("auth") == 2 and server:count("exec") == 2)
end)

test("tokens: a second 401 is an api error", function()
  local server <close> = api.start({
    exec = function() return 401, { error = "unauthorized", message = "no", code = 401 } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.execute_command, client, "sbx-1", "a")
  assert(err.kind == "api" and err.status == 401)
  assert(server:count("auth") == 2 and server:count("exec") == 2)
end)

test("tokens: many 401s at once fetch one new token together", function()
  local server <close> = api.start({
    exec = function(call, server)
      if call.headers.authorization == "Bearer gateway-token-1" then
        until_count(server, "exec", 10)
        return 401, { error = "unauthorized", message = "no", code = 401 }
      end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local calls = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }
  task.map(calls, function(i) client:execute_command("sbx-1", "echo " .. i) end)
  assert(server:count("auth") == 2, "fetched " .. server:count("auth"))
end)

test("tokens: a failed fetch is shared by all who waited for it", function()
  local server <close> = api.start({
    auth = function(_, _)
      task.sleep(0.05)
      return 403, { detail = "no" }
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local _, failures = task.map({ 1, 2, 3, 4 }, function(i)
    client:execute_command("sbx-1", "echo " .. i)
  end, { on_error = "collect" })
  assert(#failures == 4 and failures[4].status == 403)
  assert(server:count("auth") == 1)
end)

test("tokens: one that is over at once is shared by all who waited for it", function()
  local server <close> = api.start({
    auth = function(_, server)
      task.sleep(0.02)
      return token_answer(server, { expires_at = time.iso(time.wall() - 1) })
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local found = task.map({ 1, 2, 3, 4, 5 }, function() return client.tokens:get("sbx-1", "x") end)
  assert(server:count("auth") == 1 and found[1].token == found[5].token)
end)

test("tokens: a fetch does not last for ever", function()
  local faults = dofile(here .. "peers/faults.lua")
  local support = dofile(here .. "fault_support.lua")
  local server <close> = faults.start({ auth = function() return { hang = true } end })
  local client <close> = server:client()
  local _ <close> = support.impatient("/auth$", 0.5)
  local _, failures = task.map({ 1, 2, 3 }, function() return client.tokens:get("sbx-1", "x") end,
    { on_error = "collect" })
  assert(#failures == 3 and failures[1].kind == "api_timeout" and server:count("auth") == 1)
end)

test("tokens: a cancelled fetch is taken over by who waited for it", function()
  local server <close> = api.start({
    auth = function(call) if call.n == 1 then return api.HANG end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  task.scope(function(scope)
    local first = scope:pspawn(client.execute_command, client, "sbx-1", "a")
    until_count(server, "auth", 1)
    local second = scope:spawn(client.execute_command, client, "sbx-1", "b")
    task.sleep(0.02)
    first:cancel()
    assert(second:join().stdout == "ran: b\n")
  end)
  assert(server:count("auth") == 2)
end)

test("tokens: one about to expire is renewed, a short-lived one still serves", function()
  local lifetime = 600
  local server <close> = api.start({
    auth = function(_, server)
      return token_answer(server, { expires_at = time.iso(time.wall() + lifetime) })
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  -- 30 s is less than a fixed margin of 60 s would allow.
  lifetime = 30
  for _ = 1, 3 do
    client:execute_command("sbx-1", "a")
  end
  assert(server:count("auth") == 1)
  client:clear_auth_cache()
  lifetime = -5
  client:execute_command("sbx-1", "a")
  client:execute_command("sbx-1", "a")
  assert(server:count("auth") == 3, "an expired token is not kept")
end)

test("tokens: a malformed answer is an api error and is not kept", function()
  for _, fields in ipairs({
    { expires_at = "soon" }, { expires_at = 5 }, { token = "a\nb" }, { token = 7 },
    { gateway_url = "ftp://x" }, { user_ns = false }, { token = "" }, { gateway_url = "http://" },
    { gateway_url = "http://ann:hunter2@127.0.0.1" }, { gateway_url = "http://h/?a=b" },
    { gateway_url = "http://h x" }, { expires_at = "2026-13-01T00:00:00Z" },
    { expires_at = ("9"):rep(10000) }, { token = ("x"):rep(70000) },
    { job_id = ("x"):rep(70000) },
  }) do
    local server <close> = api.start({
      auth = function(call, server)
        return token_answer(server, call.n == 1 and fields or nil)
      end,
    })
    local client <close> = server:client()
    server:add("sbx-1")
    local err = api.failure(client.execute_command, client, "sbx-1", "a")
    assert(err.kind == "api" and err.code == "BAD_ANSWER", tostring(err))
    assert(not tostring(err):find("hunter2", 1, true), tostring(err))
    assert(client:execute_command("sbx-1", "a").exit_code == 0)
  end
end)

test("tokens: a gateway_url with a slash at its end", function()
  local server <close> = api.start({
    auth = function(_, server)
      return token_answer(server, { gateway_url = server.gateway_url .. "/" })
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:execute_command("sbx-1", "a").exit_code == 0)
  assert(server.last_path:find("/gw/ns/sbx%-1/exec$"), server.last_path)
end)

test("tokens: deleting a sandbox drops its token", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  client:execute_command("sbx-1", "a")
  client:delete("sbx-1")
  server:add("sbx-1")
  client:execute_command("sbx-1", "a")
  assert(server:count("auth") == 2)
end)

test("tokens: a sandbox that the API does not know is not running; its call is not sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local err = api.failure(client.execute_command, client, "sbx-none", "a")
  assert(err.kind == "not_running" and err.error_type == "SANDBOX_NOT_FOUND", tostring(err))
  assert(err.sandbox_id == "sbx-none" and err:is("api") and err.cause.status == 404)
  assert(server:count("exec") == 0 and server:count("context") == 0)
end)

test("tokens: expires_at in the forms that servers write", function()
  local now = time.wall()
  local later = time.iso(now + 600):gsub("%.%d+", "")
  local forms = {
    later, later:gsub("Z", ""), later:gsub("Z", "+00:00"), later:gsub("Z", "+0000"),
    later:gsub("T", " "), later:gsub("Z", ".123456Z"), (later:gsub("T", "t"):gsub("Z", "z")),
  }
  for _, form in ipairs(forms) do
    local server <close> = api.start({
      auth = function(_, server) return token_answer(server, { expires_at = form }) end,
    })
    local client <close> = server:client()
    server:add("sbx-1")
    client:execute_command("sbx-1", "a")
    client:execute_command("sbx-1", "a")
    assert(server:count("auth") == 1, form)
  end
end)
