-- WebSockets against servers that break the rules, break off, or say nothing.

local expect = dofile("tests/expect.lua")
local http = require("sbx.http")
local net = require("sbx.net")
local raw = dofile("tests/peers/websocket_raw.lua")
local task = require("sbx.task")

local failure = expect.failure
local frame = raw.frame

local CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
local MORE = 0 -- the first bits of a frame that is not the last of its message

-- ------------------------------------------------------------------- handshake

local function open_against(answer, options)
  local listener <close> = raw.listen(function(client)
    if type(answer) == "function" then
      answer(client)
    else
      client:write(answer)
    end
    client.stream:read() -- until the client goes
  end)
  return failure(http.websocket, listener.url, options)
end

local function replace(what, with)
  return function(client)
    local answer, count = raw.agree(client.request):gsub(what, with)
    assert(count == 1)
    client:write(answer)
  end
end

test("websocket: a handshake that does not add up is refused", function()
  local cases = {
    ["Sec-WebSocket-Accept is wrong"] = replace("Accept: .", "Accept: _"),
    ["Sec%-WebSocket%-Accept is wrong"] = replace("Sec%-WebSocket%-Accept", "X"),
    ["says 101, but not to a WebSocket"] = replace("Upgrade: WebSocket", "Upgrade: h2c"),
    ["101, but not to a WebSocket"] = replace("keep%-alive, Upgrade", "keep-alive"),
    ["an extension that was not offered"] = function(client)
      client:write(raw.agree(client.request, "Sec-WebSocket-Extensions: x\r\n"))
    end,
    ["a protocol that was not offered"] = function(client)
      client:write(raw.agree(client.request, "Sec-WebSocket-Protocol: gamma\r\n"))
    end,
    ["protocol that was not offered"] = function(client)
      local twice = "Sec-WebSocket-Protocol: beta\r\n"
      client:write(raw.agree(client.request, twice .. twice))
    end,
    ["not HTTP/1"] = "220 mail.example ESMTP\r\n\r\n",
    ["is not HTTP/1"] = "HTTP/2 101\r\n\r\n",
    ["malformed header"] = "HTTP/1.1 101 Yes\r\nUpgrade websocket\r\n\r\n",
    ["too many interim answers"] = ("HTTP/1.1 102 Wait\r\n\r\n"):rep(1000),
  }
  for reason, answer in pairs(cases) do
    local err = open_against(answer, { protocols = { "alpha", "beta" } })
    assert(err.kind == "http" and err.code == "EPROTO", reason .. ": " .. tostring(err))
    assert(err.phase == "wait" and err.op == "websocket", reason)
    assert(tostring(err):find(reason) or tostring(err):find(reason, 1, true), tostring(err))
  end
end)

test("websocket: interim answers and slow ones are waited for", function()
  local listener <close> = raw.listen(function(client)
    local answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" .. raw.agree(client.request)
    -- The first message comes in one piece with the end of the answer.
    for i = 1, #answer - 1 do
      client:write(answer:sub(i, i))
      task.yield()
    end
    client:write(answer:sub(-1), frame(TEXT, "early"), frame(CLOSE, raw.code(1000)))
    client:await_close()
  end)
  local ws <close> = http.websocket(listener.url)
  assert(ws:receive() == "early" and ws:receive() == nil)
end)

