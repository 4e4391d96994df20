-- The command line: arguments, exit statuses, and what a person is told.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")
local support = dofile(here .. "run_support.lua")

local run, run_code = support.run, support.run_code

local function has(text, plain)
  assert(text:find(plain, 1, true), ("%q is not in: %s"):format(plain, text))
end

local function has_not(text, plain)
  assert(not text:find(plain, 1, true), ("%q is in: %s"):format(plain, text))
end

local function occurrences(text, plain)
  local count, at = 0, 0
  repeat
    at = text:find(plain, at + 1, true)
    count = count + (at and 1 or 0)
  until not at
  return count
end

---Calls `fn(path)` with a script of this text.
---@async
local function with_script(text, fn)
  local folder <close> = fs.tmpdir({ prefix = "main-" })
  local path = folder.path .. "/script.lua"
  fs.write(path, text)
  fn(path)
end

local function expect_status(code, status, ...)
  local result = run_code(code)
  assert(result.code == status, ("%d: %s"):format(result.code, result.stderr))
  for _, plain in ipairs({ ... }) do
    has(result.stderr, plain)
  end
  return result.stderr
end

-- ------------------------------------------------------------------ arguments

test("main: --help and --version answer on stdout with status 0", function()
  for _, word in ipairs({ "--help", "-h", "help" }) do
    local result = run({ word })
    assert(result.code == 0 and result.stderr == "")
    has(result.stdout, "usage: sbxlua")
  end
  for _, word in ipairs({ "--version", "-v", "version" }) do
    local result = run({ word })
    assert(result.code == 0 and result.stdout:find("^sbxlua %d+%.%d+%.%d+ %(Lua 5%.4%)\n$"))
  end
end)

test("main: wrong usage is status 2, says what is wrong and where help is", function()
  for _, words in ipairs({
    { "--nonsense" }, { "-x", "f.lua" }, { "nosuchverb" }, { "--" }, { "-e" },
    { "--cleanup-timeout", "soon", "-e", "" }, { "--cleanup-timeout" },
    { "--cleanup-timeout", "-1", "-e", "" },
  }) do
    local result = run(words)
    local line = table.concat(words, " ")
    assert(result.code == 2, ("%s: %d"):format(line, result.code))
    assert(result.stdout == "", line)
    has(result.stderr, "Try 'sbxlua --help'.")
    if words[1] and words[1]:find("nons") then has(result.stderr, words[1]) end
  end
end)

test("main: a misspelt option or command is told what it may have been", function()
  for word, guess in pairs({ ["--hlep"] = "--help", ["--lcal"] = "--local", serv = "serve",
    ["--cleanup-timout"] = "--cleanup-timeout", verson = "version" }) do
    local result = run({ word })
    assert(result.code == 2, word)
    has(result.stderr, "'" .. word .. "'")
    has(result.stderr, "did you mean '" .. guess .. "'?")
  end
  has_not(run({ "--nonsense" }).stderr, "did you mean")
end)

test("main: runs a file, -e, and what stdin holds, each with its arguments", function()
  local code = "print(#arg, arg[1], ...)"
  with_script(code, function(path)
    assert(run({ path, "a", "--local" }).stdout == "2\ta\ta\t--local\n")
    assert(run({ "--", path, "a" }).stdout == "1\ta\ta\n")
  end)
  assert(run({ "-e", code, "a" }).stdout == "1\ta\ta\n")
  assert(run({ "-", "a" }, { input = code }).stdout == "1\ta\ta\n")
end)

test("main: `arg` has the script at 0 and the program below, as stock Lua", function()
  with_script("print(arg[0], arg[-1], arg[-2], arg[-3]:match('sbxlua'), arg[-4])", function(path)
    local result = run({ "--cleanup-timeout", "3", path })
    assert(result.stdout == path .. "\t3\t--cleanup-timeout\tsbxlua\tnil\n", result.stdout)
  end)
end)

test("main: a missing file, a folder and a syntax error are status 1 and one line", function()
  for words, expected in pairs({
    [{ "./nowhere.lua" }] = "nowhere.lua: No such file",
    [{ "/tmp" }] = "/tmp",
    [{ "-e", "local = 1" }] = "(command line):1:",
  }) do
    local result = run(words)
    assert(result.code == 1)
    has(result.stderr, expected)
    assert(occurrences(result.stderr, "\n") == 1, result.stderr)
  end
end)

-- -------------------------------------------------------------- exit statuses

test("main: no key is status 4 and one error with both ways out", function()
  local text = expect_status('require("sbx.sandbox").client():list()', 4,
    "PRIME_API_KEY", "~/.prime/config.json", "--local")
  assert(occurrences(text, "API key") == 1, text)
end)

