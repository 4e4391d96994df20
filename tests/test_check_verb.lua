-- What `sbxlua check` finds, and what it leaves alone.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local lint = require("sbx.lint")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local PRELUDE = [[
local sbx = require("sbx")
local sandbox = require "sbx.sandbox"
local task = require("sbx.task")
local client <close> = sandbox.client()
local box <close> = client:create({ name = "a", docker_image = "b" })
]]
local FIRST = 6 -- the line behind it

-- The findings in `text` behind the prelude, as "line:column rule message".
local function findings(text)
  local list = {}
  for i, found in ipairs(lint.check(PRELUDE .. text)) do
    list[i] = ("%d:%d %s %s"):format(found.line - FIRST + 1, found.column, found.rule,
      found.message)
  end
  return table.concat(list, "\n")
end

local function finds(text, expected)
  local found = findings(text)
  assert(found == expected, ("%s\nfinds\n%s\nnot\n%s"):format(text, found, expected))
end

local MISTAKES = {
  -- Options.
  { "box:wait({ timout = 3 })",
    "1:12 option unknown option 'timout' of sandbox.Box:wait; did you mean 'timeout'?" },
  { "client:create { name = 'x', docker_imag = 'y' }",
    "1:29 option unknown option 'docker_imag' of sandbox.Client:create; "
      .. "did you mean 'docker_image'?" },
  { "local o = { attempt = 3 }\nsbx.retry.call(print, o)",
    "1:13 option unknown option 'attempt' of sbx.retry.call; did you mean 'attempts'?" },
  { "sbx.fs.write('x', 'y', { ['apend'] = true })",
    "1:27 option unknown option 'apend' of sbx.fs.write; did you mean 'append'?" },
  { "sbx.fs.tmpdir({ prefx = 'x' })", -- checked by a function that it calls
    "1:17 option unknown option 'prefx' of sbx.fs.tmpdir; did you mean 'prefix'?" },
  { "task.scope({ limt = 3 }, print)", -- by a function of another module
    "1:14 option unknown option 'limt' of sbx.task.scope; did you mean 'limit'?" },
  { "sbx.json.encode({ a = 1 }, { indent = 2 })",
    "1:30 option unknown option 'indent' of sbx.json.encode; there are: pretty, sort_keys" },
  { "sbx.http.get('u', { follow = { mos = 1 } })",
    "1:32 option unknown option 'mos' of sbx.http.get, follow; did you mean 'most'?" },
  -- Fields and methods.
  { "task.slep(1)", "1:6 field unknown field 'slep' of sbx.task; did you mean 'sleep'?" },
  { "sbx.htpp.get('x')", "1:5 field unknown field 'htpp' of sbx; did you mean 'http'?" },
  { "box:exce('ls')",
    "1:5 field unknown method 'exce' of a sandbox.Box; did you mean 'exec'?" },
  { "client:get('x'):dleete()",
    "1:17 field unknown method 'dleete' of a sandbox.Box; did you mean 'delete'?" },
  { "print(box:exec('ls').stdot)",
    "1:22 field unknown field 'stdot' of a sandbox.Result; did you mean 'stdout'?" },
  { "print(box.dockerImage)",
    "1:11 field unknown field 'dockerImage' of a sandbox.Box; did you mean 'docker_image'?" },
  { "for _, p in ipairs(box:list_processes()) do print(p.pidd) end",
    "1:53 field unknown field 'pidd' of a sandbox.ProcessInfo; did you mean 'pid'?" },
  { "print(('x'):len(), string.fromat('x'))",
    "1:27 field unknown field 'fromat' of string; did you mean 'format'?" },
  { "local write = require('sbx.fs').wirte",
    "1:33 field unknown field 'wirte' of sbx.fs; did you mean 'write'?" },
  -- Calls.
  { "box.exec('ls')",
    "1:5 call exec is a method of a sandbox.Box: call it with a colon, `:exec(…)`" },
  { "task:sleep(1)", "1:6 call sbx.task.sleep is no method: call it with a dot, `.sleep(…)`" },
  -- Globals.
  { "prnt('x')", "1:1 global undefined global 'prnt'; did you mean 'print'?" },
  { "local x = 1\nprint(y)", "2:7 global undefined global 'y'" },
  { "local function f() return helper() end\nf()", "1:27 global undefined global 'helper'" },
  -- Syntax.
  { "local x = = 1", "1:11 syntax unexpected symbol near '='" },
  { "goto nowhere", "1:1 syntax no visible label 'nowhere' for <goto> at line " .. FIRST },
}

test("check: finds mistakes, each at its place", function()
  for _, each in ipairs(MISTAKES) do
    finds(each[1], each[2])
  end
end)

