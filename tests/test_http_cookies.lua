local expect = dofile("tests/expect.lua")
local escape = require("sbx.url").escape
local fs = require("sbx.fs")
local http = require("sbx.http")
local peer = dofile("tests/peers/http_peer.lua")

local misuse = expect.misuse

local function set(client, url, cookie)
  assert(client:get(url .. "/set", { query = { cookie = cookie } }).status == 200)
end

-- The cookies that a request to `url` brings along, sorted.
local function sent(client, url, options)
  local res
  if client == http then
    res = http.get(url, options)
  else
    res = client:get(url, options)
  end
  local header = res:json().headers.cookie
  local list = {}
  for one in (header or ""):gmatch("[^; ]+") do list[#list + 1] = one end
  table.sort(list)
  return table.concat(list, " ")
end

test("http cookies: they come back to the host and path that set them", function()
  local server <close> = peer.start()
  local here = server.url
  local client = http.client { cookies = true }
  set(client, here, "a=1")
  set(client, here, "b=2; Path=/echo; HttpOnly")
  set(client, here, "c=3; Path=/other")
  assert(sent(client, here .. "/echo") == "a=1 b=2")
  assert(sent(client, here) == "a=1")
  set(client, here, "a=changed")
  assert(sent(client, here) == "a=changed")
  set(client, here, "a=gone; Max-Age=0")
  assert(sent(client, here) == "")
end)

test("http cookies: they leak to no other host, client, or request without a jar", function()
  local server <close> = peer.start()
  local here, elsewhere = server.url, "http://localhost:" .. server.port
  local client, other = http.client { cookies = true }, http.client { cookies = true }
  set(client, here, "a=1")
  assert(sent(client, elsewhere) == "" and sent(other, here) == "")
  assert(sent(http.client {}, here) == "" and sent(http, here) == "")
  -- Nor may a host set them for another one.
  set(client, elsewhere, "evil=1; Domain=127.0.0.1")
  set(client, here, "evil=2; Domain=example.com")
  set(client, here, "evil=3; Domain=com")
  assert(sent(client, here) == "a=1" and sent(client, elsewhere) == "")
  assert(#client.cookies:list() == 1)
  -- The lines that carry requests are used again by others.
  assert(sent(http, here) == "" and sent(other, here) == "")
end)

test("http cookies: a redirect brings each host its own", function()
  local server <close> = peer.start()
  local here, elsewhere = server.url, "http://localhost:" .. server.port
  local client = http.client { cookies = true, follow = 3 }
  set(client, here, "a=1")
  set(client, elsewhere, "b=2")
  local to = escape(elsewhere .. "/echo")
  assert(sent(client, here .. "/lead?to=" .. to) == "b=2")
  assert(sent(client, here .. "/lead?to=" .. to, { headers = { Cookie = "own=s3cret" } }) == "b=2")
end)

test("http cookies: the caller's own Cookie header goes into the same line", function()
  local server <close> = peer.start()
  local client = http.client { cookies = true }
  set(client, server.url, "a=1")
  assert(sent(client, server.url, { headers = { cookie = "b=2; c=3" } }) == "a=1 b=2 c=3")
  assert(sent(http, server.url, { headers = { Cookie = "b=2" } }) == "b=2")
  misuse("control characters", client.get, client, server.url,
    { headers = { Cookie = "a\r\nX: y" } })
end)

test("http cookies: a jar is listed, cleared and shared", function()
  local server <close> = peer.start()
  local jar = http.cookies()
  assert(#jar:list() == 0 and tostring(jar) == "cookie jar (0 cookies)")
  local client = http.client { base = server.url, cookies = jar }
  assert(client.cookies == jar)
  client:get("/set?cookie=" .. escape("b=2; HttpOnly; Secure; Path=/x"))
  client:get("/set?cookie=" .. escape("a=s3cret; Expires=Fri, 01 Jan 2100 00:00:00 GMT"))
  local list = jar:list()
  assert(#list == 2 and not tostring(jar):find("s3cret"))
  local a, b = list[1], list[2]
  assert(a.name == "a" and a.value == "s3cret" and a.domain == "127.0.0.1" and a.path == "/")
  assert(a.expires == 4102444800 and a.host_only and not a.secure and not a.http_only)
  assert(b.name == "b" and b.secure and b.http_only and b.expires == nil and b.path == "/x")
  assert(sent(http, server.url, { cookies = jar }) == "a=s3cret")
  jar:clear()
  assert(#jar:list() == 0 and sent(client, "/echo") == "")
end)

test("http cookies: a file of them is ours alone and can be read back", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/cookies"
  local client = http.client { cookies = true }
  set(client, server.url, "a=1; Max-Age=1000")
  set(client, server.url, "session=2; HttpOnly")
  client.cookies:save(path)
  assert(fs.stat(path).mode & 511 == 384) -- 600
  local jar = http.cookies()
  jar:load(path)
  assert(sent(http, server.url, { cookies = jar }) == "a=1 session=2")
  fs.write(path, "ALL\n# a comment\nnonsense\n\tx\t\nSet-Cookie: x=y\nRELOAD\n\n")
  jar:load(path)
  assert(#jar:list() == 2)
  jar:load("/dev/null")
  local err = expect.failure(jar.load, jar, dir.path .. "/none")
  assert(err.code == "ENOENT")
end)

test("http cookies: a server cannot fill the memory with them", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, cookies = true }
  for i = 1, 100 do client:get(("/set-many?n=50&from=%d"):format(i * 50)) end
  assert(#client.cookies:list() <= 2000, #client.cookies:list())
  -- What is sent is bounded as well.
  assert(#client:get("/echo"):json().headers.cookie < 9000)
end)

test("http cookies: streams and concurrent requests share a jar", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, cookies = true }
  local res <close> = client:stream("GET", "/set?cookie=a%3D1")
  assert(res.set_cookies[1] == "a=1")
  local list = {}
  for i = 1, 50 do list[i] = i end
  require("sbx.task").map(list, function(i)
    client:get(("/set?cookie=c%d%%3D%d"):format(i, i))
    assert(sent(client, "/echo"):find("a=1", 1, true))
  end)
  assert(#client.cookies:list() == 51)
end)

test("http cookies: a jar goes when nobody holds it, also in the middle", function()
  local server <close> = peer.start()
  for _ = 1, 20 do
    http.client({ cookies = true }):get(server.url .. "/set?cookie=a%3D1")
    local res <close> = http.stream("GET", server.url .. "/stall", { cookies = http.cookies() })
    collectgarbage()
    assert(res:read() == "x")
  end
  collectgarbage()
end)

test("http cookies: misuse names the argument", function()
  misuse("cookies: expected what http.cookies() made", http.get, "http://x/", { cookies = true })
  misuse("cookies: expected true, or what", http.client, { cookies = "jar" })
  misuse("write jar:list(…)", http.cookies().list)
end)
