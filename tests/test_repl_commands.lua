-- The prompt's own commands, on a terminal.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local support = dofile("tests/repl_support.lua")

local SCRIPT = [[
local fs, task = require("sbx.fs"), require("sbx.task")
function await(name)
  while not fs.exists(os.getenv("HOME") .. "/" .. name) do task.sleep(0.005) end
end
-- What it is for.
function documented(a, b) return a end
]]

local function text_of(screen)
  return table.concat(screen.lines, "\n")
end

test("repl commands: jobs go to the background and come back", function()
  support.with_prompt({ files = { ["a.lua"] = SCRIPT } }, function(p)
    local t = p.terminal
    p:enter(":load ~/a.lua")
    p:type("await('one') return 1\r")
    p:entered("await('one') return 1")
    p:shows("", { head = "[2] " })
    -- What is entered meanwhile runs after it; commands run at once.
    p:type("'queued'\r")
    p:shows("", { head = "[2 +1] " })
    p:type(":bg\r")
    p:entered(":bg")
    t:await("[2] await('one') return 1\n> 'queued'\n\"queued\"")
    p:type("await('two') return 2\r:bg\r")
    t:await("[4] await('two') return 2")
    p:type(":fg 2\r")
    t:await("> :fg 2\n[2]")
    p:go("one")
    local screen = t:await("\n1\n>")
    assert(not text_of(screen):find("[2] done", 1, true))
    p:type(":jobs\r")
    screen = t:await("[4]  running")
    assert(text_of(screen):find("%[2%]  done +%d+s  await%('one'%) return 1"), text_of(screen))
    p:type(":fg 99\r")
    t:await("no job 99")
    p:type(":fg two\r")
    t:await("expected the number of a job, got 'two'")
    p:type(":cancel 4\r")
    t:await("[4] cancelled")
    p:type(":cancel\r")
    t:await("no job is running")
    p:type("t = task.spawn(task.sleep, 100)\ru = task.spawn(task.sleep, 100)\r")
    t:await("> u = task.spawn(task.sleep, 100)\n>")
    p:type(":cancel all\r")
    t:await("[6] cancelled")
    assert(p:leave().status == 0)
  end)
end)

test("repl commands: help, pages, what is known of a function", function()
  support.with_prompt({ files = { ["a.lua"] = SCRIPT }, rows = 500 }, function(p)
    local t = p.terminal
    p:type(":help retry\r")
    local screen = t:await("sbx.retry")
    assert(not text_of(screen):find("```", 1, true), text_of(screen))
    p:type(":help nonsense\r")
    t:await("no page 'nonsense'")
    p:type(":load ~/a.lua\r:doc documented\r")
    screen = t:await("a.lua:6)")
    assert(text_of(screen):find("What it is for.\nfunction documented(a, b)", 1, true))
    p:type(":doc task.sleep\r:doc client\r")
    t:await("nothing is known of 'client'")
    p:type(":doc 1 +\r")
    t:await("'1 +' is no expression")
    p:type(":he\t")
    t:await("> :help")
    p:type(" retr\t\r")
    t:await("> :help retry")
    assert(p:leave().status == 0)
  end)
end)

test("repl commands: time, reload, http, trace, boxes", function()
  support.with_prompt({ files = { ["mine.lua"] = "return { value = 1 }" } }, function(p)
    local t = p.terminal
    p:type("package.path = os.getenv('HOME') .. '/?.lua;' .. package.path\r")
    p:type("local mine = require('mine')\rmine.value\r")
    t:await("\n1\n>")
    fs.write(p.home .. "/mine.lua", "return { value = 2, more = 3 }")
    p:type(":reload\r")
    t:await("reloaded mine")
    p:type("mine.value + mine.more\r")
    t:await("\n5\n>")
    p:type(":reload sbx.task\r")
    t:await("modules of the library are not reloaded")
    fs.write(p.home .. "/mine.lua", "x x")
    p:type(":reload mine\r")
    t:await("syntax error near 'x'")
    p:type("mine.more * 2\r")
    t:await("\n6\n>")
    p:type(":time task.sleep(0.01)\r")
    t:await("s of CPU")
    p:type(":http\r")
    t:await("0 name look-ups")
    p:type(":boxes\r")
    t:await("this session has no sandboxes")
    p:type(":trace\r")
    t:await("(command) running")
    assert(p:leave().status == 0)
  end)
end)

local function explain(...)
  return process.run({ host.executable(), "explain", ... }, { check = true }).stdout
end

