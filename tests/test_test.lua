-- What a test claims, and what it says where that does not hold.

local errors = require("sbx.errors")
local task = require("sbx.task")
local test = require("sbx.test")

-- The failure of a claim that must not hold.
local function refused(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "the claim holds")
  assert(errors.is_error(err) and err.kind == "assertion", tostring(err))
  return err
end

local function message(fn, ...)
  return refused(fn, ...).message
end

-- ---------------------------------------------------------------------- equal

test("test: equal takes values that are equal all the way down", function()
  local loop = {}
  loop.self = loop
  local other = {}
  other.self = other
  local meta = { __eq = function(a, b) return a.n == b.n end }
  for _, pair in ipairs({
    { 1, 1.0 }, { 0 / 0, 0 / 0 }, { "a", "a" }, { true, true }, { {}, {} },
    { { 1, { 2, { 3 } } }, { 1, { 2, { 3 } } } }, { { a = 1, b = 2 }, { b = 2, a = 1 } },
    { { [1.0] = "x" }, { "x" } }, { loop, other }, { print, print },
    { setmetatable({ n = 1, x = 1 }, meta), setmetatable({ n = 1, x = 2 }, meta) },
    { setmetatable({ 1 }, {}), { 1 } },
  }) do
    test.equal(pair[1], pair[2])
  end
  test.equal(nil, nil)
end)

test("test: equal tells what is different, and where", function()
  test.contains(message(test.equal, 1, 2), "got 1, expected 2")
  test.contains(message(test.equal, 1, "1"), 'got 1, expected "1"')
  test.contains(message(test.equal, nil, false), "got nothing, expected false")
  test.contains(message(test.equal, 1, nil), "got 1, expected nothing")
  test.contains(message(test.equal, {}, 1), "got {}, expected 1")
  test.contains(message(test.equal, { 1, 2 }, { 1 }), "[2]: got 2, expected nothing")
  test.contains(message(test.equal, { a = { b = { 1 } } }, { a = { b = { 2 } } }),
    ".a.b[1]: got 1, expected 2")
  test.contains(message(test.equal, { ["a b"] = 1 }, { ["a b"] = 2 }), '["a b"]: got 1')
  test.contains(message(test.equal, 1, 2, "the sum"), "the sum: got 1, expected 2")
end)

test("test: equal tells of values that look alike", function()
  local function new()
    return function() end
  end
  local text = message(test.equal, new(), new())
  assert(text:find("got (<function.->), expected another %1$"), text)
end)

test("test: a message hides what is named like a secret", function()
  local text = message(test.equal, { { password = "hunter2" } }, { 1 })
  assert(text:find("password", 1, true) and not text:find("hunter2", 1, true), text)
end)

test("test: equal lists the first differences and counts them all", function()
  local got, expected = {}, {}
  for i = 1, 50 do
    got[i], expected[i] = i, -i
  end
  local err = refused(test.equal, got, expected)
  test.contains(err.message, "50 differences")
  test.contains(err.detail, "[1]: got 1, expected -1\n[2]: got 2, expected -2\n")
  test.contains(err.detail, "(40 more)")
end)

test("test: equal shows the lines in which texts differ", function()
  local err = refused(test.equal, "a\nb\nc\nd\ne\nf", "a\nb\nc\nx\ny\ne\nf")
  test.contains(err.message, "differs")
  test.equal(err.detail, "from line 4 on: - expected, + got\n  b\n  c\n- x\n- y\n+ d\n  e\n  f")
  err = refused(test.equal, { text = "a\nb" }, { text = "a\nc" })
  test.contains(err.detail, ".text: from line 2 on: - expected, + got\n  a\n- c\n+ b")
  err = refused(test.equal, ("x\n"):rep(100), ("y\n"):rep(100))
  test.contains(err.detail, "- (88 more lines)\n")
end)

test("test: equal shows where long texts part", function()
  local err = refused(test.equal, ("x"):rep(1000) .. "here", ("x"):rep(1000) .. "there")
  test.contains(err.detail, "at byte 1001 of 1004, expected 1005 bytes")
  assert(err.detail:find('%- "%.%.%.x+there"\n%+ "%.%.%.x+here"$'), err.detail)
end)

