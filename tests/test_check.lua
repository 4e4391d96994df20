local check = require("sbx.check")

local function message(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "expected an error")
  return err
end

test("check: options fills in defaults and leaves the given table alone", function()
  local given = { b = 2 }
  local options = check.options(given, { a = 1, b = 1, c = check.none })
  assert(options.a == 1 and options.b == 2 and options.c == nil)
  assert(given.a == nil)
  assert(check.options(nil, { a = 1 }).a == 1)
  assert(check.options({ a = false }, { a = true }).a == false)
end)

test("check: an unknown option raises and guesses what was meant", function()
  local err = message(check.options, { timout = 1 }, { timeout = 5, name = check.none })
  assert(err:find("unknown option 'timout'", 1, true) and err:find("'timeout'", 1, true), err)
  err = message(check.options, { zzz = 1 }, { timeout = 5, name = check.none })
  assert(err:find("; there are: name, timeout", 1, true), err)
  assert(err:find("unknown option 'zzz'", 1, true) and not err:find("did you mean", 1, true))
  assert(message(check.options, { 5 }, { timeout = 5 }):find("unknown option '1'", 1, true))
  assert(message(check.options, "x", { a = 1 }):find("expected a table", 1, true))
end)

test("check: an unknown option is reported at the line of the caller", function()
  local function library(options)
    local complete = check.options(options, { a = 1 })
    return complete
  end
  local err = message(function() library({ b = 1 }) end)
  assert(err:find("^[^\n]*test_check.lua:%d+:"), err)
end)

test("check: each type passes its value on or names the argument", function()
  local samples = {
    string = "x", boolean = true, table = {}, fn = print,
  }
  for name, value in pairs(samples) do
    assert(check[name](value, "arg") == value)
    assert(message(check[name], 5, "arg"):find("arg: expected", 1, true))
    assert(message(check[name], nil, "arg"):find("got nothing", 1, true))
  end
end)

test("check: numbers within bounds", function()
  assert(check.number(1.5, "n") == 1.5 and check.number(2, "n", 2, 2) == 2)
  assert(message(check.number, 1, "n", 2):find("at least 2", 1, true))
  assert(message(check.number, 9, "n", 2, 8):find("between 2 and 8", 1, true))
  assert(message(check.number, 9, "n", nil, 8):find("at most 8", 1, true))
  assert(message(check.number, 0 / 0, "n"):find("expected a number", 1, true))
  assert(message(check.number, "1", "n"):find("expected a number", 1, true))
end)

test("check: whole numbers, also those written as floats", function()
  assert(math.type(check.integer(3.0, "n")) == "integer")
  for _, value in ipairs({ 1.5, "1", 2 ^ 70, 1 / 0 }) do
    assert(message(check.integer, value, "n"):find("whole number", 1, true))
  end
  assert(message(check.integer, 0, "n", 1, 5):find("between 1 and 5", 1, true))
end)

test("check: a method that is called with a dot says how to call it", function()
  local Box = {}
  Box.__index = Box
  function Box:name() return self.given end
  check.methods(Box, "box")
  local box = setmetatable({ given = "a" }, Box)
  assert(box:name() == "a")
  local ok, said = pcall(box.name)
  assert(not ok and said:find("write box:name(", 1, true), said)
end)

test("check: what a call of the library is given wrong is blamed on the script's line", function()
  local limit, retry, sync = require("sbx.limit"), require("sbx.retry"), require("sbx.sync")
  for _, call in ipairs({
    function() retry.call(print, { attempts = 0 }) end,
    function() limit.rate({ per_second = 1, name = 0 }) end,
    function() sync.semaphore(1):acquire(0) end,
    function() sync.mutex(5) end,
  }) do
    local line = debug.getinfo(call, "S").linedefined
    local ok, said = pcall(call)
    assert(not ok and said:find("test_check.lua:" .. line .. ": ", 1, true), tostring(said))
  end
end)