test("websocket: a refusal shows the beginning of its body, chunked or not", function()
  local body = ("no! "):rep(1000)
  local chunks = ("%x\r\n%s\r\n"):format(3, "no!") .. ("%x; a=b\r\n%s\r\n"):format(4000, body)
  local head = "HTTP/1.1 404 Not Found\r\n"
  for _, answer in ipairs({
    head .. "Content-Length: 4000\r\n\r\n" .. body,
    head .. "Content-Length: 3\r\n\r\nno! and more",
    head .. "Transfer-Encoding: chunked\r\n\r\n" .. chunks .. "0\r\n\r\n",
    head .. "Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\nno!",
    head .. "Transfer-Encoding: chunked\r\n\r\nfffffff\r\nno!",
  }) do
    local err = open_against(function(client)
      client:write(answer)
      client.stream:shutdown()
    end)
    assert(err.kind == "http" and err.status == 404, tostring(err))
    assert(err.body:find("^no!") or answer:find("ffffffffffff"), err.body)
    assert(#err.body <= 1024)
  end
end)

test("websocket: a server that says too much, or nothing, does not hold us", function()
  local err = open_against("HTTP/1.1 101 Yes\r\nX: " .. ("y"):rep(1 << 20))
  assert(err.kind == "limit" and err.code == "EMSGSIZE", tostring(err))
  err = open_against("HTTP/1.1 101 Yes\r\nX: y", { timeout = 0.5 })
  assert(err.kind == "timeout" and err.phase == "total" and err.retryable, tostring(err))
  assert(tostring(err):find("^websocket ws://127.0.0.1:%d+/: timed out after 0.5 s"), tostring(err))
  local listener <close> = raw.listen(function(client) client:write("HTTP/1.1 101") end)
  err = failure(http.websocket, listener.url)
  assert(err.kind == "http" and err.code == "EOF" and err.retryable, tostring(err))
  local silent <close> = net.listen("127.0.0.1", 0)
  err = failure(http.websocket, "wss://127.0.0.1:" .. silent.port, { connect_timeout = 0.1 })
  assert(err.kind == "timeout" and err.phase == "connect", tostring(err))
  err = failure(http.websocket, "wss://127.0.0.1:" .. silent.port, { timeout = 0.1 })
  assert(err.kind == "timeout" and err.phase == "total", tostring(err))
end)

test("websocket: opening can be cancelled in every phase", function()
  local silent <close> = net.listen("127.0.0.1", 0)
  -- A client that leaves before it has read all resets the connection.
  local mute <close> = raw.listen(function(client) pcall(client.stream.read, client.stream) end)
  local slow <close> = raw.listen(function(client)
    client:write("HTTP/1.1 500 Oh\r\nContent-Length: 10\r\n\r\n12345")
    pcall(client.stream.read, client.stream)
  end)
  for _, url in ipairs({ "wss://127.0.0.1:" .. silent.port, mute.url, slow.url }) do
    assert(task.move_on(0.05, http.websocket, url) == false, url)
  end
  assert(task.move_on(0, http.websocket, "ws://slow-to-find.invalid/") == false)
end)

-- ---------------------------------------------------------------------- frames

-- What becomes of a client whose server sends these bytes; the second result is
-- the code of the Close frame that the server got.
local function send_to_client(bytes, options)
  local code = task.waiter("the end of the client")
  local listener <close> = raw.serve(function(client)
    client:write(bytes)
    code:wake(client:await_close())
  end)
  local ws <close> = http.websocket(listener.url, options)
  return failure(ws.receive, ws), code:wait(), ws
end

test("websocket: frames against the rules end the connection, and say why", function()
  local bad_text = "\xc3\x28"
  local cases = {
    { "reserved bits", frame(TEXT, "x", 0xC0), 1002 },
    { "reserved bits", frame(TEXT, "x", 0xA0), 1002 },
    { "reserved bits", frame(PING, "x", 0x90), 1002 },
    { "unknown opcode", frame(3, "x"), 1002 },
    { "unknown opcode", frame(15, "x"), 1002 },
    { "masked frame", "\x81\x81\0\0\0\0x", 1002 },
    { "control frame in parts", frame(PING, "x", MORE), 1002 },
    { "control frame that is too long", frame(PING, ("x"):rep(126)), 1002 },
    { "control frame that is too long", frame(CLOSE, ("x"):rep(70000)), 1002 },
    { "continuation of no message", frame(CONTINUATION, "x"), 1002 },
    { "message inside another", frame(TEXT, "x", MORE) .. frame(TEXT, "y"), 1002 },
    { "malformed length", "\x82\x7e" .. string.pack(">I2", 125) .. ("x"):rep(125), 1002 },
    { "malformed length", "\x82\x7f" .. string.pack(">I8", 65535), 1002 },
    { "malformed length", "\x82\x7f" .. string.pack(">I8", -1), 1002 },
    { "half a code", frame(CLOSE, "\3"), 1002 },
    { "wrong code", frame(CLOSE, raw.code(999)), 1002 },
    { "wrong code", frame(CLOSE, raw.code(1005)), 1002 },
    { "wrong code", frame(CLOSE, raw.code(2999)), 1002 },
    { "wrong code", frame(CLOSE, raw.code(5000)), 1002 },
    { "Close frame that is not UTF-8", frame(CLOSE, raw.code(1000, bad_text)), 1007 },
    { "text that is not UTF-8", frame(TEXT, bad_text), 1007 },
    { "text that is not UTF-8", frame(TEXT, "\xed\xa0\x80"), 1007 },
    { "text that is not UTF-8", frame(TEXT, "a", MORE) .. frame(CONTINUATION, "\xc3"), 1007 },
  }
  for _, case in ipairs(cases) do
    local err, code, ws = send_to_client(case[2])
    assert(err.kind == "http" and err.code == "EPROTO", case[1] .. ": " .. tostring(err))
    assert(err.phase == "receive" and err.url == ws.url)
    assert(tostring(err):find(case[1], 1, true), tostring(err))
    assert(code == case[3], ("%s: told %s"):format(case[1], code))
    -- It stays that way, and sending says the same.
    assert(failure(ws.receive, ws).code == "EPROTO" and failure(ws.send, ws, "x").code == "EPROTO")
    assert(failure(ws.ping, ws).code == "EPROTO" and ws:close() == false)
    assert(ws.close_code == 1006)
  end
end)

test("websocket: a message over the limit is refused before it comes", function()
  local small = { max_message = 1000 }
  local head = "\x82\x7f" .. string.pack(">I8", 1 << 40)
  for _, bytes in ipairs({
    head,
    frame(BINARY, ("x"):rep(1001)),
    frame(BINARY, ("x"):rep(600), MORE) .. frame(PING) .. frame(CONTINUATION, ("x"):rep(401)),
  }) do
    local err, code = send_to_client(bytes, small)
    assert(err.kind == "limit" and err.code == "EMSGSIZE", tostring(err))
    assert(tostring(err):find("larger than max_message (1000 bytes)", 1, true), tostring(err))
    assert(code == 1009)
  end
  assert(send_to_client(head).kind == "limit")
  assert(send_to_client(frame(TEXT, "x"), { max_message = 0 }).kind == "limit")
end)

test("websocket: parts, control frames between them, bytes one by one", function()
  local bytes = frame(TEXT, "sm\xc3", MORE) .. frame(PING, "one") ..
    frame(CONTINUATION, "", MORE) .. frame(PONG, "nobody asked") ..
    frame(CONTINUATION, "\xb8rrebr\xc3\xb8d") ..
    frame(BINARY, ("y"):rep(300)) .. frame(TEXT) .. frame(PING, "two")
  local pongs = {}
  local listener <close> = raw.serve(function(client)
    for i = 1, #bytes do
      client:write(bytes:sub(i, i))
      if i % 10 == 0 then task.yield() end
    end
    repeat
      local opcode, payload = client:frame()
      assert(opcode == PONG)
      pongs[#pongs + 1] = payload
    until payload == "two"
    client:write(frame(CLOSE, raw.code(3000)), "garbage behind it")
    assert(client:await_close() == 3000)
  end)
  local ws <close> = http.websocket(listener.url)
  assert(ws:receive() == "smørrebrød")
  local data, kind = ws:receive()
  assert(data == ("y"):rep(300) and kind == "binary")
  data, kind = ws:receive()
  assert(data == "" and kind == "text")
  assert(ws:receive() == nil and ws.close_code == 3000)
  assert(pongs[#pongs] == "two" and (#pongs == 1 or pongs[1] == "one"))
end)

test("websocket: what came whole is delivered before the failure", function()
  local listener <close> = raw.serve(function(client)
    client:write(frame(TEXT, "first"), frame(TEXT, "second"), frame(TEXT, "cut short"):sub(1, 5))
  end)
  local ws <close> = http.websocket(listener.url)
  assert(ws:receive() == "first" and ws:receive() == "second")
  local err = failure(ws.receive, ws)
  assert(err.kind == "http" and err.code == "EOF" and err.phase == "receive", tostring(err))
  assert(tostring(err):find("the connection broke", 1, true) and ws.close_code == 1006)
end)

test("websocket: a waiting receive, ping and close learn of the end", function()
  for _, method in ipairs({ "receive", "ping" }) do
    local listener <close> = raw.serve(function() task.sleep(0.05) end)
    local ws <close> = http.websocket(listener.url)
    assert(failure(ws[method], ws).kind == "http")
  end
  local listener <close> = raw.serve(function() task.sleep(0.05) end)
  local ws <close> = http.websocket(listener.url)
  assert(ws:close() == false and ws:receive() == nil and ws.close_code == 1006)
end)

-- ----------------------------------------------------------- patience and room

test("websocket: a server that confirms no close is not waited for", function()
  local listener <close> = raw.serve(function(client)
    assert(client:await_close() == 1000)
    client:write(frame(TEXT, "still talking"))
    client.stream:read()
  end)
  local ws <close> = http.websocket(listener.url, { close_timeout = 0.1 })
  local receiver = task.spawn(ws.receive, ws)
  assert(ws:close() == false and receiver:join() == nil and ws.close_code == 1006)
end)

test("websocket: a server that answers no ping is given up", function()
  local listener <close> = raw.serve(function(client)
    while client.stream:read() do task.checkpoint() end
  end)
  local stuck <close> = raw.serve(function() task.sleep(30) end)
  local blocked <close> = http.websocket(stuck.url, { ping_interval = 0.1 })
  assert(failure(blocked.send, blocked, ("x"):rep(64 << 20)).kind == "timeout")
  local ws <close> = http.websocket(listener.url, { ping_interval = 0.05 })
  local err = failure(ws.receive, ws)
  assert(err.kind == "timeout" and err.code == "ETIMEDOUT" and err.phase == "idle", tostring(err))
  assert(failure(ws.send, ws, "x").kind == "timeout")
end)

test("websocket: nobody receives, and the server has to wait", function()
  local written, most = 0, 64 << 20
  local block = frame(BINARY, ("z"):rep(32 << 10))
  local listener <close> = raw.serve(function(client)
    while written < most do
      client:write(block)
      written = written + #block
    end
    client:write(frame(CLOSE, raw.code(1000)))
    client:await_close()
  end)
  local ws <close> = http.websocket(listener.url, { ping_interval = 0.05 })
  local before
  repeat
    before = written
    task.sleep(0.15) -- some ping intervals, whose pongs are stuck behind the data
  until written == before
  assert(written < 24 << 20, "took " .. written .. " bytes")
  local got = 0
  for message in ws:messages() do got = got + #message end
  assert(got == most // #block * (32 << 10) + (32 << 10) or got >= most - #block, got)
  assert(ws.close_code == 1000)
end)

test("websocket: pings that are not read the answers of are no flood", function()
  local ready = task.waiter("all pings")
  local listener <close> = raw.serve(function(client)
    local pings = frame(PING, ("p"):rep(125)):rep(1000)
    for _ = 1, 300 do client:write(pings) end -- 38 MB, whose answers nobody takes
    client:write(frame(PING, "last"), frame(TEXT, "done"))
    ready:wait()
    repeat
      local opcode, payload = client:frame()
      assert(opcode == PONG)
    until payload == "last"
    client:write(frame(CLOSE))
    client:await_close()
  end)
  local ws <close> = http.websocket(listener.url)
  assert(ws:receive() == "done")
  ready:wake()
  assert(ws:receive() == nil)
end)

test("websocket: a server that does not read makes the sender wait", function()
  local go_on = task.waiter("permission to read")
  local size, got = 32 << 20, 0
  local listener <close> = raw.serve(function(client)
    go_on:wait()
    repeat
      local _, payload, last = client:frame()
      got = got + #payload
    until last
    client:write(frame(CLOSE, raw.code(1000)))
    client:await_close()
  end)
  local ws <close> = http.websocket(listener.url)
  local sender = task.spawn(ws.send_binary, ws, ("x"):rep(size))
  task.sleep(0.1)
  assert(sender.status ~= "ended" and got == 0)
  go_on:wake()
  sender:join()
  assert(ws:receive() == nil and got == size)
end)

test("websocket: a message cut short leaves nothing that can follow it", function()
  local listener <close> = raw.serve(function(client)
    client:write(frame(TEXT, "still here"))
    task.sleep(30)
  end)
  local ws <close> = http.websocket(listener.url, { ping_interval = 0.3 })
  assert(task.move_on(0.1, ws.send_binary, ws, ("x"):rep(64 << 20)) == false)
  local err = failure(ws.send, ws, "next")
  assert(err.kind == "io" and err.code == "EPIPE", tostring(err))
  assert(tostring(err):find("cut short by a cancellation", 1, true), tostring(err))
  assert(failure(ws.ping, ws).code == "EPIPE")
  task.sleep(1) -- no ping can be sent, so none is missed
  assert(ws:receive() == "still here")
  assert(ws:close() == false and ws:receive() == nil)
end)

test("websocket: a cancelled short message is sent whole or not at all", function()
  local go_on = task.waiter("permission to read")
  local seen, order = 0, true
  local listener <close> = raw.serve(function(client)
    go_on:wait()
    while true do
      local opcode, payload = client:frame()
      if opcode == CLOSE then break end
      local number = math.tointeger(tonumber(payload:match("^%d+")))
      order = order and opcode == BINARY and #payload == 4000 and number > seen
      seen = number
    end
    client:write(frame(CLOSE, raw.code(1000)))
  end)
  local ws <close> = http.websocket(listener.url, { close_timeout = 60 }) -- behind all of it
  local last = 0
  local function send(seconds)
    last = last + 1
    local text = tostring(last)
    text = text .. (" "):rep(4000 - #text)
    return task.move_on(seconds, ws.send_binary, ws, text)
  end
  local stuck = 0 -- the kernel's buffers may grow once more
  repeat stuck = send(0.03) and 0 or stuck + 1 until stuck == 5
  go_on:wake()
  assert(send(30))
  assert(ws:close() and order and seen == last)
end)

test("websocket: the server's Close reaches a sender whose connection breaks", function()
  local listener <close> = raw.serve(function(client)
    client:write(frame(CLOSE, raw.code(1008, "enough of you")))
  end)
  local ws <close> = http.websocket(listener.url)
  local err
  repeat
    local ok
    ok, err = pcall(ws.send, ws, "more")
    task.yield()
  until not ok
  assert(err.kind == "io" and err.code == "EPIPE", tostring(err))
  assert(ws:receive() == nil and ws.close_code == 1008 and ws.close_reason == "enough of you")
end)