test("main: a wrong key is status 4 and the key is not shown", function()
  local folder <close> = fs.tmpdir({ prefix = "main-" })
  local key_file = folder.path .. "/key"
  local server <close> = support.start({
    "serve", "--no-state", "--listen", "127.0.0.1:0", "--key-file", key_file,
  })
  local url = server:await("stderr", "(http://127%.0%.0%.1:%d+)")
  local wrong = hash.random_hex(16)
  local result = run_code('require("sbx.sandbox").client():list()', {
    env = { PRIME_API_BASE_URL = url, PRIME_API_KEY = wrong },
  })
  assert(result.code == 4, result.stderr)
  has(result.stderr, "kind=unauthorized")
  has_not(result.stderr, wrong)
  server:kill("TERM")
  assert(server:finish() == 0)
end)

-- A port of this machine where nobody listens any more.
local function closed_port()
  local listener <close> = net.listen("127.0.0.1", 0)
  return listener.port
end

test("main: a refused connection is status 8, and so is kind `dns`", function()
  local url = "http://127.0.0.1:" .. closed_port()
  expect_status(('require("sbx.http").get(%q)'):format(url), 8, "connection refused", url)
  local result = run_code('require("sbx.sandbox").client():list()', {
    env = { PRIME_API_BASE_URL = url, PRIME_API_KEY = "k" },
  })
  assert(result.code == 8, result.stderr)
  expect_status('require("sbx.errors").raise { kind = "dns", message = "m" }', 8, "m")
end)

test("main: kinds and statuses of errors have exit statuses of their own", function()
  for fields, status in pairs({
    ['kind = "api", status = 404'] = 5, ['kind = "file_not_found"'] = 5,
    ['kind = "usage"'] = 2, ['kind = "api", status = 409'] = 6, ['kind = "payment_required"'] = 7,
    ['kind = "api", status = 429'] = 7, ['kind = "tls"'] = 8, ['kind = "other"'] = 1,
    ['kind = "api_timeout"'] = 8, ['kind = "command_timeout"'] = 124,
  }) do
    expect_status(('require("sbx.errors").raise { message = "m", %s }'):format(fields), status)
  end
end)

test("main: a deadline is status 124", function()
  expect_status('local t = require("sbx.task") t.timeout(0.01, t.sleep, 60)', 124,
    "timed out after 0.01 s", "(command line):1")
end)

test("main: any uncaught value is status 1 and shown", function()
  expect_status('error("a string")', 1, "(command line):1: a string")
  expect_status("error({ message = 'inside' })", 1, "error object is a table value", "inside")
  expect_status("error()", 1, "sbxlua: (error object is a nil value)\n")
  expect_status("error(setmetatable({}, { __tostring = function() return 'shown' end }))", 1,
    "sbxlua: shown\n")
  expect_status("error(setmetatable({}, { __tostring = error }))", 1, "cannot be shown")
  expect_status('require("sbx.errors").raise { kind = "mine", message = "an object" }', 1,
    "sbxlua: an object\n", "kind=mine")
end)

test("main: os.exit runs finalizers that wait, in every task", function()
  local result = run_code [[
    local task = require("sbx.task")
    local function closing(name)
      return setmetatable({}, { __close = function() task.sleep(0.01) print(name) end })
    end
    local outer <close> = closing("outer")
    require("sbx.run").defer(function() task.sleep(0.01) print("deferred") end)
    task.scope(function(scope)
      scope:spawn(function()
        local inner <close> = closing("inner")
        os.exit(7)
      end)
    end)
    print("never")
  ]]
  assert(result.code == 7 and result.stdout == "inner\nouter\ndeferred\n", result.stdout)
  assert(result.stderr == "", result.stderr)
  assert(run_code("os.exit()").code == 0 and run_code("os.exit(false)").code == 1)
end)

