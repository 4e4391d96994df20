local channel = require("sbx.channel")
local errors = require("sbx.errors")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local inspect = require("sbx.inspect")
local json = require("sbx.json")
local log = require("sbx.log")
local process = require("sbx.process")
local task = require("sbx.task")
local terminal = dofile("tests/peers/terminal.lua")
local width = require("sbx.cli.width")

local function shows(text, value, options)
  local got = inspect(value, options)
  assert(got == text, ("%s, not %s"):format(got, text))
end

-- --------------------------------------------------------------- single values

test("inspect: numbers tell integers from floats and read back", function()
  shows("3", 3)
  shows("3.0", 3.0)
  shows("-0.0", -0.0)
  shows("0.1", 0.1)
  shows("1e+100", 1e100)
  shows("9007199254740992.0", 2.0 ^ 53)
  shows("-9223372036854775808", math.mininteger)
  shows("0.30000000000000004", 0.1 + 0.2)
  shows("inf", math.huge)
  shows("-inf", -math.huge)
  shows("nan", 0 / 0)
end)

test("inspect: strings are quoted and drive no terminal", function()
  shows([["a \"b\" \\ \n\t\r"]], 'a "b" \\ \n\t\r')
  shows([["\x1b[2J\x00\x7f"]], "\27[2J\0\127")
  shows([["grüße 漢字"]], "grüße 漢字")
  shows([["\xffbad\xc3"]], "\xffbad\xc3")
  shows([["\u{9b}31m \u{202e}evil \u{200b}\u{feff}"]], "\u{9b}31m \u{202e}evil \u{200b}\u{feff}")
  assert(load("return " .. inspect("\0\r\n\"\\ü"))() == "\0\r\n\"\\ü")
end)

test("inspect: other values", function()
  shows("nil", nil)
  shows("true", true)
  shows("null", json.null)
  shows("<function string.format>", string.format)
  shows("<function rawget>", rawget)
  local line = debug.getinfo(1, "l").currentline + 1
  local function pair(a, b, ...) return a, b, ... end
  shows(("<function(a, b, ...) %s:%d>"):format(debug.getinfo(1, "S").short_src, line), pair)
  shows("<coroutine suspended>", coroutine.create(pair))
  assert(inspect(task.current()):find("^<task %d+"))
  assert(inspect(io.stdout):find("^<file %("))
  shows("<channel (0 of 3)>", channel.new(3))
end)

-- ---------------------------------------------------------------------- tables

test("inspect: lists, maps, and what is both", function()
  shows("{}", {})
  shows('{ 1, "two", { 3 } }', { 1, "two", { 3 } })
  shows("{ a = 1, b = { c = true } }", { b = { c = true }, a = 1 })
  shows('{ 1, nil_after = "x" }', { 1, nil_after = "x" })
  shows("{ 1, 2, [-1] = 0, [1.5] = 3, [4] = 4 }", { 1, 2, [4] = 4, [-1] = 0, [1.5] = 3 })
  shows('{ [""] = 3, ["a b"] = 1, ["end"] = 2 }', { ["a b"] = 1, ["end"] = 2, [""] = 3 })
  shows("{ [true] = 1, [<function rawget>] = 2, [<table>] = 3 }",
    { [true] = 1, [rawget] = 2, [{}] = 3 })
  shows("{ items = {} }", { items = json.array() })
end)

