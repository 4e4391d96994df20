-- Exposed ports: over HTTP and TCP, closed with their variable, refused for virtual
-- machines, and read with suspicion.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local errors = require("sbx.errors")
local http = require("sbx.http")
local json = require("sbx.json")
local log = require("sbx.log")
local local_server = require("sbx.local_server")
local net = require("sbx.net")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local function with_box(handlers, fn)
  local server <close> = api.start(handlers)
  local client <close> = server:client()
  local box = client:create({ name = "a", docker_image = "python:3.11-slim" })
  fn(server, client, box)
end

test("ports: TCP has an endpoint in place of a URL", function()
  with_box({
    expose = function(call)
      return 200, {
        exposure_id = "exp-7", sandbox_id = call.id, port = call.body.port, name = json.null,
        protocol = call.body.protocol, url = "", tls_socket = "", external_port = 30001,
        external_endpoint = "tcp.example:30001", created_at = json.null,
      }
    end,
  }, function(server, _, box)
    local exposed = box:expose(5432, { protocol = "TCP", name = "db" })
    assert(exposed.external_endpoint == "tcp.example:30001" and exposed.external_port == 30001)
    assert(exposed.protocol == "TCP" and exposed.created_at == nil)
    assert(tostring(exposed):find("tcp.example:30001", 1, true))
    local sent = server.calls[#server.calls].body
    assert(sent.protocol == "TCP" and sent.name == "db" and sent.port == 5432)
  end)
end)

test("ports: a server without TCP says so, and what it opened instead is ended", function()
  for _, said in ipairs({ json.null, "HTTP" }) do
    with_box({
      expose = function(call)
        return 200, {
          exposure_id = "exp-7", sandbox_id = call.id, port = call.body.port, name = json.null,
          protocol = said, url = "http://x/", tls_socket = "",
        }
      end,
    }, function(server, _, box)
      local err = expect.code("expose_tcp", box.expose, box, 5432, { protocol = "TCP" })
      assert(err.kind == "unsupported" and err.message:find('"HTTP"', 1, true), err.message)
      assert(server:count("unexpose") == 1)
      assert(server.calls[#server.calls].path:find("/expose/exp-7", 1, true))
      assert(box:expose(5432).url == "http://x/" and server:count("unexpose") == 1)
    end)
  end
end)

test("ports: what cannot be closed again is told, and the first failure is raised", function()
  local written = {}
  log.set_writer(function(line) written[#written + 1] = line end)
  local _ <close> = setmetatable({}, { __close = function() log.set_writer(nil) end })
  with_box({
    expose = function(call)
      return 200, { exposure_id = "exp-7", sandbox_id = call.id, port = 1, url = "http://x/" }
    end,
    unexpose = function() return 403, { detail = "not yours" } end,
  }, function(_, _, box)
    local err = expect.code("BAD_ANSWER", box.expose, box, 5432)
    assert(err.message:find("'port' is another one", 1, true))
    assert(#written == 1 and written[1]:find("cannot unexpose a port: .*not yours"), written[1])
  end)
end)

test("ports: the end of its block unexposes a port, once", function()
  with_box({}, function(server, client, box)
    do
      local _ <close> = box:expose(8000)
    end
    assert(server:count("unexpose") == 1)
    do
      local exposed <close> = box:expose(8000)
      box:unexpose(exposed)
      exposed:close()
    end
    assert(server:count("unexpose") == 2)
    do
      local _ <close> = client:list_exposed_ports()[1]
    end
    assert(server:count("unexpose") == 2, "what was listed is not ours")
    local exposed = box:expose(8000)
    client:close()
    exposed:close()
    assert(server:count("unexpose") == 3, "a closed client can still give back")
  end)
end)

test("ports: the end of a block forgives a port that is gone, and no other failure", function()
  local status = 404
  with_box({ unexpose = function() return status, { detail = "no" } end }, function(_, _, box)
    do
      local _ <close> = box:expose(8000)
    end
    status = 403
    local err = expect.failure(function()
      local _ <close> = box:expose(8000)
    end)
    assert(err.status == 403 and err.op == "unexpose")
    local _, first = pcall(function()
      local _ <close> = box:expose(8000)
      error("the first failure", 0)
    end)
    assert(first == "the first failure")
  end)
end)

test("ports: a cancelled task unexposes what the server had on its way", function()
  with_box({ expose = function() task.sleep(0.2) end }, function(server, _, box)
    expect.cancelled_once(function() return server:count("expose") == 1 end, function()
      local _ <close> = box:expose(8000)
      task.sleep(60)
    end)
    assert(server:count("expose") == 1 and server:count("unexpose") == 1)
  end)
end)

test("ports: virtual machines are refused before anything is sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("vm-1", { vm = true })
  client:get("vm-1")
  local before = #server.calls
  for _, call in ipairs({
    function() client:expose("vm-1", 8000) end,
    function() client:unexpose("vm-1", "exp-1") end,
    function() client:list_exposed_ports("vm-1") end,
  }) do
    local err = expect.failure(call)
    assert(err.kind == "unsupported" and err.message:find("vm = false", 1, true))
  end
  assert(#server.calls == before)
  assert(#client:list_exposed_ports() == 1, "the list of all is for all")
end)

test("ports: misuse names the argument", function()
  with_box({}, function(server, client, box)
    local before = #server.calls
    expect.misuse("port", box.expose, box, 0)
    expect.misuse("protocol", box.expose, box, 80, { protocol = "UDP" })
    expect.misuse("name", box.expose, box, 80, { name = ("ü"):rep(51) })
    expect.misuse("unknown option", box.expose, box, 80, { protocoll = "TCP" })
    expect.misuse("exposure", client.unexpose, client, box, 7)
    assert(#server.calls == before)
  end)
end)

test("ports: hostile answers are named by their field", function()
  local good = {
    exposure_id = "exp-1", sandbox_id = "sbx-1", port = 80, url = "http://x/", protocol = "HTTP",
  }
  local bad = {
    { "exposure_id", 7 }, { "exposure_id", "" }, { "exposure_id", ".." },
    { "exposure_id", "a\nb" }, { "sandbox_id", "sbx-2" }, { "port", "80" }, { "port", 81 },
    { "url", json.null }, { "url", "" },
    { "url", "file:///etc/passwd" }, { "url", "http://a b/" },
    { "protocol", "TCP" }, { "protocol", {} }, { "name", 4 },
    { "external_port", 1.5 }, { "external_endpoint", true },
  }
  local change
  with_box({
    expose = function()
      local answer = {}
      for name, value in pairs(good) do answer[name] = value end
      answer[change[1]] = change[2]
      return 200, answer
    end,
    list_exposed = function() return 200, change.list end,
  }, function(server, client, box)
    for _, one in ipairs(bad) do
      change = one
      local before = server:count("unexpose")
      local err = expect.code("BAD_ANSWER", box.expose, box, 80)
      assert(err.kind == "api" and err.message:find("'" .. one[1] .. "'", 1, true), err.message)
      -- Without an id there is nothing that could be taken back.
      local ids = one[1] == "exposure_id" and one[2] ~= "a\nb" and 0 or 1
      assert(server:count("unexpose") == before + ids, one[1])
    end
    for text, list in pairs({
      ["'exposures' is not a table"] = { exposures = "none" },
      ["'exposures[1]' is not an object"] = { exposures = { "x" } },
      ["'exposures[2].port' is missing"] = { exposures = {
        good, { exposure_id = "e", sandbox_id = "sbx-1", url = "" },
      } },
      ["'sandbox_id' is about another sandbox"] = { exposures = {
        { exposure_id = "e", sandbox_id = "sbx-9", url = "", port = 1 },
      } },
    }) do
      change = { list = list }
      local err = expect.code("BAD_ANSWER", client.list_exposed_ports, client, box)
      assert(err.message:find(text, 1, true), err.message)
    end
  end)
end)

-- ------------------------------------------------------------- the local server

local ECHO = [[
import socket
server = socket.create_server(("", 7000))
open("/tmp/listens", "w").close()
while True:
    peer, _ = server.accept()
    peer.sendall(peer.recv(100).upper())
    peer.close()
]]

test("ports: a real server over TCP and HTTP, until its block ends", function()
  local server = local_server.start({ stderr = function() end })
  local ok, err = pcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({ name = "tcp", docker_image = "python:3.11-slim" })
    box:wait()
    box:upload_bytes("/tmp/echo.py", ECHO)
    box:exec("nohup python /tmp/echo.py > /dev/null 2>&1 &\n"
      .. "until [ -e /tmp/listens ]; do sleep 0.05; done", { timeout = 60 })
    local port
    do
      local exposed <close> = box:expose(7000, { protocol = "TCP" })
      assert(exposed.protocol == "TCP" and #box:list_exposed_ports() == 1)
      local host
      host, port = exposed.external_endpoint:match("^(.*):(%d+)$")
      port = tonumber(port)
      assert(port == exposed.external_port)
      local stream <close> = net.connect(host, port)
      stream:write("hello")
      assert(stream:read() == "HELLO")
    end
    assert(#box:list_exposed_ports() == 0)
    assert(errors.is_error(expect.failure(function()
      local stream <close> = net.connect("127.0.0.1", port)
      assert(stream:read(), "nothing behind it")
    end)))
    do
      local exposed <close> = box:expose(7001)
      assert(http.get(exposed.url, { timeout = 60 }).status == 502)
    end
  end)
  local failures = run.finish()
  server.stop()
  if not ok then error(err, 0) end
  assert(#failures == 0, tostring(failures[1]))
end)
