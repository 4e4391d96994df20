-- The prompt as a person uses it, on a real terminal: after each step the whole screen
-- is compared, at 80 and at 40 columns.

local support = dofile("tests/repl_support.lua")
local keys = support.keys

-- A fleet whose members say something when the test lets them.
local FLEET = [[
local fs, task = require("sbx.fs"), require("sbx.task")
local home = os.getenv("HOME")
function await(name)
  while not fs.exists(home .. "/" .. name) do task.sleep(0.005) end
end
function fleet(count)
  local said = { 0, 0, 0 }
  for i = 1, count do
    task.spawn(function()
      for step = 1, 3 do
        await("go" .. step)
        while said[step] < i - 1 do task.yield() end -- in turn
        said[step] = i
        print(("box %d: step %d"):format(i, step))
      end
    end)
  end
end
]]

---@async
local function at_both_widths(options, fn)
  for _, columns in ipairs({ 80, 40 }) do
    options.columns = columns
    support.with_prompt(options, fn)
  end
end

local function boxes(step, count)
  local lines = {}
  for i = 1, count do
    lines[i] = ("box %d: step %d"):format(i, step)
  end
  return table.unpack(lines)
end

test("repl: a person at work while a fleet runs", { timeout = 400 }, function()
  at_both_widths({ files = { ["fleet.lua"] = FLEET } }, function(p)
    p:enter(":load ~/fleet.lua")
    p:enter("local count = 3")
    p:enter("count * 2", "6")
    p:enter("fleet(count)")

    -- Edits in the middle of the line while output arrives.
    p:type("local answer = 4")
    p:shows("local answer = 4")
    p:type(keys.word_left, keys.word_left, keys.left, "s")
    p:shows("locals answer = 4", { at = 6 })
    p:go("go1")
    p:output(boxes(1, 3))
    p:shows("locals answer = 4", { at = 6 })
    p:type("\127", keys.ending, "2")
    p:shows("local answer = 42")
    p:type("\r")
    p:entered("local answer = 42")
    p:shows("")
    p:enter("_, answer", "6", "42")

    -- Completes: a global, then a method of our own, then what begins alike.
    p:type("answ\t")
    p:shows("answer")
    p:type("\21")
    p:shows("")
    p:type("task.sl\t")
    p:shows("task.sleep")
    p:type("\21task.pspawn(print):pj\t")
    p:shows("task.pspawn(print):pj")
    p:type("\21")
    p:enter("t = task.current()")
    p:type("t:pj\t")
    p:shows("t:pjoin")
    p:type("\21task.s\t")
    if p.columns == 80 then
      p:output("scope   select  settle  shield  sleep   spawn")
    else
      p:output("scope   settle  sleep", "select  shield  spawn")
    end
    p:shows("task.s")
    p:type("\21")

    -- Searches the history, goes on to older entries, then edits what was found.
    p:type("\18count")
    p:shows("fleet(count)", { head = "(search) count: ", at = 6 })
    p:type("\18")
    p:shows("count * 2", { head = "(search) count: ", at = 0 })
    p:go("go2")
    p:output(boxes(2, 3))
    p:shows("count * 2", { head = "(search) count: ", at = 0 })
    p:type(keys.ending, "0\r")
    p:entered("count * 20")
    p:output("60")
    p:shows("")

    -- Pastes a function: nothing of it runs before Enter.
    p:type(support.paste("local function double(n)\n\treturn n * 2\nend"))
    p:shows("local function double(n)\n    return n * 2\nend")
    p:type("\r")
    p:entered("local function double(n)", "    return n * 2", "end")
    p:shows("")
    p:enter("double(count)", "6")

    -- Cancels what is in the foreground; what was typed meanwhile stays.
    p:type("await('never')\r")
    p:entered("await('never')")
    p:shows("", { head = "[11] " })
    p:type("1 + 1")
    p:shows("1 + 1", { head = "[11] " })
    p:type("\3")
    p:output("[11] cancelled")
    p:shows("1 + 1")
    p:type("\r")
    p:entered("1 + 1")
    p:output("2")
    p:shows("")

    -- Leaves a job to itself, and goes on typing.
    p:type("await('bg') return 'through'\r")
    p:entered("await('bg') return 'through'")
    p:shows("", { head = "[13] " })
    p:type(":bg\r")
    p:entered(":bg")
    p:output("[13] await('bg') return 'through'")
    p:shows("")
    p:type("double(")
    p:go("bg")
    p:output('[13] "through"', "[13] done")
    p:shows("double(")
    p:type("\3")
    p:entered("double(^C")
    p:shows("")

    -- Leaves, which would end the fleet.
    p:type("\4")
    p:shows("", { head = "1 job will end: leave? [y/N] " })
    p:type("n")
    p.above[#p.above + 1] = "1 job will end: leave? [y/N] n"
    p:shows("")
    p:go("go3")
    p:output(boxes(3, 3))
    p:shows("")
    local screen = p:leave()
    assert(screen.status == 0, "status " .. screen.status)
    assert(not screen.bytes:find("traceback", 1, true))
  end)
end)
