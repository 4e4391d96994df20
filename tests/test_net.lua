local expect = dofile("tests/expect.lua")
local core = require("sbx.core.net")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local net = require("sbx.net")
local task = require("sbx.task")

local fails = expect.code

test("net: a TCP connection carries bytes both ways", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  assert(listener.port > 0)
  task.scope(function(scope)
    scope:spawn(function()
      local peer <close> = listener:accept()
      peer:write("you said " .. peer:read())
    end)
    local stream <close> = net.connect("127.0.0.1", listener.port)
    stream:write("hello")
    assert(stream:read() == "you said hello")
    assert(stream:read() == nil)
  end)
end)

test("net: a name is resolved", function()
  if not fs.exists("/etc/hosts") then skip("without /etc/hosts there is no name to resolve") end
  local listener <close> = net.listen("127.0.0.1", 0)
  local stream <close> = net.connect("localhost", listener.port)
  local peer <close> = listener:accept()
  stream:write("x")
  assert(peer:read() == "x")
  assert(net.resolve("127.0.0.1")[1] == "127.0.0.1")
end)

test("net: a Unix socket, removed when its listener closes", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/socket"
  local listener = net.listen_unix(path)
  assert(listener.port == nil)
  local stream <close> = net.connect_unix(path)
  local peer <close> = listener:accept()
  peer:write("hello")
  assert(stream:read() == "hello")
  listener:close()
  assert(not fs.exists(path))
end)

test("net: waiting accepts are served in order", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  local order = {}
  task.scope(function(scope)
    for i = 1, 3 do
      scope:spawn(function()
        local peer <close> = listener:accept()
        order[#order + 1] = i .. peer:read()
      end)
    end
    task.yield()
    for i = 1, 3 do
      local stream <close> = net.connect("127.0.0.1", listener.port)
      stream:write(tostring(i))
      assert(stream:read() == nil)
    end
  end)
  assert(table.concat(order, " ") == "11 22 33", table.concat(order, " "))
end)

test("net: connections queue until somebody accepts", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  local clients = {}
  for i = 1, 20 do
    clients[i] = net.connect("127.0.0.1", listener.port)
  end
  for i = 1, 20 do
    local peer <close> = listener:accept()
    peer:write("x")
    assert(clients[i]:read() == "x")
    clients[i]:close()
  end
end)

test("net: a cancelled accept leaves the next connection to the others", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  assert(not task.move_on(0.01, listener.accept, listener))
  local stream <close> = net.connect("127.0.0.1", listener.port)
  local peer <close> = listener:accept()
  stream:write("x")
  assert(peer:read() == "x")
end)

test("net: closing a listener wakes who waits in accept", function()
  local listener = net.listen("127.0.0.1", 0)
  local one = task.pspawn(listener.accept, listener)
  local two = task.pspawn(listener.accept, listener)
  task.yield()
  listener:close()
  for _, waiting in ipairs({ one, two }) do
    local ok, err = waiting:pjoin()
    assert(not ok and err.code == "EBADF")
  end
  fails("EBADF", listener.accept, listener)
  listener:close()
end)

test("net: a port where nobody listens refuses", function()
  local listener = net.listen("127.0.0.1", 0)
  local port = listener.port
  listener:close()
  local err = fails("ECONNREFUSED", net.connect, "127.0.0.1", port)
  assert(err.kind == "connect")
  assert(err.message == "connect tcp 127.0.0.1:" .. port .. ": connection refused")
end)

test("net: a missing Unix socket is a connect error", function()
  assert(fails("ENOENT", net.connect_unix, "/nowhere/socket").kind == "connect")
end)

test("net: a port in use cannot be listened on", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  fails("EADDRINUSE", net.listen, "127.0.0.1", listener.port)
end)

test("net: a cancelled connect lets go of its socket", function()
  -- 240.0.0.0/4 leads nowhere; whether it fails or hangs, it must end.
  local began = task.now()
  pcall(net.connect, "240.0.0.1", 9, { timeout = 0.05 })
  assert(task.now() - began < 10)
end)

test("net: a name that cannot exist is a dns error", function()
  local ok, err = pcall(net.resolve, "no-such-host.invalid")
  assert(not ok and errors.is_error(err) and err.kind == "dns", tostring(err))
end)

test("net: a cancelled look-up does not wait for its thread", function()
  task.scope(function(scope)
    scope:spawn(core.resolve, "no-such-host.invalid")
    task.yield()
    scope:cancel()
  end)
end)

test("net: misuse raises plain errors", function()
  for _, call in ipairs({
    function() net.connect("127.0.0.1", 0) end,
    function() net.connect("127.0.0.1", 65536) end,
    function() net.connect(nil, 1) end,
    function() net.connect("127.0.0.1", 1, { timout = 1 }) end,
    function() core.connect("localhost", 1) end,
    function() core.listen("127.0.0.1", -1) end,
    function() net.connect_unix(("x"):rep(108)) end,
    function() net.connect_unix("") end,
    function() net.listen_unix("a\0b") end,
    function() core.resolve(("x"):rep(300)) end,
  }) do
    local ok, err = pcall(call)
    assert(not ok and type(err) == "string", tostring(err))
  end
end)

test("net: collected listeners and streams are closed", function()
  local listener = net.listen("127.0.0.1", 0)
  local port = listener.port
  local stream <close> = net.connect("127.0.0.1", port)
  local peer = listener:accept()
  assert(peer)
  peer, listener = nil, nil
  collectgarbage()
  collectgarbage()
  assert(stream:read() == nil and peer == nil and listener == nil)
  fails("ECONNREFUSED", net.connect, "127.0.0.1", port)
end)
