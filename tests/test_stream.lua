local core = require("sbx.core.stream")
local errors = require("sbx.errors")
local task = require("sbx.task")

require("sbx.stream")

-- What the peer sends until it ends its side.
local function read_all(stream)
  local parts = {}
  while true do
    local part = stream:read()
    if not part then return table.concat(parts) end
    parts[#parts + 1] = part
  end
end

-- More than a socket pair's buffers hold.
local BIG = ("0123456789abcdef"):rep(256 * 1024)

test("stream: what is written arrives, and an end after it", function()
  local left, right = core.pair()
  left:write("hello")
  left:shutdown()
  assert(right:read() == "hello")
  assert(right:read() == nil)
  assert(right:read() == nil)
  right:write("back")
  assert(left:read() == "back")
  left:close()
  right:close()
end)

test("stream: a read returns at most max bytes and keeps the rest", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  left:write("hello")
  assert(right:read(2) == "he")
  assert(right:read(1) == "l")
  assert(right:read(100) == "lo")
end)

test("stream: more than the buffers hold goes through unchanged", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  local writer = task.spawn(function()
    left:write(BIG)
    left:write("")
    left:shutdown()
  end)
  assert(read_all(right) == BIG)
  writer:join()
end)

test("stream: both directions at once", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  local echo = task.spawn(function()
    local part = right:read()
    while part do
      right:write(part)
      part = right:read()
    end
    right:shutdown()
  end)
  local sender = task.spawn(function()
    left:write(BIG)
    left:shutdown()
  end)
  assert(read_all(left) == BIG)
  echo:join()
  sender:join()
end)

test("stream: a cancelled read loses nothing", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  local done = task.move_on(0.01, right.read, right)
  assert(not done)
  left:write("kept")
  assert(right:read() == "kept")
end)

test("stream: bytes that arrive as their reader is cancelled are delivered once", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  left:write("x")
  local reader = task.pspawn(right.read, right)
  task.yield()
  reader:cancel()
  local ok, seen = reader:pjoin()
  left:write("y")
  local rest = (ok and seen or "") .. right:read()
  if #rest < 2 then rest = rest .. right:read() end
  assert(rest == "xy", rest)
end)

test("stream: a cancelled write breaks the stream for writing", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  assert(not task.move_on(0.01, left.write, left, BIG))
  local ok, err = pcall(left.write, left, "more")
  assert(not ok and errors.is_error(err) and err.code == "EPIPE")
  ok, err = pcall(left.shutdown, left)
  assert(not ok and err.code == "EPIPE")
  local part = right:read()
  assert(BIG:sub(1, #part) == part)
end)

test("stream: closing wakes the reader and the writer with EBADF", function()
  local left, right = core.pair()
  local reader = task.pspawn(left.read, left)
  local writer = task.pspawn(left.write, left, BIG)
  task.yield()
  left:close()
  local ok, err = reader:pjoin()
  assert(not ok and err.code == "EBADF")
  ok, err = writer:pjoin()
  assert(not ok and err.code == "EBADF")
  left:close()
  right:close()
end)

test("stream: a closed stream refuses everything", function()
  local left, right = core.pair()
  left:close()
  right:close()
  for _, name in ipairs({ "read", "shutdown", "fileno" }) do
    local ok, err = pcall(left[name], left)
    assert(not ok and err.code == "EBADF", name)
  end
  local ok, err = pcall(left.write, left, "x")
  assert(not ok and err.code == "EBADF" and err.kind == "io")
end)

test("stream: writing to a peer that closed raises EPIPE", function()
  local left <close>, right = core.pair()
  right:close()
  local ok, err = pcall(function()
    for _ = 1, 10 do
      left:write("x")
    end
  end)
  assert(not ok and (err.code == "EPIPE" or err.code == "ECONNRESET"))
  assert(tostring(err):find("^write pair: "))
end)

test("stream: a second reader or writer is misuse", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  task.scope(function(scope)
    scope:spawn(left.read, left)
    scope:spawn(left.write, left, BIG)
    task.yield()
    local ok, err = pcall(left.read, left)
    assert(not ok and tostring(err):find("another task is reading"))
    ok, err = pcall(left.write, left, "x")
    assert(not ok and tostring(err):find("another task is writing"))
    ok, err = pcall(left.shutdown, left)
    assert(not ok and tostring(err):find("another task is writing"))
    scope:cancel()
  end)
  right:write("free again")
  assert(left:read() == "free again")
end)

test("stream: misuse raises plain errors", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  for _, call in ipairs({
    function() left:read(0) end,
    function() left:read("x") end,
    function() left:write() end,
    function() left:write({}) end,
    function() left.read({}) end,
    function() right.close(nil) end,
  }) do
    local ok, err = pcall(call)
    assert(not ok and type(err) == "string")
  end
end)

test("stream: a cancelled task cannot begin to read", function()
  local left, right <close> = core.pair()
  local _ <close> = left
  right:write("x")
  task.scope(function(scope)
    scope:cancel()
    local ok, err = pcall(left.read, left)
    assert(not ok and err.kind == "cancelled")
  end)
  assert(left:read() == "x")
end)

test("stream: a collected stream is closed", function()
  local left <close>, right = core.pair()
  assert(right)
  right = nil
  collectgarbage()
  collectgarbage()
  assert(left:read() == nil and right == nil)
end)

test("stream: a descriptor can be opened a second time", function()
  local ok, err = pcall(core.open, 1 << 20)
  assert(not ok and err.code == "EBADF")
  local left, right <close> = core.pair()
  local _ <close> = left
  local copy <close> = core.open(left:fileno())
  copy:write("through the copy")
  assert(right:read() == "through the copy")
end)

test("stream: lines and measured reads share the bytes with read", function()
  local left <close>, right = core.pair()
  right:write("one\ntwo\nthree four five\nrest")
  right:close()
  assert(left:line() == "one" and left:read(2) == "tw" and left:line(true) == "o\n")
  assert(left:bytes(6) == "three " and left:read(4) == "four" and left:lines()() == " five")
  assert(left:all() == "rest" and left:all() == "" and left:line() == nil and left:read() == nil)
  left:close()
  local ok, err = pcall(left.line, left)
  assert(not ok and err.code == "EBADF")
end)

test("stream: a line that is cancelled midway is not lost", function()
  local left <close>, right = core.pair()
  local _ <close> = right
  right:write("begin")
  assert(task.move_on(0.01, left.line, left) == false)
  assert(task.move_on(0.01, left.bytes, left, 9) == false)
  right:write(" end\nnext")
  assert(left:line() == "begin end" and left:read() == "next")
end)

test("stream: one whose lines were read is collected and closed", function()
  local left <close>, right = core.pair()
  left:write("a\nb\n")
  assert(right:line() == "a")
  right = nil
  collectgarbage()
  collectgarbage()
  assert(left:read() == nil and right == nil)
end)

test("stream: opening a pipe or a terminal leaves its sharers' blocking alone", function()
  local process = require("sbx.process")
  local code = [[
    local stream = require("sbx.core.stream").open(0)
    print(stream:read(4))
    stream:close()
  ]]
  for _, feed in ipairs({ 'printf "read"', 'mkfifo f; (printf "read"; sleep 0.3) > f & cat f' }) do
    local dir <close> = require("sbx.fs").tmpdir({ prefix = "stream-" })
    local script = feed .. ' | (cd /; "$0" -e "$1"; grep flags /proc/self/fdinfo/0)'
    local result = process.run({ "sh", "-c", script, require("sbx.core.host").executable(), code },
      { cwd = dir.path, timeout = 60 })
    local flags = result.stdout:match("^read\nflags:%s*(%d+)\n$")
    assert(flags and tonumber(flags, 8) & 0x800 == 0, result.stdout .. result.stderr)
  end
end)
