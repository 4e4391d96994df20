local core = require("sbx.core.server")
local errors = require("sbx.errors")
local http = require("sbx.server.http")
local json = require("sbx.json")
local net = require("sbx.core.net")
local process = require("sbx.process")
local task = require("sbx.task")

-- A client of raw bytes: sends `text`, keeps the connection.
local function connect(listener, text)
  local stream = net.connect("127.0.0.1", listener.port)
  if text then stream:write(text) end
  return stream
end

-- All that the peer sends until it closes, or until `pattern` has come.
local function receive(stream, pattern)
  local got = ""
  while not (pattern and got:find(pattern)) do
    local bytes = stream:read()
    if not bytes then break end
    got = got .. bytes
  end
  return got
end

local function curl(listener, path, ...)
  local url = ("http://127.0.0.1:%d%s"):format(listener.port, path)
  return process.run { "curl", "-sS", "-m", "20", "--path-as-is", url, ... }
end

-- Runs `answer(request)` for every request while `fn(listener)` runs.
local function serving(answer, fn)
  local listener <close> = core.listen {}
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        local request = listener:accept()
        scope:spawn(function()
          local req <close> = request
          answer(req)
        end)
      end
    end)
    fn(listener)
  end)
end

local function fails(kind, code, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "expected a failure")
  assert(errors.is_error(err), tostring(err))
  assert(err.kind == kind and (not code or err.code == code), tostring(err))
end

local function misuse(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok and type(err) == "string" and err:find(pattern), tostring(err))
end

test("listener: tells method, path, query and headers", function()
  serving(function(request)
    request:respond(200, { ["X-Seen"] = request.headers["x-two"] }, json.encode({
      request.method, request.path, request.raw_path, request.raw_query, request.query,
      request.remote,
    }))
  end, function(listener)
    local out = curl(listener, "/a%20b/%zz//c+d?x=1&x=%41+b&y&&=e&z=%", "-i",
      "-H", "X-Two: one", "-H", "x-two: two").stdout
    assert(out:find("\r\nX-Seen: one, two\r\n", 1, true), out)
    local seen = json.decode(out:match("\r\n\r\n(.*)"))
    assert(seen[1] == "GET" and seen[2] == "/a b/%zz//c+d" and seen[3] == "/a%20b/%zz//c+d")
    assert(seen[4] == "x=1&x=%41+b&y&&=e&z=%" and seen[6] == "127.0.0.1")
    local query = seen[5]
    assert(query.x[1] == "1" and query.x[2] == "A b" and query.y[1] == "")
    assert(query[""][1] == "e" and query.z[1] == "%")
  end)
end)

