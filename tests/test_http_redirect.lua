local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local escape = require("sbx.url").escape
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure
local misuse = expect.misuse

local function lead(server, code, to)
  return ("%s/lead?code=%d&to=%s"):format(server.url, code, escape(to))
end

local function seen(server, key)
  return tonumber(http.get(server.url .. "/seen?of=" .. key).body)
end

test("http redirect: each status keeps or changes the method, as browsers do", function()
  local server <close> = peer.start()
  local expected = {
    [301] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "PUT", DELETE = "DELETE" },
    [302] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "PUT", DELETE = "DELETE" },
    [303] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "GET", DELETE = "GET" },
    [307] = { GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", DELETE = "DELETE" },
    [308] = { GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", DELETE = "DELETE" },
  }
  for code, methods in pairs(expected) do
    for method, after in pairs(methods) do
      local sends = method == "POST" or method == "PUT"
      local res = http.request(method, lead(server, code, "/echo"), {
        follow = 1, json = sends and { 1 } or nil,
      })
      local what = method .. " " .. code
      assert(res.status == 200 and res.method == after, what)
      if after ~= "HEAD" then
        local got = res:json()
        assert(got.method == after, what)
        assert(got.text == (sends and after == method and "[1]" or ""), what .. got.text)
        local typed = got.headers["content-type"] ~= nil
        assert(typed == (sends and after == method), what)
      end
    end
  end
end)

test("http redirect: it is an answer without follow, a Location, or a known status", function()
  local server <close> = peer.start()
  local res = http.get(lead(server, 302, "/echo"), { follow = 0 })
  assert(res.status == 302 and res.headers.location == "/echo")
  res = http.get(server.url .. "/status?code=302", { follow = 3 })
  assert(res.status == 302)
  for _, code in ipairs { 300, 304, 305 } do
    assert(http.get(lead(server, code, "/echo"), { follow = 3 }).status == code)
  end
end)

test("http redirect: the limit is kept, and the error shows no secret", function()
  local server <close> = peer.start()
  local url = server.url:gsub("//", "//user:hunter2@") .. "/redirect?n=3&token=s3cret"
  assert(http.get(url, { follow = 3 }).url == server.url .. "/echo?token=secret")
  local err = failure(http.get, url, { follow = 2 })
  assert(err.kind == "http" and err.code == "ELOOP" and err.status == 302, tostring(err))
  assert(err.sent and err.retryable == false)
  local text = tostring(err)
  assert(text == "GET " .. server.url .. "/redirect: 302 and that is more than 2 redirects", text)
  err = failure(http.get, lead(server, 302, server.url .. "/lead?to=/lead"), { follow = 5 })
  assert(err.kind == "http" or err.code == "ELOOP", tostring(err))
end)

test("http redirect: a relative Location is resolved as a browser would", function()
  local server <close> = peer.start()
  local function path_after(to)
    local got = http.get(lead(server, 302, to), { follow = 1 }):json()
    assert(got.headers.host == "127.0.0.1:" .. server.port)
    return got.path
  end
  assert(path_after("echo?a=1") == "/echo?a=1")
  assert(path_after("./x/../echo") == "/echo")
  assert(path_after(server.url:gsub("http:", "") .. "/echo") == "/echo")
  assert(path_after("/echo?q=a b") == "/echo?q=a%20b")
  -- The peer writes it in Latin-1; bytes stay what they are.
  assert(path_after("/echo?q=\195\188") == "/echo?q=%FC")
end)

test("http redirect: what leads nowhere good is refused", function()
  local server <close> = peer.start()
  for _, to in ipairs { "file:///etc/passwd", "gopher://x/", "javascript:alert(1)", "http://",
    "http://a:99999/", "http://[::1", "ldap://127.0.0.1/" } do
    local err = failure(http.get, lead(server, 302, to), { follow = 3 })
    assert(err.kind == "http" and err.code == "EPROTO" and err.sent, to .. ": " .. tostring(err))
  end
end)

test("http redirect: what lets us in stays with the server it is for", function()
  local server <close> = peer.start()
  local other <close> = peer.start()
  local options = {
    follow = 3,
    headers = {
      Authorization = "Bearer s3cret", Cookie = "session=s3cret", ["X-Api-Key"] = "s3cret",
      ["Proxy-Authorization"] = "s3cret", Host = "elsewhere.invalid", Accept = "text/x",
      ["User-Agent"] = "me", Referer = "http://s3cret/",
    },
  }
  local there = http.get(lead(server, 302, other.url .. "/echo"), options):json().headers
  assert(there.accept == "text/x" and there["user-agent"] == "me")
  assert(there.host == "127.0.0.1:" .. other.port, there.host)
  for name, value in pairs(there) do assert(not value:find("s3cret"), name) end
  -- On the same server all goes on.
  options.headers.Host = nil
  local same = http.get(lead(server, 302, server.url .. "/echo"), options):json().headers
  assert(same.authorization == "Bearer s3cret" and same.cookie == "session=s3cret")
  assert(same["x-api-key"] == "s3cret")
  -- By another name it is another server; and there is no way back.
  local localhost = "http://localhost:" .. server.port
  there = http.get(lead(server, 302, localhost .. "/echo"), options):json().headers
  assert(there.authorization == nil and there.cookie == nil and there["x-api-key"] == nil)
  local detour = ("%s/lead?code=302&to=%s"):format(localhost, escape(server.url .. "/echo"))
  there = http.get(lead(server, 302, detour), options):json().headers
  assert(there.authorization == nil and there.cookie == nil and there["x-api-key"] == nil)
  -- What the caller marks goes along.
  options.follow = { most = 1, headers = { "x-api-KEY" } }
  there = http.get(lead(server, 302, other.url .. "/echo"), options):json().headers
  assert(there["x-api-key"] == "s3cret" and there.authorization == nil)
end)

