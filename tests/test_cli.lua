local cli = require("sbx.cli")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "run_support.lua")

local function words_of(line)
  local words = {}
  for word in line:gmatch("%S+") do
    words[#words + 1] = word
  end
  return words
end

-- Reads `line`, or a list of words, with nothing else in the environment.
local function read(line, description, environment)
  description.name = description.name or "prog"
  local words = type(line) == "table" and line or words_of(line)
  return cli.try_parse(words, description, environment or {})
end

local function reads(line, description, environment)
  local given, text = read(line, description, environment)
  assert(given, text)
  return given
end

local function refuses(text, line, description, environment)
  local given, message, refusal = read(line, description, environment)
  assert(given == nil, "was accepted")
  assert(refusal.status == 2, message)
  assert(message == text, ("said %q, not %q"):format(message, text))
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- ------------------------------------------------------------------ the words

local COUNT = { options = { { name = "count", short = "n", type = "integer" } } }

test("cli: the ways to give a value", function()
  for _, line in ipairs({ "-n 3", "-n3", "--count=3", "--count 3", "-n 9 -n 3", "--count=1 -n3" })
  do
    assert(reads(line, COUNT).count == 3, line)
  end
  assert(reads("-n -3", COUNT).count == -3)
  assert(reads("", COUNT).count == nil)
  refuses("-n: its value is missing", "-n", COUNT)
  refuses("--count: its value is missing", "--count", COUNT)
  refuses("--count: expected a whole number, got ''", "--count=", COUNT)
end)

test("cli: flags alone, together, and taken back", function()
  local spec = { options = {
    { name = "all", short = "a", type = "flag" },
    { name = "dry-run", short = "d", type = "flag" },
    { name = "colour", type = "flag", default = true },
    { name = "out", short = "o" },
  } }
  local given = reads("-ad", spec)
  assert(given.all == true and given.dry_run == true and given.colour == true and given.out == nil)
  given = reads("--no-colour --all --no-all", spec)
  assert(given.colour == false and given.all == false and given.dry_run == false)
  assert(reads("-aofile", spec).out == "file" and reads("-ao file", spec).out == "file")
  refuses("--all: takes no value", "--all=yes", spec)
  refuses("unknown option '-x' in '-ax'", "-ax", spec)
  refuses("unknown option '--no-out'", "--no-out", spec)
end)

test("cli: a word that is an option is no value by mistake", function()
  local spec = { options = { { name = "out", short = "o" }, { name = "all", type = "flag" } } }
  refuses("--out: its value is missing before '--all'; write --out=--all if that is meant",
    "--out --all", spec)
  refuses("-o: its value is missing before '--all'", "-o --all", spec)
  refuses("--out: its value is missing before '--'; write --out=-- if that is meant", "--out --",
    spec)
  assert(reads("--out=--all", spec).out == "--all")
  assert(reads("--out -", spec).out == "-" and reads("--out --other", spec).out == "--other")
end)

test("cli: arguments find their places, and -- ends options", function()
  local spec = { arguments = {
    { name = "from", many = true }, { name = "to" },
  }, options = { { name = "all", short = "a", type = "flag" } } }
  local given = reads("a b -a c", spec)
  assert(same(given, { from = { "a", "b" }, to = "c", all = true }))
  assert(same(reads("-- -a --", spec), { from = { "-a" }, to = "--", all = false }))
  assert(same(reads("- -5", spec), { from = { "-" }, to = "-5", all = false }))
  refuses("FROM is missing", "a", spec)
  refuses("FROM is missing", "", spec)

  spec = { arguments = { { name = "a" }, { name = "b", optional = true, default = "x" } } }
  assert(same(reads("1", spec), { a = "1", b = "x" }))
  assert(same(reads("1 2", spec), { a = "1", b = "2" }))
  refuses("unexpected argument '3'", "1 2 3", spec)
  spec = { arguments = { { name = "rest", many = true, optional = true, type = "integer" } } }
  assert(same(reads("", spec), { rest = {} }))
  assert(same(reads("1 -2", spec), { rest = { 1, -2 } }))
  refuses("REST: expected a whole number, got 'x'", "1 x", spec)
end)

test("cli: the words of a raw argument are taken as they are", function()
  local spec = {
    options = { { name = "verbose", short = "v", type = "flag" } },
    arguments = { { name = "box" }, { name = "command", many = true, raw = true } },
  }
  spec.arguments[2].name = "words"
  local given = reads("-v box ls -v --help -- x", spec)
  assert(same(given, { verbose = true, box = "box", words = { "ls", "-v", "--help", "--", "x" } }))
  assert(same(reads("box -v ls", spec).words, { "ls" }))
  assert(same(reads("box -- -v ls", spec).words, { "-v", "ls" }))
end)

-- ------------------------------------------------------------------ the types

local function option(fields)
  fields.name = "x"
  return { options = { fields } }
end

local function value_of(word, fields)
  return reads({ "--x=" .. word }, option(fields)).x
end

local function bad(word, fields, expected)
  refuses("--x: expected " .. expected .. ", got '" .. word .. "'", { "--x=" .. word },
    option(fields))
end

test("cli: numbers", function()
  assert(value_of("9223372036854775807", { type = "integer" }) == math.maxinteger)
  assert(math.type(value_of("+7", { type = "integer" })) == "integer")
  for _, word in ipairs({ "1.0", "1e3", "0x10", " 1", "", "-", "١" }) do
    bad(word, { type = "integer" }, "a whole number")
  end
  bad("9223372036854775808", { type = "integer" }, "a whole number below 2^63")
  assert(value_of("1.5e3", { type = "number" }) == 1500)
  assert(value_of("-.5", { type = "number" }) == -0.5)
  for _, word in ipairs({ "nan", "inf", "1e999", "0x1p4", ".", "1,5", "1e" }) do
    bad(word, { type = "number" }, "a number")
  end
  bad("0", { type = "integer", min = 1, max = 9 }, "1 to 9")
  bad("10", { type = "number", max = 9 }, "at most 9")
  bad("-1", { type = "number", min = 0 }, "at least 0")
end)

test("cli: durations become seconds, sizes bytes", function()
  for word, seconds in pairs({
    ["10m"] = 600, ["1h30m"] = 5400, ["500ms"] = 0.5, ["90"] = 90, ["1.5"] = 1.5, ["2d"] = 172800,
    ["0s"] = 0,
  }) do
    assert(value_of(word, { type = "duration" }) == seconds, word)
  end
  for _, word in ipairs({ "", "m", "10x", "-5", "1h30", "10 m" }) do
    assert(not read({ "--x=" .. word }, option({ type = "duration" })), word)
  end
  bad("2h", { type = "duration", max = "90m" }, "at most 90m")
  for word, bytes in pairs({
    ["64MiB"] = 67108864, ["64M"] = 67108864, ["200MB"] = 200000000, ["1.5KiB"] = 1536,
    ["4096"] = 4096, ["3B"] = 3, ["2kB"] = 2000, ["1T"] = 1099511627776,
  }) do
    local value = value_of(word, { type = "size" })
    assert(value == bytes and math.type(value) == "integer", word)
  end
  for _, word in ipairs({ "", "MiB", "1iB", "1Mi", "-1", "1XB", "1e3" }) do
    bad(word, { type = "size" }, "a size such as 4096, 64KiB, 1.5GiB or 200MB")
  end
  bad("99999999999T", { type = "size" }, "a size below 4 EiB")
end)

test("cli: choices, lists and maps", function()
  local choices = { type = "choice", choices = { "fast", "slow", "off" } }
  assert(value_of("slow", choices) == "slow")
  bad("Fast", choices, "fast, slow or off")

  local many = { options = {
    { name = "label", short = "l", type = "list", default = { "a" } },
    { name = "port", type = "list", of = "integer", min = 1 },
    { name = "set", type = "map" },
  } }
  local given = reads("-lb --label=c,d --port 1 --port 2 --set k=v --set k2=a=b --set k=w", many)
  assert(same(given, { label = { "b", "c,d" }, port = { 1, 2 }, set = { k = "w", k2 = "a=b" } }))
  given = reads("", many)
  assert(same(given, { label = { "a" }, port = {}, set = {} }))
  table.insert(given.label, "mine")
  assert(same(reads("", many).label, { "a" }), "the default itself was handed out")
  refuses("--port: expected at least 1, got '0'", "--port 0", many)
  refuses("--set: expected KEY=VALUE, got 'k'", "--set k", many)
  refuses("--set: expected KEY=VALUE, got '=v'", "--set =v", many)
end)

test("cli: files must be there", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/a", "x")
  local spec = { options = {
    { name = "file", type = "file" }, { name = "path", type = "path" },
    { name = "many", type = "list", of = "file" },
  } }
  local path = dir.path .. "/a"
  local given = reads({ "--file", path, "--path", dir.path, "--many", path }, spec)
  assert(given.file == path and given.path == dir.path and given.many[1] == path)
  refuses("--file: '" .. dir.path .. "': is a directory", { "--file", dir.path }, spec)
  refuses("--path: '/nowhere/x': no such file or directory", "--path /nowhere/x", spec)
  refuses("--config: '/nowhere': no such file or directory", "",
    { options = { { name = "config", type = "file", default = "/nowhere" } } })
end)

-- --------------------------------------------------- defaults and environment

test("cli: the command line, then the environment, then the default", function()
  local spec = { options = {
    { name = "count", type = "integer", default = 1, min = 1, env = "COUNT" },
    { name = "wait", type = "flag", env = "WAIT" },
    { name = "label", type = "list", env = "LABELS" },
    { name = "timeout", type = "duration", default = "10m" },
  } }
  local environment = { COUNT = "5", WAIT = "yes", LABELS = "a,b" }
  assert(same(reads("", spec, environment),
    { count = 5, wait = true, label = { "a", "b" }, timeout = 600 }))
  assert(same(reads("--count 7 --no-wait --label c", spec, environment),
    { count = 7, wait = false, label = { "c" }, timeout = 600 }))
  assert(reads("", spec, { COUNT = "" }).count == 1)
  refuses("environment variable COUNT: expected at least 1, got '0'", "", spec, { COUNT = "0" })
  refuses("environment variable WAIT: expected yes or no, got 'maybe'", "", spec,
    { WAIT = "maybe" })
  assert(reads("--count 2", spec, { COUNT = "nonsense" }).count == 2)
end)

test("cli: what is required", function()
  local spec = { options = { { name = "name", required = true, env = "NAME" } } }
  refuses("--name is missing; or set NAME", "", spec)
  assert(reads("", spec, { NAME = "n" }).name == "n")
  assert(reads({ "--name=" }, spec).name == "")
end)

test("cli: a secret comes from the environment or a file, and is never shown", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/key"
  fs.write(path, "hunter2hunter2\n")
  local spec = { options = { { name = "api-key", secret = true, env = "KEY", required = true } } }
  assert(reads("", spec, { KEY = "hunter2hunter2" }).api_key == "hunter2hunter2")
  assert(reads({ "--api-key-file", path }, spec).api_key == "hunter2hunter2")
  refuses("--api-key: a secret on the command line can be read by everybody on this machine;"
    .. " set KEY or give --api-key-file FILE", "--api-key=hunter2hunter2", spec)
  refuses("--api-key-file is missing; or set KEY", "", spec)
  fs.write(path, "\n")
  refuses("--api-key-file: '" .. path .. "' is empty", { "--api-key-file", path }, spec)
  assert(not cli.help(spec):find("api-key ", 1, true))
  local _, text = read("", { options = {
    { name = "pin", secret = true, type = "integer", env = "PIN" },
  } }, { PIN = "hunter2" })
  assert(text == "environment variable PIN: expected a whole number", text)
end)

-- -------------------------------------------------------------------- commands

local function fleet()
  return {
    name = "fleet",
    options = { { name = "verbose", short = "v", type = "flag" }, { name = "url" } },
    commands = {
      { name = "create", summary = "makes one", options = { { name = "count", type = "integer" } },
        arguments = { { name = "image" } } },
      { name = "list", hidden = true },
      { name = "image", commands = { { name = "pull" }, { name = "prune" } } },
    },
  }
end

test("cli: commands, and the program's options before and after them", function()
  for _, line in ipairs({
    "-v create --count 2 py", "create -v py --count 2", "create py --count=2 -v",
  }) do
    assert(same(reads(line, fleet()),
      { command = "create", verbose = true, count = 2, image = "py" }), line)
  end
  local given, _, found = read("image pull --url u", fleet())
  assert(given.command == "image pull" and given.url == "u" and found.program == "fleet image pull")
  refuses("unknown command 'craete'; did you mean 'create'?", "craete", fleet())
  refuses("unknown command 'xyz'", "xyz", fleet())
  refuses("a command is missing: create or image", "-v", fleet())
  refuses("a command is missing: pull or prune", "image", fleet())
  refuses("unknown option '--count'", "--count 2 create py", fleet())
  refuses("unknown option '--cuont'; did you mean '--count'?", "create --cuont 2 py", fleet())
  refuses("unexpected argument 'create'", "list create", fleet())
end)

test("cli: arguments beside commands", function()
  local spec = {
    arguments = {
      { name = "file", optional = true }, { name = "rest", many = true, optional = true },
    },
    commands = { { name = "serve" } },
  }
  assert(reads("serve", spec).command == "serve")
  assert(same(reads("x.lua serve", spec), { file = "x.lua", rest = { "serve" } }))
  assert(same(reads("", spec), { rest = {} }))
end)

test("cli: help of the whole and of a command", function()
  for _, line in ipairs({ "--help", "-h", "help" }) do
    local given, text, refusal = read(line, fleet())
    assert(not given and refusal.status == 0, line)
    assert(text:find("usage: fleet [options] COMMAND", 1, true), text)
    assert(text:find("\n  create +makes one\n"), text)
    assert(not text:find("list", 1, true), "a hidden command shows")
  end
  for _, line in ipairs({ "create --help", "-v create py --count 1 -h", "help create" }) do
    local _, text, refusal = read(line, fleet())
    assert(refusal.program == "fleet create", line)
    assert(text:find("usage: fleet create [options] IMAGE\n", 1, true), text)
    assert(text:find("\noptions of fleet\n", 1, true), text)
  end
  refuses("no help on 'craete'; did you mean 'create'?", "help craete", fleet())
  local _, text = read("--version", { name = "fleet", version = "1.2" })
  assert(text == "fleet 1.2\n")
  assert(reads("-h x", { options = { { name = "host", short = "h" } } }).host == "x")
end)

-- ------------------------------------------------------------------- mistakes

test("cli: a word that others have for an option says which one is meant", function()
  local spec = { name = "p", options = {
    { name = "yes", short = "y", type = "flag", also = { "--force", "-f" } },
    { name = "lifetime", type = "duration", also = { "--timeout" } },
    { name = "timeout", type = "duration" },
    { name = "key", secret = true, also = { "--api-key" } },
  } }
  refuses("unknown option '--force'; did you mean '--yes'?", "--force", spec)
  refuses("unknown option '-f'; did you mean '--yes'?", "-f", spec)
  refuses("unknown option '--api-key'; did you mean '--key-file'?", "--api-key x", spec)
  -- What there is, is what it is.
  assert(read("--timeout 5s", spec).timeout == 5)
  spec.options[1].also = { "force" }
  local ok, problem = pcall(cli.check, spec)
  assert(not ok and problem:find("also: expected options", 1, true), problem)
end)

test("cli: a command apart has its own options only", function()
  local spec = {
    name = "p", run = function() end,
    options = { { name = "state", help = "mine" }, { name = "listen", default = "x" } },
    commands = { {
      name = "key", apart = true, options = { { name = "state", short = "s" } },
      commands = { { name = "add", arguments = { { name = "listen" } } }, { name = "ls" } },
    } },
  }
  cli.check(spec)
  local given = read("key add -s a b", spec)
  assert(given.command == "key add" and given.state == "a" and given.listen == "b")
  assert(read("key ls", spec).listen == nil and read("--state c", spec).listen == "x")
  refuses("unknown option '--listen'", "key ls --listen y", spec)
  refuses("--listen: does not go with 'key'", "--listen y key ls", spec)
  local help = cli.help(spec, { command = "key ls" })
  assert(help:find("options of key", 1, true) and not help:find("--listen", 1, true), help)
end)

test("cli.check: a mistake in the description is told early and where", function()
  local function wrong(text, description)
    if description.name == nil then description.name = "p" end
    expect.misuse(text, cli.check, description)
    local _, err = pcall(function() cli.check(description) end)
    assert(err:find("test_cli.lua:%d+: cli"), err)
  end
  local function wrong_option(text, fields)
    if fields.name == nil then fields.name = "x" end
    wrong(text, { options = { fields } })
  end
  wrong("unknown key 'hlep'; did you mean 'help'?", { options = { { name = "x", hlep = "" } } })
  expect.misuse("name: the program's name is missing", cli.check, {})
  wrong_option("option 'x': unknown type 'int'", { type = "int" })
  wrong_option("default: not a value of type integer", { type = "integer", default = "many" })
  wrong_option("default: not a value of type choice",
    { type = "choice", choices = { "a" }, default = "b" })
  wrong_option("min: a string has no bounds", { min = 1 })
  wrong_option("max: not a value of type duration", { type = "duration", max = "soon" })
  wrong_option("type choice and `choices` go together", { type = "choice" })
  wrong_option("a secret has no default", { secret = true, default = "x" })
  wrong_option("what is required has no default", { required = true, default = "x" })
  wrong_option("short: expected one letter", { short = "xy" })
  wrong_option("required: expected a boolean, got a string", { required = "yes" })
  wrong_option("--help is taken by cli itself", { name = "help" })
  wrong_option("two values would be called 'command'", { name = "command" })
  wrong_option("name: expected letters", { name = "--x" })
  wrong("-n is taken by option 'a'",
    { options = { { name = "a", short = "n" }, { name = "b", short = "n" } } })
  wrong("--no-a is taken by option 'no-a'",
    { options = { { name = "no-a" }, { name = "a", type = "flag" } } })
  wrong("two values would be called 'a'",
    { options = { { name = "a" } }, arguments = { { name = "a" } } })
  wrong("what is needed comes before",
    { arguments = { { name = "a", optional = true }, { name = "b" } } })
  wrong("only one argument can be many",
    { arguments = { { name = "a", many = true }, { name = "b", many = true } } })
  wrong("command 'c', option 'x'",
    { commands = { { name = "c", options = { { name = "x", type = "int" } } } } })
  wrong("--all is taken by option 'all'", {
    options = { { name = "all" } }, commands = { { name = "c", options = { { name = "all" } } } },
  })
  wrong("two commands are called 'c'", { commands = { { name = "c" }, { name = "c" } } })
  expect.misuse("argv: expected a table", cli.try_parse, "x", { name = "p" })
end)

test("cli: no hostile word drives the terminal", function()
  local _, text = read({ "--\27[2J\n" .. ("x"):rep(5000) }, COUNT)
  assert(not text:find("[\0-\31]") and #text < 400, text)
  _, text = read({ "-n\27]0;x\7" }, COUNT)
  assert(not text:find("[\0-\31]"), text)
  read({ "-\xff\xfe", "--=", "--=x", "-", "" }, COUNT)
end)

-- ------------------------------------------------------------ a whole program

local PROGRAM = [[
local cli = require("sbx.cli")
local unwound <close> = setmetatable({}, { __close = function() print("unwound") end })
local given, result = cli.parse(arg, {
  name = "prog",
  options = { { name = "count", type = "integer", env = "SBX_TEST_COUNT", default = 1 } },
  commands = { { name = "double", run = function(given) return given.count * 2 end } },
})
print(given.command, result)
]]

local function program(words, env)
  local folder <close> = fs.tmpdir({ prefix = "cli-" })
  fs.write(folder.path .. "/prog.lua", PROGRAM)
  return support.run({ folder.path .. "/prog.lua", table.unpack(words) }, { env = env })
end

test("cli.parse: runs the command; help is status 0 on stdout, a mistake 2 on stderr", function()
  local result = program({ "double", "--count", "4" })
  assert(result.code == 0 and result.stdout == "double\t8\nunwound\n", result.stderr)
  result = program({ "double", "--help" })
  assert(result.code == 0 and result.stderr == "" and result.stdout:find("unwound\n$"))
  assert(result.stdout:find("^usage: prog double %[options%]\n"), result.stdout)
  result = program({ "double", "--count", "x" })
  assert(result.code == 2 and result.stdout == "unwound\n")
  assert(result.stderr == "prog double: --count: expected a whole number, got 'x'\n"
    .. "Try 'prog double --help'.\n", result.stderr)
  result = program({ "double" }, { SBX_TEST_COUNT = "x" })
  assert(result.code == 2 and result.stderr:find("environment variable SBX_TEST_COUNT:", 1, true))
end)
