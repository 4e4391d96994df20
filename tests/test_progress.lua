-- Bars: what a line says, how it ends, and what comes where there is no terminal.

local bars = require("sbx.progress.bar")
local expect = dofile("tests/expect.lua")
local host = require("sbx.core.host")
local json = require("sbx.json")
local line = require("sbx.progress.line")
local process = require("sbx.process")
local progress = require("sbx.progress")
local task = require("sbx.task")
local width = require("sbx.cli.width")

-- ------------------------------------------------------------------------ a line

local silent = { changed = function() end, closed = function() end }

-- A bar of `seconds` age that has reached `at`.
local function bar_at(options, at, seconds)
  local bar = bars.new(options, silent)
  bar.opened = bar.opened - seconds
  bar.samples[1].when = bar.opened
  bar:set(at)
  return bar
end

local function text_of(bar, cells)
  return line.text(bar, cells, { label = width.of(bar.label), turn = 1, colour = false })
end

test("progress: what a line says", function()
  local bar = bar_at({ label = "upload", total = 100, unit = "files" }, 25, 10)
  assert(text_of(bar, 79)
    == "upload  [####-------------]   25%  25/100 files  2.5/s  ETA 30s", text_of(bar, 79))
  bar:note("a.txt")
  assert(text_of(bar, 79):find("ETA 30s  a.txt$"))
  bar:done()
  assert(text_of(bar, 79) == "upload  [####-------------]   25%  25/100 files  in 10s: a.txt",
    text_of(bar, 79))

  bar = bar_at({ label = "get", total = 64 * 2 ^ 20, unit = "bytes" }, 1.5 * 2 ^ 20, 1)
  assert(text_of(bar, 79):find("  2%%  1%.5MiB/64%.0MiB  1%.5MiB/s  ETA 42s$"), text_of(bar, 79))
  bar = bar_at({ label = "wait" }, 3000, 2)
  assert(text_of(bar, 79) == "wait  /  3000  1.5k/s  2s", text_of(bar, 79))
  assert(text_of(bar_at({ label = "wait" }, 0, 0), 79) == "wait  /  0s")
  assert(text_of(bar_at({ label = "none", total = 0 }, 0, 0), 79):find("100%%  0/0$"))
  assert(text_of(bar_at({ label = "over", total = 10 }, 15, 0), 79):find("100%%  15/10$"))
end)

test("progress: how a line ends", function()
  local function ended(fn)
    local bar = bar_at({ label = "x", total = 4 }, 1, 125)
    fn(bar)
    return text_of(bar, 79):match("1/4  (.*)$")
  end
  assert(ended(function(bar) bar:done() end) == "in 2m5s")
  assert(ended(function(bar) bar:fail("no room\n\27[2J") end)
    == "failed after 2m5s: no room\\n\\x1b[2J")
  assert(ended(function(bar) bar:fail() end) == "failed after 2m5s")
  local function within(fn, ...)
    local given = table.pack(...)
    return function(bar)
      pcall(function()
        local _ <close> = bar
        fn(table.unpack(given))
      end)
    end
  end
  assert(ended(within(task.yield)) == "in 2m5s")
  assert(ended(within(error, "broken", 0)) == "failed after 2m5s: broken")
  assert(ended(function(bar)
    task.move_on(0.01, within(task.sleep, 60), bar)
  end) == "cancelled after 2m5s")
end)

test("progress: the end is final, and later calls do nothing", function()
  local told = 0
  local bar = bars.new({ label = "x", total = 2 }, {
    changed = function() end, closed = function() told = told + 1 end,
  })
  bar:advance()
  bar:fail("first")
  bar:done()
  bar:advance()
  bar:set(2)
  bar:note("late")
  bar:total(9)
  assert(bar.state == "failed" and bar.at == 1 and bar.of == 2 and bar.said == nil and told == 1)
end)

