local errors = require("sbx.errors")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local net = require("sbx.net")
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure
local misuse = expect.misuse

-- An iterator over the items of a list.
local function over(list)
  local at = 0
  return function()
    at = at + 1
    return list[at]
  end
end

-- An iterator that gives `count` blocks of 64 KiB; and how many it has given.
local function blocks(count)
  local given, block = { n = 0 }, ("b"):rep(65536)
  return function()
    if given.n >= count then return nil end
    given.n = given.n + 1
    return block
  end, given
end

local function seen(server, key)
  return tonumber(http.get(server.url .. "/seen?of=" .. key).body)
end

test("http upload: what an iterator gives is the body, in chunks", function()
  local server <close> = peer.start()
  for _, method in ipairs { "POST", "PUT", "PATCH", "DELETE", "GET" } do
    local body = over { "a", "", "bc", "\0d" }
    local got = http.request(method, server.url .. "/echo", { body = body }):json()
    assert(got.text == "abc\0d" and got.method == method, got.text)
    assert(got.headers["transfer-encoding"] == "chunked")
    assert(got.headers["content-length"] == nil and got.headers["expect"] == nil)
    assert(got.headers["content-type"] == nil)
  end
  local nothing = http.post(server.url .. "/echo", { body = over {} }):json()
  assert(nothing.size == 0 and nothing.headers["transfer-encoding"] == "chunked")
end)

test("http upload: content_length sends it plainly, and must be kept", function()
  local server <close> = peer.start()
  local function send(length, ...)
    return http.post(server.url .. "/echo", { body = over { ... }, content_length = length })
  end
  local got = send(5, "ab", "cde"):json()
  assert(got.text == "abcde" and got.headers["content-length"] == "5")
  assert(got.headers["transfer-encoding"] == nil)
  assert(send(0):json().headers["content-length"] == "0")
  for _, case in ipairs { { 6, "ab", "cde" }, { 1, "abc" }, { 4, "ab", "cde" } } do
    local err = failure(send, table.unpack(case))
    assert(err.kind == "usage" and err.code == "ELENGTH", tostring(err))
    assert(err.retryable == false)
  end
  assert(http.get(server.url .. "/echo").status == 200)
end)

test("http upload: much goes up in flat memory, bit for bit", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/big"
  do
    local file <close> = fs.open(path, "w")
    for i = 1, 300 do file:write(("%08d"):format(i):rep(10000)) end
  end
  local sum = require("sbx.hash").sha256_file(path)
  local file <close> = fs.open(path, "r")
  collectgarbage()
  local before = collectgarbage("count")
  local most = 0
  local got = http.put(server.url .. "/echo", {
    body = function()
      most = math.max(most, collectgarbage("count") - before)
      return file:read(70001)
    end,
  }):json()
  assert(got.size == 24000000 and got.sha256 == sum)
  assert(most < 8192, most)
  -- One huge piece is handed over bit by bit.
  got = http.put(server.url .. "/echo", { body = over { ("z"):rep(5 << 20), "end" } }):json()
  assert(got.size == (5 << 20) + 3)
end)

test("http upload: a server that does not read holds up the iterator", function()
  local server <close> = peer.start()
  local next_block, given = blocks(10000)
  task.scope(function(scope)
    scope:pspawn(http.post, server.url .. "/deaf", { body = next_block })
    local before, same = 0, 0
    repeat -- until nothing was asked for in half a second
      task.sleep(0.05)
      same = given.n == before and given.n > 4 and same + 1 or 0
      before = given.n
    until same == 10
    -- Our mark, and what the sockets hold.
    assert(given.n < 200, given.n)
    scope:cancel()
  end)
  local stopped = given.n
  task.sleep(0.05)
  assert(given.n == stopped)
end)

test("http upload: an iterator may wait, and the idle clock waits with it", function()
  local server <close> = peer.start()
  local left = 2
  local got = http.post(server.url .. "/echo", {
    idle_timeout = 1,
    body = function()
      left = left - 1
      task.sleep(1.5)
      return left >= 0 and "x" or nil
    end,
  }):json()
  assert(got.text == "xx")
  -- The total clock does not.
  local closed = false
  local err = failure(http.post, server.url .. "/echo", {
    timeout = 1,
    body = function()
      local _ <close> = setmetatable({}, { __close = function() closed = true end })
      task.sleep(60)
    end,
  })
  assert(err.kind == "timeout" and err.phase == "total" and closed, tostring(err))
  err = failure(http.post, server.url .. "/deaf", { body = blocks(1000), idle_timeout = 0.1 })
  assert(err.phase == "idle", tostring(err))
end)