test("http redirect: users and passwords come from the caller alone", function()
  local server <close> = peer.start()
  local other <close> = peer.start()
  local function authorization(from, to, options)
    options = options or {}
    options.follow = 3
    return http.get(lead(from, 302, to), options):json().headers.authorization
  end
  local named = { url = server.url:gsub("//", "//user:pw@") }
  local basic = "Basic dXNlcjpwdw=="
  assert(authorization(named, "/echo") == basic)
  assert(authorization(named, server.url .. "/echo") == basic)
  assert(authorization(named, other.url .. "/echo") == nil)
  assert(authorization(server, (server.url:gsub("//", "//evil:x@")) .. "/echo") == nil)
  assert(authorization(server, (other.url:gsub("//", "//evil:x@")) .. "/echo") == nil)
  local login = { basic = { "user", "pw" } }
  assert(authorization(server, "/echo", login) == basic)
  assert(authorization(server, other.url .. "/echo", login) == nil)
  assert(authorization(server, other.url .. "/echo", { bearer = "t" }) == nil)
end)

test("http redirect: a body goes where 307 and 308 say, from a file too", function()
  local server <close> = peer.start()
  local other <close> = peer.start()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/f", "from a file")
  local url = lead(server, 307, other.url .. "/echo")
  assert(http.put(url, { follow = 1, body_path = dir.path .. "/f" }):json().text == "from a file")
  local parts = { { name = "a", path = dir.path .. "/f" } }
  local got = http.post(url, { follow = 1, multipart = parts })
  assert(got:json().text:find("from a file", 1, true))
  -- An iterator has run.
  local given = { "once" }
  local function iterator() return table.remove(given) end
  local err = failure(http.post, url, { follow = 1, body = iterator })
  assert(err.code == "EREWIND" and not err.retryable, tostring(err))
  given = { "once" }
  url = lead(server, 303, other.url .. "/echo")
  local res = http.post(url, { follow = 1, body = iterator })
  assert(res:json().method == "GET" and res:json().size == 0)
end)

test("http redirect: a POST that was answered is not retryable, whatever comes after", function()
  local server <close> = peer.start()
  local url = lead(server, 303, "/drop?key=after")
  local err = failure(http.post, url, { follow = 1 })
  assert(err.kind == "http" and err.sent and err.retryable == false, tostring(err))
  err = failure(http.post, lead(server, 303, "http://127.0.0.1:1/"), { follow = 1 })
  assert(err.code == "ECONNREFUSED" and err.sent and err.retryable == false, tostring(err))
  err = failure(http.get, lead(server, 302, "http://127.0.0.1:1/"), { follow = 1 })
  assert(err.code == "ECONNREFUSED" and err.retryable)
  for _, code in ipairs { 503, 429 } do
    url = lead(server, 303, "/status?code=" .. code)
    err = failure(http.post, url, { follow = 1, raise = true })
    assert(err.status == code and err.retryable == false)
  end
end)

test("http redirect: a page on the way is not saved", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/out"
  local res = http.get(lead(server, 302, "/bytes?n=3"), { follow = 1, save = path })
  assert(res.saved == path and fs.read(path) == "\0\1\2")
  fs.remove(path)
  failure(http.get, server.url .. "/redirect?n=5", { follow = 2, save = path })
  assert(#fs.list(dir.path) == 0)
  res = http.get(lead(server, 302, "/status?code=404"), { follow = 1, save = path })
  assert(res.status == 404 and res.body:find("as you asked") and #fs.list(dir.path) == 0)
end)

test("http redirect: the total time is for all steps", function()
  local server <close> = peer.start()
  local slow = "/lead?to=" .. escape("/busy?seconds=60")
  local start = task.now()
  local err = failure(http.get, server.url .. slow, { follow = 2, timeout = 0.2 })
  assert(err.kind == "timeout" and err.phase == "total" and task.now() - start < 30, tostring(err))
end)

test("http redirect: from a socket it leads nowhere else", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/s"
  local server <close> = peer.start("--unix", path)
  assert(server.url == nil)
  local here = "http://localhost/lead?code=302&to="
  local options = { unix = path, follow = 1 }
  assert(http.get(here .. "/echo", options):json().path == "/echo")
  local err = failure(http.get, here .. escape("http://127.0.0.1/echo"), options)
  assert(err.code == "EXDEV", tostring(err))
end)

test("http redirect: a stream follows, and so does a client", function()
  local server <close> = peer.start()
  local res <close> = http.stream("GET", lead(server, 302, "/bytes?n=100000"), { follow = 1 })
  assert(res.status == 200 and #res:all() == 100000)
  local client = http.client { base = server.url, follow = { most = 2 }, bearer = "t" }
  local got = client:get("/redirect?n=2"):json()
  assert(got.path == "/echo?token=secret" and got.headers.authorization == "Bearer t")
  assert(failure(client.get, client, "/redirect?n=3").code == "ELOOP")
  assert(seen(server, "none") == 0)
end)

test("http redirect: misuse names the argument", function()
  local url = "http://127.0.0.1:1/"
  misuse("follow: expected a whole number between 0 and 100, or a table", http.get, url,
    { follow = -1 })
  misuse("unknown option 'moust'", http.get, url, { follow = { moust = 1 } })
  misuse("headers: \"a b\" is not a header name", http.get, url,
    { follow = { headers = { "a b" } } })
  misuse("tests/test_http_redirect.lua:", function() http.get(url, { follow = { x = 1 } }) end) -- sbxlua: ignore
end)
