-- Stock Lua's own behaviour: programs that both the stock interpreter and this one
-- run, with the same outcome, but for what docs/runtime.md says.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local folder = here .. "stock/"

-- The ways to run a program, and with which of stock Lua's they compare. The name
-- of the program is in the environment.
local MODES = {
  script = { "script" },
  task = { "script", 'require("sbx.task").spawn(loadfile(os.getenv("PROGRAM"))):join()' },
  coroutine = {
    "coroutine",
    'assert(coroutine.resume(coroutine.create(loadfile(os.getenv("PROGRAM")))))',
  },
}

local INPUT = "line one\nline two\n12 -0x1F rest\n\nabcdefghij\n 77x\nr1\nq2\nL1\nstop\n"
  .. "5 tail\nn1\n"

local function need_stock()
  if not pcall(process.run, { "lua5.4", "-v" }) then skip("lua5.4 is not installed") end
end

---@async
local function run(interpreter, words, options)
  local env = {
    SBXLUA_SLOW_STEP = "0", LUA_PATH = false, LUA_INIT = false, LANG = "C",
    -- Some programs ask for more memory than there is.
    ASAN_OPTIONS = (os.getenv("ASAN_OPTIONS") or "") .. ":allocator_may_return_null=1",
  }
  for name, value in pairs(options and options.env or {}) do
    env[name] = value
  end
  return process.run({ interpreter, table.unpack(words) }, {
    cwd = folder, timeout = 60, max_output = 4 << 20, env = env, input = options and options.input,
  })
end

-- The first line in which two texts differ.
local function first_difference(a, b)
  local left, right, number = a:gmatch("[^\n]*"), b:gmatch("[^\n]*"), 0
  while true do
    local x, y = left(), right()
    number = number + 1
    if x ~= y then return ("line %d\n  stock: %s\n  here:  %s"):format(number, x, y) end
    if x == nil then return "nothing" end
  end
end

local function without_addresses(text)
  return (text:gsub(": 0x%x+", ": ADDRESS"):gsub("file %(0x%x+", "file (ADDRESS"))
end

-- The error that a run died of: the first line, without the program's name.
local function told(result)
  local line = result.stderr:match("^[^\n]*")
  return (without_addresses(line):gsub("^lua5%.4: ", ""):gsub("^sbxlua: ", ""))
end

local function expect_same(expected, got, what)
  local stock, ours = without_addresses(expected.stdout), without_addresses(got.stdout)
  assert(stock == ours, what .. ": " .. first_difference(stock, ours) .. "\n" .. got.stderr)
  assert(expected.code == got.code and expected.signal == got.signal,
    ("%s: exit code %d, stock has %d\n%s"):format(what, got.code, expected.code, got.stderr))
end

---@async
local function programs()
  local names = {}
  for _, name in ipairs(fs.list(folder)) do
    if name:find("%.lua$") and name ~= "differences.lua" then names[#names + 1] = name end
  end
  assert(#names >= 15, "the programs are missing")
  return names
end

for _, name in ipairs(programs()) do
  test("stock: " .. name .. " does the same, in the script, a task and a coroutine", function()
    need_stock()
    local options = { input = INPUT, env = { PROGRAM = name } }
    local function words(mode)
      return MODES[mode][2] and { "-e", MODES[mode][2] } or { name }
    end
    for mode, how in pairs(MODES) do
      local expected = run("lua5.4", words(how[1]), options)
      assert(expected.code == 0, expected.stderr)
      expect_same(expected, run(host.executable(), words(mode), options), mode)
    end
  end)
end

-- The same bytes come as a file above; here as a pipe, whole and in pieces.
test("stock: the standard input does the same as a pipe that comes in pieces", function()
  need_stock()
  local expected = run("sh", { "-c", "printf '%s' \"$0\" | lua5.4 input.lua", INPUT })
  assert(expected.code == 0, expected.stderr)
  for _, feed in ipairs({
    "printf '%s' \"$1\"",
    "printf '%s' \"$1\" | while IFS= read -r line; do printf '%s\\n' \"$line\"; sleep 0.01; done",
    "printf '%s' \"$1\" | dd bs=3 status=none",
  }) do
    local got = run("sh", { "-c", feed .. " | \"$0\" input.lua", host.executable(), INPUT })
    expect_same(expected, got, feed)
  end
end)

test("stock: an uncaught error is told in the same words, with the same status", function()
  need_stock()
  for _, code in ipairs({
    'error("text")', 'error("text", 0)', 'error("text", 2)', "error()", "error(nil)", "error(42)",
    "error(4.5)", "error(true)", "error(print)", "error({})", "error(io.stdout)",
    'error(setmetatable({}, { __tostring = function() return "an object" end }))',
    "local t = nil + 1", "undefined()", "x =", "goto nowhere", "('x'):rep(-1, {}, {})()",
    'assert(false, "message")', "assert(nil)", 'assert(1 == 2, "no")', "string.rep()",
    'coroutine.wrap(function() error("inside") end)()', "io.lines('/nonexistent')()",
    'require("no.such.module.at.all") -- first line', "dofile('/nonexistent')",
    'local x <close> = setmetatable({}, { __close = function() error("closing", 0) end })',
    "os.exit(3)", "os.exit(true)", "os.exit(false)", "os.exit(256 + 7)", "os.exit(-1)",
    'os.exit("x")', "return 5", "return false", "io.stdout:write('no newline')",
    'io.stderr:write("to stderr\\n") os.exit(4, true)', "local function f() return f() + 1 end f()",
    'print(("x"):rep(100000)) error("after output")', "table.sort({ 3, 2, 1 }, error)",
  }) do
    local words = { "-e", code }
    local expected, got = run("lua5.4", words), run(host.executable(), words)
    expect_same(expected, got, code)
    local stock, ours = told(expected), told(got)
    assert(stock == ours, ("%s\n  stock: %s\n  here:  %s"):format(code, stock, ours))
  end
end)

-- The first cells of the page's table of differences.
---@async
local function listed()
  local page = fs.read(here .. "../docs/runtime.md")
  local section = assert(page:match("\n## Differences from stock Lua\n(.-)\n## "))
  local names = {}
  for name in section:gmatch("\n| `([^`]+)` |") do
    names[name] = true
  end
  return names
end

local function tagged(text)
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    local name = line:match("~(.-)~")
    if name then lines[name] = (lines[name] or "") .. line .. "\n" end
  end
  return lines
end

test("stock: the page lists each difference, and nothing that is none", function()
  need_stock()
  local outputs = {}
  for _, interpreter in ipairs({ "lua5.4", host.executable() }) do
    local result = run("sh", { "-c", '"$0" ./differences.lua 2>&1', interpreter })
    outputs[#outputs + 1] = tagged(result.stdout)
  end
  local names = listed()
  for name in pairs(names) do
    assert(outputs[1][name] ~= outputs[2][name],
      name .. " is listed but the same: " .. tostring(outputs[2][name]))
  end
  for i = 1, 2 do
    for name in pairs(outputs[i]) do
      local same = outputs[1][name] == outputs[2][name]
      assert(names[name] or same, name .. " is not listed")
    end
  end
end)
