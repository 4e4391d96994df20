local expect = dofile("tests/expect.lua")
local host = require("sbx.core.host")
local json = require("sbx.json")
local log = require("sbx.log")
local process = require("sbx.process")
local task = require("sbx.task")

local SECRET = "hunter2-hunter2"

local function plain(message, fields)
  local line = log.format("info", message, fields, "text")
  return (line:gsub("^time=%S+ ", ""))
end

local function as_json(message, fields)
  local line = log.format("info", message, fields, "json")
  assert(select(2, line:gsub("\n", "")) == 1 and line:sub(-1) == "\n", line)
  return json.decode(line), line
end

-- Calls `fn` and returns the lines that were logged meanwhile.
---@async
local function lines_of(fn)
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line:gsub("^time=%S+ ", "") end)
  log.set_format("text")
  local ok, err = pcall(fn)
  log.set_writer(nil)
  log.set_format("auto")
  log.set_level("info")
  assert(ok, err)
  return lines
end

-- ----------------------------------------------------------------------- forms

test("log: key=value lines, fields in order, quoted where needed", function()
  local line = log.format("warn", "it broke", { b = 2, a = "x y", c = true }, "text")
  assert(line:find('^time=%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ level=warn msg="it broke" '),
    line)
  assert(line:find('a="x y" b=2 c=true\n$'), line)
  assert(plain("done", {}) == "level=info msg=done\n")
  assert(plain("x", { t = { 1, 2, k = "v" } }):find('t="{1, 2, k=v}"', 1, true))
end)

test("log: the form for people", function()
  assert(log.format("info", "made", { id = "sbx-1" }, "terminal") == "sbxlua: made  (id=sbx-1)\n")
  assert(log.format("error", "lost", nil, "terminal") == "sbxlua: error: lost\n")
end)

test("log: JSON lines hold what was said, as values", function()
  local object, line = as_json('say "hi"\n', {
    n = 3, half = 0.5, yes = true, list = { 1, "two" }, map = { b = { c = {} } },
    none = json.null, inf = math.huge, big = math.maxinteger,
  })
  assert(object.level == "info" and object.msg == 'say "hi"\n' and object.n == 3)
  assert(math.type(object.big) == "integer" and object.big == math.maxinteger)
  assert(object.half == 0.5 and object.yes == true and object.none == json.null)
  assert(object.list[2] == "two" and type(object.map.b) == "table" and object.inf == "inf")
  assert(object.time:find("^%d%d%d%d%-%d%d%-%d%dT.*%.%d%d%dZ$"))
  assert(line:find('^{"time":"[^"]*","level":"info","msg":'), line)
  object = as_json("x", { time = "mine", level = 1, msg = {} })
  assert(object.msg == "x" and object._time == "mine" and object._level == 1)
end)

test("log: no value can forge a line or drive the terminal", function()
  local hostile = "a\nlevel=error msg=forged\r\27[2J\27]0;title\7\0\127\xc2\x9b31m"
  for _, form in ipairs({ "terminal", "text", "json" }) do
    local line = log.format("info", hostile, { [hostile] = hostile, t = { [hostile] = hostile } },
      form)
    assert(not line:sub(1, -2):find("[\0-\31\127]"), "a control character got through")
    assert(not line:find("\xc2\x9b", 1, true))
    assert(line:sub(-1) == "\n")
  end
  assert(plain("x", { text = "grüße – ✓" }):find("grüße – ✓", 1, true))
  assert(plain("x", { text = "bad \xff\xfe" }):find("bad \\xff\\xfe", 1, true))
  assert(as_json("x", { text = "bad \xff\xfe" }).text == "bad \\xff\\xfe")
end)