test("http upload: a failing iterator ends the request with its own error", function()
  local server <close> = peer.start()
  local function failing(value)
    local calls = 0
    return function()
      calls = calls + 1
      if calls == 2 then error(value, 0) end
      return "part"
    end
  end
  local err = failure(http.post, server.url .. "/echo?key=failing", {
    body = failing(errors.new { kind = "io", message = "the source broke" }),
  })
  assert(err.kind == "io" and err.message == "the source broke")
  misuse("plain text", http.post, server.url .. "/echo", { body = failing("plain text") })
  misuse("must return a string or nil, not a number", http.post, server.url .. "/echo",
    { body = over { 5 } })
  err = failure(function()
    local res <close> = http.stream("POST", server.url .. "/echo", {
      body = failing(errors.new { kind = "io", message = "the source broke" }),
    })
    return res
  end)
  assert(err.message == "the source broke", tostring(err))
  for key, host in pairs((http.stats())) do assert(host.active == 0, key) end
end)

test("http upload: an early answer ends the iterator", function()
  local server <close> = peer.start()
  local next_block, given = blocks(100000)
  local res = http.post(server.url .. "/early?code=413", { body = next_block })
  assert(res.status == 413 and res.body == "no more")
  assert(given.n < 1000, given.n)
  local waits = 0
  res = http.post(server.url .. "/early?code=413", {
    body = function()
      waits = waits + 1
      task.sleep(60)
    end,
  })
  assert(res.status == 413 and waits == 1)
end)

test("http upload: it is asked only once the connection is there", function()
  local listener = net.listen("127.0.0.1", 0)
  local url = ("http://127.0.0.1:%d/"):format(listener.port)
  listener:close()
  local asked = 0
  local function body()
    asked = asked + 1
  end
  local err = failure(http.post, url, { body = body })
  assert(err.code == "ECONNREFUSED" and err.sent == false and err.retryable and asked == 0)
  err = failure(http.post, "http://no-such-host.invalid/", { body = body })
  assert(err.kind == "dns" and asked == 0)
end)

test("http upload: it is never sent twice", function()
  local server <close> = peer.start()
  for _, method in ipairs { "POST", "PUT" } do
    assert(http.get(server.url .. "/echo").status == 200) -- a connection to reuse
    local err = failure(http.request, method, server.url .. "/drop?key=" .. method, {
      body = over { "once" }, retry = { attempts = 3, pause = 0 },
    })
    assert(err.kind == "http" and err.sent and not err.retryable, tostring(err))
    assert(seen(server, method) == 1, method)
  end
  local res = http.put(server.url .. "/status?code=429&key=busy", {
    body = over { "once" }, retry = { attempts = 3, pause = 0 },
  })
  assert(res.status == 429 and seen(server, "busy") == 1)
  local err = failure(http.put, server.url .. "/status?code=503", {
    body = over { "once" }, raise = true,
  })
  assert(err.status == 503 and err.retryable == false)
end)

test("http upload: cancelling the request cancels the iterator", function()
  local server <close> = peer.start()
  local ended = false
  assert(not task.move_on(1, http.post, server.url .. "/echo", {
    body = function()
      local _ <close> = setmetatable({}, { __close = function() ended = true end })
      task.sleep(60)
    end,
  }))
  assert(ended)
  -- In a scope whose places are taken, too.
  task.scope({ limit = 1 }, function(scope)
    scope:spawn(function()
      assert(http.post(server.url .. "/echo", { body = over { "x" } }):json().text == "x")
    end)
  end)
  -- And in a finalizer, whose task is cancelled.
  local late
  task.move_on(0.05, function()
    local _ <close> = setmetatable({}, {
      __close = function()
        late = http.post(server.url .. "/echo", { body = over { "late" } }):json().text
      end,
    })
    task.sleep(60)
  end)
  assert(late == "late")
end)

test("http upload: a stream is read while its body goes up", function()
  local server <close> = peer.start()
  local next_block, given = blocks(500)
  local res <close> = http.stream("POST", server.url .. "/mirror", { body = next_block })
  local size = #res:read()
  task.sleep(0.1)
  assert(given.n < 500, given.n) -- held up from both sides
  for piece in res:chunks() do size = size + #piece end
  assert(size == 500 * 65536 and given.n == 500)
end)

