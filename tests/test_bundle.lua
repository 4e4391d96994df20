-- Programs that `sbxlua bundle` makes of scripts, run as programs.

local format = require("sbx.bundle.format")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local path = require("sbx.path")
local process = require("sbx.process")

local TOOL = [[
#!/usr/bin/env sbxlua
local lib = require("lib.greet")
local bundle = require "sbx.bundle"
print(lib.text(...), #arg, arg[#arg])
print(debug.getinfo(1, "S").source, bundle.is_bundled())
if arg[1] == "file" then io.write(bundle.file("data/words.txt")) end
if arg[1] == "exit" then os.exit(7) end
if arg[1] == "fail" then lib.fail() end
]]

local GREET = [[
local name = require 'lib.name'
local greet = {}
function greet.text(who) return "hello " .. (who or name) end
function greet.fail()
  error("it broke")
end
return greet
]]

-- A folder with a script, modules and a file.
local function project()
  local dir = fs.tmpdir({ prefix = "bundle-" })
  local function write(name, text)
    fs.mkdir(path.dirname(path.join(dir.path, name)), { parents = true })
    fs.write(path.join(dir.path, name), text)
  end
  write("tool.lua", TOOL)
  write("lib/greet.lua", GREET)
  write("lib/name.lua", "return 'world'\n")
  write("data/words.txt", "one two\n")
  return dir, write
end

local function run(argv, options)
  options = options or {}
  return process.run(argv, { cwd = options.cwd, env = options.env, timeout = 60 })
end

local function bundle(dir, ...)
  return run({ host.executable(), "bundle", ... }, { cwd = dir.path })
end

local function made(dir, ...)
  local result = bundle(dir, "tool.lua", "-o", "tool", ...)
  assert(result.code == 0, result.stderr)
  return path.join(dir.path, "tool")
end

local function contains(text, part)
  assert(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text))
end

test("bundle: a program has its script and modules inside, and takes arguments", function()
  local dir <close> = project()
  local tool = made(dir)
  assert(fs.stat(tool).mode & 511 == 493) -- octal 755
  fs.remove(path.join(dir.path, "lib"), { recursive = true })
  fs.remove(path.join(dir.path, "tool.lua"))
  local result = run({ tool, "you", "--help", "-e" }, { cwd = "/" })
  assert(result.code == 0, result.stderr)
  assert(result.stdout == "hello you\t3\t-e\n@tool.lua\ttrue\n", result.stdout)
  assert(run({ tool, "exit" }).code == 7)
end)

test("bundle: what fails names the file and line it was written in", function()
  local dir <close> = project()
  local result = run({ made(dir), "fail" })
  assert(result.code == 1)
  contains(result.stderr, "lib/greet.lua:5: it broke")
  contains(result.stderr, "tool.lua:8: in main chunk")
end)

test("bundle: the same files make the same bytes, wherever they are", function()
  local one <close> = project()
  local other <close> = project()
  local first = fs.read(made(one, "--include", "data"))
  local target = path.join(other.path, "second")
  local result = run({
    host.executable(), "bundle", path.join(other.path, "tool.lua"), "--include",
    path.join(other.path, "data"), "-o", target,
  }, { cwd = "/" })
  assert(result.code == 0, result.stderr)
  assert(fs.read(target) == first)
  assert(not first:find(one.path, 1, true))
end)

test("bundle: files go along, and the script finds them as before", function()
  local dir <close> = project()
  local tool = made(dir, "--include", "data")
  fs.remove(path.join(dir.path, "data"), { recursive = true })
  contains(run({ tool, "file" }, { cwd = "/" }).stdout, "one two\n")
  local without = run({ made(dir), "file" }, { cwd = "/" })
  assert(without.code == 5 or without.code == 1)
  contains(without.stderr, "data/words.txt: no such file in this program")

  local plain <close> = project()
  local script = path.join(plain.path, "tool.lua")
  local result = run({ host.executable(), script, "file" }, { cwd = "/" })
  contains(result.stdout, "\tfalse\none two\n")
end)

test("bundle: a module that is not found stops it and is told with its place", function()
  local dir <close>, write = project()
  write("lib/name.lua", "local more = 1\nreturn require('lib.mor')\n")
  local result = bundle(dir, "tool.lua", "-o", "tool")
  assert(result.code == 2 and not fs.exists(path.join(dir.path, "tool")))
  contains(result.stderr, "lib/name.lua:2: module 'lib.mor': not found:")
  contains(result.stderr, "lib/mor.lua'")
  local tool = made(dir, "--exclude", "lib.mor")
  contains(run({ tool }, { cwd = "/" }).stderr, "module 'lib.mor' not found")

  write("lib/name.lua", "return require('lib.' .. 'other')\n")
  write("lib/other.lua", "return 'other'\n")
  tool = made(dir, "--include", "lib.other")
  contains(run({ tool }, { cwd = "/" }).stdout, "hello other")

  write("lib/name.lua", "return require('lib.\n")
  result = bundle(dir, "tool.lua", "-o", "tool")
  assert(result.code == 2)
  contains(result.stderr, "lib/name.lua:1:")
end)