test("progress: the speed is that of the last while", function()
  local bar = bar_at({ label = "x", total = 1000 }, 0, 100)
  assert(bar:rate() == nil and bar:left() == nil)
  bar.samples = { { when = task.now() - 10, at = 500 } }
  bar:set(600)
  local rate, left = bar:rate(), bar:left()
  assert(math.abs(rate - 10) < 0.5 and math.abs(left - 40) < 3)
  for _ = 1, 10000 do
    bar:advance(0)
  end
  assert(#bar.samples <= 20)
end)

test("progress: no line is wider than it may be", function()
  for _, label in ipairs({ "up", "größe 漢字漢字漢字", ("long "):rep(40) }) do
    for _, options in ipairs({ { total = 10 ^ 9 }, { total = 10, unit = "bytes" }, {} }) do
      options.label = label
      local bar = bar_at(options, 123456789, 100)
      bar:note("note 漢字 " .. ("x"):rep(100))
      for cells = 20, 120 do
        local share = math.min(width.of(bar.label), cells // 3)
        local text = line.text(bar, cells, { label = share, turn = 1, colour = false })
        assert(width.of(text) <= cells, ("%d: %s"):format(cells, text))
      end
    end
  end
end)

-- ------------------------------------------------------------ without a terminal

local HEAD = 'local progress, task = require("sbx.progress"), require("sbx.task") '

---@async
local function stderr_of(code, env)
  local result = process.run({ host.executable(), "-e", HEAD .. code }, { env = env })
  assert(result.code == 0, result.stderr)
  return result.stderr
end

test("progress: elsewhere a line every ten seconds, and one at the end", function()
  local text = stderr_of([[
    require("sbx.core.test").set_virtual(true)
    local bar <close> = progress.bar({ label = "up load", total = 100, unit = "files" })
    for i = 1, 100 do
      task.sleep(0.35)
      bar:advance()
    end
  ]])
  text = text:gsub("time=%S+ ", "")
  assert(text == [[
level=info msg="up load" done="29/100 files" left=25s percent=29 rate=2.9/s state=running
level=info msg="up load" done="58/100 files" left=15s percent=58 rate=2.9/s state=running
level=info msg="up load" done="87/100 files" left=5s percent=87 rate=2.9/s state=running
level=info msg="up load" after=35s done="100/100 files" percent=100 rate=2.9/s state=done
]], text)
end)

test("progress: a bar that nobody moves is told of without its help", function()
  local text = stderr_of([[
    local bar <close> = progress.bar({ label = "slow" })
    local core = require("sbx.core.test")
    bar:set(7)
    core.set_virtual(true)
    task.sleep(11)
    core.set_virtual(false)
    task.sleep(1.5)
  ]])
  local _, count = text:gsub("state=running", "")
  assert(count == 1 and text:find("done=7", 1, true), text)
end)

test("progress: bars left open are told of at the end; levels and forms are the log's", function()
  local text = stderr_of("progress.bar('left')", { SBXLUA_LOG_FORMAT = "json" })
  assert(json.decode(text).state == "stopped", text)
  assert(stderr_of("progress.bar('left')", { SBXLUA_LOG = "error" }) == "")
end)

test("progress.each: advances with the loop", function()
  local text = stderr_of([[
    local seen = 0
    for i, item in progress.each({ "a", "b", "c" }, "items") do
      assert(item == ("abc"):sub(i, i))
      seen = seen + 1
    end
    assert(seen == 3)
    for _ in progress.each({ 1, 2 }, "broken") do break end
    collectgarbage()
    collectgarbage()
    for _ in progress.each({}, "none") do error("never") end
  ]])
  assert(text:find("msg=items after=0s done=3/3 percent=100 state=done", 1, true), text)
  assert(text:find("msg=broken after=0s done=0/2 percent=0 state=stopped", 1, true), text)
  assert(text:find("msg=none after=0s done=0/0 percent=100 state=done", 1, true), text)
end)

-- ------------------------------------------------------------------------ misuse

test("progress: wrong arguments are refused", function()
  expect.misuse("label: expected a string", progress.bar, {})
  expect.misuse("unknown option 'totel'; did you mean 'total'?", progress.bar,
    { label = "x", totel = 1 })
  expect.misuse("total", progress.bar, { label = "x", total = -1 })
  expect.misuse("list: expected a table", progress.each, 3, "x")
  local bar = bars.new({ label = "x" }, silent)
  expect.misuse("count: expected a number", bar.advance, bar, "1")
  expect.misuse("done: expected a number", bar.set, bar)
  expect.misuse("note: expected a string", bar.note, bar, {})
  expect.misuse("write bar:advance", bar.advance)
end)
