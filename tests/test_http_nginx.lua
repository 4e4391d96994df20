-- The client against a server of the real world.

local certificates = dofile("tests/peers/certificates.lua")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local http = require("sbx.http")
local nginx = dofile("tests/peers/nginx.lua")
local peer = dofile("tests/peers/http_peer.lua")
local task = require("sbx.task")

local failure = expect.failure

local TEXT = ("a line that compresses well\n"):rep(50000)

test("http nginx: files come whole, compressed on the way, or as they lie there", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/text", TEXT)
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; root @dir; gzip on; gzip_types *;
      location /raw/ { alias @dir/; gzip off; }
    }
  ]])
  local res = http.get(server.url .. "/text")
  assert(res.body == TEXT and res.headers["content-encoding"] == "gzip")
  assert(http.get(server.url .. "/raw/text").body == TEXT)
  res = http.get(server.url .. "/text", { decompress = false })
  assert(res.body == TEXT and res.headers["content-encoding"] == nil)
  local gzip = { ["Accept-Encoding"] = "gzip" }
  res = http.get(server.url .. "/text", { decompress = false, headers = gzip })
  assert(#res.body < #TEXT / 10 and res.headers["content-encoding"] == "gzip")
  local count = 0
  local stream <close> = http.stream("GET", server.url .. "/text")
  for line in stream:lines() do
    assert(line == "a line that compresses well")
    count = count + 1
  end
  assert(count == 50000)
  res = http.get(server.url .. "/raw/text", { headers = { Range = "bytes=5-9" } })
  assert(res.status == 206 and res.body == TEXT:sub(6, 10))
end)

test("http nginx: a slow upstream is read line by line through it", function()
  local dir <close> = fs.tmpdir()
  local slow <close> = peer.start()
  local server <close> = nginx.start(dir.path, ([[
    server {
      listen 127.0.0.1:@1;
      location / { proxy_pass http://127.0.0.1:%d; proxy_buffering off; proxy_http_version 1.1; }
    }
  ]]):format(slow.port))
  local res <close> = http.stream("GET", server.url .. "/pieces", {
    query = { text = ("tick\n"):rep(5), size = 5, pause = 0.05 }, idle_timeout = 2,
  })
  local first = task.now()
  assert(res:line() == "tick")
  local came = task.now()
  local count = 1
  for line in res:lines() do
    assert(line == "tick")
    count = count + 1
  end
  assert(count == 5 and came - first < task.now() - came)
end)

test("http nginx: a stream that pauses at once on a used connection gets all", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/big", ("0123456789abcdef"):rep(1 << 17))
  local server <close> = nginx.start(dir.path, [[
    server { listen 127.0.0.1:@1; root @dir; location /ok { return 200 "ok"; } }
  ]])
  for i = 1, 60 do
    assert(http.get(server.url .. "/ok").body == "ok")
    local res <close> = http.stream("GET", server.url .. "/big", { decompress = i % 2 == 0 })
    if i % 3 == 0 then task.sleep(0.002) end
    assert(#res:all() == 1 << 21)
  end
end)

test("http nginx: a rate limit slows the stream down and ends nothing", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/text", TEXT:sub(1, 300000))
  local server <close> = nginx.start(dir.path, [[
    server { listen 127.0.0.1:@1; root @dir; limit_rate 500k; }
  ]])
  local res <close> = http.stream("GET", server.url .. "/text", { idle_timeout = 5 })
  assert(res:all() == TEXT:sub(1, 300000))
end)

test("http nginx: too large a body is answered 413, however it is sent", function()
  local dir <close> = fs.tmpdir()
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; client_max_body_size 100k; root @dir;
      location / { dav_methods PUT; }
    }
  ]])
  fs.write(dir.path .. "/big", ("x"):rep(5 << 20))
  local url = server.url .. "/up"
  assert(http.put(url, { body_path = dir.path .. "/big" }).status == 413)
  local given = 0
  local function iterator()
    given = given + 1
    return given <= 10000 and ("x"):rep(65536) or nil
  end
  assert(http.put(url, { body = iterator, content_length = 10000 * 65536 }).status == 413)
  assert(given < 2000, given)
  given = 0
  local ok, res = pcall(http.put, url, { body = iterator })
  -- In chunks nginx notices late, and closes while we send.
  assert(ok and res.status == 413 or res.kind == "http", tostring(res))
  assert(http.put(url, { body = "small" }).status == 201)
end)

test("http nginx: what is put there from an iterator is there, bit for bit", function()
  local dir <close> = fs.tmpdir()
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; client_max_body_size 0; root @dir;
      location / { dav_methods PUT DELETE; }
    }
  ]])
  local sum, left = hash.sha256_new(), 300
  local res = http.put(server.url .. "/file", {
    body = function()
      left = left - 1
      if left < 0 then return nil end
      local bytes = hash.random_hex(4096):rep(1 + left % 20)
      sum:update(bytes)
      return bytes
    end,
  })
  assert(res.status == 201)
  local expected = sum:hex()
  assert(hash.sha256_file(dir.path .. "/file") == expected)
  do
    local stream <close> = http.stream("GET", server.url .. "/file")
    stream:save(dir.path .. "/copy")
  end
  assert(hash.sha256_file(dir.path .. "/copy") == expected)
  assert(http.delete(server.url .. "/file").status == 204)
end)

