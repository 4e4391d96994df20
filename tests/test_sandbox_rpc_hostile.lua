-- Servers that break the protocol, cut the line or never end: a command's answer is
-- right or an error, never a guess, a crash or a hang.

local errors = require("sbx.errors")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")

local GOOD = rpc.event({ start = { pid = 4242 } }) .. rpc.event({ data = { stdout = "out\n" } })
  .. rpc.event({ keepalive = {} }) .. rpc.event({ data = { stderr = "err\n" } })
  .. rpc.ended(7) .. rpc.last()
-- What of it says all that one wants to know.
local ENOUGH = #GOOD - #rpc.last()

local function head(more)
  return "HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\n" .. more .. "\r\n"
end

-- A client whose gateway answers every connection by `reply(bytes, n, stream)`.
local function with_raw(reply, fn)
  local raw <close> = api.raw(reply)
  local server <close> = api.start({ auth = rpc.auth(raw.url) })
  local client <close> = server:client()
  server:add("sbx-1")
  fn(client, raw, server)
end

-- One whose virtual machine answers a Start with these bytes as its stream.
local function with_stream(write, fn)
  local vm <close> = rpc.start({ Start = write })
  local server <close> = api.start({ auth = vm:auth() })
  local client <close> = server:client()
  server:add("sbx-1")
  fn(client, vm)
end

local function exec(client, options)
  return client:execute_command("sbx-1", "rm -rf /x", options)
end

local function is_right(result)
  return result.stdout == "out\n" and result.stderr == "err\n" and result.exit_code == 7
end

