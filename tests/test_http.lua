local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure
local misuse = expect.misuse

test("http: every method reaches the server, with and without a body", function()
  local server <close> = peer.start()
  for _, method in ipairs { "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" } do
    local plain = http.request(method, server.url .. "/echo"):json()
    assert(plain.method == method and plain.size == 0)
    assert(plain.headers["content-type"] == nil)
    local sends = method == "POST" or method == "PUT" or method == "PATCH"
    assert(plain.headers["content-length"] == (sends and "0" or nil), method)

    local full = http.request(method:lower(), server.url .. "/echo", { body = "a\0b" }):json()
    assert(full.method == method and full.text == "a\0b")
    assert(full.headers["content-type"] == nil)
    assert(full.headers["content-length"] == "3")
    assert(full.headers["expect"] == nil)
  end
  local head = http.head(server.url .. "/bytes?n=100")
  assert(head.status == 200 and head.body == "")
  assert(head.headers["content-length"] == "100")
end)

test("http: an answer has status, headers, body, size, url and timing", function()
  local server <close> = peer.start()
  local res = http.get(server.url .. "/headers")
  assert(res.status == 200 and res.reason == "OK")
  assert(res.headers["x-one"] == "a, b")
  assert(res.headers["x-empty"] == "")
  assert(#res.set_cookies == 2 and res.set_cookies[2] == "b=2")
  assert(res.body == "" and res.size == 0)
  assert(res.url == server.url .. "/headers")
  for _, name in ipairs { "queue", "dns", "connect", "tls", "first_byte", "total" } do
    assert(type(res.timing[name]) == "number", name)
  end
  assert(res.timing.total >= res.timing.first_byte)
  assert(not res.timing.reused)
  assert(http.get(server.url .. "/headers").timing.reused)
  local big = http.get(server.url .. "/bytes?n=300000&chunked=1")
  assert(#big.body == 300000 and big.size == 300000 and big.body:sub(1, 3) == "\0\1\2")
end)

test("http: JSON goes out with its type and comes back as a value", function()
  local server <close> = peer.start()
  local res = http.post(server.url .. "/echo", { json = { a = { 1, 2 } } })
  local seen = res:json()
  assert(seen.headers["content-type"] == "application/json")
  assert(json.decode(seen.text).a[2] == 2)
  local own = http.post(server.url .. "/echo", {
    json = true, headers = { ["content-type"] = "application/x" },
  })
  assert(own:json().headers["content-type"] == "application/x")
  local err = failure(function() return http.get(server.url .. "/bytes?n=5"):json() end)
  assert(err.kind == "json" and err.status == 200, tostring(err))
end)

test("http: multipart bodies carry data and files", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/f.bin", "file\0bytes")
  local res = http.post(server.url .. "/echo", {
    multipart = {
      { name = "field", data = "value" },
      { name = "file", path = dir.path .. "/f.bin" },
      { name = 'a"b', filename = "x\r\ny", type = "text/plain", data = "" },
    },
  })
  local seen = res:json()
  local boundary = seen.headers["content-type"]:match("^multipart/form%-data; boundary=(.+)$")
  assert(boundary, seen.headers["content-type"])
  assert(tonumber(seen.headers["content-length"]) == seen.size)
  local text = seen.text
  assert(text:find('name="field"\r\n\r\nvalue\r\n--' .. boundary, 1, true), text)
  assert(text:find('name="file"; filename="f.bin"\r\n' ..
    "Content-Type: application/octet-stream\r\n\r\nfile\0bytes\r\n", 1, true), text)
  assert(text:find('name="a%22b"; filename="x%0D%0Ay"', 1, true), text)
end)

test("http: headers of the caller win, and nothing can be smuggled in", function()
  local server <close> = peer.start()
  local seen = http.get(server.url .. "/echo", {
    headers = { ["User-Agent"] = "me", ["X-Empty"] = "", ["X-Number"] = 5, Accept = { "a", "b" } },
  }):json()
  assert(seen.headers["user-agent"] == "me")
  assert(seen.headers["x-empty"] == "" and seen.headers["x-number"] == "5")
  assert(http.get(server.url):json().headers["user-agent"]:find("^sbxlua/"))

  local url = server.url
  misuse("control characters", http.get, url, { headers = { A = "b\r\nC: d" } })
  misuse("control characters", http.get, url, { headers = { A = "b\0" } })
  misuse("control characters", http.get, url, { headers = { A = "b\127" } })
  misuse("control characters", http.get, url, { headers = { A = { "good", "b\n" } } })
  misuse("control characters", http.get, url, { bearer = "a\r\nB: c" })
  -- base64 hides what it holds.
  assert(http.get(url, { basic = { "a\r\n", "b\r\n" } }).status == 200)
  misuse("not a header name", http.get, url, { headers = { ["A\r\nB"] = "c" } })
  misuse("not a header name", http.get, url, { headers = { ["A:"] = "c" } })
  misuse("follows from the body", http.get, url, { headers = { ["Content-Length"] = "5" } })
  misuse("method", http.request, "GET / HTTP/1.1\r\nA: b\r\n", url)
  misuse("url", http.get, url .. "/a b")
  misuse("url", http.get, url .. "/a\r\nX: y")
  misuse("control characters", http.post, url, {
    multipart = { { name = "a", data = "b", type = "x\r\ny: z" } },
  })
end)

test("http: names and values of headers have limits", function()
  local server <close> = peer.start()
  local function get(name, value)
    return http.get(server.url, { headers = { [name] = value } })
  end
  assert(get(("n"):rep(256), "v"):json().headers[("n"):rep(256)] == "v")
  misuse("a name is longer than 256 bytes", get, ("n"):rep(257), "v")
  misuse("X-A: longer than 65536 bytes", get, "X-A", ("v"):rep(65537))
  assert(get("X-A", ("v"):rep(60000)):json().headers["x-a"] == ("v"):rep(60000))
  local many = {}
  for i = 1, 250 do many["X-" .. i] = "v" end
  misuse("headers: more than 200", http.get, server.url, { headers = many })
end)

test("http: what is no URL is shown, but not its secrets", function()
  local urls = {
    ["htp://user:hunter2@host/path?token=s3cret"] = "htp://host/path?token=***",
    ["host/path"] = "host/path",
    ["http://"] = "http://",
    ["http://user:hunter2@a:99999/?token=s3cret"] = "http://a:99999/",
    ["http://[::1/x?token=s3cret"] = "http://[::1/x",
  }
  for url, shown in pairs(urls) do
    for _, send in ipairs { http.get, function(u) return http.stream("GET", u) end } do
      local ok, err = pcall(send, url)
      assert(not ok and type(err) == "string" and err:find(shown, 1, true), tostring(err))
      assert(not err:find("hunter2") and not err:find("s3cret"), err)
    end
  end
end)

test("http: stats tell what each host's queue looks like", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, limit = 2, group = "stats" }
  local function facts()
    for key, host in pairs((http.stats())) do
      if key == server.url .. " [stats]" then return host end
    end
  end
  task.scope(function(scope)
    local busy = {}
    for i = 1, 5 do busy[i] = scope:pspawn(client.get, client, "/hang") end
    while not facts() or facts().connections < 2 do task.yield() end
    local now = facts()
    assert(now.limit == 2 and now.active == 2 and now.queued == 3, now.active)
    assert(now.connections == 2 and now.started == 2 and now.p50 == nil)
    for i = 1, 5 do busy[i]:cancel() end
  end)
  for _ = 1, 20 do client:get("/busy?seconds=0.01") end
  failure(client.get, client, "/drop?key=stats", { at_most_once = true })
  local now = facts()
  assert(now.active == 0 and now.queued == 0 and now.connections <= 1)
  assert(now.started == 23 and now.failed == 1, now.started)
  assert(now.p50 >= 0.01 and now.p50 <= now.p90 and now.p90 <= now.p99 and now.p99 < 30)
  -- How long a stream is read is not the host's doing.
  for _ = 1, 200 do
    local res <close> = client:stream("GET", "/echo")
    assert(res.status == 200)
  end
  assert(facts().active == 0 and facts().started == 223)
end)

test("http: misuse names the argument", function()
  local url = "http://127.0.0.1:1/"
  misuse("unknown option 'tiemout'; did you mean 'timeout'?", http.get, url, { tiemout = 1 })
  misuse("timeout: expected seconds", http.get, url, { timeout = "1" })
  misuse("timeout: expected seconds", http.get, url, { timeout = 0 / 0 })
  misuse("timeout: expected seconds", http.get, url, { timeout = -1 })
  misuse("headers: expected a table", http.get, url, { headers = "x" })
  misuse("options: expected a table", http.get, url, 5)
  misuse("url: expected a string", http.get, nil)
  misuse("url: expected http://", http.get, "file:///etc/passwd")
  misuse("url", http.get, "http://")
  misuse("url", http.get, "http://a:99999/")
  misuse("at most one of", http.post, url, { body = "a", json = 1 })
  misuse("basic: expected { user, password }", http.get, url, { basic = { "a" } })
  misuse("basic: expected { user, password }", http.get, url, { basic = { "a:b", "c" } })
  misuse("expected one of bearer, basic and", http.get, url, { bearer = "a", basic = { "b", "c" } })
  misuse("expected one of bearer, basic and", http.get, url,
    { bearer = "a", headers = { authorization = "b" } })
  misuse("either data or path", http.post, url, { multipart = { { name = "a" } } })
  misuse("multipart", http.post, url, { multipart = {} })
  misuse("HEAD request has no body", http.head, url, { body = "x" })
  -- The line is the caller's.
  misuse("tests/test_http.lua:", function() http.get("http://x", { nope = 1 }) end) -- sbxlua: ignore
  misuse("tests/test_http.lua:", function() http.client({}):get("http://x", { nope = 1 }) end)
end)

test("http: a file is sent as the body, with its length", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/f", ("x"):rep(100000))
  local seen = http.put(server.url .. "/echo", { body_path = dir.path .. "/f" }):json()
  assert(seen.size == 100000 and seen.headers["content-length"] == "100000")
  fs.write(dir.path .. "/empty", "")
  seen = http.post(server.url .. "/echo", { body_path = dir.path .. "/empty" }):json()
  assert(seen.size == 0 and seen.headers["content-length"] == "0")

  local err = failure(http.put, server.url .. "/echo", { body_path = dir.path .. "/none" })
  assert(err.kind == "io" and err.code == "ENOENT" and err.sent == false, tostring(err))
  err = failure(http.put, server.url .. "/echo", { body_path = dir.path })
  assert(err.code == "EISDIR")
  err = failure(http.put, server.url .. "/echo", { body_path = "/dev/null" })
  assert(err.code == "EINVAL")
  err = failure(http.post, server.url .. "/echo", {
    multipart = { { name = "a", path = dir.path .. "/none" } },
  })
  assert(err.code == "ENOENT")
end)

test("http: a body is saved under its name only when it is whole and good", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/out"
  local res = http.get(server.url .. "/bytes?n=200000", { save = path })
  assert(res.saved == path and res.body == nil and res.size == 200000)
  assert(fs.stat(path).size == 200000)

  fs.write(path, "before")
  local missing = http.get(server.url .. "/status?code=404", { save = path })
  assert(missing.status == 404 and missing.saved == nil and missing.body:find("as you asked"))
  failure(http.get, server.url .. "/cut", { save = path })
  failure(http.get, server.url .. "/stall", { save = path, timeout = 0.1 })
  failure(http.get, server.url .. "/bytes?n=1000", { save = path, max_body = 10 })
  failure(http.get, server.url .. "/status?code=404", { save = dir.path .. "/new", raise = true })
  assert(fs.read(path) == "before")
  assert(#fs.list(dir.path) == 1)

  http.get(server.url .. "/bytes?n=0", { save = path })
  assert(fs.read(path) == "")
  fs.symlink(path, dir.path .. "/link")
  http.get(server.url .. "/bytes?n=3", { save = dir.path .. "/link" })
  assert(fs.read(path) == "\0\1\2" and fs.readlink(dir.path .. "/link") == path)
  assert(http.get(server.url .. "/bytes?n=3", { save = "/dev/null" }).saved)
  assert(fs.stat("/dev/null").type ~= "file")

  local err = failure(http.get, server.url .. "/echo", { save = dir.path .. "/no/such" })
  assert(err.kind == "io" and err.code == "ENOENT" and err.sent == false)
end)

test("http: max_body bounds what is kept, compressed or not", function()
  local server <close> = peer.start()
  local ok = http.get(server.url .. "/bytes?n=1000", { max_body = 1000 })
  assert(#ok.body == 1000)
  for _, path in ipairs { "/bytes?n=1001", "/bytes?n=1001&chunked=1", "/gzip?n=1000000" } do
    local err = failure(http.get, server.url .. path, { max_body = 1000 })
    assert(err.kind == "limit" and err.sent == true, tostring(err))
  end
  local err = failure(http.get, server.url .. "/many-headers")
  assert(err.kind == "limit" or err.kind == "http", tostring(err))
end)

test("http: compressed answers are decoded, unless the caller asks for them", function()
  local server <close> = peer.start()
  assert(http.get(server.url .. "/gzip").body == ("z"):rep(100000))
  local raw = http.get(server.url .. "/gzip", { headers = { ["Accept-Encoding"] = "gzip" } })
  assert(raw.body:sub(1, 2) == "\31\139")
end)

test("http: redirects are answers unless they are followed", function()
  local server <close> = peer.start()
  assert(http.get(server.url .. "/redirect").status == 302)
  local res = http.get(server.url .. "/redirect?n=3", { follow = 3 })
  assert(res.status == 200 and res.url == server.url .. "/echo?token=secret")
  assert(res:json().method == "GET")
  local err = failure(http.get, server.url .. "/redirect?n=3", { follow = 2 })
  assert(err.kind == "http" and err.code == "ELOOP", tostring(err))
end)

test("http: a query is encoded and appended", function()
  local server <close> = peer.start()
  local seen = http.get(server.url .. "/echo?a=1#frag", {
    query = { path = "/tmp/a b&c", list = { 1, 2 }, ["ü"] = true },
  }):json()
  assert(seen.path == "/echo?a=1&list=1&list=2&path=%2Ftmp%2Fa%20b%26c&%C3%BC=true", seen.path)
end)

test("http: raise turns a bad status into an error without secrets", function()
  local server <close> = peer.start()
  assert(http.get(server.url .. "/status?code=404").status == 404)
  local url = server.url:gsub("//", "//user:hunter2@") .. "/status?code=503&after=7&token=s3cret"
  local err = failure(http.get, url, { raise = true })
  assert(err.kind == "http" and err.status == 503 and err.retryable and err.retry_after == 7)
  assert(err.body:find("as you asked"))
  assert(err.url == server.url .. "/status", err.url)
  assert(tostring(err) == "GET " .. server.url .. "/status: 503 Service Unavailable", tostring(err))
  err = failure(http.post, server.url .. "/status?code=503", { raise = true })
  assert(not err.retryable)
  err = failure(http.post, server.url .. "/status?code=429", { raise = true })
  assert(err.retryable)
end)

test("http: Retry-After is read as seconds and as a date", function()
  local server <close> = peer.start()
  local function after(value)
    return http.get(server.url .. "/status?code=429", { query = { after = value } }).retry_after
  end
  assert(after("2") == 2 and after("0") == 0 and after("1.5") == 1.5 and after("120") == 120)
  assert(after("soon") == nil and after("-1") == nil and after("nan") == nil)
  local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 100)
  local seconds = after(date)
  assert(seconds > 50 and seconds <= 101, tostring(seconds))
  assert(after("Thu, 01 Jan 1970 00:00:10 GMT") == 0)
end)

test("http: a client adds its base, headers and token", function()
  local server <close> = peer.start()
  local client = http.client {
    base = server.url .. "/", bearer = "t0ken", headers = { ["X-A"] = "1" }, raise = true,
  }
  local seen = client:get("/echo", { headers = { ["x-a"] = "2", ["X-B"] = "3" } }):json()
  assert(seen.headers["authorization"] == "Bearer t0ken")
  assert(seen.headers["x-a"] == "2" and seen.headers["x-b"] == "3")
  assert(client:post("echo", { body = "x" }):json().text == "x")
  local err = failure(client.get, client, "/status?code=500")
  assert(err.status == 500 and not tostring(err):find("t0ken"))
  misuse("path: expected a path", client.get, client, "http://elsewhere.invalid/")
end)
