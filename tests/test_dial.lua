-- Raw connections through libcurl, sbx.core.dial.

local certificates = dofile("tests/peers/certificates.lua")
local dial = require("sbx.core.dial")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local net = require("sbx.net")
local peer = dofile("tests/peers/http_peer.lua")
local task = require("sbx.task")

local failure, fails, misuse = expect.failure, expect.code, expect.misuse

-- Serves one connection after the other, each by `serve(stream)`.
local function listen(serve)
  local listener = net.listen("127.0.0.1", 0)
  local server = task.daemon(function()
    while true do
      local stream <close> = listener:accept()
      serve(stream)
    end
  end)
  return setmetatable({ url = "http://127.0.0.1:" .. listener.port .. "/" }, {
    __close = function()
      server:cancel()
      server:pjoin()
      listener:close()
    end,
  })
end

local function read_all(conn)
  local parts = {}
  for bytes in function() return conn:read() end do parts[#parts + 1] = bytes end
  return table.concat(parts)
end

test("dial: bytes go both ways, and our side can end alone", function()
  local bytes = ("0123456789"):rep(500000)
  local server <close> = listen(function(stream)
    stream:write("hello, stranger\n") -- before we have said a word
    local got = {}
    for piece in function() return stream:read() end do got[#got + 1] = piece end
    stream:write(table.concat(got))
  end)
  local conn <close> = dial.open({ url = server.url })
  assert(tostring(conn) == "dial (" .. server.url .. ")", tostring(conn))
  assert(conn:read(5) == "hello" and conn:read(1) == ",")
  conn:write(bytes)
  conn:write("")
  conn:shutdown()
  assert(read_all(conn) == " stranger\n" .. bytes)
  assert(conn:read() == nil)
  fails("EPIPE", conn.write, conn, "late")
end)

test("dial: over TLS, with bytes that TLS has and the socket has not", function()
  local dir <close> = fs.tmpdir()
  local authority, certificate, key = certificates.make(dir.path)
  local server <close> = peer.start("--tls", certificate, key)
  local conn <close> = dial.open({ url = server.url, ca_file = authority })
  conn:write("POST /echo HTTP/1.0\r\nContent-Length: 3000000\r\n\r\n")
  conn:write(("x"):rep(3000000))
  local answer = read_all(conn)
  assert(answer:find("^HTTP/1.1 200 ") and answer:find('"size": 3000000', 1, true), answer)
  fails("ENOTSUP", conn.shutdown, conn)

  local slow <close> = dial.open({ url = server.url, ca_file = authority })
  slow:write("GET /bytes?n=100000 HTTP/1.0\r\n\r\n")
  local size = 0
  for piece in function() return slow:read(7) end do size = size + #piece end
  assert(size > 100000)
  local err = failure(dial.open, { url = server.url })
  assert(err.kind == "tls" and not err.sent, tostring(err))
end)

test("dial: an open one takes no place in its host's queue", function()
  local server <close> = peer.start()
  local conn <close> = dial.open({ url = server.url })
  for key, host in pairs((http.stats())) do
    if key:find(server.port, 1, true) then assert(host.active == 0 and host.connections == 1) end
  end
  assert(http.get(server.url .. "/echo", { limit = 1 }).status == 200)
  conn:close()
end)

test("dial: a cancelled read loses nothing, a cancelled write leaves a part", function()
  local server <close> = listen(function(stream)
    task.sleep(1) -- a good deal longer than the read that is cancelled
    stream:write("at last")
    stream:read(1)
    task.sleep(30)
  end)
  local conn <close> = dial.open({ url = server.url })
  assert(not task.move_on(0.01, conn.read, conn))
  assert(not task.move_on(0.1, conn.write, conn, ("x"):rep(64 << 20)))
  assert(conn:read() == "at last")
  fails("EPIPE", conn.write, conn, "more")
  fails("EPIPE", conn.shutdown, conn)
end)

test("dial: closing wakes who waits, and is done once", function()
  local server <close> = listen(function(stream) stream:read() end)
  local conn = dial.open({ url = server.url })
  local reader = task.pspawn(conn.read, conn)
  task.yield()
  misuse("another task is reading", conn.read, conn)
  conn:close()
  conn:close()
  local ok, err = reader:pjoin()
  assert(not ok and err.code == "EBADF", tostring(err))
  fails("EBADF", conn.write, conn, "x")
  assert(tostring(conn) == "dial (closed)")
end)

test("dial: a broken connection is an error, not an end", function()
  local server <close> = listen(function(stream)
    stream:read(1)
    -- Closed with bytes unread: the kernel resets the connection.
  end)
  local conn <close> = dial.open({ url = server.url })
  conn:write(("x"):rep(100000))
  fails("ECONNRESET", function()
    while conn:read() do task.checkpoint() end
  end)
end)

test("dial: opening fails as a request does", function()
  local listener = net.listen("127.0.0.1", 0)
  local port = listener.port
  local url = "https://127.0.0.1:" .. port .. "/"
  local err = failure(dial.open, { url = url, connect_timeout = 0.05 })
  assert(err.kind == "timeout" and err.phase == "connect", tostring(err))
  assert(not task.move_on(0.05, dial.open, { url = url }))
  listener:close()
  err = fails("ECONNREFUSED", dial.open, { url = url })
  assert(tostring(err) == "connect " .. url .. ": connection refused", tostring(err))
  misuse("url: expected a string", dial.open, {})
  misuse("url: expected http://", dial.open, { url = "ftp://127.0.0.1/" })
  misuse("proxy: must not hold a zero byte", dial.open, { url = url, proxy = "a\0b" })
  misuse("timeout: expected seconds", dial.open, { url = url, timeout = -1 })
end)

test("dial: one that is collected closes its connection", function()
  local ended = task.waiter("the end of the connection")
  local server <close> = listen(function(stream) ended:wake(stream:read()) end)
  local conn = dial.open({ url = server.url })
  assert(conn)
  conn = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  assert(ended:wait() == nil)
end)