test("http nginx: users and passwords open the door and are never shown", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/users", "ann:{PLAIN}pass wörd\n")
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; auth_basic "x"; auth_basic_user_file @dir/users;
      location / { return 200 "$remote_user"; }
      location /in { auth_basic "x"; alias @dir/users; }
    }
  ]])
  local url = server.url .. "/in"
  assert(http.get(url).status == 401)
  assert(http.get(url, { basic = { "ann", "pass wörd" } }).status == 200)
  assert(http.get(url, { basic = { "ann", "wrong" } }).status == 401)
  local named = url:gsub("//", "//ann:pass%%20w%%C3%%B6rd@")
  assert(http.get(named).status == 200)
  local client = http.client { base = server.url, basic = { "ann", "pass wörd" } }
  assert(client:get("/in").status == 200)
  assert(client:get("/in", { bearer = "other" }).status == 401)
  assert(client:get("/in", { headers = { authorization = "Bearer x" } }).status == 401)
  for _, options in ipairs {
    { basic = { "ann", "s3cret" } }, { bearer = "s3cret" },
    { headers = { Authorization = "s3cret" } },
  } do
    options.raise = true
    local err = failure(http.get, url, options)
    for name, value in pairs(err) do
      assert(not tostring(value):find("s3cret"), name)
    end
  end
end)

test("http nginx: from https to http only when asked for", function()
  local dir <close> = fs.tmpdir()
  local ca = certificates.make(dir.path)
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1;
      location /up { return 301 https://127.0.0.1:@2/seen; }
      location / { return 200 "plain $http_authorization $http_x_key"; }
    }
    server {
      listen 127.0.0.1:@2 ssl; ssl_certificate @dir/server.pem; ssl_certificate_key @dir/server.key;
      location /down { return 302 http://127.0.0.1:@1/; }
      location / { return 200 "secure $http_authorization $http_x_key"; }
    }
  ]])
  local secure = "https://127.0.0.1:" .. server.ports[2]
  local function get(url, follow)
    return http.get(url, {
      follow = follow, ca_file = ca, bearer = "s3cret", headers = { ["X-Key"] = "s3cret" },
    })
  end
  local res = get(server.url .. "/up", 1)
  assert(res.body == "secure  " and res.url == secure .. "/seen", res.body)
  local err = failure(get, secure .. "/down", 1)
  assert(err.code == "EPROTO" and tostring(err):find("from https to http"), tostring(err))
  res = get(secure .. "/down", { downgrade = true })
  assert(res.body == "plain  " and res.url == server.url .. "/", res.body)
end)

test("http nginx: a gateway without an upstream is tried again", function()
  local dir <close> = fs.tmpdir()
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1;
      location / { proxy_pass http://127.0.0.1:1; access_log @dir/log; }
    }
  ]])
  local retry = { attempts = 3, pause = 0 }
  local res = http.get(server.url .. "/", { retry = retry })
  assert(res.status == 502 and res.attempts == 3)
  assert(http.post(server.url .. "/", { retry = retry }).attempts == 1)
  local count = select(2, fs.read(dir.path .. "/log"):gsub("\n", ""))
  assert(count == 4, count)
end)

test("http nginx: streams pause and go on over TLS and HTTP/2", function()
  local dir <close> = fs.tmpdir()
  local ca = certificates.make(dir.path)
  local size = 8 << 20
  fs.write(dir.path .. "/big", hash.random_hex(4096):rep(size // 8192))
  local expected = hash.sha256_file(dir.path .. "/big")
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1 ssl http2; root @dir; client_max_body_size 0;
      ssl_certificate @dir/server.pem; ssl_certificate_key @dir/server.key;
      location /up { dav_methods PUT; }
    }
  ]])
  local url = "https://127.0.0.1:" .. server.ports[1]
  for version = 1, 2 do
    task.map({ 1, 2, 3 }, function(i)
      local options = { ca_file = ca, version = version }
      local res <close> = http.stream("GET", url .. "/big", options)
      task.sleep(0.02 * i)
      local sum = hash.sha256_new()
      for piece in res:chunks() do
        sum:update(piece)
        if i == 3 then task.yield() end
      end
      assert(sum:hex() == expected)
    end)
    local file <close> = fs.open(dir.path .. "/big", "r")
    local up = http.put(url .. "/up" .. version, {
      ca_file = ca, version = version, body = function() return file:read(100000) end,
    })
    assert(up.status == 201, up.status)
    assert(hash.sha256_file(dir.path .. "/up" .. version) == expected)
  end
end)

test("http nginx: a connection that it closed is not taken for a good one", function()
  local dir <close> = fs.tmpdir()
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; keepalive_requests 3;
      location / { return 200 "ok"; access_log @dir/log; }
    }
  ]])
  for _ = 1, 20 do assert(http.post(server.url .. "/", { body = "x" }).body == "ok") end
  local count = select(2, fs.read(dir.path .. "/log"):gsub("\n", ""))
  assert(count == 20, count)
end)

test("http nginx: a socket serves streams as well", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/text", TEXT)
  local server <close> = nginx.start(dir.path, [[
    server { listen 127.0.0.1:@1; listen unix:@dir/socket; root @dir; }
  ]])
  assert(server.url)
  local client = http.client { base = "http://local", unix = dir.path .. "/socket" }
  local res <close> = client:stream("GET", "/text")
  assert(res:all() == TEXT)
end)

test("http nginx: a form and a long header arrive, and one too long is answered", function()
  local dir <close> = fs.tmpdir()
  local server <close> = nginx.start(dir.path, [[
    server {
      listen 127.0.0.1:@1; large_client_header_buffers 4 8k;
      location / { return 200 "$http_x_long"; }
    }
  ]])
  local function get(size)
    return http.get(server.url .. "/", { headers = { ["X-Long"] = ("v"):rep(size) } })
  end
  assert(get(7000).body == ("v"):rep(7000))
  assert(get(20000).status == 400)
end)