-- Right, or not certain to be wrong.
local FINE = {
  "box:exec('ls', { check = true, timeout = 3 })", "box.exec(box, 'ls')", "box.label = 'mine'",
  "if jit then print(jit) end", "local unpack = table.unpack or unpack", "print(type(nothing))",
  "x = 1 print(x)", "function helper() end helper()", "print(later) later = 1", "_G.a = 1 print(a)",
  "rawset(_G, 'b', 1) print(b)", "local _ENV = { } print(c)", "setmetatable(_G, {}) print(d)",
  "dofile('x.lua') print(e)", "string.trim = 1 print(string.trim)",
  "task.mine = 1 task.mine()", "local t = task t = {} t.slep(1)",
  "local o = {} o.attempts = 3 sbx.retry.call(print, o)",
  "local o = { atempts = 3 } o.atempts = nil sbx.retry.call(print, o)",
  "local function f(options) sbx.retry.call(print, options) end f({ x = 1 })",
  "local function f(task) task.slep(1) end f({})",
  "local require = print require('sbx.task').slep()",
  "task.map({ a = 1 }, print)", "print(#box.labels, box.id)", "goto e ::e::",
  "box:exec('ls', { stdin = { path = 'x' } })", "sbx.http.get('x', { headers = { anything = 1 } })",
  "client:create { name = 'x', docker_image = 'y', environment_vars = { ANY = '1' } }",
  "local s <const> = sbx print(s.json.null)", "print(arg[1], ...)",
  "if box.is_mine then print() end",
  "for key in pairs(box) do print(key) end", "if string.split then string.split('x') end",
  "prnt('x') -- sbxlua: ignore",
}

test("check: leaves alone what is right, and what is not certain", function()
  for _, text in ipairs(FINE) do
    finds(text, "")
  end
  assert(#lint.check("#!/usr/bin/env sbxlua\nprint(1)") == 0)
  assert(#lint.check("") == 0)
end)

local function lua_files(folder)
  local files = {}
  for file in fs.walk(path.join(here, folder)) do
    if file:find("%.lua$") and not file:find("/stock/", 1, true) then files[#files + 1] = file end
  end
  return files
end

test("check: finds nothing in the scripts, tests and pages of this project", function()
  local told = {}
  local function look(name, text)
    for _, found in ipairs(lint.check(text, { globals = { test = true, skip = true } })) do
      told[#told + 1] = ("%s:%d:%d: %s"):format(name, found.line, found.column, found.message)
    end
    task.yield()
  end
  local count = 0
  for _, folder in ipairs({ "../scripts", "../tests" }) do
    for _, file in ipairs(lua_files(folder)) do
      look(file, fs.read(file))
      count = count + 1
    end
  end
  for _, name in ipairs(fs.list(path.join(here, "../docs"))) do
    local page = fs.read(path.join(here, "../docs", name))
    for block in page:gmatch("\n```lua run[^\n]*\n(.-)\n```") do
      look(name, block)
      count = count + 1
    end
  end
  assert(count > 200, count)
  assert(#told == 0, table.concat(told, "\n"))
end)

-- ------------------------------------------------------------------- the verb

local function check_verb(folder, ...)
  return process.run({ host.executable(), "check", ... }, { cwd = folder, timeout = 60 })
end

test("check: prints a line for each finding, and ends with status 1", function()
  local dir <close> = fs.tmpdir({ prefix = "check-" })
  fs.write(dir.path .. "/bad.lua", "local x = 1\n  prnt(x)\n\nx.y = yy\n")
  fs.write(dir.path .. "/good.lua", "print(1)\n")
  local result = check_verb(dir.path, "good.lua", "bad.lua")
  assert(result.code == 1)
  assert(result.stdout == "bad.lua:2:3: undefined global 'prnt'; did you mean 'print'?\n"
    .. "bad.lua:4:7: undefined global 'yy'\n", result.stdout)
  result = check_verb(dir.path, "good.lua")
  assert(result.code == 0 and result.stdout == "" and result.stderr == "", result.stderr)
end)

test("check: prints JSON, reads folders, knows modules beside the script", function()
  local dir <close> = fs.tmpdir({ prefix = "check-" })
  fs.mkdir(dir.path .. "/all/lib", { parents = true })
  fs.write(dir.path .. "/all/a.lua", "require('lib.b') print(shared, unshared)\n")
  fs.write(dir.path .. "/all/lib/b.lua", "shared = 1\n")
  fs.write(dir.path .. "/all/test_c.lua", "test('x', function() skip() end)\n")
  fs.write(dir.path .. "/all/notes.txt", "no Lua\n")
  local result = check_verb(dir.path, "-o", "json", "all")
  assert(result.code == 1, result.stderr)
  local rows = json.decode(result.stdout)
  assert(#rows == 1 and rows[1].file == "all/a.lua" and rows[1].line == 1, result.stdout)
  assert(rows[1].column == 32 and rows[1].rule == "global" and rows[1].v == 1)
  assert(rows[1].message:find("^undefined global 'unshared'"))
  fs.write(dir.path .. "/all/a.lua", "")
  result = check_verb(dir.path, "-o", "json", "all")
  assert(result.code == 0 and #json.decode(result.stdout) == 0)
end)

test("check: a file that is none is told, and no finding", function()
  local result = check_verb("/", "no/such.lua")
  assert(result.code == 2 and result.stdout == "", result.code)
  assert(result.stderr:find("no/such.lua", 1, true), result.stderr)
end)

test("check: runs nothing of the script and of its modules", function()
  local dir <close> = fs.tmpdir({ prefix = "check-" })
  fs.write(dir.path .. "/a.lua", "require('b')\nio.open('ran', 'w'):close()\n")
  fs.write(dir.path .. "/b.lua", "io.open('ran', 'w'):close()\n")
  assert(check_verb(dir.path, "a.lua").code == 0)
  assert(not fs.exists(dir.path .. "/ran"))
end)