test("http upload: one stream feeds another", function()
  local server <close> = peer.start()
  local from <close> = http.stream("GET", server.url .. "/bytes?n=3000000")
  local got = http.post(server.url .. "/echo", { body = from:chunks() }):json()
  local whole = http.get(server.url .. "/bytes?n=3000000").body
  assert(got.size == 3000000 and got.sha256 == require("sbx.hash").sha256(whole))
end)

test("http upload: the sending side of a stream ends with it, and with its scope", function()
  local server <close> = peer.start()
  local ended = 0
  local function body()
    local _ <close> = setmetatable({}, { __close = function() ended = ended + 1 end })
    task.sleep(60)
  end
  do
    local res <close> = http.stream("POST", server.url .. "/early?code=200", { body = body })
    assert(res.status == 200)
  end
  assert(ended == 1)
  local res
  task.scope(function()
    res = http.stream("POST", server.url .. "/mirror", { body = body })
  end)
  assert(ended == 2)
  local err = failure(res.read, res)
  assert(err.kind == "http" and err.code == "ECANCELED", tostring(err))
  res:close()
end)

test("http upload: a stream that is cancelled is cancelled, not failed", function()
  local server <close> = peer.start()
  for _, path in ipairs { "/mirror", "/deaf" } do
    assert(not task.move_on(0.1, function()
      local res <close> = http.stream("POST", server.url .. path, {
        body = function() task.sleep(60) end,
      })
      res:read()
    end))
  end
end)

test("http upload: parts of a multipart body may be iterators", function()
  local server <close> = peer.start()
  local function send(size)
    return http.post(server.url .. "/echo", {
      multipart = {
        { name = "a", data = "first" },
        { name = "b", filename = "x.bin", data = over { "se", "", "cond" }, size = size },
        { name = "c", data = over { ("t"):rep(300000) }, size = size and 300000 },
        { name = "d", data = "last" },
      },
    })
  end
  local unknown = send():json()
  assert(unknown.headers["transfer-encoding"] == "chunked")
  local known = send(6):json()
  assert(known.headers["content-length"] == tostring(known.size))
  for _, got in ipairs { unknown, known } do
    assert(got.size > 300000)
    local boundary = got.headers["content-type"]:match("boundary=(.+)$")
    assert(got.text:find("\r\n\r\nfirst\r\n--" .. boundary, 1, true))
    assert(got.text:find('name="b"; filename="x.bin"\r\n' ..
      "Content-Type: application/octet-stream\r\n\r\nsecond\r\n--" .. boundary, 1, true), got.text)
  end
  local err = failure(send, 7)
  assert(err.code == "ELENGTH", tostring(err))
end)

test("http upload: a form is sent as a browser sends it", function()
  local server <close> = peer.start()
  local got = http.post(server.url .. "/echo", {
    form = { a = 1, b = { "x", "y z" }, ["c&d"] = "é=+*-._~", e = true, f = "", g = {} },
  }):json()
  assert(got.text == "a=1&b=x&b=y+z&c%26d=%C3%A9%3D%2B*-._%7E&e=true&f=", got.text)
  assert(got.headers["content-type"] == "application/x-www-form-urlencoded")
  local own = { ["Content-Type"] = "x/y" }
  got = http.post(server.url .. "/echo", { form = { a = 1 }, headers = own })
  assert(got:json().headers["content-type"] == "x/y")
end)

test("http upload: misuse names the argument", function()
  local url = "http://127.0.0.1:1/"
  misuse("body: expected a string or a function", http.post, url, { body = 5 })
  misuse("content_length: is for a body that is a function", http.post, url,
    { body = "x", content_length = 1 })
  misuse("content_length: expected a number of bytes", http.post, url,
    { body = over {}, content_length = -1 })
  misuse("at most one of", http.post, url, { body = over {}, form = {} })
  misuse("form: expected names", http.post, url, { form = { "a" } })
  misuse("form: a: expected a string, got a table", http.post, url, { form = { a = { {} } } })
  misuse("size is for a part whose data is a function", http.post, url,
    { multipart = { { name = "a", data = "b", size = 1 } } })
  misuse("HEAD request has no body", http.head, url, { body = over {} })
end)
