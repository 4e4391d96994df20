local certificates = dofile("tests/peers/certificates.lua")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure

-- How often the peer was asked for something with this key.
local function seen(server, key)
  return tonumber(http.get(server.url .. "/seen?of=" .. key).body)
end

test("http: a refused connection says so and was not sent", function()
  local listener = net.listen("127.0.0.1", 0)
  local port = listener.port
  listener:close()
  local url = ("http://user:hunter2@127.0.0.1:%d/a/b?token=s3cret"):format(port)
  local err = failure(http.post, url, { body = "x" })
  assert(err.kind == "connect" and err.code == "ECONNREFUSED", tostring(err))
  assert(err.phase == "connect" and err.sent == false and err.retryable)
  local text = ("POST http://127.0.0.1:%d/a/b: connection refused"):format(port)
  assert(tostring(err) == text, tostring(err))
  assert(err.method == "POST" and not err.url:find("hunter2") and not err.url:find("s3cret"))
end)

test("http: each clock ends the request in its phase", function()
  local server <close> = peer.start()
  local silent <close> = net.listen("127.0.0.1", 0)
  local function times_out(phase, sent, url, options)
    local err = failure(http.get, url, options)
    assert(err.kind == "timeout" and err.code == "ETIMEDOUT", tostring(err))
    assert(err.phase == phase and err.sent == sent, tostring(err) .. " " .. err.phase)
    return err
  end
  -- Time enough to be sent, on a busy machine too.
  times_out("total", true, server.url .. "/hang", { timeout = 1 })
  times_out("total", true, server.url .. "/stall", { timeout = 1 })
  times_out("idle", true, server.url .. "/hang", { idle_timeout = 1 })
  times_out("idle", true, server.url .. "/stall", { idle_timeout = 1 })
  -- The kernel completes the connection, but nobody answers the TLS greeting.
  local secure = "https://127.0.0.1:" .. silent.port .. "/"
  times_out("connect", false, secure, { connect_timeout = 0.05 })
  times_out("total", false, secure, { timeout = 0.05 })
  task.scope(function(scope)
    local busy = scope:pspawn(http.get, server.url .. "/hang", { limit = 1, group = "one" })
    task.yield()
    local options = { queue_timeout = 0.05, limit = 1, group = "one" }
    assert(times_out("queue", false, server.url .. "/echo", options).retryable)
    busy:cancel()
  end)
end)

test("http: the total clock starts at admission", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, limit = 1 }
  task.scope(function(scope)
    local first = scope:spawn(client.get, client, "/busy?seconds=4")
    task.yield()
    local second = client:get("/echo", { timeout = 3 })
    assert(second.status == 200 and second.timing.queue > 3, second.timing.queue)
    first:join()
  end)
end)

test("http: requests to a name that does not exist share its look-up", function()
  local _, before = http.stats()
  local results = task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function()
    return failure(http.get, "http://no-such-host.invalid/", { connect_timeout = 20 })
  end)
  for _, err in ipairs(results) do
    assert(err.kind == "dns" and err.phase == "dns" and err.sent == false, tostring(err))
  end
  local _, after = http.stats()
  -- A failure is not kept: who comes after it asks again.
  assert(after - before < #results, "look-ups: " .. after - before)
end)

-- A name of /etc/hosts, other than those that libcurl answers itself.
local function local_name()
  if not fs.exists("/etc/hosts") then return nil end
  for line in fs.read("/etc/hosts"):gmatch("[^\n]+") do
    local address, names = line:match("^([%d.:a-f]+)%s+(.*)$")
    if address == "::1" or (address and address:find("^127%.")) then
      for name in names:gmatch("%S+") do
        if name ~= "localhost" and not name:find("%.localhost$") then return name, address end
      end
    end
  end
end

test("http: a hundred requests to a new name make one look-up and no threads", function()
  local name, address = local_name()
  if not name then skip("/etc/hosts names no address of this machine") end
  local listener <close> = net.listen(address, 0)
  local answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
  task.scope(function(scope)
    task.daemon(function()
      while true do
        local stream = listener:accept()
        task.daemon(function()
          local peer_stream <close> = stream
          while peer_stream:read() do peer_stream:write(answer) end
        end)
      end
    end)
    local _, before = http.stats()
    local url = ("http://%s:%d/"):format(name, listener.port)
    local children = {}
    for i = 1, 100 do children[i] = scope:spawn(http.get, url) end
    for _, child in ipairs(children) do assert(child:join().body == "ok") end
    local again = http.get(url)
    assert(again.timing.dns == 0)
    local _, after = http.stats()
    assert(after - before == 1, "look-ups: " .. after - before)
    http.close_idle()
    scope:cancel()
  end)
end)