test("inspect: keys in the order that people expect", function()
  shows("{ [2] = 0, [10] = 0, a1 = 0, a2 = 0, a10 = 0, a10b = 0, a010 = 0, b = 0 }",
    { a10 = 0, a2 = 0, b = 0, a1 = 0, [10] = 0, [2] = 0, a10b = 0, a010 = 0 }, { width = 100 })
  local keys = {}
  for i = 1, 300 do
    keys[("%s%d%s"):format(("x"):rep(i % 3), i % 17, ("0"):rep(i % 5))] = i
  end
  assert(inspect(keys) == inspect(keys))
  assert(#inspect({ b = 1, a = 2, c = 3 }, { sort = false }) == #"{ a = 2, b = 1, c = 3 }")
end)

test("inspect: cycles and repeated tables are named", function()
  local ring = { name = "ring" }
  ring.self = ring
  shows('<1>{ name = "ring", self = <1> }', ring)
  local shared = { 1 }
  shows("{ a = <1>{ 1 }, b = <1>, c = { <1> } }", { a = shared, b = shared, c = { shared } })
  local a, b = {}, {}
  a.b, b.a, b.b = b, a, b
  shows("<1>{ b = <2>{ a = <1>, b = <2> } }", a)
end)

test("inspect: one line where it fits, else indented", function()
  local value = { name = "sdk-demo", labels = { "a", "b" }, nested = { deep = { x = 1 } } }
  shows('{ labels = { "a", "b" }, name = "sdk-demo", nested = { deep = { x = 1 } } }', value)
  shows([[
{
  labels = { "a", "b" },
  name = "sdk-demo",
  nested = { deep = { x = 1 } },
}]], value, { width = 40 })
  shows([[
{
  labels = {
    "a",
    "b",
  },
  name = "sdk-demo",
  nested = {
    deep = {
      x = 1,
    },
  },
}]], value, { width = 9 })
  shows([[
{
  1, 2, 3, 4, 5, 6, 7,
  8, 9, 10,
}]], { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, { width = 23 })
end)

test("inspect: lines keep to the width, whatever the letters", function()
  local value = { list = {} }
  for i = 1, 60 do
    value["größe" .. i] = ("漢"):rep(i % 7)
    value.list[i] = { i, ("é"):rep(i % 11) }
  end
  for _, cells in ipairs({ 40, 80 }) do
    for line in inspect(value, { width = cells }):gmatch("[^\n]+") do
      assert(width.of(line) <= cells, line)
    end
  end
end)

-- ---------------------------------------------------------------------- bounds

test("inspect: what is left out is counted", function()
  local many = {}
  for i = 1, 1000 do
    many[i] = i
  end
  shows("{ 1, 2, 3, … 997 more }", many, { max_items = 3 })
  shows("{ {… 1 item}, {… 2 items} }", { { 1 }, { 1, a = 2 } }, { depth = 1 })
  shows("{… 2 items}", { 1, 2 }, { depth = 0 })
  assert(inspect(("x"):rep(3000)) == '"' .. ("x"):rep(1000) .. '"… 2000 more bytes')
  assert(utf8.len(inspect(("ä"):rep(3000))) == 1 + 500 + 1 + utf8.len("… 5000 more bytes"))
  local text = inspect({ [("k"):rep(500)] = 1 }, { width = 200 })
  assert(text == '{ ["' .. ("k"):rep(100) .. '"…] = 1 }', text)
end)

test("inspect: huge, deep and tangled values end soon", function()
  local wide, deep, tangled = {}, {}, {}
  for i = 1, 300000 do
    wide["k" .. i] = i
  end
  local at = deep
  for _ = 1, 100000 do
    at.next = {}
    at = at.next
  end
  for i = 1, 60 do
    tangled[i] = {}
    for j = 1, i - 1 do
      tangled[i][j] = tangled[j]
    end
  end
  local function bushy(level)
    if level == 0 then return {} end
    return { bushy(level - 1), bushy(level - 1), bushy(level - 1), bushy(level - 1) }
  end
  for _, value in ipairs({ wide, deep, tangled, bushy(8) }) do
    assert(#inspect(value, { depth = 100 }) < 1000000)
  end
  assert(inspect(wide):find("… 299900 more", 1, true))
end)

-- --------------------------------------------------------------------- objects

local function with_meta(meta, value) return setmetatable(value or { a = 1 }, meta) end

local function fails() error("no") end

test("inspect: __tostring and __name speak for a value", function()
  shows("<point 1/2>", with_meta({ __tostring = function() return "point 1/2" end }))
  shows("Point { a = 1 }", with_meta({ __name = "Point" }))
  shows("Point {}", with_meta({ __name = "Point" }, {}))
  shows([[<a\nb\x1b>]], with_meta({ __tostring = function() return "a\nb\27" end }))
end)

test("inspect: no metamethod makes it fail, wait or lie", function()
  shows("{ a = 1 }", with_meta({ __tostring = fails }))
  shows("{ a = 1 }", with_meta({ __tostring = function() return {} end }))
  shows("{ a = 1 }", with_meta({ __tostring = function() task.sleep(0.01) return "" end }))
  shows("{ a = 1 }", with_meta({
    __index = fails, __pairs = fails, __len = fails, __eq = fails, __lt = fails, __close = fails,
    __name = {}, __call = fails, __metatable = "locked",
  }))
  local endless = {}
  endless.__tostring = function(self) return inspect(self) end
  assert(#inspect(with_meta(endless)) < 1000)
  local keyed = { [with_meta({ __tostring = fails, __lt = fails })] = 1,
    [with_meta({ __tostring = fails, __lt = fails })] = 2 }
  assert(inspect(keyed):find("[<table>] = ", 1, true))
  assert(inspect(with_meta({ __name = "x\27[2J" })):find("^x\\x1b%[2J { a = 1 }$"))
end)

test("inspect: error objects by their fields", function()
  local err = expect.failure(fs.read, "/nowhere")
  shows([[
sbx.error {
  code = "ENOENT",
  kind = "io",
  message = "open /nowhere: no such file or directory",
  op = "open",
}]], err)
  local cause = errors.new({ kind = "dns", message = "no host" })
  local text = inspect(errors.new({ kind = "connect", message = "m", cause = cause }))
  assert(text:find('cause = sbx.error { kind = "dns", message = "no host" }', 1, true), text)
end)

-- --------------------------------------------------------------------- secrets

test("inspect: secrets do not show, unless asked for", function()
  log.redact("registered-secret")
  local value = {
    api_key = "hunter2",
    headers = { Authorization = "Bearer hunter2", ["set-cookie"] = { "hunter2" } },
    text = "Authorization: hunter2", deep = { { password = { nested = "hunter2" } } },
    seen = "registered-secret", ["registered-secret"] = 1,
    error = errors.new({ kind = "x", message = "x", token = "hunter2" }),
  }
  local text = inspect(value)
  assert(not text:find("hunter2", 1, true) and not text:find("registered", 1, true), text)
  assert(text:find("api_key = ***", 1, true))
  text = inspect(value, { reveal = true })
  local _, count = text:gsub("hunter2", "")
  assert(count == 6, text)
  shows('{ key = "a", monkey = 1, token = true }', { key = "a", monkey = 1, token = true })
end)

-- --------------------------------------------------------------------- the rest

test("inspect: colours, for those who want them", function()
  local text = inspect({ 1, "a", true, rawget, [7] = {} }, { colour = true })
  assert(text == "{ \27[36m1\27[0m, \27[32m\"a\"\27[0m, \27[33mtrue\27[0m, "
    .. "\27[35m<function rawget>\27[0m, [7] = {} }", text)
  assert(inspect({ 1, "a" }):find("\27", 1, true) == nil)
end)

test("inspect.print: prints each value on a line and returns them", function()
  local code = [[
    local inspect = require("sbx.inspect")
    io.stderr:write(select("#", inspect.print({ a = 1 }, nil, "x")), (inspect.print(5)))
  ]]
  local result = process.run({ host.executable(), "-e", code })
  assert(result.stdout == '{ a = 1 }\nnil\n"x"\n5\n', result.stdout)
  assert(result.stderr == "35", result.stderr)
end)

test("inspect.print: in colour and as wide as the terminal, above bars", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  local code = [[
    local bar <close> = require("sbx.progress").bar("bar")
    require("sbx.task").sleep(0.15)
    require("sbx.inspect").print({ "a", name = "long enough", other = "to be broken" })
  ]]
  for columns, lines in pairs({
    [80] = { '{ "a", name = "long enough", other = "to be broken" }' },
    [40] = { "{", '  "a",', '  name = "long enough",', '  other = "to be broken",', "}" },
  }) do
    local started <close> = terminal.start({ "-e", code }, { columns = columns })
    local screen = started:finish()
    for i, line in ipairs(lines) do
      assert(screen.lines[i] == line, table.concat(screen.lines, "\n"))
    end
    assert(#screen.lines == #lines + 1 and screen.bytes:find('\27[32m"a"\27[0m', 1, true))
  end
end)

test("inspect: wrong options are refused", function()
  expect.misuse("unknown option 'color'", inspect, 1, { color = true })
  expect.misuse("depth", inspect, 1, { depth = -1 })
  expect.misuse("max_items", inspect, 1, { max_items = 0 })
  expect.misuse("width", inspect, 1, { width = "x" })
  expect.misuse("sort", inspect, 1, { sort = 1 })
end)

test("inspect: briefly, the library's objects take a line", function()
  local brief = { brief = true }
  local child <close> = require("sbx.process").spawn({ "sleep", "100" })
  assert(inspect(child, brief) == ("<process sleep, pid %d, running>"):format(child.pid))
  assert(inspect(child):find("^sbx.Process {"))
  local function named(name, fields)
    return setmetatable(fields, { __name = name })
  end
  local box = named("sbx.sandbox.Box", { id = "sbx-1", name = "a\27b", status = "TERMINATED",
    termination_reason = "TIMEOUT", docker_image = "debian", created_at = "2020-01-31T12:00:00Z" })
  local line = inspect({ box, box }, { brief = true, width = 300 })
  assert(line:find("^{ <sandbox sbx%-1, a\\x1bb, TERMINATED %(TIMEOUT%), debian, %d+d%w* old>, <s"),
    line)
  box.created_at, box.name, box.docker_image = "soon", {}, nil
  assert(inspect(box, brief) == "<sandbox sbx-1, TERMINATED (TIMEOUT)>", inspect(box, brief))
  local answer = named("sbx.http.Response", { method = "GET", label = "http://host/", status = 200,
    reason = "OK", headers = { ["content-type"] = "text/html; charset=utf-8" }, size = 7,
    body = "one\n two" })
  shows("<GET http://host/: 200 OK, text/html, 7 bytes: one two>", answer, brief)
  answer.body = ("x"):rep(100000)
  assert(#inspect(answer, brief) < 300)
  answer.body, answer.headers = "\0", 1
  shows("<GET http://host/: 200 OK, 7 bytes>", answer, brief)
  -- What only has the name is shown by its fields.
  shows("sbx.http.Response { a = 1 }", named("sbx.http.Response", { a = 1 }), brief)
  shows("sbx.Process { pid = 1.5 }", named("sbx.Process", { pid = 1.5 }), brief)
end)