test("bundle: mistakes in what is asked for", function()
  local dir <close>, write = project()
  write("native.lua", "require('native_library')\n")
  for _, each in ipairs({
    { { "tool.lua", "-o", "tool.lua" }, "is the script itself" },
    { { "tool.lua", "-o", "tool", "--include", "no/such.txt" }, "no/such.txt: no such file" },
    { { "tool.lua", "-o", "tool", "--include", "nothing" }, "--include: module 'nothing'" },
    { { "tool.lua", "-o", "tool", "--include", "/etc/hostname" }, "not below the folder" },
    { { "nothing.lua" }, "nothing.lua" },
    { { "tool.lua", "-o", "no/where/tool" },
      "bundle: write no/where/tool: no such file or directory\n" },
    { { "tool.lua", "-o", "lib" }, "bundle: write lib: " },
    { { "native.lua", "-o", "tool" }, "module 'native_library': not found" },
  }) do
    local result = bundle(dir, table.unpack(each[1]))
    assert(result.code ~= 0, each[2])
    contains(result.stderr, each[2])
    assert(not result.stderr:find("stack traceback", 1, true), result.stderr)
  end
  assert(fs.read(path.join(dir.path, "tool.lua")) == TOOL)
end)

test("bundle: a program is replaced while it runs, and is the running one until it ends", function()
  local dir <close>, write = project()
  write("tool.lua", "io.stdout:write('up\\n') io.stdout:flush() print(io.read())")
  local tool = made(dir)
  local child <close> = process.spawn({ tool }, { stdin = "pipe", stdout = "pipe" })
  assert(child.stdout:line() == "up")
  write("tool.lua", "print('new')")
  made(dir)
  child.stdin:write("still here\n")
  assert(child.stdout:line() == "still here")
  assert(run({ tool }).stdout == "new\n")
end)

-- Runs a program whose payload is just these bytes.
local function run_payload(dir, payload)
  local file = path.join(dir.path, "damaged")
  fs.write_atomic(file, assert(format.join(fs.read("/proc/self/exe"), payload)), { mode = 493 })
  return run({ file })
end

test("bundle: a payload that is damaged or wrong is refused in one line", function()
  local dir <close> = project()
  local whole = fs.read(made(dir))
  local file = path.join(dir.path, "cut")
  for _, bytes in ipairs({
    whole:sub(1, -2), whole:sub(1, -300), whole:sub(1, -3) .. "XY",
    whole:sub(1, -5) .. "\0\0\0\0" .. whole:sub(-4),
  }) do
    fs.write_atomic(file, bytes, { mode = 493 })
    local result = run({ file })
    assert(result.code == 1 and result.stdout == "")
    contains(result.stderr, "cut: this program is damaged: ")
    assert(select(2, result.stderr:gsub("\n", "")) == 1, result.stderr)
  end
  local good = format.encode({
    is_local = false, modules = {}, files = {}, script = { name = "s.lua", bytes = "print(1)" },
  })
  assert(run_payload(dir, good).stdout == "1\n")
  for _, payload in ipairs({
    "x", "sbxlua bundle 2\n-", good:sub(1, -2), good:sub(1, 17), good .. "\255",
    good .. ("<s1s4s4"):pack("spy", "a", "b"), good .. ("<s1s4s4"):pack("module", "a", "b"),
    good:sub(1, 17) .. "\6script" .. "\255\255\255\255", (good:gsub("print%(1%)", "print(1 ")),
    (good:gsub("print%(1%)", "\27LuaT(1)")),
    format.encode({ -- bytecode is never read: a broken one can do anything
      is_local = false, modules = {}, files = {},
      script = { name = "s.lua", bytes = string.dump(load("print('ran')")) },
    }),
  }) do
    local result = run_payload(dir, payload)
    assert(result.code == 1 and result.stdout == "", result.stdout)
    contains(result.stderr, "this program is damaged: ")
  end
end)

test("bundle: the program is sbxlua itself where that is asked for", function()
  local dir <close> = project()
  local tool = made(dir)
  local as_itself = { env = { SBXLUA_BUNDLE = "ignore" }, cwd = dir.path }
  contains(run({ tool, "version" }, as_itself).stdout, host.version)
  local result = run({ tool, "bundle", "tool.lua", "-o", "again" }, as_itself)
  assert(result.code == 0, result.stderr)
  assert(fs.read(path.join(dir.path, "again")) == fs.read(tool))
end)

test("bundle: with --on-local, or told so, it starts a private server of its own", function()
  local dir <close>, write = project()
  write("tool.lua", [[
    local client <close> = require("sbx.sandbox").client()
    local page = client:list()
    print(client.base_url:match("^http://127%.0%.0%.1:") ~= nil, type(page))
  ]])
  local free = { SBXLUA_LOCAL = false, PRIME_API_KEY = false, PRIME_API_BASE_URL = false }
  local result = run({ made(dir, "--on-local"), "an argument" }, { env = free })
  assert(result.stdout == "true\ttable\n", result.stdout .. result.stderr)
  free.SBXLUA_LOCAL = "1"
  result = run({ made(dir) }, { env = free })
  assert(result.stdout == "true\ttable\n", result.stdout .. result.stderr)
end)
