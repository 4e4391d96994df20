local errors = require("sbx.errors")
local fails = require("expect").fails
local reader = require("sbx.reader")
local task = require("sbx.task")

-- A reader over `text`, cut into pieces of `size` bytes.
local function over(text, size, options)
  local at = 1
  return reader.new(function()
    if at > #text then return nil end
    local piece = text:sub(at, at + size - 1)
    at = at + size
    return piece
  end, options)
end

local function lines_of(text, size, keep)
  local found = {}
  for line in over(text, size):lines(keep) do
    found[#found + 1] = line
  end
  return table.concat(found, "|")
end

test("reader: lines are the same however the bytes are cut", function()
  local text = "one\n\ntwo three\nlast"
  for size = 1, #text + 1 do
    assert(lines_of(text, size) == "one||two three|last", size)
    assert(lines_of(text, size, true) == "one\n|\n|two three\n|last", size)
  end
  assert(lines_of("", 1) == "")
  assert(lines_of("\n", 1) == "" and over("\n", 1):line() == "")
end)

test("reader: bytes gives the number asked for, fewer only at the end", function()
  for size = 1, 8 do
    local from = over("abcdefg", size)
    assert(from:bytes(0) == "")
    assert(from:bytes(3) == "abc")
    assert(from:bytes(9) == "defg")
    assert(from:bytes(1) == nil and from:bytes(0) == nil)
  end
end)

test("reader: some, peek, unread and all share one buffer", function()
  local from = over("abcdef", 4)
  assert(from:some(2) == "ab" and from:peek() == "cd")
  from:unread("XY")
  assert(from:some() == "XYcd")
  assert(from:all() == "ef" and from:all() == "" and from:line() == nil)
end)

test("reader: an empty piece is not the end", function()
  local pieces = { "", "a\n", "", "b" }
  local from = reader.new(function()
    return table.remove(pieces, 1)
  end)
  assert(from:line() == "a" and from:bytes(1) == "b" and from:some() == nil)
end)

test("reader: a line over the limit raises, one at the limit does not", function()
  assert(over("12345\n", 2, { max_line = 5 }):line() == "12345")
  for _, text in ipairs({ "123456\n", "123456" }) do
    for size = 1, 7 do
      local from = over(text, size, { max_line = 5 })
      local ok, err = pcall(from.line, from)
      assert(not ok and errors.is_error(err) and err.kind == "limit", text)
      assert(tostring(err) == "read a line: it is longer than 5 bytes")
    end
  end
  local ok, err = pcall(function()
    over("123456", 1):all(5)
  end)
  assert(not ok and err.kind == "limit")
end)

test("reader: the source's error passes through and the buffer stays", function()
  for _, method in ipairs({ "line", "bytes", "all" }) do
    local pieces = { "abc", false, "def", false, "g\n" }
    local from = reader.new(function()
      local piece = table.remove(pieces, 1)
      if piece == false then errors.raise { kind = "io", message = "gone" } end
      return piece
    end)
    for _ = 1, 2 do
      local ok, err = pcall(from[method], from, 7)
      assert(not ok and err.kind == "io", method)
    end
    assert(from:peek() == "abcdef", method)
    assert(from:line() == "abcdefg")
  end
end)

test("reader: a source that is no function is refused", function()
  local ok, err = pcall(reader.new, "text")
  assert(not ok and err:find("source: expected a function, got a string", 1, true))
end)

test("reader.of: takes what bytes can come from", function()
  local lines = { "one\n", "two" }
  local file = io.tmpfile()
  file:write("one\ntwo")
  file:seek("set")
  for _, source in ipairs({
    "one\ntwo",
    function() return table.remove(lines, 1) end,
    { read = function(self)
      self.done = not self.done
      return self.done and "one\ntwo" or nil
    end },
    file,
    reader.of("one\ntwo"),
  }) do
    local from = reader.of(source, { max_line = 3 })
    assert(from:line() == "one" and from:line() == "two" and from:line() == nil)
    assert(reader.of(from) == from)
  end
  file:close()
  for _, source in ipairs({ 1, {}, true, require("sbx.json").null }) do
    local ok, err = pcall(function()
      local _ = reader.of(source)
    end)
    assert(not ok and err:find("test_reader.lua:%d+: source: expected a string"), err)
  end
end)

test("reader: a second task is refused while one reads, and harms nothing", function()
  local gate = task.waiter("the gate")
  local pieces, at = { "ab", "cd", "ef\ngh\n" }, 0
  local r = reader.new(function()
    at = at + 1
    if at == 3 then gate:wait() end
    return pieces[at]
  end)
  local line = task.spawn(r.line, r)
  task.yield() -- it has two pieces, and waits for the next one
  for _, name in ipairs({ "line", "some", "all", "peek" }) do
    fails("read: another task is reading", r[name], r)
  end
  fails("read: another task is reading", r.bytes, r, 1)
  fails("read: another task is reading", r.unread, r, "x")
  gate:wake()
  assert(line:join() == "abcdef" and r:line() == "gh" and r:line() == nil)
end)

test("reader: one that was cancelled or failed in its source lets the next one in", function()
  local calls = 0
  local r = reader.new(function()
    calls = calls + 1
    if calls == 2 then task.sleep(60) end
    if calls == 3 then error("broken", 0) end
    return "x"
  end)
  assert(not task.move_on(0.001, r.line, r))
  fails("broken", r.line, r)
  assert(r:bytes(3) == "xxx")
end)

test("reader: what it cannot do is refused", function()
  local r = reader.of("abc")
  fails("bytes: expected a whole number of at least 0, got -1", r.bytes, r, -1)
  fails("bytes: expected a whole number", r.bytes, r)
  fails("some: expected a whole number", r.some, r, 1.5)
  fails("all: expected a number", r.all, r, "x")
  fails("unread: expected a string", r.unread, r, 5)
  assert(r:bytes(3.0) == "abc")
  for _, value in ipairs({ 5, true, false, {} }) do
    local odd = reader.new(function() return value end)
    fails("what the source returned: expected a string", odd.line, odd)
  end
end)
