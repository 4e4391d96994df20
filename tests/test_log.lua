local host = require("sbx.core.host")
local log = require("sbx.log")
local process = require("sbx.process")

local function plain(message, fields)
  local line = log.format("info", message, fields, false)
  return (line:gsub("^time=%S+ ", ""))
end

test("log: key=value lines, fields in order, quoted where needed", function()
  local line = log.format("warn", "it broke", { b = 2, a = "x y", c = true }, false)
  assert(line:find('^time=%d%d%d%d%-%d%d%-%d%dT%S+Z level=warn msg="it broke" '), line)
  assert(line:find('a="x y" b=2 c=true\n$'), line)
  assert(plain("done", {}) == "level=info msg=done\n")
end)

test("log: the form for people", function()
  assert(log.format("info", "made", { id = "sbx-1" }, true) == "sbxlua: made  (id=sbx-1)\n")
  assert(log.format("error", "lost", nil, true) == "sbxlua: error: lost\n")
end)

test("log: no value can forge a line or drive the terminal", function()
  local hostile = "a\nlevel=error msg=forged\r\27[2J\27]0;title\7\0\127\xc2\x9b31m"
  for _, terminal in ipairs({ true, false }) do
    local line = log.format("info", hostile, { [hostile] = hostile }, terminal)
    assert(not line:sub(1, -2):find("[\0-\31\127]"), "a control character got through")
    assert(not line:find("\xc2\x9b", 1, true))
    assert(line:sub(-1) == "\n")
  end
  assert(plain("x", { text = "grüße – ✓" }):find("grüße – ✓", 1, true))
  assert(plain("x", { text = "bad \xff\xfe" }):find("bad \\xff\\xfe", 1, true))
end)

test("log: fields that sound secret are not shown, at any depth", function()
  for _, name in ipairs({
    "token", "api_key", "apiKey", "API-KEY", "key", "Authorization", "db_password", "client_secret",
    "Set-Cookie",
  }) do
    local line = plain("x", { [name] = "hunter2", outer = { [name] = "hunter2", fine = 1 } })
    assert(not line:find("hunter2", 1, true), name .. " shows")
    assert(line:find("fine=1", 1, true))
  end
  assert(plain("x", { monkey = "seen" }):find("seen", 1, true))
  assert(plain("header Bearer abc.def-123 sent"):find("Bearer *** sent", 1, true))
end)

test("log: values are bounded", function()
  local long = plain("x", { text = ("ä"):rep(100000) })
  assert(#long < 3000)
  local ring = {}
  ring.ring = ring
  assert(#plain("x", { ring = ring }) < 200)
end)

test("log: levels", function()
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  log.set_level("warn")
  log.debug("no")
  log.info("no")
  log.warn("yes")
  log.error("yes")
  log.set_level("off")
  log.error("no")
  log.set_level("info")
  log.set_writer(nil)
  assert(#lines == 2 and lines[1]:find("yes", 1, true))
  local ok, err = pcall(log.set_level, "loud")
  assert(not ok and err:find("loud", 1, true))
end)

test("log: SBXLUA_LOG sets the level, and stderr gets the lines", function()
  local code = 'local log = require("sbx.log"); log.debug("low"); log.warn("high")'
  local function stderr_with(level)
    return process.run({ host.executable(), "-e", code }, { env = { SBXLUA_LOG = level } }).stderr
  end
  local all = stderr_with("debug")
  assert(all:find("msg=low", 1, true) and all:find("msg=high", 1, true), all)
  assert(not stderr_with("info"):find("low", 1, true))
  assert(stderr_with("off") == "")
end)
