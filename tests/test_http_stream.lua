local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local process = require("sbx.process")
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure
local misuse = expect.misuse

local HIGH_WATER = 256 * 1024

-- How many bytes /flood has sent; negative once its client has gone.
local function flooded(server, key)
  return tonumber(http.get(server.url .. "/flooded?of=" .. key).body)
end

-- Waits until the server sends no more because nobody reads: at `least` so many bytes, and
-- none in half a second.
local function stuck_at(server, key, least)
  local before, same = 0, 0
  repeat
    task.sleep(0.05)
    local now = flooded(server, key)
    same = now == before and now >= (least or 1) and same + 1 or 0
    before = now
  until same == 10
  return before
end

local function await_gone(server, key)
  return task.timeout(60, function()
    while flooded(server, key) >= 0 do task.sleep(0.01) end
  end)
end

test("http stream: the head comes first, the body in pieces, then nil", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/bytes?n=300000&status=404&chunked=1")
  assert(res.status == 404 and res.reason == "Not Found" and res.method == "GET")
  assert(res.headers["transfer-encoding"] == "chunked" and res.body == nil)
  assert(res.timing.first_byte > 0 and res.timing.total == 0)
  assert(tostring(res) == "GET " .. server.url .. "/bytes: 404 Not Found", tostring(res))
  assert(res:read(3) == "\0\1\2")
  local size = 3
  for piece in res:chunks() do size = size + #piece end
  assert(size == 300000 and res:read() == nil and res:read(5) == nil)
  assert(res.timing.total >= res.timing.first_byte)
  -- Read to its end, the connection is kept.
  res:close()
  assert(http.get(server.url .. "/echo").timing.reused)
end)

