-- Engines that are not there, that refuse, and that make no sense; those are played by a
-- few lines of answers on a socket.

local docker = require("sbx.server.driver.docker")
local engines = require("sbx.server.driver.docker.engine")
local fs = require("sbx.fs")
local hijack = require("sbx.server.driver.docker.hijack")
local images = require("sbx.server.driver.docker.images")
local core_stream = require("sbx.core.stream")
local host = require("sbx.core.host")
local net = require("sbx.net")
local network = require("sbx.server.driver.docker.network")
local process = require("sbx.process")
local task = require("sbx.task")

local function problem_of(socket)
  local report = docker.open({ argument = socket }):check()
  assert(not report.ok and #report.problems == 1)
  return report.problems[1]
end

local function answer(status, body, headers)
  return ("HTTP/1.1 %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s"):format(
    status, headers or "", #body, body)
end

local PONG = answer("200 OK", "OK", "Api-Version: 1.41\r\n")

-- Runs `fn(socket, requests)` against an engine that says `answers[path]` to a request
-- for that path, whatever its version and query; `requests` lists what was asked.
local function with_engine(answers, fn)
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local socket, requests = folder.path .. "/engine.sock", {}
  local listener <close> = net.listen_unix(socket)
  task.scope(function(scope)
    scope:spawn(function()
      while true do
        local peer <close> = listener:accept()
        local head = ""
        while not head:find("\r\n\r\n", 1, true) do
          head = head .. (peer:read() or "\r\n\r\n")
        end
        local path = head:match("^%u+ ([^ ?]+)")
        if path then
          requests[#requests + 1] = head
          peer:write(answers[path:gsub("^/v[%d.]+", "")] or answer("404 Not Found", "{}"))
          peer:shutdown()
        end
      end
    end)
    fn(socket, requests)
    scope:cancel("done")
  end)
end

test("docker engine: what to do is said where none can be reached", function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local missing, file, stale = folder.path .. "/a", folder.path .. "/b", folder.path .. "/c"
  local text = problem_of(missing)
  assert(text:find(missing, 1, true) and text:find("no such socket", 1, true)
    and text:find("systemctl start docker", 1, true), text)
  fs.write(file, "")
  text = problem_of(file)
  assert(text:find(file, 1, true) and text:find("not running", 1, true), text)
  assert(process.run({
    "python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", stale,
  }).code == 0)
  text = problem_of(stale)
  assert(text:find(stale, 1, true) and text:find("not running", 1, true), text)
end)

test("docker engine: no permission is told from no engine", function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local socket = folder.path .. "/s"
  local listener <close> = net.listen_unix(socket)
  fs.chmod(socket, 0)
  fs.chmod(folder.path, 493) -- 0755
  -- Root may connect to everything.
  local nobody = fs.stat("/proc/self").uid == 0 and 65534 or nil
  local result = process.run({
    host.executable(), "-e", ("print(require('sbx.server.driver.docker').open { argument = %q }"
      .. ":check().problems[1])"):format(socket),
  }, { uid = nobody, gid = nobody, cwd = "/", timeout = 30 })
  assert(result.stdout:find("usermod -aG docker", 1, true), result.stdout .. result.stderr)
  listener:close()
end)

test("docker engine: what is no unix socket is refused at once", function()
  for _, argument in ipairs { "tcp://127.0.0.1:2375", "relative", "/" .. ("x"):rep(107) } do
    local ok, failure = pcall(docker.open, { argument = argument })
    assert(not ok and failure.kind == "usage" and failure.message:find("unix socket", 1, true))
  end
  assert(engines.socket_path("unix:///run/x.sock") == "/run/x.sock")
  assert(engines.socket_path("/run/x.sock") == "/run/x.sock")
end)

test("docker engine: another kind of server is not taken for one", function()
  with_engine({ ["/_ping"] = answer("200 OK", "OK") }, function(socket)
    assert(problem_of(socket):find("which API version", 1, true))
  end)
  with_engine({ ["/_ping"] = answer("500 No", '{"message":"out of order"}') }, function(socket)
    assert(problem_of(socket):find("out of order", 1, true))
  end)
  with_engine({ ["/_ping"] = "nonsense\r\n\r\n" }, function(socket)
    assert(problem_of(socket):find(socket, 1, true))
  end)
  with_engine({
    ["/_ping"] = PONG, ["/info"] = answer("200 OK", '{"OSType":"windows"}'),
  }, function(socket)
    assert(problem_of(socket):find("windows", 1, true))
  end)
end)

test("docker engine: the version is the engine's own; its words come through", function()
  with_engine({
    ["/_ping"] = answer("200 OK", "OK", "Api-Version: 1.99\r\n"),
    ["/one"] = answer("409 Conflict", '{"message":"name in\\nuse"}'),
    ["/two"] = answer("500 Error", '{"cause":"a","message":"broken","response":500}'),
    ["/three"] = answer("502 Bad", "<html>"),
    ["/four"] = answer("500 Error", ""),
  }, function(socket, requests)
    local engine = engines.open(socket)
    for path, words in pairs {
      ["/one"] = "try it: the engine says: name in use (409)",
      ["/two"] = "try it: the engine says: broken (500)",
      ["/three"] = "try it: the engine says: <html> (502)",
      ["/four"] = "try it: the engine says: it does not say why (500)",
    } do
      local ok, failure = pcall(engine.call, engine, "GET", path, { what = "try it" })
      assert(not ok and failure.kind == "process" and failure.message == words, tostring(failure))
    end
    assert(requests[2]:find("^GET /v1.99/"))
  end)
end)

test("docker engine: a pull is logged in few lines and fails in the engine's words", function()
  local layer = '{"status":"Downloading","id":"a1","progressDetail":{"current":5,"total":9}}\r\n'
  local body = '{"status":"Pulling from library/x","id":"latest"}\r\n' .. layer:rep(500)
    .. '{"status":"Status: Downloaded newer image"}\r\n'
  local found = answer("200 OK", '{"Id":"sha256:0123456789abcdef","RepoTags":null}')
  with_engine({ ["/_ping"] = PONG, ["/images/create"] = answer("200 OK", body) }, function(socket)
    local lines = {}
    local ok, failure = pcall(images.ensure, engines.open(socket), "x", function(line)
      lines[#lines + 1] = line
    end)
    assert(not ok and failure.kind == "image_pull" and failure.message:find("does not have it"))
    assert(#lines < 10 and lines[1] == "pulling x"
      and lines[#lines] == "Status: Downloaded newer image")
  end)
  local denied = layer .. '{"errorDetail":{"message":"denied: no access"},"error":"no"}\r\n'
  with_engine({ ["/_ping"] = PONG, ["/images/create"] = answer("200 OK", denied) }, function(socket)
    local ok, failure = pcall(images.ensure, engines.open(socket), "x", function() end)
    assert(not ok and failure.kind == "image_pull")
    assert(failure.message == "pull x: denied: no access; this server has no login for the"
      .. " registry: see serve --registry-credentials", failure.message)
  end)
  with_engine({ ["/_ping"] = PONG, ["/images/x:1/json"] = found }, function(socket)
    assert(images.ensure(engines.open(socket), "x:1", error).Id:find("0123456789"))
    local there, details = images.look(engines.open(socket), "x:1")
    assert(there and details:find("x:1 (0123456789ab)", 1, true))
  end)
end)

test("docker engine: one tag is pulled, with the login of its registry in a header", function()
  with_engine({ ["/_ping"] = PONG, ["/images/create"] = answer("200 OK", "") },
    function(socket, requests)
      local engine = engines.open(socket)
      for name, query in pairs {
        ["x"] = "fromImage=x&tag=latest", ["h:5000/x"] = "fromImage=h%3A5000%2Fx&tag=latest",
        ["h:5000/x:1"] = "fromImage=h%3A5000%2Fx&tag=1",
        ["x@sha256:ab"] = "fromImage=x&tag=sha256%3Aab",
      } do
        images.pull(engine, name, function() end, function()
          return { username = "ann", password = "p?>" }
        end)
        local head = requests[#requests]
        local line = head:match("^[^\r]+")
        for part in query:gmatch("[^&]+") do
          assert(line:find(part, 1, true) or line:find(part:gsub("%%2F", "/"):gsub("%%3A", ":"), 1,
            true), line)
        end
        local login = head:match("[Xx]%-[Rr]egistry%-[Aa]uth: ([%w_=-]+)\r\n")
        assert(login and not head:find("p?>", 1, true))
      end
    end)
end)

test("docker engine: names that are none never reach the engine", function()
  with_engine({ ["/_ping"] = PONG }, function(socket, requests)
    for _, name in ipairs { "", "-x", "a/../b", "a b", "a?x=1", "a#b", "a\nb", ("x"):rep(600),
      "a//b", "/x", "ä" } do
      local ok, failure = pcall(images.find, engines.open(socket), name)
      assert(not ok and failure.kind == "image_pull", name)
    end
    assert(#requests == 0)
  end)
end)

test("docker engine: a bridge on which containers meet is not taken for ours", function()
  for options, fine in pairs {
    ['{"com.docker.network.bridge.enable_icc":"false"}'] = true,
    ['{"com.docker.network.bridge.enable_icc":"true"}'] = false, ["{}"] = false, ["null"] = false,
  } do
    local found = answer("200 OK", '['
      .. '{"Name":"sbxlua-c2","Id":"c2","Created":"2026-02-02T00:00:00Z","Options":null},'
      .. '{"Name":"sbxlua-b1","Id":"b1","Created":"2026-01-01T00:00:00Z","Options":' .. options
      .. "}]")
    with_engine({ ["/_ping"] = PONG, ["/networks"] = found }, function(socket)
      local ok, result = pcall(network.ensure, engines.open(socket))
      assert(ok == fine and tostring(result):find(fine and "^sbxlua%-b1$" or "'sbxlua%-b1' does"))
    end)
  end
end)

-- --------------------------------------------------------------- hijacked streams

local function frame(channel, bytes)
  return string.pack(">Bxxx s4", channel, bytes)
end

-- What is read from a stream on which the engine writes `pieces`.
local function read_all(pieces, max)
  return task.scope(function(scope)
    local ours, theirs = core_stream.pair()
    local _ <close> = ours
    scope:spawn(function()
      for _, piece in ipairs(pieces) do
        theirs:write(piece)
        task.yield()
      end
      theirs:close()
    end)
    local stream, parts = hijack.new(ours, ""), {}
    while true do
      local bytes = stream:read(max)
      if not bytes then return table.concat(parts), stream end
      assert(bytes ~= "" and #bytes <= (max or 65536))
      parts[#parts + 1] = bytes
    end
  end)
end

test("docker engine: frames come together again however they are cut", function()
  local whole = frame(1, "abc") .. frame(2, "oh no") .. frame(1, "") .. frame(1, ("d"):rep(100000))
    .. frame(0, "e")
  local expected = "abc" .. ("d"):rep(100000) .. "e"
  assert(read_all { whole } == expected)
  assert(read_all({ whole }, 7) == expected)
  local bytes = {}
  for i = 1, 60 do
    bytes[i] = whole:sub(i, i)
  end
  bytes[61] = whole:sub(61)
  local text, stream = read_all(bytes)
  assert(text == expected and stream.complaint == "oh no")
  assert(read_all { frame(1, "ab"), "\1\0\0" } == "ab")
  assert(not pcall(read_all, { "HTTP/1.1 500 what" }))
end)

test("docker engine: the mark of another server is found behind anything", function()
  for cut = 1, 12 do
    task.scope(function(scope)
      local ours, theirs = core_stream.pair()
      local _ <close> = ours
      scope:spawn(function()
        local text = frame(1, ("\xfeMA"):rep(9)) .. frame(1, "old \xfeMARK") .. frame(1, "new")
        for at = 1, #text, cut do
          theirs:write(text:sub(at, at + cut - 1))
          task.yield()
        end
        theirs:close()
      end)
      local stream = hijack.new(ours, "")
      stream:skip_past("\xfeMARK")
      assert(stream:read(2) == "ne" and stream:read() == "w" and stream:read() == nil)
    end)
  end
end)