test("main: os.exit ends the script from anywhere, whatever catches errors there", function()
  for _, code in ipairs({
    "os.exit(9)", "pcall(os.exit, 9)", "while true do pcall(pcall, os.exit, 9) end",
    "xpcall(os.exit, function(m) return m end, 9)",
    "coroutine.wrap(function() pcall(os.exit, 9) print('no') end)()",
    "local co = coroutine.create(os.exit) coroutine.resume(co, 9) print('no')",
    "table.sort({ 3, 2, 1 }, function() os.exit(9) end)",
    "string.gsub('x', '.', function() pcall(os.exit, 9) end)",
    "setmetatable({}, { __gc = function() os.exit(9) end }) collectgarbage()",
    "setmetatable({}, { __index = function() os.exit(9) end }).x()",
    "local t = require('sbx.task') t.scope(function() t.spawn(function() os.exit(9) end) end)",
    "local t = require('sbx.task') t.timeout(60, function() t.shield(9, os.exit, 9) end)",
    "local t = require('sbx.task') t.spawn(t.sleep, 600) t.pspawn(os.exit, 9):pjoin()",
    "package.preload.m = function() os.exit(9) end require('m')",
    "debug.sethook(function() os.exit(9) end, 'l')\nprint()",
  }) do
    local result = run_code(
      'local x <close> = setmetatable({}, { __close = function() io.stderr:write("closed") end })\n'
      .. code .. "\nprint('still here')")
    assert(result.code == 9, ("%s: %d %s"):format(code, result.code, result.stderr))
    assert(not result.stdout:find("%a") and result.stderr == "closed", code .. result.stderr)
  end
end)

test("main: os.exit while cleaning up changes the status and ends that finalizer only", function()
  local result = run_code([[
    local run, task = require("sbx.run"), require("sbx.task")
    local function closing(name, fn)
      return setmetatable({}, { __close = function() print(name) fn() print("no") end })
    end
    run.defer(function() task.sleep(0.01) print("last") end)
    run.defer(function() print("deferred") os.exit(4) end)
    local a <close> = setmetatable({}, { __close = function() task.sleep(0.01) print("a") end })
    local b <close> = closing("b", function() os.exit(3) end)
    os.exit(2)
  ]])
  assert(result.stdout == "b\na\ndeferred\nlast\n", result.stdout)
  assert(result.code == 4 and result.stderr == "", result.stderr)
end)

test("main: os.exit checks its argument as stock Lua does", function()
  local result = run_code("print(pcall(os.exit, 'soon')) print(pcall(os.exit, 1.5)) os.exit('7')")
  assert(result.code == 7, result.code)
  has(result.stdout, "number expected, got string")
  has(result.stdout, "number has no integer representation")
end)

-- ----------------------------------------------------------------- the report

test("main: an error three tasks deep is told once, with line and tasks, no library", function()
  with_script([[
local task = require("sbx.task")
local function deep() error("it broke here") end
task.scope(function(one)
  one:spawn(function()
    task.scope(function(two)
      two:spawn(function() task.scope(function(three) three:spawn(deep) end) end)
    end)
  end)
end)
]], function(path)
    local result = run({ path })
    assert(result.code == 1)
    assert(occurrences(result.stderr, "it broke here") == 1, result.stderr)
    has(result.stderr, "script.lua:2: it broke here")
    assert(occurrences(result.stderr, "spawned at") == 3, result.stderr)
    has(result.stderr, "stack traceback:")
    has_not(result.stderr, "sbx/task.lua")
    has_not(result.stderr, "[C]")
  end)
end)

test("main: so is one of tasks that plain spawn started, in whichever scope", function()
  local text = expect_status([[
    local task = require("sbx.task")
    local function deep() error("it broke here") end
    task.spawn(function() task.spawn(function() task.spawn(deep) end) end)
  ]], 1, "(command line):2: it broke here", "stack traceback:")
  assert(occurrences(text, "it broke here") == 1 and occurrences(text, "spawned at") == 3, text)
end)

test("main: the script is nobody's callee", function()
  local result = run_code("print(debug.traceback()) print(debug.getinfo(3))")
  assert(result.stdout == "stack traceback:\n\t(command line):1: in main chunk\n\t[C]: in ?\nnil\n",
    result.stdout)
end)

test("main: the report shows fields, causes and the errors of siblings", function()
  local text = expect_status([[
    local errors, task = require("sbx.errors"), require("sbx.task")
    local cause = errors.new { kind = "io", message = "the root of it" }
    local first = errors.new { kind = "api", message = "on top", request_id = "r-1", cause = cause }
    task.scope({ on_error = "collect" }, function(scope)
      scope:spawn(error, first)
      scope:spawn(error, "another one")
    end)
  ]], 1, "sbxlua: on top", "request_id=r-1", "caused by: the root of it",
    "1 more of its tasks failed", "another one")
  assert(occurrences(text, "on top") == 1, text)
end)

test("main: a deadlock is an error that shows every task and what it waits on", function()
  local text = expect_status([[
    local task, sync = require("sbx.task"), require("sbx.sync")
    local channel = require("sbx.channel").new()
    local lock = sync.mutex("ledger")
    task.scope(function(scope)
      local a = task.waiter("the other half")
      local first = scope:spawn(function() a:wait() end)
      scope:spawn(function() first:join() end)
      scope:spawn(function() channel:receive() end)
      scope:spawn(function() local held <close> = lock:lock() first:join() end)
      scope:spawn(function() task.yield() local held <close> = lock:lock() end)
    end)
  ]], 1, "deadlock: every task waits", "on the other half", "on receive from a channel",
    "spawned at")
  assert(text:find("\n%s+task %d+[^\n]*the other half at %(command line%):6,"), text)
  assert(text:find("on the end of task %d+ at %(command line%):7,"), text)
  assert(text:find("on lock 'ledger' held by task %d+ at %(command line%):10,"), text)
end)