test("http stream: reading functions share one position", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/pieces", {
    query = { text = "one\ntwo\nthree\nfour\n{\"a\": [5]}", size = 3 },
  })
  assert(res:line() == "one" and res:line(true) == "two\n")
  local start = res:read(2)
  local lines = { start }
  for line in res:lines() do
    lines[#lines + 1] = line
    if line == "four" then break end
  end
  assert(#start >= 1 and table.concat(lines):find("^threefour$"))
  assert(res:json().a[1] == 5 and res:all() == "" and res:line() == nil)
end)

test("http stream: lines come while the server is still sending", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/pause?seconds=30")
  assert(res:read() == "1")
end)

test("http stream: server-sent events are read as they come", function()
  local server <close> = peer.start()
  local text = "retry: 100\n\nid: 1\ndata: a\n\nevent: add\ndata: b\n\ndata: cut"
  local res <close> = http.stream("GET", server.url .. "/pieces", {
    query = { text = text, size = 4, type = "text/event-stream" },
  })
  local found = {}
  for event in res:events() do
    found[#found + 1] = event.event .. "=" .. event.data
    assert(event.id == "1" and res.last_event_id == "1")
    if #found == 1 then break end
  end
  for event in res:events() do found[#found + 1] = event.event .. "=" .. event.data end
  assert(table.concat(found, " ") == "message=a add=b")
  assert(res.reconnect_after == 0.1)
end)

test("http stream: what is not read holds up the server", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/flood?key=slow")
  local sent = stuck_at(server, "slow")
  local before = collectgarbage("count")
  -- Our mark, and what the sockets hold.
  assert(sent < HIGH_WATER + (16 << 20), sent)
  local read = 0
  while read < sent do read = read + #res:read() end
  assert(flooded(server, "slow") >= read)
  assert(stuck_at(server, "slow", sent + 1) > sent)
  collectgarbage()
  assert(collectgarbage("count") - before < 2048)
  res:close()
  await_gone(server, "slow")
end)

test("http stream: small reads get every byte through many pauses", function()
  local server <close> = peer.start()
  local size = 3000000
  local res <close> = http.stream("GET", server.url .. "/bytes?n=" .. size)
  local at, next_report = 0, 0
  while true do
    local piece = res:read(1 + at % 50000)
    if not piece then break end
    assert(piece:byte(1) == at % 256 and piece:byte(-1) == (at + #piece - 1) % 256, at)
    at = at + #piece
    if at > next_report then
      task.sleep(0.002) -- long enough for the buffer to fill up
      next_report = at + 200000
    end
  end
  assert(at == size)
end)

test("http stream: many slow readers at once end well", function()
  local server <close> = peer.start()
  local list = {}
  for i = 1, 20 do list[i] = i end
  local sizes = task.map(list, function(i)
    local res <close> = http.stream("GET", server.url .. "/bytes?n=1000000&chunked=1")
    local size = 0
    for piece in res:chunks() do
      size = size + #piece
      if i % 2 == 0 then task.yield() end
    end
    return size
  end, { limit = 20 })
  for _, size in ipairs(sizes) do assert(size == 1000000) end
end)

test("http stream: the idle clock stands still while the reader is busy", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/flood?key=idle", { idle_timeout = 1 })
  res:read()
  task.sleep(1.6)
  local size = 0
  while size < 4 << 20 do size = size + #res:read() end
  -- Nor does it count while nothing is paused and nobody asks.
  local other <close> = http.stream("GET", server.url .. "/pause?seconds=1.5",
    { idle_timeout = 1 })
  assert(other:read() == "1")
  task.sleep(1.8)
  assert(other:read() == "2" and other:read() == nil)
end)

test("http stream: the clocks end it where the server is the slow one", function()
  local server <close> = peer.start()
  local function ends(phase, path, options)
    local res <close> = http.stream("GET", server.url .. path, options)
    assert(res:read() == (path == "/stall" and "x" or "1"))
    local err = failure(res.read, res)
    assert(err.kind == "timeout" and err.phase == phase and err.sent, tostring(err))
    assert(failure(res.read, res).phase == phase) -- and it stays so
  end
  ends("idle", "/stall", { idle_timeout = 1 })
  ends("total", "/stall", { timeout = 1 })
  ends("total", "/pause?seconds=30", { timeout = 1, idle_timeout = false })
  local err = failure(http.stream, "GET", server.url .. "/hang", { timeout = 0.05 })
  assert(err.phase == "total")
  -- The total clock runs on while the reader is busy; what came is delivered.
  local res <close> = http.stream("GET", server.url .. "/flood?key=total", { timeout = 2 })
  task.sleep(2.2)
  local size = 0
  err = failure(function()
    while true do size = size + #res:read() end
  end)
  assert(err.phase == "total" and size >= HIGH_WATER, size)
end)

test("http stream: a broken connection is told after the bytes before it", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/cut")
  assert(res:read(4) == "xxxx")
  local err = failure(res.all, res)
  assert(err.kind == "http" and err.phase == "receive" and err.sent, tostring(err))
  for _, path in ipairs { "/drop?key=x", "/garbage" } do
    err = failure(http.stream, "GET", server.url .. path)
    assert(err.kind == "http", tostring(err))
  end
end)

test("http stream: a small gzip that unpacks to much is held up as well", function()
  local server <close> = peer.start()
  local size = 64 << 20
  local function peak()
    return tonumber(fs.read("/proc/self/status"):match("VmHWM:%s*(%d+)"))
  end
  local before = peak()
  local res <close> = http.stream("GET", server.url .. "/bomb?n=" .. size)
  local read = #res:read()
  assert(read <= HIGH_WATER)
  task.sleep(0.1)
  for piece in res:chunks() do read = read + #piece end
  assert(read == size, read)
  -- A block of 16 KiB may unpack to a thousand times as much.
  local grown = peak() - before
  assert(grown < 60 * 1024, "grew by " .. grown .. " kB")

  local url, limit = server.url .. "/bomb?n=" .. size, { max_body = 100000 }
  local bounded <close> = http.stream("GET", url, limit)
  assert(failure(bounded.all, bounded).kind == "limit")
  local err = failure(http.get, url, limit)
  assert(err.kind == "limit")
end)

test("http stream: decompress = false gives the bytes as they were sent", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/gzip", { decompress = false })
  assert(res:all():sub(1, 2) == "\31\139" and res.headers["content-encoding"] == "gzip")
  assert(http.get(server.url .. "/gzip", { decompress = false }).body:sub(1, 2) == "\31\139")
  local seen = http.get(server.url .. "/echo", { decompress = false }):json()
  assert(seen.headers["accept-encoding"] == nil)
  assert(http.get(server.url .. "/echo"):json().headers["accept-encoding"]:find("gzip"))
end)

test("http stream: all is bounded, by default as requests are", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/bytes?n=1000")
  local err = failure(res.all, res, 999)
  assert(err.kind == "limit", tostring(err))
  assert(#res:all(1000) == 1000) -- nothing was lost
  local other <close> = http.stream("GET", server.url .. "/bytes?n=1001", { max_body = 1000 })
  assert(failure(other.all, other).kind == "limit")
end)

test("http stream: save replaces a file once the body is whole", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/out"
  local function save(target, from)
    local res <close> = http.stream("GET", server.url .. from)
    return res:save(target)
  end
  assert(save(path, "/bytes?n=700000") == 700000)
  assert(fs.stat(path).size == 700000)
  fs.write(path, "before")
  fs.chmod(path, 416) -- 640
  failure(save, path, "/cut")
  assert(fs.read(path) == "before" and #fs.list(dir.path) == 1)
  task.move_on(0.1, save, path, "/stall")
  assert(fs.read(path) == "before" and #fs.list(dir.path) == 1)
  fs.symlink(path, dir.path .. "/link")
  save(dir.path .. "/link", "/bytes?n=2")
  assert(fs.read(path) == "\0\1" and fs.readlink(dir.path .. "/link") == path)
  assert(fs.stat(path).mode & 511 == 416)
  assert(save("/dev/null", "/bytes?n=10") == 10 and fs.stat("/dev/null").type ~= "file")
  local err = failure(save, dir.path .. "/no/such", "/bytes?n=2")
  assert(err.kind == "io" and err.code == "ENOENT", tostring(err))
end)

test("http stream: closing in the middle ends the transfer", function()
  local server <close> = peer.start()
  do
    local res <close> = http.stream("GET", server.url .. "/flood?key=block")
    res:read(10)
  end
  await_gone(server, "block")
  local res = http.stream("GET", server.url .. "/flood?key=called")
  res:close()
  res:close()
  await_gone(server, "called")
  for _, name in ipairs { "read", "line", "all", "json" } do
    assert(failure(res[name], res).code == "EBADF", name)
  end
  assert(failure(res:lines()).code == "EBADF" and failure(res:events()).code == "EBADF")
  for key, host in pairs((http.stats())) do
    assert(host.active == 0 and host.queued == 0, key)
  end
end)

test("http stream: a stream that nobody holds is let go", function()
  local server <close> = peer.start()
  http.stream("GET", server.url .. "/flood?key=lost"):read()
  task.timeout(60, function()
    repeat
      collectgarbage()
    until flooded(server, "lost") < 0
  end)
end)

test("http stream: cancelling a read loses nothing, and closing ends a read", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/pause?seconds=2")
  assert(res:read() == "1")
  assert(not task.move_on(0.05, res.read, res))
  assert(not task.move_on(0.05, res.line, res))
  assert(res:read() == "2" and res:read() == nil)

  local hanging = http.stream("GET", server.url .. "/stall")
  hanging:read()
  task.scope(function(scope)
    local reading = scope:pspawn(hanging.read, hanging)
    task.yield()
    misuse("another task", hanging.read, hanging)
    hanging:close()
    local ok, err = reading:pjoin()
    assert(not ok and err.code == "EBADF", tostring(err))
  end)
  assert(not task.move_on(0.05, http.stream, "GET", server.url .. "/hang"))
end)

test("http stream: it holds its place in the queue until its end", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, limit = 1, queue_timeout = 0.05 }
  local res = client:stream("GET", "/flood?key=place")
  assert(failure(client.get, client, "/echo").phase == "queue")
  res:close()
  assert(client:get("/echo").status == 200)
  local whole <close> = client:stream("GET", "/bytes?n=10")
  assert(#whole:all() == 10)
  assert(client:get("/echo").status == 200)
end)

test("http stream: a client gives it its base, headers and token", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, bearer = "t0ken", raise = true }
  local res <close> = client:stream("POST", "/echo", { body = "abc", headers = { ["X-A"] = "1" } })
  local seen = res:json()
  assert(seen.text == "abc" and seen.headers["authorization"] == "Bearer t0ken")
  assert(seen.headers["x-a"] == "1" and seen.method == "POST")
  local err = failure(client.stream, client, "GET", "/status?code=503")
  assert(err.status == 503 and err.body:find("as you asked") and err.retryable, tostring(err))
  err = failure(client.stream, client, "POST", "/status?code=503")
  assert(err.status == 503 and not err.retryable)
end)

test("http stream: an answer without a body ends at once", function()
  local server <close> = peer.start()
  for _, method in ipairs { "HEAD", "GET" } do
    local res <close> = http.stream(method, server.url .. "/bytes?n=0")
    assert(res.status == 200 and res:read() == nil and res:all() == "")
  end
end)

test("http stream: misuse names the argument", function()
  misuse("save: a stream is saved with", http.stream, "GET", "http://127.0.0.1:1/", { save = "x" })
  misuse("unknown option 'sav'", http.stream, "GET", "http://127.0.0.1:1/", { sav = "x" })
  misuse("tests/test_http_stream.lua:", function() http.stream("GET", "http://x", { nope = 1 }) end) -- sbxlua: ignore
  local server <close> = peer.start()
  local res <close> = http.stream("GET", server.url .. "/bytes?n=5")
  misuse("n: expected", res.read, res, 0)
  misuse("n: expected", res.read, res, "5")
  misuse("max: expected", res.all, res, -1)
  misuse("path: expected a string", res.save, res, nil)
  misuse("write res:read(…)", res.read)
  assert(failure(res.json, res).kind == "json")
end)

test("http stream: a script that ends with open streams ends", function()
  local server <close> = peer.start()
  local script = [[
    local http = require "sbx.http"
    a = http.stream("GET", arg[1] .. "/flood?key=a")
    b = http.stream("GET", arg[1] .. "/stall")
    b:read()
    print "done"
  ]]
  local exe = os.getenv("SBXLUA") or "/proc/self/exe"
  local child = process.run({ exe, "-e", script, server.url }, { timeout = 60 })
  assert(child.code == 0 and child.stdout == "done\n", child.stderr)
end)