test("test: a message stays short and of one line, whatever the values hold", function()
  local deep = {}
  for _ = 1, 100 do
    deep = { deep, { deep }, ("x"):rep(500) }
  end
  for _, value in ipairs({
    deep, ("\0\n\27\255"):rep(1000), { [("k"):rep(1000)] = 1 }, ("ä"):rep(1000),
    setmetatable({}, { __tostring = error }), setmetatable({}, { __metatable = 1 }),
  }) do
    local text = message(test.equal, value, 1)
    assert(#text < 250 and not text:find("%c") and utf8.len(text), text)
  end
  test.contains(message(test.equal, "\27[31m\200", 1), [[got "\x1b[31m\xc8", expected 1]])
end)

test("test: equal looks at deep structures without end of stack", function()
  local a, b = {}, {}
  for _ = 1, 5000 do
    a, b = { a }, { b }
  end
  test.equal(a, b)
end)

-- --------------------------------------------------------- near and contains

test("test: near takes numbers that are close", function()
  test.near(0.1 + 0.2, 0.3)
  test.near(99, 100, 1)
  test.near(math.huge, math.huge)
  test.contains(message(test.near, 98, 100, 1), "got 98, expected 100 within 1")
  test.contains(message(test.near, 0 / 0, 1, 10), "expected 1 within 10")
  test.contains(message(test.near, "1", 1), 'got "1", expected 1')
  test.contains(message(test.near, math.huge, 1, 10, "speed"), "speed: got inf")
end)

test("test: contains looks for a piece of text, or an element", function()
  test.contains("a.b", ".")
  test.contains({ 1, { a = 2 } }, { a = 2 })
  test.contains(message(test.contains, "abc", "x"), '"abc" does not contain "x"')
  test.contains(message(test.contains, { 1, 2 }, 3), "{ 1, 2 } does not contain 3")
  local ok, err = pcall(test.contains, 5, 5)
  assert(not ok and err:find("contains: expected a text", 1, true), err)
end)

-- --------------------------------------------------------------------- raises

local function world_error()
  errors.raise { kind = "timeout", code = "ETIMEDOUT", message = "took too long" }
end

test("test: raises returns the error that it was given", function()
  test.equal(test.raises(error, nil, "x"), "x")
  test.equal(test.raises(function(...) error(select("#", ...), 0) end, "^3$", 1, 2, 3), 3)
  test.equal(test.raises(world_error, "timeout").code, "ETIMEDOUT")
  test.raises(world_error, "ETIMEDOUT")
  test.raises(world_error, "^took .* long$")
  test.raises(function() error("some text") end, "test_test.lua:%d+: some text$")
end)

test("test: raises refuses success and any other failure", function()
  test.contains(message(test.raises, type, nil, 1), "did not fail")
  test.contains(message(test.raises, function() end, "io"), "did not fail, expected io")
  test.contains(message(test.raises, error, "abc", "xyz"), 'failed with "xyz", expected abc')
  test.contains(message(test.raises, world_error, "io"),
    "failed with took too long (kind timeout), expected io")
end)

test("test: raises checks what it is given", function()
  for _, words in ipairs({ { 1 }, { print, 1 }, { print, "(" } }) do
    local ok, err = pcall(test.raises, table.unpack(words))
    assert(not ok and type(err) == "string", err)
  end
end)

test("test: raises does not take the end of the test for the failure", function()
  local finished, reached = task.move_on(0.01, function()
    test.raises(task.sleep, "io", 60)
  end)
  assert(not finished and not reached)
  test.raises(function() task.timeout(0.01, task.sleep, 60) end, "timeout")
end)

-- ----------------------------------------------------------------- the place

test("test: a claim names the line that makes it", function()
  local line = debug.getinfo(1, "l").currentline
  for name, err in pairs({
    equal = refused(function() test.equal(1, 2) end),
    near = refused(function() test.near(1, 2) end),
    contains = refused(function() test.contains("a", "b") end),
    raises = refused(function() test.raises(type, nil, 1) end),
  }) do
    local number = tonumber(err.message:match("test_test%.lua:(%d+): "))
    assert(number and number > line + 1 and number <= line + 5, name .. ": " .. err.message)
  end
end)

test("test: skip and after need a reason and a function", function()
  local ok, err = pcall(test.skip)
  assert(not ok and err:find("reason: expected a string", 1, true), err)
  ok, err = pcall(test.after, 1)
  assert(not ok and err:find("test.after: expected a function", 1, true), err)
end)