test("rpc hostile: a connection cut at any byte is no result", function()
  -- Once as bodies that end with the connection, once as chunks that do not.
  local framings = {
    { "Connection: close\r\n", function(bytes) return bytes end },
    { "Transfer-Encoding: chunked\r\n", function(bytes)
      return bytes == "" and "" or ("%x\r\n%s\r\n"):format(#bytes, bytes)
    end },
  }
  for _, framing in ipairs(framings) do
    local k = 0
    local function reply() return head(framing[1]) .. framing[2](GOOD:sub(1, k)) end
    with_raw(reply, function(client, raw)
      for cut = 0, #GOOD do
        k = cut
        local before = raw.connections
        local ok, result = pcall(exec, client)
        if cut >= ENOUGH then
          assert(ok and is_right(result), cut .. ": " .. tostring(result))
        else
          assert(not ok and errors.is_error(result) and result.kind == "api", cut)
          assert(result.outcome == "unknown" and result.sandbox_id == "sbx-1", cut)
        end
        assert(raw.connections == before + 1, "it was sent twice")
      end
    end)
  end
end)

test("rpc hostile: a connection cut within the head is no result", function()
  local whole = head("Connection: close\r\n")
  for _, k in ipairs({ 0, 5, 12, 30, #whole - 1 }) do
    with_raw(function() return whole:sub(1, k) end, function(client, raw)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.outcome == "unknown" and raw.connections == 1, k)
    end)
  end
end)

test("rpc hostile: an answer that comes byte by byte is understood", function()
  with_stream(function(call)
    for i = 1, #GOOD do
      call:write(GOOD:sub(i, i), true)
      task.yield()
    end
    call:write("")
    return true
  end, function(client)
    assert(is_right(exec(client)))
  end)
end)

-- Streams that are none, by what is wrong with them. The outcome is unknown.
local broken = {
  ["nothing at all"] = "",
  ["no last frame, no end"] = GOOD:sub(1, 12),
  ["a last frame without an end"] = rpc.event({ start = { pid = 1 } }) .. rpc.last(),
  ["a last frame alone"] = rpc.last(),
  ["a compressed frame"] = rpc.frame(1, "\x1f\x8b\8\0"),
  ["a compressed last frame"] = GOOD:sub(1, 9) .. rpc.frame(3, "\x1f\x8b\8\0"),
  ["unknown flags"] = rpc.frame(0x80, ""),
  ["a frame of four gigabytes"] = "\0\xff\xff\xff\xff" .. ("x"):rep(100),
  ["a frame just too long"] = "\0\x01\0\0\1" .. ("x"):rep(100),
  ["a message that is none"] = rpc.frame(0, "\xff\xff\xff"),
  ["a last frame that is no JSON"] = rpc.frame(2, "{"),
  ["a last frame that is no object"] = rpc.frame(2, "[]"),
  ["an empty last frame"] = rpc.frame(2, ""),
  ["an end that no exit led to"] = rpc.event({ ["end"] = { error = "no such file" } }),
  ["HTML"] = "<html><body>502 Bad Gateway</body></html>",
}

test("rpc hostile: what is no stream of messages is an error of kind api", function()
  for what, bytes in pairs(broken) do
    with_stream(function(call)
      call:write(bytes)
      return true
    end, function(client, vm)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.outcome == "unknown", what .. ": " .. tostring(err))
      assert(vm:count("Start") == 1 and #err.message < 1000, what)
    end)
  end
end)

test("rpc hostile: an error without words, or with strange ones, is an error", function()
  for _, text in ipairs({
    '{"error":{}}', '{"error":{"code":5}}', '{"error":{"code":null,"message":{}}}',
    '{"error":{"code":"a\\u0000b","message":"x\\ny\\u001b[31m"}}', '{"error":[1]}',
  }) do
    with_stream(function(call)
      call:write(rpc.event({ start = { pid = 1 } }) .. rpc.frame(2, text))
      return true
    end, function(client)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.code == "unknown", text)
      assert(not err.message:find("%c"), "control characters in an error")
    end)
  end
end)

test("rpc hostile: an answer of another kind is not taken for a stream", function()
  for _, kind in ipairs({
    "text/html", "application/json", "application/connect+json", "application/proto", "",
  }) do
    with_stream(function(call)
      call.request:respond(200, { ["content-type"] = kind }, GOOD)
      return true
    end, function(client)
      local err = api.failure(exec, client)
      assert(err.kind == "api" and err.code == "BAD_ANSWER" and err.outcome == "unknown", kind)
    end)
  end
  with_stream(function(call)
    call.request:respond(200, {
      ["content-type"] = "application/connect+proto", ["connect-content-encoding"] = "gzip",
    }, GOOD)
    return true
  end, function(client)
    assert(api.failure(exec, client).message:find("compressed", 1, true))
  end)
end)

test("rpc hostile: streams with bytes changed are a result or an error, quickly", function()
  local answer
  with_stream(function(call)
    call:write(answer)
    return true
  end, function(client)
    local results = 0
    for _ = 1, 1000 do
      answer = GOOD
      for _ = 1, math.random(3) do
        local at, cut = math.random(0, #answer), math.random(0, 3)
        answer = answer:sub(1, at) .. string.char(math.random(0, 255)):rep(math.random(0, 3))
          .. answer:sub(at + 1 + cut)
      end
      local ok, result = pcall(exec, client)
      if ok then
        results = results + 1
        assert(math.type(result.exit_code) == "integer" and type(result.stdout) == "string")
      else
        assert(errors.is_error(result) and result:is("api") or result:is("not_running"))
      end
    end
    assert(results < 900, results)
  end)
end)

test("rpc hostile: a refusal with endless words is cut short", function()
  with_stream(function(call)
    call.request:start(500, {})
    pcall(function()
      while not call.request.gone do call.request:write(("x"):rep(65536)) end
    end)
    return true
  end, function(client)
    local err = api.failure(exec, client)
    assert(err.kind == "api" and err.status == 500 and #err.message < 1000)
    assert(err.outcome == "unknown" and #err.body < 3000)
  end)
end)

test("rpc hostile: unknown fields, empty messages and second beginnings do no harm", function()
  local odd = rpc.frame(0, "") .. rpc.frame(0, "\x0a\0") .. rpc.frame(0, "\x0a\2\x12\0")
    .. rpc.frame(0, "\x7a\3abc") .. rpc.frame(0, "\x0a\5\x7a\3abc")
    .. rpc.event({ start = { pid = 0 } }) .. rpc.event({ data = { stdout = "" } })
  with_stream(function(call)
    call:write(odd .. GOOD)
    return true
  end, function(client)
    assert(is_right(exec(client)))
  end)
  -- What follows the end does not count.
  with_stream(function(call)
    call:write(GOOD:sub(1, ENOUGH) .. rpc.event({ data = { stdout = "more" } }) .. rpc.ended(0)
      .. rpc.last("internal", "after all") .. "and more")
    return true
  end, function(client)
    assert(is_right(exec(client)))
  end)
end)

test("rpc hostile: keepalives without end leave the loop to others", function()
  local flood = rpc.event({ keepalive = {} }):rep(10000)
  local written = 0
  with_stream(function(call)
    pcall(function()
      while not call.request.gone do
        call:write(flood, true)
        written = written + 1
      end
    end)
    return true
  end, function(client)
    local running = task.pspawn(exec, client)
    local turns, last = 0, 0
    repeat
      task.sleep(0.001) -- comes back
      if written > last then turns, last = turns + 1, written end
    until turns > 20
    assert(running.status == "waiting" or running.status == "queued", running.status)
    running:cancel()
    local ok, err = running:pjoin()
    assert(not ok and err.kind == "cancelled")
  end)
end)

test("rpc hostile: an end is enough, also when the stream goes on for ever", function()
  with_stream(function(call)
    call:write(GOOD:sub(1, ENOUGH), true)
    pcall(function()
      while not call.request.gone do
        call:write(rpc.event({ keepalive = {} }), true)
        task.sleep(0.01)
      end
    end)
    return true
  end, function(client)
    assert(is_right(task.timeout(60, exec, client)))
  end)
end)

test("rpc hostile: a server that reads slowly and answers slowly is waited for", function()
  with_raw(function(_, _, stream)
    local whole = head("Connection: close\r\n") .. GOOD
    for i = 1, #whole, 7 do
      stream:write(whole:sub(i, i + 6))
      task.sleep(0.002)
    end
  end, function(client)
    assert(is_right(exec(client)))
  end)
end)

test("rpc hostile: answers of one message are checked, too", function()
  local replies = {
    { 200, "application/json", "{}" }, { 200, "application/proto", "\xff" },
    { 200, "text/html", "<html>" }, { 500, "text/html", "<html>" },
    { 200, "application/connect+proto", rpc.last() },
  }
  for _, reply in ipairs(replies) do
    local vm <close> = rpc.start({
      List = function(call)
        call.request:respond(reply[1], { ["content-type"] = reply[2] }, reply[3])
        return true
      end,
    })
    local server <close> = api.start({ auth = vm:auth() })
    local client <close> = server:client()
    local err = api.failure(client.list_processes, client, "sbx-1")
    assert(err.kind == "api" and err.outcome == nil, reply[3])
  end
  -- Long lists are data, endless ones are refused.
  local vm <close> = rpc.start({
    List = function(call)
      call.request:respond(200, { ["content-type"] = "application/proto" },
        ("\x0a\0"):rep(call.n == 1 and 50000 or 8000000))
      return true
    end,
  })
  local server <close> = api.start({ auth = vm:auth() })
  local client <close> = server:client()
  local list = client:list_processes("sbx-1")
  assert(#list == 50000 and list[1].pid == 0 and list[1].argv[1] == "")
  assert(api.failure(client.list_processes, client, "sbx-1").code == "BAD_ANSWER")
end)
