-- WebSockets against a server that keeps to the rules: Python's `websockets`.
-- For one that does not see test_websocket_hostile.lua.

local certificates = dofile("tests/peers/certificates.lua")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local net = require("sbx.net")
local peer = dofile("tests/peers/websocket_peer.lua")
local raw = dofile("tests/peers/websocket_raw.lua")
local task = require("sbx.task")

local failure, misuse = expect.failure, expect.misuse

test("websocket: texts and bytes of every size come back as they were", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/echo")
  local mixed = ("\0\1\127\128\255"):rep(60000)
  for _, size in ipairs({ 0, 1, 125, 126, 127, 65535, 65536, 100000, 300000 }) do
    local bytes = mixed:sub(1, size)
    ws:send_binary(bytes)
    local data, kind = ws:receive()
    assert(data == bytes and kind == "binary", size)
  end
  for _, text in ipairs({ "", "plain", "zwölf Boxkämpfer 𝄞", ("é"):rep(40000) }) do
    ws:send(text)
    local data, kind = ws:receive()
    assert(data == text and kind == "text", #text)
  end
end)

test("websocket: a message of many frames, both ways", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/echo", { max_message = 20 << 20 })
  local bytes = ("0123456789abcdef\0"):rep(1 << 20) -- 17 MiB, in frames of 1 MiB
  task.scope(function(scope)
    scope:spawn(ws.send_binary, ws, bytes)
    assert(ws:receive() == bytes)
  end)
  local parts <close> = http.websocket(server.url .. "/parts")
  local text, kind = parts:receive()
  assert(text == "one twö three" and kind == "text")
  text, kind = parts:receive()
  assert(text == "\0\255" and kind == "binary")
end)

test("websocket: the handshake carries what was given", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(
    server.url:gsub("//", "//user:pa%%20ss@") .. "/request?a=1&b=%20",
    { headers = { ["X-One"] = "1", Origin = { "http://a.example" } } }
  )
  local seen = json.decode(ws:receive())
  assert(seen.path == "/request?a=1&b=%20", seen.path)
  assert(seen.headers["x-one"] == "1" and seen.headers.origin == "http://a.example")
  assert(seen.headers.authorization == "Basic dXNlcjpwYSBzcw==", seen.headers.authorization)
  assert(seen.headers.host == "127.0.0.1:" .. server.port)
  assert(seen.headers["user-agent"]:find("^sbxlua/"))
  assert(ws.url == server.url .. "/request", ws.url)
  local other <close> = http.websocket(server.url .. "/request", { bearer = "t0ken" })
  assert(json.decode(other:receive()).headers.authorization == "Bearer t0ken")
end)

test("websocket: a subprotocol is agreed on, or not", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/echo", { protocols = { "alpha", "gamma" } })
  assert(ws.protocol == "alpha")
  local none <close> = http.websocket(server.url .. "/echo", { protocols = { "gamma" } })
  assert(none.protocol == nil)
end)

test("websocket: a refusal is an error with its status and body", function()
  local server <close> = peer.start()
  local err = failure(http.websocket, server.url .. "/refuse?token=s3cret", { bearer = "s3cret" })
  assert(err.kind == "http" and err.status == 403 and not err.retryable, tostring(err))
  assert(tostring(err) == "websocket " .. server.url .. "/refuse: 403 Forbidden", tostring(err))
  assert(#err.body == 1024 and err.body:find("^not for you, "))
  assert(not json.encode({ err.message, err.url }):find("s3cret"))
  err = failure(http.websocket, server.url .. "/busy")
  assert(err.status == 503 and err.retryable and err.retry_after == 7 and err.body == "")
end)

test("websocket: the server closes, with a code and words", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/close?code=4321&reason=b%C3%A4h")
  assert(ws:receive() == "before" and ws:receive() == nil and ws:receive() == nil)
  assert(ws.close_code == 4321 and ws.close_reason == "bäh")
  local err = failure(ws.send, ws, "late")
  assert(err.kind == "io" and err.code == "EPIPE" and err.url == ws.url, tostring(err))
  assert(failure(ws.ping, ws).code == "EPIPE")
  assert(ws:close() == true)
  assert(tostring(ws):find("closed"))
end)

test("websocket: we close, and the server confirms it", function()
  local server <close> = peer.start()
  local ws = http.websocket(server.url .. "/watch?key=ours")
  local receiver = task.spawn(ws.receive, ws)
  assert(ws:close(4000, "enough") == true and ws:close() == true)
  assert(receiver:join() == nil and ws.close_code == 4000)
  local asks <close> = http.websocket(server.url .. "/closed?key=ours")
  assert(asks:receive() == "4000")
end)

test("websocket: the end of its block closes it, politely or at once", function()
  local server <close> = peer.start()
  local function code_of(key, fn)
    pcall(function()
      local ws <close> = http.websocket(server.url .. "/watch?key=" .. key)
      fn(ws)
    end)
    local asks <close> = http.websocket(server.url .. "/closed?key=" .. key)
    return asks:receive()
  end
  assert(code_of("done", function() end) == "1000")
  assert(code_of("failed", function() error("no") end) == "1001")
  assert(code_of("cancelled", function(ws) task.timeout(0.05, ws.receive, ws) end) == "1001")
end)

test("websocket: an iterator over the messages ends with the connection", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/push?n=2000")
  local count = 0
  for message, kind in ws:messages() do
    assert(message == tostring(count) and kind == "text")
    count = count + 1
  end
  assert(count == 2000 and ws.close_code == 1000)
end)

test("websocket: pings are answered, also when nobody receives", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/ping?key=idle")
  local asks <close> = http.websocket(server.url .. "/pinged?key=idle")
  assert(asks:receive() == "yes")
  assert(ws:ping() >= 0)
end)

test("websocket: a ping interval leaves a living connection alone", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/echo", { ping_interval = 0.02 })
  assert(task.move_on(0.3, ws.receive, ws) == false)
  ws:send("still here")
  assert(ws:receive() == "still here")
end)

test("websocket: one task receives, one sends, one pings", function()
  local listener <close> = raw.serve(function(client)
    while client.stream:read() do task.checkpoint() end -- takes everything, says nothing
  end)
  local ws <close> = http.websocket(listener.url, { close_timeout = 0.05 })
  local function second(text, ...)
    local scope <close> = task.open_scope()
    scope:pspawn(...)
    task.yield()
    misuse(text, ...)
    scope:cancel()
  end
  second("another task is receiving", ws.receive, ws)
  second("another task is pinging", ws.ping, ws)
  second("another task is sending", ws.send_binary, ws, ("x"):rep(50 << 20))
end)

test("websocket: a cancelled receive loses nothing", function()
  local server <close> = peer.start()
  local ws <close> = http.websocket(server.url .. "/echo")
  for i = 1, 200 do
    ws:send(tostring(i))
    local got, message = task.move_on(i % 3 * 0.0001, ws.receive, ws)
    assert((got and message or ws:receive()) == tostring(i))
  end
end)

test("websocket: over TLS, verified", function()
  local dir <close> = fs.tmpdir()
  local authority, certificate, key = certificates.make(dir.path)
  local server <close> = peer.start("--tls", certificate, key)
  local ws <close> = http.websocket(server.url .. "/echo", { ca_file = authority })
  local bytes = ("\0secret\255"):rep(1 << 20)
  task.scope(function(scope)
    scope:spawn(ws.send_binary, ws, bytes)
    assert(ws:receive() == bytes)
  end)
  ws:send("and more")
  assert(ws:receive() == "and more" and ws:close())
  local err = failure(http.websocket, server.url .. "/echo")
  assert(err.kind == "tls" and err.op == "websocket", tostring(err))
  assert(tostring(err):find("^websocket wss://127.0.0.1:%d+/echo: "), tostring(err))
  local blind <close> = http.websocket(server.url .. "/echo", { verify = false })
  blind:send("x")
  assert(blind:receive() == "x")
end)

test("websocket: through a Unix socket", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/s"
  local _ <close> = raw.serve(function(client)
    client:write(raw.frame(1, client.request:match("Host: ([^\r]+)")))
    assert(client:await_close() == 1000)
    client:write(raw.frame(8))
  end, path)
  local ws <close> = http.websocket("ws://a.example/", { unix = path })
  assert(ws:receive() == "a.example" and ws:close() and ws.close_code == 1005)
  local err = failure(http.websocket, "ws://a.example/", { unix = dir.path .. "/none" })
  assert(err.kind == "connect" and err.code == "ENOENT", tostring(err))
end)

-- A proxy that tunnels to `port`, whatever it is asked for, or refuses.
local function start_proxy(port)
  return raw.listen(function(client)
    assert(client.request:find("^CONNECT nowhere%.invalid:80 HTTP/1%.1\r\n"), client.request)
    if not port then
      client:write("HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
      return
    end
    local onward <close> = net.connect("127.0.0.1", port)
    client:write("HTTP/1.1 200 Go ahead\r\n\r\n")
    task.scope(function(scope)
      scope:daemon(function()
        while true do client:write(onward:read() or "") end
      end)
      for bytes in function() return client.stream:read() end do onward:write(bytes) end
    end)
  end)
end

test("websocket: through the tunnel of a proxy", function()
  local server <close> = peer.start()
  local proxy <close> = start_proxy(math.tointeger(server.port))
  local via = { proxy = proxy.url:gsub("^ws", "http") }
  local ws <close> = http.websocket("ws://nowhere.invalid/echo", via)
  ws:send("hello")
  assert(ws:receive() == "hello")
  local closed <close> = start_proxy(nil)
  local err = failure(http.websocket, "ws://nowhere.invalid/echo", {
    proxy = closed.url:gsub("^ws", "http"),
  })
  assert(err.kind == "connect" and tostring(err):find("407"), tostring(err))
end)

test("websocket: hundreds at once, and requests beside them", { timeout = 180 }, function()
  local server <close> = peer.start()
  local sockets, list = {}, {}
  for i = 1, 300 do list[i] = i end
  task.map(list, function(i)
    sockets[i] = http.websocket(server.url .. "/echo")
  end, { limit = 64 })
  -- Connections at rest must not be taken for idle ones of the HTTP client.
  http.close_idle()
  local page = server.url:gsub("^ws", "http") .. "/refuse"
  task.sleep(1.1) -- libcurl prunes once a second, when something connects
  for _ = 1, 5 do assert(http.get(page).status == 403) end
  local late <close> = http.websocket(server.url .. "/echo")
  assert(late:ping() >= 0)
  task.map(list, function(i)
    sockets[i]:send("number " .. i)
    assert(sockets[i]:receive() == "number " .. i)
    assert(sockets[i]:close())
  end, { limit = 300 })
end)

test("websocket: one that is collected closes its connection", function()
  local gone = task.waiter("the end of the connection")
  local listener <close> = raw.serve(function(client) gone:wake(client:await_close()) end)
  local ws = http.websocket(listener.url)
  assert(tostring(ws) == "websocket (" .. listener.url .. "/)", tostring(ws))
  ws = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  assert(gone:wait() == 1001)
end)

test("websocket: what cannot be opened says why", function()
  local closed = net.listen("127.0.0.1", 0)
  local port = closed.port
  closed:close()
  local url = ("ws://user:hunter2@127.0.0.1:%d/a?token=s3cret"):format(port)
  local err = failure(http.websocket, url)
  assert(err.kind == "connect" and err.code == "ECONNREFUSED" and err.retryable, tostring(err))
  local text = ("websocket ws://127.0.0.1:%d/a: connection refused"):format(port)
  assert(tostring(err) == text, tostring(err))
  assert(failure(http.websocket, "ws://no-such-host.invalid/").kind == "dns")
end)

test("websocket: misuse is refused with the caller's line", function()
  local function refuses(text, url, options)
    misuse(text, http.websocket, url, options)
  end
  refuses("url: expected ws://host", "http://127.0.0.1/")
  refuses("url: expected ws://host", nil)
  refuses("url: parse the URL", "ws://a b/")
  refuses("url: a WebSocket has no fragment", "ws://127.0.0.1/#x")
  refuses("url: expected a host in ASCII", "ws://bücher.example/")
  refuses("unknown option 'protocol'", "ws://127.0.0.1/", { protocol = "x" })
  refuses("protocols[2]", "ws://127.0.0.1/", { protocols = { "a", "b, c" } })
  refuses("headers: upgrade is set", "ws://127.0.0.1/", { headers = { Upgrade = "h2c" } })
  refuses("sec-websocket-key", "ws://127.0.0.1/", { headers = { ["Sec-WebSocket-Key"] = "x" } })
  refuses("control characters", "ws://127.0.0.1/", { headers = { A = "b\r\nC: d" } })
  refuses("control characters", "ws://127.0.0.1/", { bearer = "a\r\nB: c" })
  refuses("close_timeout", "ws://127.0.0.1/", { close_timeout = 0 })
  refuses("ping_interval", "ws://127.0.0.1/", { ping_interval = -1 })
  refuses("max_message", "ws://127.0.0.1/", { max_message = 1.5 })

  local listener <close> = raw.serve(function(client) client:await_close() end)
  local ws <close> = http.websocket(listener.url, { close_timeout = 0.05 })
  misuse("text: not UTF-8", ws.send, ws, "\xff")
  misuse("text: not UTF-8", ws.send, ws, "\xed\xa0\x80")
  misuse("text: expected a string", ws.send, ws, 1)
  misuse("bytes: expected a string", ws.send_binary, ws)
  misuse("code: expected a whole number between 1000 and 4999", ws.close, ws, 999)
  misuse("code: 1006 is not", ws.close, ws, 1006)
  misuse("code: 2000 is not", ws.close, ws, 2000)
  misuse("reason: longer than 123", ws.close, ws, 1000, ("x"):rep(124))
  misuse("reason: not UTF-8", ws.close, ws, 1000, "\xff")
  misuse("write ws:send", ws.send, "no socket")
end)