test("repl commands: a trace is begun and ended at the prompt", function()
  support.with_prompt({}, function(p)
    local t = p.terminal
    p:type(":trace off\r")
    t:await("no trace that :trace has begun is written")
    p:type(":trace ~/trace.json\r")
    t:await("trace.json, until :trace off")
    p:type(":trace other\r")
    t:await("trace.json: :trace off ends it")
    p:type("t = task.spawn(function() task.sleep(0.01) end)\rt:join()\r:trace off\r")
    t:await("trace.json: sbxlua explain")
    local shown = explain(p.home .. "/trace.json", "-o", "json")
    local found = json.decode(shown)
    assert(found.tasks >= 2 and found.seconds > 0, shown)
    -- Another one, which ends with the prompt.
    p:type(":trace ~/second.json\r")
    t:await("second.json, until")
    assert(p:leave().status == 0)
    shown = explain(p.home .. "/second.json")
    assert(not shown:find("its end is missing"), shown)
  end)
  local folder <close> = fs.tmpdir({ prefix = "repl-" })
  support.with_prompt({ words = { "--trace", folder.path .. "/run.json" } }, function(p)
    p:enter(":trace ~/other.json", "--trace writes one of all that happens here")
    assert(p:leave().status == 0)
  end)
end)

test("repl commands: many jobs stand in columns", function()
  support.with_prompt({}, function(p)
    for i = 1, 10 do
      p:enter("x = " .. i)
    end
    p:type(":jobs\r")
    local text = text_of(p.terminal:await("[10]  done"))
    local first, last = text:match("(%[1%] [^\n]*)x = 1\n"), text:match("(%[10%] [^\n]*)x = 10\n")
    assert(first and last and #first == #last, text)
    assert(p:leave().status == 0)
  end)
end)

test("repl commands: objects take a line, and :inspect shows all of one", function()
  support.with_prompt({}, function(p)
    local t = p.terminal
    p:type("child = process.spawn({ 'sleep', '100' })\r{ child }\r")
    local text = text_of(t:await(", running> }"))
    assert(text:find("\n{ <process sleep, pid %d+, running> }\n"), text)
    p:type(":inspect child\r")
    t:await("\n  name = \"sleep\",\n")
    p:type("child:close()\rchild\r")
    t:await(", ended>")
    p:type(":inspect\r")
    t:await(":inspect VALUE")
    assert(p:leave().status == 0)
  end)
end)

test("repl commands: words for the prompt, ambiguous beginnings, what Lua brings", function()
  support.with_prompt({}, function(p)
    p:enter("help", "a command: :help")
    p:enter("exit()", "to leave: :quit, or Ctrl-D")
    p:enter("exit = 1")
    p:enter("exit", "1")
    p:enter(":h", "':h' may be :help, :http")
    p:enter(":nonsense", "no command ':nonsense': :help lists them")
    p:enter(":doc string.rep", "string.rep is Lua's own:"
      .. " https://www.lua.org/manual/5.4/manual.html#pdf-string.rep")
    p:enter("print", "<function print>")
    p:enter("error({ code = 1 })", "raised { code = 1 }")
    p:type(":doc task.slee\t")
    p:shows(":doc task.sleep")
    p:type("\21:time task.y\t")
    p:shows(":time task.yield")
    p:type("\21")
    p:shows("")
  end)
end)

test("repl commands: what waited behind a cancelled job is named", function()
  support.with_prompt({}, function(p)
    p:type("task.sleep(100)\r")
    p:entered("task.sleep(100)")
    p:shows("", { head = "[1] " })
    p:type("'one'\r'two'\r")
    p:shows("", { head = "[1 +2] " })
    p:type("\3")
    p:output("[1] cancelled", "not run: 'one'", "not run: 'two'")
    p:shows("")
    p:enter("'three'", '"three"')
  end)
end)

test("repl commands: a page fits the window", function()
  local page = require("sbx.repl.page")
  local shown = page.render([[
# Title

Words that go on
in a [second](x.md) line, see [it](https://host/x).

* an item that is
  rather long

| name | |
| --- | --- |
| `a` | short |
| `b\|c` | what does not fit beside its name |

```lua run
code   stays as it is, however long the line may be
```
]], 30, false)
  local expected = [[
Title

Words that go on in a second
line, see it
(https://host/x).

* an item that is rather long

name
`a`  short
`b|c`
    what does not fit beside
    its name

    code   stays as it is, however long the line may be]]
  assert(shown == expected, shown)
end)