test("listener: takes the absolute form of a target", function()
  serving(function(request)
    request:respond(200, nil, request.path .. "?" .. request.query.q[1])
  end, function(listener)
    local stream <close> = connect(listener,
      "GET http://h/p?q=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert(receive(stream):find("\r\n\r\n/p?1", 1, true))
  end)
end)

test("listener: hands a body over in order and bounded", function()
  serving(function(request)
    assert(request:read_all(100000) == ("x"):rep(100000))
    assert(request:read() == nil)
    request:respond(200, nil, "fine")
  end, function(listener)
    local length = connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    length:write(("x"):rep(100000))
    assert(receive(length, "fine"):find("200 OK"))
    length:close()
    local chunked <close> =
      connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ = 1, 1000 do
      chunked:write("64\r\n" .. ("x"):rep(100) .. "\r\n")
    end
    chunked:write("0\r\n\r\n")
    assert(receive(chunked, "fine"):find("200 OK"))
  end)
end)

test("listener: read_all raises limit, announced or not, and answers 413", function()
  serving(function(request)
    fails("limit", nil, request.read_all, request, 999)
    request:respond(413)
  end, function(listener)
    local body = ("x"):rep(1000)
    local heads = {
      "Content-Length: 1000\r\n\r\n" .. body,
      "Transfer-Encoding: chunked\r\n\r\n3e8\r\n" .. body .. "\r\n0\r\n\r\n",
    }
    for _, head in ipairs(heads) do
      local stream <close> = connect(listener, "PUT / HTTP/1.1\r\nHost: h\r\n" .. head)
      assert(receive(stream, "\r\n\r\n"):find("^HTTP/1.1 413"))
    end
    assert(curl(listener, "/", "--data-binary", ("y"):rep(5000), "-w", "%{http_code}").stdout
      == "413")
  end)
end)

test("listener: an answer without reading keeps the connection in step", function()
  local count = 0
  serving(function(request)
    count = count + 1
    request:respond(200, nil, "answer " .. count)
  end, function(listener)
    local stream <close> = connect(listener)
    for i = 1, 3 do
      stream:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\n\r\n")
      stream:write(("GET /x HTTP/1.1\r\n"):rep(50000):sub(1, 500000))
      assert(receive(stream, "answer " .. i))
    end
    assert(count == 3)
  end)
end)

test("listener: sends 100 when the handler reads, not before", function()
  local gate = task.waiter("the client has looked")
  serving(function(request)
    if request.path == "/no" then return request:respond(401) end
    gate:wait()
    request:respond(200, nil, request:read_all(10))
  end, function(listener)
    local stream <close> = connect(listener, "POST /yes HTTP/1.1\r\nHost: h\r\n"
      .. "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    local early = task.move_on(0.05, stream.read, stream)
    assert(not early)
    gate:wake()
    assert(receive(stream, "\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n")
    stream:write("ok")
    assert(receive(stream, "ok$"))
    local refused <close> = connect(listener, "POST /no HTTP/1.1\r\nHost: h\r\n"
      .. "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    local answer = receive(refused)
    assert(answer:find("^HTTP/1.1 401") and answer:find("Connection: close"))
  end)
end)

test("listener: reads forms part by part", function()
  serving(function(request)
    request:form()
    local parts = {}
    while true do
      local bytes, name, filename, number = request:read()
      if not bytes then break end
      local part = parts[number] or { name = name, filename = filename, size = 0, text = "" }
      part.size = part.size + #bytes
      if part.size < 100 then part.text = part.text .. bytes end
      parts[number] = part
    end
    request:respond(200, nil, json.encode(parts))
  end, function(listener)
    local every = {}
    for i = 0, 255 do
      every[i + 1] = string.char(i)
    end
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(table.concat(every):rep(2000), "\r\n--", "\r\n-")
    file:close()
    local out = curl(listener, "/", "-F", "file=@" .. path .. ";filename=a b.bin", "-F", "note=hi",
      "-F", "empty=").stdout
    os.remove(path)
    local parts = json.decode(out)
    assert(#parts == 3, out)
    assert(parts[1].name == "file" and parts[1].filename == "a b.bin")
    assert(parts[1].size == 256 * 2000 + 7)
    assert(parts[2].name == "note" and parts[2].text == "hi" and not parts[2].filename)
    assert(parts[3].name == "empty" and parts[3].size == 0)
  end)
end)

test("listener: refuses forms that are none", function()
  serving(function(request)
    if request.path == "/type" then
      fails("http", "EINVAL", request.form, request)
    else
      request:form()
      fails("http", "EPROTO", function()
        while request:read() do
        end
      end)
    end
    request:respond(400, nil, "refused")
  end, function(listener)
    local types = {
      "text/plain", "multipart/form-data", 'multipart/form-data; boundary="',
      'multipart/form-data; boundary=""', "multipart/form-data; boundary=" .. ("b"):rep(71),
    }
    for _, kind in ipairs(types) do
      local out = curl(listener, "/type", "-H", "Content-Type: " .. kind, "-d", "--x\r\n").stdout
      assert(out == "refused", kind)
    end
    local unfinished = '--bb\r\nContent-Disposition: form-data; name="a"\r\n\r\nno end'
    for _, body in ipairs { "--bb\r\nnonsense", "--bb\rx", unfinished } do
      local out = curl(listener, "/", "-H", "Content-Type: multipart/form-data; boundary=bb",
        "--data-binary", body).stdout
      assert(out == "refused", body)
    end
  end)
end)

test("listener: streams with and without a length, and answers HEAD", function()
  serving(function(request)
    local length = request.path == "/known" and 300000 or nil
    request:start(200, { ["X-Kind"] = "stream" }, length)
    for _ = 1, 3 do
      request:write(("s"):rep(100000))
    end
    request:write("")
    request:finish()
  end, function(listener)
    for _, path in ipairs { "/known", "/open" } do
      assert(curl(listener, path).stdout == ("s"):rep(300000))
      local head = curl(listener, path, "-I").stdout
      assert(head:find("X-Kind: stream", 1, true))
      assert((head:find("Content-Length: 300000", 1, true) ~= nil) == (path == "/known"))
      local old = curl(listener, path, "--http1.0").stdout
      assert(old == ("s"):rep(300000))
    end
  end)
end)

test("listener: cuts a stream that is short, abandoned or interrupted", function()
  serving(function(request)
    request:start(200, nil, request.path == "/short" and 10 or nil)
    request:write("12345")
    if request.path == "/short" then misuse("incomplete", request.finish, request) end
  end, function(listener)
    for _, path in ipairs { "/short", "/open" } do
      local result = curl(listener, path)
      assert(result.code == 18 and result.stdout == "12345", result.stderr)
    end
  end)
end)

test("listener: refuses misuse and keeps going", function()
  serving(function(request)
    misuse("expected 200 to 599", request.respond, request, 99)
    misuse("bad header name", request.respond, request, 200, { ["a b"] = "c" })
    misuse("control character", request.respond, request, 200, { a = "b\r\nc: d" })
    misuse("set by the listener", request.respond, request, 200, { ["content-length"] = "1" })
    misuse("not a string", request.respond, request, 200, { a = {} })
    misuse("no answer was started", request.write, request, "x")
    misuse("no answer was started", request.finish, request)
    misuse("out of range", request.read_all, request, -1)
    request:respond(200, { ["X-Number"] = 7, ["X-Empty"] = "" }, "done")
    misuse("answered already", request.respond, request, 200)
    misuse("answered already", request.start, request, 200)
    misuse("answer has begun", request.read, request)
  end, function(listener)
    assert(curl(listener, "/").stdout == "done")
  end)
  misuse("unknown option 'prot'", core.listen, { prot = 1 })
  misuse("port: expected 0 to 65535", core.listen, { port = 70000 })
  fails("io", "EINVAL", core.listen, { host = "example.org" })
end)

test("listener: an address in use is told", function()
  local first <close> = core.listen {}
  fails("io", "EADDRINUSE", core.listen, { port = first.port })
end)

test("listener: a request nobody answers gets a 500", function()
  local listener <close> = core.listen {}
  local stream <close> = connect(listener, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
  do
    local request = listener:accept()
    assert(request.path == "/")
  end
  collectgarbage()
  collectgarbage()
  assert(receive(stream, "}"):find("^HTTP/1.1 500"))
end)

test("listener: is closed when it is collected, but not under a request", function()
  local held = {} -- the only reference to the request
  local function accept_one()
    local listener = core.listen {}
    local stream = connect(listener, "GET /one HTTP/1.1\r\nHost: h\r\n\r\n")
    held.request = listener:accept()
    return stream
  end
  local stream <close> = accept_one()
  collectgarbage()
  collectgarbage()
  held.request:respond(200, nil, "still here")
  assert(receive(stream, "still here"))
  held.request = nil
  collectgarbage()
  collectgarbage()
  assert(receive(stream) == "")
end)

test("listener: tells a handler that the client has gone", function()
  local listener <close> = core.listen {}
  local stream = connect(listener, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
  local request <close> = listener:accept()
  assert(not request.gone)
  stream:close()
  task.timeout(60, function()
    while not request.gone do
      task.yield()
    end
  end)
  request:respond(200, nil, "to nobody")
end)

test("listener: a client that leaves in the middle of its body ends the read", function()
  local listener <close> = core.listen {}
  local stream = connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
  local request <close> = listener:accept()
  assert(request:read() == "abc")
  task.gather {
    function() fails("http", "ECONNRESET", request.read, request) end,
    function() stream:close() end,
  }
  assert(request.gone)
  fails("http", "ECONNRESET", request.read_all, request, 10)
  request:respond(200)
end)

test("listener: a client that leaves in the middle of an answer ends the write", function()
  local listener <close> = core.listen {}
  local stream = connect(listener, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
  local request <close> = listener:accept()
  request:start(200)
  task.gather {
    function()
      fails("http", "ECONNRESET", function()
        while true do
          request:write(("x"):rep(100000))
        end
      end)
    end,
    function()
      receive(stream, "xxx")
      stream:close()
    end,
  }
  fails("http", "ECONNRESET", request.write, request, "x")
end)

test("listener: cancelled waits leave everything usable", function()
  local listener <close> = core.listen {}
  assert(not task.move_on(0.02, listener.accept, listener))
  local stream <close> =
    connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
  local request <close> = listener:accept()
  assert(not task.move_on(0.02, request.read, request))
  assert(not task.move_on(0.02, request.read_all, request, 5))
  stream:write("ok")
  assert(request:read() == "ok" and request:read() == nil)
  request:start(200)
  local big = ("b"):rep(1 << 26)
  assert(not task.move_on(0.1, request.write, request, big))
  fails("http", "ECONNRESET", request.write, request, "more")
  assert(#receive(stream) < #big)
end)

test("listener: closing wakes who waits and frees the port", function()
  local listener = core.listen {}
  local stream <close> =
    connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
  local idle <close> = connect(listener)
  local request <close> = listener:accept()
  task.gather {
    function() fails("io", "EBADF", listener.accept, listener) end,
    function() fails("http", "ECONNRESET", request.read, request) end,
    function()
      task.yield()
      listener:close()
    end,
  }
  assert(request.gone and receive(stream) == "" and receive(idle) == "")
  assert(listener.port == nil)
  fails("io", "EBADF", listener.accept, listener)
  listener:close()
  request:respond(200)
end)

test("listener: an answer given just before closing arrives", function()
  local listener = core.listen {}
  local stream <close> = connect(listener, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
  local waiting <close> = connect(listener, "GET /never HTTP/1.1\r\nHost: h\r\n\r\n")
  listener:accept():respond(200, nil, ("last"):rep(10000))
  listener:close()
  assert(receive(stream):find("lastlast$"))
  assert(receive(waiting) == "")
end)

test("listener: a client that leaves before it is accepted is passed over", function()
  local listener <close> = core.listen {}
  task.scope(function(scope)
    local accepted = scope:spawn(function()
      return listener:accept()
    end)
    for i = 1, 20 do
      local _ <close> = connect(listener,
        "POST /left HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n" .. i)
    end
    local stay <close> = connect(listener, "GET /stays HTTP/1.1\r\nHost: h\r\n\r\n")
    local request = accepted:join()
    while request.path == "/left" do
      request:close()
      request = listener:accept()
    end
    request:respond(200, nil, "found")
    assert(receive(stay, "found"))
  end)
end)

test("listener: one task at a time may accept, read or write", function()
  local listener <close> = core.listen {}
  local stream <close> =
    connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
  local request <close> = listener:accept()
  task.scope(function(scope)
    scope:daemon(listener.accept, listener)
    scope:daemon(request.read, request)
    task.yield()
    misuse("another task is accepting", listener.accept, listener)
    misuse("another task is reading", request.read, request)
  end)
  stream:write("ok")
  request:start(200)
  task.scope(function(scope)
    scope:daemon(request.write, request, ("x"):rep(1 << 26))
    task.yield()
    misuse("another task is writing", request.write, request, "y")
  end)
end)

test("listener: a closed request ends its readers", function()
  local listener <close> = core.listen {}
  local stream <close> =
    connect(listener, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
  local request = listener:accept()
  assert(request:read() == "ab")
  request:close()
  request:close()
  fails("io", "EBADF", request.read, request)
  fails("io", "EBADF", request.respond, request, 200)
  assert(request.gone and receive(stream, "}"):find("^HTTP/1.1 500"))
end)

test("listener: keeps connections alive and answers pipelined requests in order", function()
  serving(function(request)
    request:respond(200, nil, request.path)
  end, function(listener)
    local stream <close> = connect(listener)
    local text = {}
    for i = 1, 50 do
      text[i] = ("GET /n%d HTTP/1.1\r\nHost: h\r\n\r\n"):format(i)
    end
    stream:write(table.concat(text))
    local got = receive(stream, "/n50$")
    local i = 0
    for n in got:gmatch("/n(%d+)") do
      i = i + 1
      assert(tonumber(n) == i)
    end
    assert(i == 50)
  end)
end)

test("listener: a thousand requests over fifty connections", function()
  local served = 0
  serving(function(request)
    served = served + 1
    request:respond(200, nil, request:read_all(100))
  end, function(listener)
    local workers = {}
    for w = 1, 50 do
      workers[w] = function()
        local stream <close> = connect(listener)
        for i = 1, 20 do
          local body = ("w%di%d"):format(w, i)
          stream:write(("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s"):format(
            #body, body))
          assert(receive(stream, body .. "$"):find("^HTTP/1.1 200"))
        end
      end
    end
    task.gather(workers)
    assert(served == 1000)
  end)
end)

test("http.router: literals go before parameters, whatever the order", function()
  local function named(name)
    return { name, function() return name end }
  end
  local routes = {}
  for _, route in ipairs {
    { "GET", "/sandbox/{id}" }, { "DELETE", "/sandbox/{id}" }, { "DELETE", "/sandbox" },
    { "POST", "/sandbox/status:batchGet" }, { "GET", "/sandbox/expose/all" },
    { "GET", "/sandbox/{id}/logs" }, { "DELETE", "/sandbox/{id}/expose/{exposure_id}" },
  } do
    routes[#routes + 1] = { route[1], route[2], named(route[1] .. " " .. route[2])[2] }
  end
  local find = http.router(routes)
  local function name_of(method, path)
    local handler, found = find(method, path)
    return handler and handler(), found
  end

  assert(name_of("POST", "/sandbox/status:batchGet") == "POST /sandbox/status:batchGet")
  assert(name_of("POST", "/sandbox/status%3AbatchGet") == "POST /sandbox/status:batchGet")
  assert(name_of("GET", "/sandbox/expose/all") == "GET /sandbox/expose/all")
  assert(name_of("GET", "//sandbox//x/") == "GET /sandbox/{id}")
  assert(name_of("HEAD", "/sandbox/x") == "GET /sandbox/{id}")
  assert(name_of("DELETE", "/sandbox") == "DELETE /sandbox")
  local name, params = name_of("GET", "/sandbox/expose/logs")
  assert(name == "GET /sandbox/{id}/logs" and params.id == "expose")
  name, params = name_of("DELETE", "/sandbox/a%2Fb%zz/expose/e1")
  assert(name == "DELETE /sandbox/{id}/expose/{exposure_id}")
  assert(params.id == "a/b%zz" and params.exposure_id == "e1")
  local _, allowed = name_of("PUT", "/sandbox/x")
  assert(allowed == "DELETE, GET")
  assert(name_of("GET", "/nowhere") == nil and name_of("GET", "/") == nil)
  misuse("expected a function", http.router, { { "GET", "/", 7 } })
end)

test("http.serve: routes, answers JSON and hides what a handler raises", function()
  task.scope(function(scope)
    local listener <close> = http.serve {
      scope = scope,
      routes = {
        { "GET", "/ok/{id}", function(request, params)
          http.respond_json(request, 201, { id = params.id }, { ["X-More"] = "1" })
        end },
        { "GET", "/text", function() error("the secret is 42") end },
        { "GET", "/object", function() errors.raise { kind = "io", message = "the secret" } end },
        { "GET", "/late", function(request)
          request:respond(200, nil, "sent")
          error("too late")
        end },
        { "GET", "/nothing", function() end },
      },
    }
    local ok = curl(listener, "/ok/x%20y", "-i").stdout
    assert(ok:find("^HTTP/1.1 201") and ok:find('{"id":"x y"}', 1, true), ok)
    assert(ok:find("X-More: 1", 1, true) and ok:find("application/json", 1, true))
    for _, path in ipairs { "/text", "/object", "/nothing" } do
      local out = curl(listener, path, "-i").stdout
      assert(out:find("^HTTP/1.1 500") and not out:find("secret"), out)
      assert(json.decode(out:match("\r\n\r\n(.*)")).detail == "Internal Server Error")
    end
    assert(curl(listener, "/late").stdout == "sent")
    assert(curl(listener, "/none", "-i").stdout:find("^HTTP/1.1 404"))
    local wrong = curl(listener, "/text", "-i", "-X", "PUT", "-d", "x").stdout
    assert(wrong:find("^HTTP/1.1 405") and wrong:find("Allow: GET", 1, true))
  end)
end)

test("a request's account: its status, the bytes in and out, also when it is closed", function()
  local client = require("sbx.http")
  local accounts = {}
  local function account(request)
    accounts[#accounts + 1] = { request:account() }
  end
  local listener = core.listen({})
  local daemon = task.daemon(function()
    for _ = 1, 4 do
      local request = listener:accept()
      account(request)
      if request.path == "/stream" then
        request:read_all(100)
        request:start(206, nil, 9)
        request:write("1234")
        request:close()
      else
        request:respond(201, nil, "hello")
      end
      request:close()
      account(request)
    end
  end)
  local url = ("http://127.0.0.1:%d"):format(listener.port)
  client.get(url .. "/")
  client.head(url .. "/")
  client.post(url .. "/", { body = ("x"):rep(3000) })
  pcall(client.post, url .. "/stream", { body = "body" })
  daemon:join()
  listener:close()
  local texts = {}
  for index, one in ipairs(accounts) do
    texts[index] = table.concat({ one[1] or "none", one[2], one[3] }, " ")
  end
  local all = table.concat(texts, ", ")
  -- Before the answer: what had come by then.
  all = all:gsub("none %d+ 0", "none")
  assert(all == "none, 201 0 5, none, 201 0 0, none, 201 3000 5, none, 206 4 4", all)
end)