test("http: a POST is never sent twice by a dying connection", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/f", "file")
  local bodies = {
    none = {},
    text = { body = "once" },
    large = { body = ("x"):rep(1 << 20) },
    file = { body_path = dir.path .. "/f" },
    parts = { multipart = { { name = "a", data = "b" }, { name = "f", path = dir.path .. "/f" } } },
  }
  for key, options in pairs(bodies) do
    assert(http.get(server.url .. "/echo").status == 200) -- a connection to reuse
    local err = failure(http.post, server.url .. "/drop?key=" .. key, options)
    assert(err.kind == "http" and err.sent and not err.retryable, tostring(err))
    assert(seen(server, key) == 1, key .. " was received " .. seen(server, key) .. " times")
  end
end)

test("http: what may be repeated is repeated on a dying connection", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/f", "file")
  local function survives(key, method, options)
    assert(http.get(server.url .. "/echo").status == 200)
    local res = http.request(method, server.url .. "/drop-once?key=" .. key, options)
    assert(res.body == "at last" and seen(server, key) == 2, key)
  end
  survives("get", "GET")
  survives("put", "PUT", { body = "x" })
  survives("file", "PUT", { body_path = dir.path .. "/f" })
  survives("keyed", "POST", { body = "x", headers = { ["Idempotency-Key"] = "1" } })
  survives("asked", "POST", { body = "x", at_most_once = false })
  assert(http.get(server.url .. "/echo").status == 200)
  local err = failure(http.get, server.url .. "/drop-once?key=never", { at_most_once = true })
  assert(err.sent and not err.retryable and seen(server, "never") == 1)
end)

test("http: cancelling lets go in every phase", function()
  local server <close> = peer.start()
  local silent <close> = net.listen("127.0.0.1", 0)
  local dir <close> = fs.tmpdir()
  local secure = "https://127.0.0.1:" .. silent.port .. "/"
  fs.write(dir.path .. "/big", ("x"):rep(4 << 20))
  local one = { limit = 1, group = "cancel" }
  local phases = {
    queued = function()
      task.scope(function(scope)
        scope:spawn(http.get, server.url .. "/hang", one)
        task.yield()
        http.get(server.url .. "/hang", one)
      end)
    end,
    resolving = function() http.get("http://slow-to-find.invalid/") end,
    connecting = function() http.get(secure) end,
    sending = function() http.post(server.url .. "/deaf", { body_path = dir.path .. "/big" }) end,
    waiting = function() http.get(server.url .. "/hang") end,
    receiving = function() http.get(server.url .. "/stall", { save = dir.path .. "/out" }) end,
  }
  for name, fn in pairs(phases) do
    local limit = name == "resolving" and 0 or 0.05
    local start = task.now()
    local ok, err = pcall(task.timeout, limit, fn)
    assert(not ok and (err.kind == "timeout" or err.kind == "dns"), name .. ": " .. tostring(err))
    assert(task.now() - start < 20, name)
  end
  assert(#fs.list(dir.path) == 1)
  for key, host in pairs((http.stats())) do
    assert(host.active == 0 and host.queued == 0, key)
  end
  assert(http.get(server.url .. "/echo").status == 200)
end)

test("http: a cancelled waiter gives up its place, the others move up", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, limit = 1 }
  task.scope(function(scope)
    local first = scope:pspawn(client.get, client, "/hang")
    local second = scope:pspawn(client.get, client, "/echo?key=second")
    local third = scope:spawn(client.get, client, "/echo?key=third")
    task.yield()
    second:cancel()
    first:cancel()
    assert(third:join().status == 200)
  end)
  assert(seen(server, "second") == 0 and seen(server, "third") == 1)
end)

test("http: a thousand requests pass through the cap of a host", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, limit = 16 }
  local list = {}
  for i = 1, 1000 do list[i] = i end
  local results = task.map(list, function(i)
    return client:post("/busy?seconds=0.001", { body = tostring(i) }).status
  end, { limit = 1000 })
  for i = 1, 1000 do assert(results[i] == 200) end
  local facts = http.get(server.url .. "/busiest"):json()
  assert(facts.most <= 16, "at once: " .. facts.most)
  assert(facts.connections <= 17, "connections: " .. facts.connections)
  for key, host in pairs((http.stats())) do
    if key:find("client") and key:find(server.port, 1, true) then
      assert(host.limit == 16 and host.started == 1000 and host.p50 <= host.p99)
    end
  end
end)

test("http: a burst wider than one multi handle keeps its connections", function()
  local server <close> = peer.start()
  local list = {}
  for i = 1, 300 do list[i] = i end
  local function burst()
    return task.map(list, function()
      return http.get(server.url .. "/together?count=300", { limit = 300 })
    end, { limit = 300 })
  end
  burst()
  local made = http.get(server.url .. "/busiest"):json().connections
  local reused = 0
  for _, res in ipairs(burst()) do
    if res.timing.reused then reused = reused + 1 end
  end
  assert(made >= 257 and reused >= 290, made .. " made, " .. reused .. " reused")
end)

