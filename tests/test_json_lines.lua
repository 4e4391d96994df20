local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local harness = require("sbx.test")
local json = require("sbx.json")
local process = require("sbx.process")
local reader = require("sbx.reader")
local task = require("sbx.task")

local function values_of(source, options)
  local values = {}
  for value in json.lines(source, options) do
    values[#values + 1] = value
  end
  return values
end

test("json: lines decodes one value a line", function()
  local values = {}
  for value in json.lines('{"a":1}\n\n  \r\n[]\nfalse\r\nnull\n12') do
    values[#values + 1] = value
  end
  assert(#values == 5 and values[1].a == 1 and json.encode(values[2]) == "[]")
  assert(values[3] == false and values[4] == json.null and values[5] == 12)
  assert(select("#", json.lines("")) == 1 and json.lines("")() == nil)
end)

test("json: lines names the line of an error and can go on", function()
  local next_value = json.lines("1\n\n[2\n3\n")
  assert(next_value() == 1)
  local ok, err = pcall(next_value)
  assert(not ok and err.kind == "json" and err.line == 3 and err.column == 3 and err.byte == 3)
  assert(tostring(err):find("line 3, column 3", 1, true), tostring(err))
  assert(next_value() == 3 and next_value() == nil)
end)

test("json: lines takes an iterator that waits, and ends when cancelled", function()
  local sent = { "1", "", "2" }
  local function receive()
    task.sleep(0)
    return table.remove(sent, 1)
  end
  local sum = 0
  for value in json.lines(receive) do
    sum = sum + value
  end
  assert(sum == 3)

  local ok = task.move_on(0.01, function()
    for _ in json.lines(function() task.sleep(60) end) do
      error("no line was sent")
    end
  end)
  assert(not ok)
end)

test("json: lines reads files, streams and readers", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/log"
  local parts = {}
  for i = 1, 20000 do
    parts[i] = ('{"n":%d}\n'):format(i)
  end
  fs.write(path, table.concat(parts))
  local function sum(source)
    local total = 0
    for event in json.lines(source) do
      total = total + event.n
    end
    return total
  end
  local file <close> = fs.open(path)
  assert(sum(file) == 200010000)
  local child <close> = process.spawn({ "cat", path }, { stdout = "pipe" })
  assert(sum(child.stdout) == 200010000)
  assert(sum(reader.of(table.concat(parts))) == 200010000)
  local plain = assert(io.open(path))
  assert(sum(plain) == 200010000)
  plain:close()
end)

test("json: lines has a longest line, and goes on behind it", function()
  local text = '"1"\n"' .. ("x"):rep(300000) .. '"\n\n[4\n"5"'
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/log", text)
  local file <close> = fs.open(dir.path .. "/log")
  local rest = text .. "\n"
  for _, source in ipairs({
    text, file, reader.of(text, { max_line = 100 }),
    function()
      local line
      line, rest = rest:match("^([^\n]*)\n(.*)$")
      return line
    end,
  }) do
    local next_value = json.lines(source, { max_line = 100 })
    assert(next_value() == "1")
    local err = expect.failure(next_value)
    assert(err.kind == "limit" and err.line == 2, tostring(err))
    err = expect.failure(next_value)
    assert(err.kind == "json" and err.line == 4, tostring(err))
    assert(next_value() == "5" and next_value() == nil)
  end
  assert(values_of('"ab"\n"ab"', { max_line = 4 })[2] == "ab")
end)

test("json: lines does not read a line without end", function()
  local taken = 0
  local endless = { read = function()
    taken = taken + 1
    return ("x"):rep(1000)
  end }
  local err = expect.failure(values_of, endless, { max_line = 50000 })
  assert(err.kind == "limit" and taken < 100)
end)

test("json: lines passes the errors of its source on", function()
  local count = 0
  local next_value = json.lines({ read = function()
    count = count + 1
    if count == 2 then error({ code = "mine" }, 0) end
    if count <= 3 then return "[1" .. (count == 3 and ",2]\n" or "") end
  end })
  local ok, err = pcall(next_value)
  assert(not ok and err.code == "mine")
  ok, err = pcall(next_value)
  assert(not ok and err.kind == "json" and err.line == 1) -- "[1[1,2]"
  assert(next_value() == nil)
end)

test("json: lines cancelled in the middle of a line loses nothing", function()
  harness.clock()
  local pieces = { "[1,", "2]\n[3", "]" }
  local next_value = json.lines({ read = function()
    task.sleep(10)
    return table.remove(pieces, 1)
  end })
  assert(task.move_on(15, next_value) == false)
  assert(next_value()[2] == 2 and next_value()[1] == 3 and next_value() == nil)
end)

test("json: lines refuses what it cannot read", function()
  for text, call in pairs({
    ["source: expected a string, a function or what has `read`"] = function()
      local _ = json.lines(5)
    end,
    ["unknown option 'max'"] = function() local _ = json.lines("", { max = 1 }) end,
  }) do
    expect.misuse(text, call)
    expect.misuse("test_json_lines.lua", call)
  end
  expect.misuse("max_line: expected", json.lines, "", { max_line = 0 })
  local numbers = json.lines(function() return 7 end)
  expect.misuse("what the function returned: expected a string", numbers)
  expect.misuse("what the function returned: expected a string",
    json.lines(function() return false end))
end)
