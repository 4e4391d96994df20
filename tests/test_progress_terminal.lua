-- What a terminal shows of bars, which a real pty and an independent interpreter of
-- its screen tell.

local fs = require("sbx.fs")
local json = require("sbx.json")
local task = require("sbx.task")
local terminal = dofile("tests/peers/terminal.lua")

-- Runs `fn(terminal)` while `code` runs on one. `seconds` of the code is its own
-- affair: each step waits for what the screen shows.
---@async
local function on_terminal(code, options, fn)
  if not terminal.is_there() then skip("python3 has no pyte") end
  local folder <close> = fs.tmpdir({ prefix = "progress-" })
  fs.write(folder.path .. "/script.lua", code)
  local words = { folder.path .. "/script.lua", folder.path }
  local started <close> = terminal.start(words, options)
  return fn(started, folder.path)
end

---Runs `code` to its end and returns the last screen.
---@async
local function screen_of(code, options)
  return on_terminal(code, options or {}, function(started) return started:finish() end)
end

local function shows(screen, expected)
  local got = table.concat(screen.lines, "\n")
  -- How long it took is no matter.
  got = got:gsub("%f[%w]%d+s%f[%W]", "T"):gsub("  [%d.]+k?/s", "")
  assert(got == expected, "the screen shows\n" .. got)
end

-- What each program begins with; `pause` waits until the test says go.
local HEAD = [[
local progress, task, log = require("sbx.progress"), require("sbx.task"), require("sbx.log")
local function pause()
  while not require("sbx.fs").exists(arg[1] .. "/go") do task.sleep(0.01) end
end
]]

local FLEET = HEAD .. [[
local first <close> = progress.bar({ label = "first", total = 4 })
local second <close> = progress.bar({ label = "größe 漢", total = 2, unit = "files" })
print("on stdout")
task.sleep(0.15)
log.warn("in the log", { n = 1 })
first:advance(2)
task.sleep(0.15)
io.stderr:write("on stderr\n")
io.write("io.write\n")
print("at rest")
pause()
second:set(2)
first:set(4)
print("before the end")
]]

test("progress: bars stand below the output, in the order of opening", function()
  for columns, graphs in pairs({
    [80] = { "[########---------]", "[-----------------]", "[#################]",
      "  100%  2/2 files  in T" },
    [40] = { "[####----]", "[--------]", "[########]", "  100%  in T" },
  }) do
    on_terminal(FLEET, { columns = columns }, function(started, folder)
      local above = "on stdout\nsbxlua: warn: in the log  (n=1)\non stderr\nio.write\nat rest\n"
      started:await("at rest")
      local screen = started:await("ETA")
      shows(screen, above .. "first     " .. graphs[1] .. "   50%  2/4  ETA T\n"
        .. "größe 漢  " .. graphs[2] .. "    0%  0/2 files")
      assert(screen.cursor[1] == 0 and screen.cursor[2] == 7)
      fs.write(folder .. "/go", "")
      screen = started:finish()
      assert(screen.status == 0)
      shows(screen, above .. "before the end\n"
        .. "first     " .. graphs[3] .. "  100%  4/4  in T\n"
        .. "größe 漢  " .. graphs[3] .. graphs[4])
    end)
  end
end)

test("progress: an unfinished line of output goes on where it broke off", function()
  local screen = screen_of(HEAD .. [[
    io.write("checking 漢 ... ")
    local bar <close> = progress.bar({ label = "bar", total = 2 })
    task.sleep(0.15)
    bar:advance()
    task.sleep(0.15)
    io.write("still ... ")
    task.sleep(0.15)
    io.stderr:write("fine\n")
    io.write("tab\there ")
    task.sleep(0.15)
    print("cannot be found again")
    io.write(("x"):rep(100))
    task.sleep(0.15)
    print("nor can a line that was wrapped")
  ]])
  shows(screen, "checking 漢 ... still ... fine\ntab     here\ncannot be found again\n"
    .. ("x"):rep(80) .. "\n" .. ("x"):rep(20) .. "\nnor can a line that was wrapped\n"
    .. "bar  [########---------]   50%  1/2  in T")
end)