-- --------------------------------------------------------------------- stdout

test("main: what is printed is seen before the script waits", function()
  local started <close> = support.start({ "-e", 'print("ready") require("sbx.task").sleep(600)' })
  started:await("stdout", "ready\n")
end)

test("main: a reader that goes away ends the script quietly, finalizers run", function()
  for _, write in ipairs({ "print(i)", 'print(i) require("sbx.task").sleep(0)' }) do
    local folder <close> = fs.tmpdir({ prefix = "main-" })
    local code = ([[
      local fs = require("sbx.fs")
      local x <close> = setmetatable({}, { __close = function() fs.write(%q, "x") end })
      for i = 1, 1e7 do %s end
    ]]):format(folder.path .. "/closed", write)
    local started <close> = support.start({ "-e", code })
    started:await("stdout", "^1\n")
    started.child.stdout:close()
    local told = ""
    for bytes in function() return started.child.stderr:read() end do
      told = told .. bytes
    end
    local status = started.child:wait()
    assert(status == 141 and told == "", status .. ": " .. told)
    assert(fs.exists(folder.path .. "/closed"))
  end
end)

test("main: a full disk under stdout is one clear error", function()
  local codes = {
    'print("x")', "for i = 1, 1e5 do print(i) end", 'io.write("x")',
    -- The output is lost before the wait; what fails after it is another matter.
    'print("x") require("sbx.task").sleep(0) pcall(require("sbx.fs").read, "/nowhere")',
  }
  for _, code in ipairs(codes) do
    local result = process.run({ "sh", "-c", '"$0" -e "$1" > /dev/full',
      require("sbx.core.host").executable(), code }, { timeout = 60 })
    assert(result.code == 1, result.code)
    assert(occurrences(result.stderr:lower(), "write to stdout: no space left") == 1, result.stderr)
  end
end)

-- ------------------------------------------------------------------ bad input

test("main: misspelt options, wrong types and missing files name what is wrong", function()
  expect_status('require("sbx.http").get("http://x/", { tiemout = 1 })', 1,
    "tiemout", "(command line):1")
  expect_status('require("sbx.task").sleep("soon")', 1, "number expected", "(command line):1")
  expect_status('require("sbx.sandbox").client { api_key = 5 }', 1, "api_key")
  expect_status('require("sbx.fs").read("/nowhere/at/all")', 1,
    "/nowhere/at/all", "no such file", "code=ENOENT")
end)

test("main: an answer that is no JSON is an error of the API, not of Lua", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  local answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n"
    .. "Connection: close\r\n\r\n<html>"
  local result = task.scope(function(scope)
    scope:daemon(function()
      while true do
        local stream <close> = listener:accept()
        stream:read()
        stream:write(answer)
      end
    end)
    return run_code('require("sbx.sandbox").client():list()', {
      env = { PRIME_API_BASE_URL = "http://127.0.0.1:" .. listener.port, PRIME_API_KEY = "k" },
    })
  end)
  assert(result.code == 1, result.stderr)
  has(result.stderr, "kind=")
  has(result.stderr, "JSON")
end)

test("main: a certificate that nobody vouches for is a TLS error, status 8", function()
  local folder <close> = fs.tmpdir({ prefix = "main-" })
  local certificate, key = folder.path .. "/cert.pem", folder.path .. "/key.pem"
  process.run({
    "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
    "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate,
  }, { check = true })
  local peer <close> = process.spawn(
    { "python3", here .. "peers/http_peer.py", "--tls", certificate, key },
    { stdin = "pipe", stdout = "pipe", stderr = "null", grace = 0 })
  local port = task.timeout(60, peer.stdout.read, peer.stdout):match("%d+")
  expect_status(('require("sbx.http").get("https://127.0.0.1:%s/")'):format(port), 8,
    "kind=tls", "certificate")
end)

test("main: a module beside the script is found from any folder", function()
  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/beside.lua", "return { answer = 42 }")
  fs.write(dir.path .. "/main.lua", "print(require('beside').answer)")
  local result = support.run({ dir.path .. "/main.lua" }, { cwd = "/" })
  assert(result.stdout == "42\n", result.stdout .. result.stderr)
end)