test("log: values are bounded, in every form", function()
  local ring = {}
  ring.ring = ring
  local many = {}
  for i = 1, 1000 do
    many[i] = i
  end
  for _, form in ipairs({ "terminal", "text", "json" }) do
    local long = log.format("info", "x", { text = ("ä"):rep(100000) }, form)
    assert(#long < 3000 and utf8.len(long))
    assert(#log.format("info", "x", { ring = ring }, form) < 300)
    assert(#log.format("info", "x", { many = many }, form) < 400)
  end
  assert(as_json("x", { many = many }).many[21] == "980 more")
end)

test("log: metamethods of what is logged do no harm", function()
  local function object(meta) return setmetatable({ a = 1 }, meta) end
  local fails = function() error("no") end
  local fields = {
    raises = object({ __tostring = fails }),
    number = object({ __tostring = function() return 1 end }),
    index = object({ __index = fails, __pairs = fails, __len = fails }),
    waits = object({ __tostring = function() task.sleep(0) return "" end }),
    locked = object({ __metatable = "locked", __index = fails }),
    fine = object({ __tostring = function() return "fine thing" end }),
    keys = { [1.5] = 2 },
  }
  for i = 1, 30 do
    fields.keys[object({ __tostring = function() return tostring(math.random()) end })] = i
  end
  for _, form in ipairs({ "text", "json" }) do
    local line = log.format("info", object({ __tostring = fails }), fields, form)
    assert(line:find("cannot be shown", 1, true) and line:find("fine thing", 1, true), line)
  end
  assert(plain("x", fields):find('index={a=1}', 1, true) == nil)
  assert(plain("x", fields):find('index="{a=1}"', 1, true))
end)

-- --------------------------------------------------------------------- secrets

test("log: fields that sound secret are not shown, at any depth", function()
  for _, name in ipairs({
    "token", "api_key", "apiKey", "API-KEY", "key", "Authorization", "db_password", "client_secret",
    "Set-Cookie", "privateKey", "credentials",
  }) do
    local fields = {
      [name] = SECRET, outer = { [name] = SECRET, fine = 1, deep = { [name] = { SECRET } } },
    }
    assert(not plain("x", fields):find(SECRET, 1, true), name .. " shows")
    assert(plain("x", fields):find("fine=1", 1, true))
    local object, line = as_json("x", fields)
    assert(not line:find(SECRET, 1, true), name .. " shows in JSON")
    assert(object[name] == "***" and object.outer.fine == 1)
  end
  assert(plain("x", { monkey = "seen" }):find("seen", 1, true))
  local line = plain("x", { max_tokens = 100, has_token = true })
  assert(line:find("has_token=true max_tokens=100", 1, true), line)
  assert(plain("x", { password = 12345678 }):find("password=***", 1, true))
end)

test("log: what has the shape of a secret is not shown in text", function()
  for _, text in ipairs({
    "header Bearer %s sent", "Authorization: Basic %s", "api_key=%s", "url?key=%s&x=1",
    '{"token":"%s"}', '{\\"token\\":\\"%s\\"}', "password: %s", "'api_key': '%s'",
    "Cookie: a=%s; b=%s",
    "https://me:%s@host/path", "https://%s@host", "client_secret = %s", "X-Api-Key: %s",
    'password="it\'s %s"',
  }) do
    local said = text:gsub("%%s", SECRET)
    for _, line in ipairs({ plain(said), plain("x", { f = said }), select(2, as_json(said)) }) do
      assert(not line:find("hunter2", 1, true), line)
      assert(line:find("***", 1, true), line)
    end
  end
  for _, key in ipairs({
    "sk-proj-abcdefghijklmnop1234", "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234-abcd", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMIIabc",
  }) do
    local line = plain("found " .. key .. " here")
    assert(not line:find(key:sub(-9), 1, true) or key:find("END"), line)
    assert(not line:find("MIIabc", 1, true) and line:find("***", 1, true), line)
  end
end)

test("log: what only looks a little like a secret stays", function()
  for _, text in ipairs({
    "unexpected token: }", "missing key: name", "body.secrets: too long", "key: sbx-12345",
    "task-12 is sk-ipped", "max_tokens=4096",
    "sha256:" .. ("0123456789abcdef"):rep(4), "basic needs", "key value", "http://host:80/a@b",
    "turkey=nice",
  }) do
    assert(log.clean(text) == text, log.clean(text))
  end
end)

test("log.redact: a registered value shows nowhere", function()
  log.redact("s3cr3t-value")
  log.redact("s3cr3t-value-longer")
  log.redact("short")
  local line = plain("a s3cr3t-value-longer, s3cr3t-value, s3cr3t-value",
    { s = { "xs3cr3t-valuex" } })
  assert(not line:find("s3cr3t", 1, true) and line:find("a ***, ***, ***", 1, true), line)
  local _, text = as_json("x", { ["s3cr3t-value"] = "s3cr3t-value" })
  assert(not text:find("s3cr3t", 1, true), text)
  assert(log.clean("short") == "short", "a value of five bytes was taken")
  log.redact("two\nlines\27")
  assert(not plain("x two\nlines\27 y"):find("lines", 1, true))
  expect.misuse("redact: expected a string", log.redact, 5)
end)

test("log: a secret across the end of what is kept is not half shown", function()
  log.redact("straddling-secret")
  for most = 90, 130 do
    local text = log.clean(("."):rep(100) .. "straddling-secret" .. ("."):rep(5000), most)
    assert(not text:find("stra", 1, true), text)
    -- What was hidden before moves the rest of the text towards the front.
    text = log.clean(("straddling-secret "):rep(400), most)
    assert(not text:find("stra", 1, true), text)
  end
end)

test("log: hostile texts take no long time", function()
  local started = task.now()
  for _, piece in ipairs({
    "a", "a-", "a=", "://", '"key":"', "eyJ.", "key ", "Cookie:", "\xff", "-----BEGIN ",
  }) do
    log.clean(piece:rep(100000), 60000)
  end
  assert(task.now() - started < 20, "patterns run away")
end)

-- ----------------------------------------------------------------------- fields

test("log.with: fields are inherited by the tasks spawned inside", function()
  local lines = lines_of(function()
    log.with({ run = 1, step = "a" }, function()
      log.info("first")
      task.scope(function(scope)
        scope:spawn(function()
          task.sleep(0.001)
          log.info("child", { step = "own" })
        end)
        scope:spawn(function()
          log.with({ item = 7 }, function() log.info("nested") end)
        end)
      end)
      log.info("last")
    end)
    log.info("outside")
  end)
  assert(table.concat(lines) == [[
level=info msg=first run=1 step=a
level=info msg=nested item=7 run=1 step=a
level=info msg=child run=1 step=own
level=info msg=last run=1 step=a
level=info msg=outside
]], table.concat(lines))
end)

test("log.with: returns results, and ends with an error or a cancel too", function()
  local lines = lines_of(function()
    local a, b = log.with({ x = 1 }, function(...) return ... end, 1, nil)
    assert(a == 1 and b == nil)
    assert(not pcall(log.with, { x = 1 }, error, "no"))
    log.info("after an error")
    task.move_on(0.01, log.with, { x = 1 }, task.sleep, 60)
    log.info("after a cancel")
  end)
  assert(not table.concat(lines):find("x=1", 1, true), table.concat(lines))
  expect.misuse("fields: expected a table", log.with, 1, print)
  expect.misuse("with: expected a function", log.with, {})
end)

test("log.child: a logger with fields of its own, used like the module", function()
  local lines = lines_of(function()
    local logger = log.child({ part = "db" })
    logger.info("up", { port = 1 })
    logger.child({ table = "t" }).warn("slow", { part = "mine" })
    log.with({ run = 3, part = "run" }, logger.error, "down")
    logger.debug("not shown")
    expect.misuse("test_log.lua", function() logger.info("x", "y") end)
  end)
  assert(table.concat(lines) == [[
level=info msg=up part=db port=1
level=warn msg=slow part=mine table=t
level=error msg=down part=db run=3
]], table.concat(lines))
end)

-- --------------------------------------------------------------------- settings

test("log: levels", function()
  local lines = lines_of(function()
    log.set_level("warn")
    log.debug("no")
    log.info("no")
    log.warn("yes")
    log.error("yes")
    log.set_level("off")
    log.error("no")
  end)
  assert(#lines == 2 and lines[1]:find("yes", 1, true))
  expect.misuse("loud", log.set_level, "loud")
  expect.misuse("log format: expected auto, terminal, text or json, got xml", log.set_format, "xml")
  expect.misuse("writer: expected a function", log.set_writer, 1)
end)

test("log: a writer that fails is no failure of whoever logs", function()
  log.set_writer(function() error("disk full") end)
  log.info("x")
  log.set_writer(nil)
end)

local function stderr_of(code, env)
  return process.run({ host.executable(), "-e", code }, { env = env }).stderr
end

local TWO = 'local log = require("sbx.log"); log.debug("low"); log.warn("high")'

test("log: SBXLUA_LOG sets the level, and stderr gets the lines", function()
  local all = stderr_of(TWO, { SBXLUA_LOG = "debug" })
  assert(all:find("msg=low", 1, true) and all:find("msg=high", 1, true), all)
  assert(not stderr_of(TWO, { SBXLUA_LOG = "info" }):find("low", 1, true))
  assert(stderr_of(TWO, { SBXLUA_LOG = "off" }) == "")
end)

test("log: SBXLUA_LOG_FORMAT sets the form", function()
  local line = stderr_of(TWO, { SBXLUA_LOG_FORMAT = "json" })
  assert(json.decode(line).msg == "high", line)
  assert(stderr_of(TWO, { SBXLUA_LOG_FORMAT = "terminal" }) == "sbxlua: warn: high\n")
end)

test("log: a wrong setting is told once and ignored", function()
  local text = stderr_of(TWO, { SBXLUA_LOG = "verbose\27", SBXLUA_LOG_FORMAT = "xml" })
  local _, count = text:gsub("it is ignored", "")
  assert(count == 2 and not text:find("\27"), text)
  assert(text:find("SBXLUA_LOG: expected debug, info, warn, error or off, got 'verbose", 1, true))
  assert(text:find("SBXLUA_LOG_FORMAT: expected auto", 1, true) and text:find("msg=high", 1, true))
end)

test("log: a secret in the first place of a query is hidden, too", function()
  for _, text in ipairs({
    "http://h/?token=longerthansix1", "see https://h/p?api_key=abcdef123456&x=1",
  }) do
    local line = log.format("info", text, { url = text }, "text")
    assert(not line:find("longerthansix1", 1, true), line)
    assert(not line:find("abcdef123456", 1, true), line)
  end
end)

test("log: works in finalizers of the collector and where stderr is closed", function()
  local code = [[
    local log = require("sbx.log")
    setmetatable({}, { __gc = function() log.info("collected") end })
    collectgarbage()
    kept = setmetatable({}, { __gc = function() log.info("at the end") end })
    table.sort({ 1, 2 }, function(a, b) log.info("sorting") return a < b end)
  ]]
  local text = stderr_of(code)
  for _, word in ipairs({ "collected", "sorting", "at the end" }) do
    assert(text:find(word, 1, true), text)
  end
  local result = process.run({ "sh", "-c", 'exec "$0" -e "$1" 2>&-', host.executable(), TWO })
  assert(result.code == 0)
  result = process.run({ "sh", "-c", 'exec "$0" -e "$1" 2>/dev/full', host.executable(), TWO })
  assert(result.code == 0)
end)
