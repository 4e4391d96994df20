-- Peers of the listener that take their time, or more connections than they should have.

local core = require("sbx.core.server")
local errors = require("sbx.errors")
local net = require("sbx.core.net")
local task = require("sbx.task")

-- Answers every request with the bytes of its body, until the block ends.
local function serving(options, fn)
  local listener <close> = core.listen(options)
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        local request = listener:accept()
        scope:spawn(function()
          local req <close> = request
          errors.try(function()
            req:respond(200, nil, "got " .. req:read_all(1000000))
          end)
        end)
      end
    end)
    fn(listener)
  end)
end

local function connect(listener)
  return net.connect("127.0.0.1", listener.port)
end

-- All that comes until the listener closes.
local function read_on(stream)
  local text = ""
  errors.try(function()
    repeat
      local bytes = stream:read()
      text = text .. (bytes or "")
    until not bytes
  end)
  return text
end

-- Sends byte after byte until that fails. Returns how far it came.
local function drip(stream, text, pause)
  for at = 1, #text do
    if not pcall(stream.write, stream, text:sub(at, at)) then return at end
    task.sleep(pause)
  end
  return #text
end

test("listener: a head that comes byte by byte has its time, whatever keeps coming", function()
  serving({ head_timeout = 0.3 }, function(listener)
    for _, start in ipairs { "", "GET / HT", "GET / HTTP/1.1\r\nHost: h\r\nX: " } do
      local stream <close> = connect(listener)
      stream:write(start)
      -- Thirty seconds of it, were it not cut.
      assert(task.timeout(60, drip, stream, ("a"):rep(600), 0.05) < 600)
      assert(not read_on(stream):find("200", 1, true))
    end
    local stream <close> = connect(listener)
    stream:write("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert(read_on(stream):find("got $"))
  end)
end)

test("listener: a body may take longer than a head, and so may the answer", function()
  serving({ head_timeout = 0.5 }, function(listener)
    local stream <close> = connect(listener)
    stream:write("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
    assert(drip(stream, "0123456789", 0.1) == 10)
    assert(read_on(stream):find("got 0123456789$"))
  end)
end)

test("listener: what is left of a body after the answer has its time, too", function()
  local listener <close> = core.listen { head_timeout = 0.1 }
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        local request <close> = listener:accept()
        request:respond(200, nil, "early")
      end
    end)
    local stream <close> = connect(listener)
    stream:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
    -- A minute of it, were it not cut.
    assert(task.timeout(60, drip, stream, ("x"):rep(1200), 0.05) < 1200)
    -- Who sends the rest soon gets the answer, and may go on.
    local quick <close> = connect(listener)
    for _ = 1, 2 do
      quick:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
      task.sleep(0.1)
      quick:write("cde")
      assert(quick:read():find("early", 1, true))
      task.sleep(0.5)
    end
  end)
end)

test("listener: a connection between requests may idle longer than a head", function()
  serving({ head_timeout = 0.5 }, function(listener)
    local stream <close> = connect(listener)
    for _ = 1, 3 do
      stream:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
      local text = ""
      repeat
        text = text .. assert(stream:read())
      until text:find("got x", 1, true)
      task.sleep(1)
    end
  end)
end)

test("listener: slow heads do not hold up others", function()
  serving({ head_timeout = 5 }, function(listener)
    local slow = {}
    for index = 1, 100 do
      slow[index] = connect(listener)
      slow[index]:write("GET / HTTP/1.1\r\nHo")
    end
    for _ = 1, 20 do
      local stream <close> = connect(listener)
      stream:write("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
      assert(read_on(stream):find("got $"))
    end
    for _, stream in ipairs(slow) do
      stream:close()
    end
  end)
end)

test("listener: one peer has so many connections, and may have another when one ends", function()
  serving({ max_per_peer = 3 }, function(listener)
    local function asks(stream)
      return errors.try(function()
        stream:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        local text = ""
        repeat
          text = text .. assert(stream:read(), "cut")
        until text:find("got x", 1, true)
        return true
      end)
    end
    local held = {}
    for index = 1, 3 do
      held[index] = connect(listener)
      assert(asks(held[index]))
    end
    for _ = 1, 5 do
      local stream <close> = connect(listener)
      assert(not asks(stream))
    end
    held[1]:close()
    task.timeout(60, function()
      local done
      repeat
        local stream <close> = connect(listener)
        done = asks(stream)
      until done
    end)
    for _, stream in ipairs(held) do
      stream:close()
    end
  end)
end)

test("listener: thousands of requests in one piece are answered one after the other", function()
  serving({}, function(listener)
    local count = 5000
    local stream <close> = connect(listener)
    local other <close> = connect(listener)
    local text = ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"):rep(count)
    task.scope(function(scope)
      scope:spawn(function()
        stream:write(text)
        stream:write("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
      end)
      -- Somebody else gets an answer meanwhile.
      other:write("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
      assert(read_on(other):find("got $"))
      local _, answers = read_on(stream):gsub("got x", "")
      assert(answers == count, answers)
    end)
  end)
end)

test("listener: thousands of requests of one who reads no answer hold up nobody", function()
  serving({}, function(listener)
    local stream <close> = connect(listener)
    local body = ("y"):rep(10000)
    local text = ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" .. body):rep(100)
    task.scope(function(scope)
      scope:daemon(function()
        while true do
          stream:write(text)
        end
      end)
      for _ = 1, 50 do
        local other <close> = connect(listener)
        other:write("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert(read_on(other):find("got $"))
      end
    end)
  end)
end)

test("listener: limits that make no sense are told", function()
  for _, options in ipairs {
    { head_timeout = 0 }, { head_timeout = -1 }, { head_timeout = 1e9 }, { head_timeout = 0 / 0 },
    { max_per_peer = -1 }, { max_per_peer = 1.5 },
  } do
    assert(not pcall(core.listen, options))
  end
end)