test("progress: every line of a flood of output is there, above the bars", function()
  local screen = screen_of(HEAD .. [[
    local bar <close> = progress.bar({ label = "bar", total = 600 })
    for i = 1, 600 do
      print("line " .. i)
      bar:advance()
      if i % 7 == 0 then task.sleep(0.001) end
    end
  ]], { columns = 40 })
  for i = 1, 600 do
    assert(screen.lines[i] == "line " .. i, tostring(screen.lines[i]))
  end
  assert(#screen.lines == 601 and screen.lines[601]:find("^bar  .*100%%  600/600"))
end)

test("progress: bars that end leave their lines in the order of opening", function()
  local screen = screen_of(HEAD .. [[
    local bars = {}
    for i = 1, 4 do
      bars[i] = progress.bar({ label = "bar" .. i, total = 1 })
    end
    task.sleep(0.12)
    bars[3]:done()
    print("third")
    task.sleep(0.12)
    bars[1]:fail("no luck")
    print("first")
    task.sleep(0.12)
    bars[2]:advance()
    bars[2]:done()
    print("second")
    task.sleep(0.12)
    progress.bar("late"):done()
    bars[4]:fail(require("sbx.errors").new({ kind = "cancelled", message = "m" }))
  ]])
  local none, full = "[-----------------]    0%  0/1", "[#################]  100%  1/1"
  shows(screen, "third\nbar1  " .. none .. "  failed after T: no luck\nfirst\nbar2  " .. full
    .. "  in T\nbar3  " .. none .. "  in T\nsecond\nbar4  " .. none .. "  cancelled after T\n"
    .. "late  in T")
  assert(screen.colours.red == "failed after 0s: no luck" and screen.colours.green and
    screen.colours.brown == "cancelled after 0s", json.encode(screen.colours))
end)

test("progress: the last lines stand when the program ends by an error, a signal or os.exit",
  function()
    for ending, expected in pairs({
      ["error('it broke', 0)"] = { 1, "failed after T: it broke", "stopped after T" },
      ["os.exit(3)"] = { 3, "cancelled after T", "stopped after T" },
      ["require('sbx.process').run({ 'kill', '-INT', tostring(pid) }) task.sleep(60)"] =
        { 130, "cancelled after T", "stopped after T" },
      ["task.waiter('nothing'):wait()"] = { 1, "cancelled after T", "stopped after T" },
    }) do
      local screen = screen_of(HEAD .. [[
        local pid = io.open("/proc/self/stat"):read("n")
        local closed <close> = progress.bar({ label = "closed", total = 2 })
        local left = progress.bar({ label = "left open" })
        task.sleep(0.2)
        left:advance()
      ]] .. ending)
      assert(screen.status == expected[1], ("%s: %d"):format(ending, screen.status))
      local text = table.concat(screen.lines, "\n"):gsub("%d+s%f[%W]", "T")
      assert(text:find("closed     [-----------------]    0%  0/2  " .. expected[2], 1, true), text)
      assert(text:find("left open  1  " .. expected[3], 1, true), text)
      for _, word in ipairs({ "closed", "left open" }) do
        local _, count = text:gsub(word .. "  ", "")
        assert(count == 1, text)
      end
    end
  end)

test("progress: a window that changes, and more bars than it has lines", function()
  on_terminal(HEAD .. [[
    local bars = {}
    for i = 1, 9 do
      bars[i] = progress.bar({ label = "bar" .. i, total = 10 })
      bars[i]:set(i)
    end
    bars[3]:done()
    print("above")
    pause()
    for i = 9, 1, -1 do
      bars[i]:done()
    end
  ]], { columns = 80, rows = 8 }, function(started, folder)
    local screen = started:await("more")
    local text = table.concat(screen.lines, "\n")
    assert(#screen.lines == 8, text)
    assert(text:find("^above\nbar1 .*bar2 .*bar4 .*\n%.%.%. and 3 more$"), text)
    started:resize(60, 20)
    screen = started:await("bar9")
    text = table.concat(screen.lines, "\n")
    assert(text:find("bar3  [###---------]   30%  3/10  in", 1, true), text)
    fs.write(folder .. "/go", "")
    screen = started:finish()
    text = table.concat(screen.lines, "\n", #screen.lines - 8)
    for i = 1, 9 do
      assert(screen.lines[#screen.lines - 9 + i]:find("^bar" .. i .. " "), text)
    end
  end)
end)

test("progress: hide and show, for what writes past Lua", function()
  local screen = screen_of(HEAD .. [[
    local bar <close> = progress.bar({ label = "bar", total = 1 })
    task.sleep(0.15)
    progress.hide()
    progress.hide()
    local child <close> = require("sbx.process").spawn(
      { "sh", "-c", "echo from a child; sleep 0.2" }, { stdout = "inherit" })
    child:wait()
    progress.show()
    print("still hidden")
    task.sleep(0.2)
    progress.show()
    progress.show()
    task.sleep(0.15)
  ]])
  shows(screen, "from a child\nstill hidden\nbar  [-----------------]    0%  0/1  in T")
end)

test("progress: it keeps no program alive, and no deadlock from being found", function()
  local screen = screen_of(HEAD .. "progress.bar('spins') task.waiter('nothing'):wait()")
  local text = table.concat(screen.lines, "\n")
  assert(screen.status == 1 and text:find("deadlock", 1, true), text)
  screen = screen_of(HEAD .. "progress.bar('spins')")
  assert(screen.status == 0 and #screen.lines == 1)
end)

test("progress: it is drawn ten times a second and no more often", function()
  local screen = screen_of(HEAD .. [[
    local bar <close> = progress.bar({ label = "bar", total = 1e9 })
    local start = task.now()
    while task.now() - start < 1 do
      bar:advance(1000)
      task.yield()
    end
  ]])
  local _, count = screen.bytes:gsub("bar  ", "")
  assert(count >= 5 and count <= 15, count)
end)

test("progress: a stopped terminal does not stop the program", function()
  on_terminal(HEAD .. [[
    local bar <close> = progress.bar({ label = "bar", total = 1000 })
    pause()
    for _ = 1, 50 do
      bar:advance(20)
      task.sleep(0.01)
    end
    require("sbx.fs").write(arg[1] .. "/through", "")
  ]], {}, function(started, folder)
    started:await("bar")
    started:type("\19") -- Ctrl-S
    task.sleep(0.1)
    fs.write(folder .. "/go", "")
    task.timeout(60, function()
      while not fs.exists(folder .. "/through") do task.sleep(0.02) end
    end)
    started:type("\17") -- Ctrl-Q
    local screen = started:finish()
    assert(screen.status == 0 and #screen.lines == 1, table.concat(screen.lines, "\n"))
    assert(screen.lines[1]:find("100%%  1000/1000"), screen.lines[1])
  end)
end)

test("progress: a terminal that is slow in the middle of a drawing gets the rest later", function()
  on_terminal(HEAD .. [[
    local bars = {}
    for i = 1, 90 do
      bars[i] = progress.bar({ label = "bar" .. i, total = 100 })
      bars[i]:note(("long "):rep(30))
    end
    pause()
    for _ = 1, 100 do
      for i = 1, 90 do
        bars[i]:advance()
      end
      task.sleep(0.01)
    end
    require("sbx.fs").write(arg[1] .. "/through", "")
    print("output")
    for i = 1, 90 do
      bars[i]:done()
    end
  ]], { columns = 300, rows = 100 }, function(started, folder)
    started:await("bar90")
    fs.write(folder .. "/go", "")
    task.timeout(60, function() -- while nobody reads what it draws
      while not fs.exists(folder .. "/through") do task.sleep(0.02) end
    end)
    local screen = started:finish()
    assert(#screen.lines == 91 and screen.lines[1] == "output", table.concat(screen.lines, "\n"))
    for i = 1, 90 do
      assert(screen.lines[i + 1]:find("^bar" .. i .. " .* 100%%  100/100  in"), screen.lines[i + 1])
    end
  end)
end)

test("progress: NO_COLOR leaves colours away; TERM=dumb and CI all that moves", function()
  local code = HEAD .. "progress.bar({ label = 'bar', total = 1 }):done() log.warn('done')"
  local screen = screen_of(code, { env = { NO_COLOR = "1" } })
  assert(next(screen.colours) == nil and screen.bytes:find("\27[K", 1, true))
  for _, env in ipairs({ { TERM = "dumb" }, { TERM = false }, { CI = "true" } }) do
    screen = screen_of(code, { env = env })
    assert(not screen.bytes:find("\27", 1, true), screen.bytes)
    assert(screen.lines[1]:find("^sbxlua: bar  %(after=0s done=0/1 percent=0 state=done%)$"))
  end
end)

-- Random output, in lines and in parts of lines, among random bars. What the script
-- wrote must stand on the terminal as it would without them, and each bar once.
local RANDOM = HEAD .. [[
math.randomseed(tonumber(arg[2]))
local open, bars, output = {}, 0, {}
local function write(fn, text)
  output[#output + 1] = text
  fn(text)
end
local ways = {
  function(text) io.write(text) end,
  function(text) io.stderr:write(text) end,
  function(text) io.stdout:write(text) end,
}
for step = 1, 120 do
  local dice = math.random(12)
  if dice <= 3 then
    write(ways[dice], ("w%d "):format(step) .. ("é漢x"):rep(math.random(0, 4)))
  elseif dice <= 6 then
    write(ways[dice - 3], ("l%d\n"):format(step))
  elseif dice == 7 then
    write(function(text) print(text:sub(1, -2)) end, ("p%d\nq%d\n"):format(step, step))
  elseif dice == 8 and #open < 6 then
    bars = bars + 1
    local total = math.random(2) == 1 and 9 or nil
    open[#open + 1] = progress.bar({ label = "bar" .. bars, total = total })
  elseif dice == 9 and #open > 0 then
    table.remove(open, math.random(#open)):done()
  elseif dice == 10 and #open > 0 then
    open[math.random(#open)]:advance()
  else
    task.sleep(math.random(0, 3) * 0.02)
  end
end
write(print, "end")
require("sbx.fs").write(arg[1] .. "/output", table.concat(output):sub(1, -4) .. "end\n")
]]

test("progress: random bars and random output do each other no harm", { timeout = 400 }, function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  for seed = 1, 6 do
    local folder <close> = fs.tmpdir({ prefix = "progress-" })
    local path = folder.path
    fs.write(path .. "/script.lua", RANDOM)
    local started <close> = terminal.start({ path .. "/script.lua", path, tostring(seed) },
      { columns = seed % 2 == 0 and 40 or 80, rows = 30 })
    local screen = started:finish()
    assert(screen.status == 0, table.concat(screen.lines, "\n"))
    local count, rest = {}, {}
    for _, text in ipairs(screen.lines) do
      local bar = text:match("^(bar%d+) ")
      if bar then
        count[bar] = (count[bar] or 0) + 1
      else
        rest[#rest + 1] = text
      end
    end
    for bar, times in pairs(count) do
      assert(times == 1, ("seed %d: %s stands there %d times"):format(seed, bar, times))
    end
    -- A bar's last line may break a line of the output; nothing else may.
    local function squeezed(text) return (text:gsub("%s+", "")) end
    assert(squeezed(table.concat(rest)) == squeezed(fs.read(path .. "/output")),
      ("seed %d:\n%s"):format(seed, table.concat(screen.lines, "\n")))
  end
end)