test("http: a server is reached through its Unix socket", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/s"
  local server <close> = peer.start("--unix", path)
  assert(server.url == nil)
  local seen_there = http.post("http://localhost/echo", { unix = path, body = "hi" }):json()
  assert(seen_there.text == "hi" and seen_there.headers.host == "localhost")
  local err = failure(http.get, "http://localhost/", { unix = dir.path .. "/none" })
  assert(err.kind == "connect" and err.code == "ENOENT" and err.sent == false, tostring(err))
  assert(tostring(err):find(dir.path .. "/none", 1, true))
end)

test("http: TLS is verified, with a bundle of one's own or not at all", function()
  local dir <close> = fs.tmpdir()
  local ca, certificate, key = certificates.make(dir.path)
  local server <close> = peer.start("--tls", certificate, key)
  local err = failure(http.post, server.url .. "/echo?token=s3cret", { body = "x" })
  assert(err.kind == "tls" and err.sent == false and not err.retryable, tostring(err))
  assert(tostring(err):find("certificate") and not tostring(err):find("s3cret"), tostring(err))

  local res = http.get(server.url .. "/echo", { ca_file = ca })
  assert(res.status == 200 and res.timing.tls > 0)
  assert(http.get(server.url .. "/echo", { ca_file = ca }).timing.reused)
  assert(http.get(server.url .. "/echo", { verify = false }).status == 200)
  -- What was accepted unverified is not reused where verification is asked for.
  assert(failure(http.get, server.url .. "/echo").kind == "tls")
  -- The certificate names 127.0.0.1 alone.
  err = failure(http.get, "https://localhost:" .. server.port .. "/", { ca_file = ca })
  assert(err.kind == "tls", tostring(err))
  err = failure(http.get, server.url, { ca_file = dir.path .. "/none" })
  assert(err.kind == "tls", tostring(err))
  err = failure(http.get, (server.url:gsub("https", "http")))
  assert(err.kind == "http", tostring(err))

  local plain <close> = peer.start()
  err = failure(http.get, (plain.url:gsub("http", "https")), { timeout = 5 })
  assert(err.kind == "tls", tostring(err))
end)

local function peak_kilobytes()
  return tonumber(fs.read("/proc/self/status"):match("VmHWM:%s*(%d+)"))
end

test("http: large files go up and down in flat memory", function()
  local server <close> = peer.start()
  local dir <close> = fs.tmpdir()
  local size = 64 << 20
  http.get(server.url .. "/bytes?n=1000", { save = dir.path .. "/warm" })
  local before = peak_kilobytes()
  http.get(server.url .. "/bytes?n=" .. size, { save = dir.path .. "/big" })
  local sum = process.run({ "sha256sum", dir.path .. "/big" }).stdout:match("^%x+")
  local up = http.put(server.url .. "/echo", { body_path = dir.path .. "/big" }):json()
  assert(up.size == size and up.sha256 == sum)
  up = http.post(server.url .. "/echo", {
    multipart = { { name = "f", path = dir.path .. "/big" } },
  }):json()
  assert(up.size > size)
  local grown = peak_kilobytes() - before
  assert(grown < 12 * 1024, "grew by " .. grown .. " kB")
end)

test("http: proxies are used when asked for, and never for loopback otherwise", function()
  local server <close> = peer.start()
  -- The peer answers a proxied request as one to itself.
  local res = http.get("http://nowhere.invalid/echo", { proxy = server.url })
  assert(res:json().path == "http://nowhere.invalid/echo" or res.status == 200)
  local script = [[
    local http = require "sbx.http"
    print(http.get(arg[1] .. "/echo").status)
    print(pcall(http.get, "http://nowhere.invalid/echo", { connect_timeout = 5 }))
  ]]
  local child = process.run({ os.getenv("SBXLUA") or "/proc/self/exe", "-e", script, server.url }, {
    env = { http_proxy = "http://127.0.0.1:1" },
  })
  assert(child.stdout:find("^200\nfalse\tGET http://nowhere.invalid/echo: connection refused"),
    child.stdout .. child.stderr)
end)

test("http: an unfinished request does not hold up the end of its task", function()
  local server <close> = peer.start()
  task.scope(function(scope)
    for _ = 1, 20 do scope:spawn(http.get, server.url .. "/hang?key=hang") end
    while tonumber(http.get(server.url .. "/seen?of=hang").body) < 20 do task.yield() end
    scope:cancel()
  end)
  collectgarbage()
end)
