local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local reader = require("sbx.reader")
local support = dofile("tests/process_support.lua")
local task = require("sbx.task")

local MIB = 1024 * 1024

-- ----------------------------------------------------------------------- input

test("process.run: input from an iterator, a reader and a file", function()
  local count = 0
  local function pieces()
    count = count + 1
    task.sleep(0.001)
    if count <= 100 then return ("x"):rep(count) end
  end
  assert(process.run({ "wc", "-c" }, { input = pieces }).stdout:match("%d+") == "5050")
  assert(process.run({ "cat" }, { input = reader.of("a\0b") }).stdout == "a\0b")

  local dir <close> = fs.tmpdir()
  fs.write(dir.path .. "/in", "from a file\n")
  local file <close> = fs.open(dir.path .. "/in")
  assert(process.run({ "cat" }, { input = file }).stdout == "from a file\n")
  assert(process.run({ "cat" }, { input = function() end }).stdout == "")
end)

test("process.run: a program that does not read its input is no failure", function()
  local endless = function() return ("y"):rep(65536) end
  assert(process.run({ "true" }, { input = endless }).code == 0)
  assert(process.run({ "head", "-c", "3" }, { input = endless }).stdout == "yyy")
  -- Nor one that ends while its input is waited for.
  local never = function() task.sleep(600) end
  assert(process.run({ "sh", "-c", "exit 4" }, { input = never }).code == 4)
end)

test("process.run: input that fails ends the program and is raised", function()
  local pid
  local function pieces()
    if pid then error("no more input", 0) end
    pid = 0
    return "first\n"
  end
  local ok, err = pcall(process.run, { "sh", "-c", "read x; echo $$ >&2; cat" }, {
    input = pieces, tee = function(bytes) pid = tonumber(bytes) end,
  })
  assert(not ok and err == "no more input", tostring(err))
  expect.misuse("input: what the function returned: expected a string", process.run, { "cat" },
    { input = function() return 12 end })
end)

test("process.run: 64 MiB both ways", function()
  local input = ("0123456789abcdef"):rep(64 * MIB // 16)
  local result = process.run({ "cat" }, { input = input, max_output = 64 * MIB })
  assert(result.stdout == input and not result.truncated)
  result = process.run({ "cat" }, { input = reader.of(input), max_output = 64 * MIB })
  assert(result.stdout == input and not result.truncated)
end)

test("process.spawn: 64 MiB through a child's pipes, both ways at once", function()
  local piece = ("fedcba9876543210"):rep(MIB // 16)
  local child <close> = process.spawn({ "cat" }, { stdin = "pipe", stdout = "pipe" })
  local size = 0
  task.scope(function(scope)
    scope:spawn(function()
      for _ = 1, 64 do
        child.stdin:write(piece)
      end
      child.stdin:close()
    end)
    for bytes in function() return child.stdout:bytes(MIB) end do
      assert(bytes == piece)
      size = size + #bytes
    end
  end)
  assert(size == 64 * MIB and child:wait() == 0)
end)

-- ------------------------------------------------------------------------- tee

test("process.run: tee gets the output while the program runs", function()
  local said = task.waiter("the first line")
  local names = {}
  local result = process.run({ "sh", "-c", "echo one; read x; echo two >&2; echo $x" }, {
    -- The program gets its input only once its first line has been passed on.
    input = function()
      if not said then return nil end
      said:wait()
      said = nil
      return "three\n"
    end,
    tee = function(bytes, name)
      names[#names + 1] = name .. ":" .. bytes
      if bytes == "one\n" then said:wake() end
    end,
  })
  assert(result.stdout == "one\nthree\n" and result.stderr == "two\n")
  table.sort(names)
  assert(table.concat(names) == "stderr:two\nstdout:one\nstdout:three\n", table.concat(names))
end)

test("process.run: tee writes to a file, beyond what is kept", function()
  local dir <close> = fs.tmpdir()
  do
    local file <close> = fs.open(dir.path .. "/log", "w")
    local result = process.shell("head -c 300000 /dev/zero; echo end >&2", {
      tee = file, max_output = 10,
    })
    assert(result.truncated and #result.stdout == 10 and result.stderr == "end\n")
  end
  assert(#fs.read(dir.path .. "/log") == 300004)
end)

test("process.run: tee = true writes to our own streams", function()
  local result = process.run({ host.executable(), "-e", [[
    local result = require("sbx.process").shell("echo out; echo err >&2", { tee = true })
    print("kept " .. result.stdout .. result.stderr)
  ]] }, { check = true })
  assert(result.stdout == "out\nkept out\nerr\n\n" and result.stderr == "err\n", result.stdout)
end)

test("process.run: a slow tee gets all, although the program has ended", function()
  local passed = {}
  local result = process.shell("head -c 200000 /dev/zero", {
    tee = function(bytes)
      task.sleep(0.15) -- longer than the output of an ended program is waited for
      passed[#passed + 1] = bytes
    end,
  })
  assert(#result.stdout == 200000 and #table.concat(passed) == 200000)
end)

test("process.run: a tee that fails ends the program and is raised", function()
  local dir <close> = fs.tmpdir()
  local ok, err = pcall(process.shell, "echo $$ > pid; echo x; exec sleep 1000", {
    cwd = dir.path, tee = function() error("no tee", 0) end,
  })
  assert(not ok and err == "no tee", tostring(err))
  assert(not support.runs(tonumber(fs.read(dir.path .. "/pid"))))
end)

-- --------------------------------------------------------------- ends of output

test("process.run: a program that closes its output and lives on is awaited", function()
  local result = process.shell("echo x; exec >&- 2>&-; sleep 0.3; exit 5")
  assert(result.code == 5 and result.stdout == "x\n")
end)

test("process.run: a descendant that floods the pipe does not hold it up", function()
  local result = process.shell("yes & echo $! >&2", { max_output = 100, timeout = 60 })
  assert(result.code == 0)
  process.run({ "kill", "-9", (result.stderr:gsub("%s", "")) }, { check = true })
end)

test("process.run: what was written before the end is not lost", function()
  for _ = 1, 10 do
    local result = process.shell("sleep 1000 & echo $! >&2; head -c 60000 /dev/zero; exit 0")
    process.run({ "kill", "-9", (result.stderr:gsub("%s", "")) }, { check = true })
    assert(#result.stdout == 60000)
  end
end)

-- ------------------------------------------------------------------ many, limits

test("process.run: five hundred at once", { timeout = 400 }, function()
  task.map((function()
    local list = {}
    for i = 1, 500 do
      list[i] = i
    end
    return list
  end)(), function(i)
    local result = process.run({ "cat" }, { input = "in" .. i })
    assert(result.code == 0 and result.stdout == "in" .. i)
  end, { limit = 500 })
end)

local LIMITED = [[
  local process = require("sbx.process")
  local core = require("sbx.core.stream")
  print(process.shell("ulimit -Sn; ulimit -Hn").stdout)
  local held = {}
  for i = 1, 200 do held[i] = { core.pair() } end -- 400 descriptors
  print(process.run({ "cat" }, { input = function(s) s, input = input, nil return s end }).code)
  print(process.shell("ulimit -Sn", { input = "x" }).stdout)
]]

test("process: children begin with the limit of descriptors that we were given", function()
  local result = process.run({ "sh", "-c", 'ulimit -Sn 300; exec "$0" -e "$1"',
    host.executable(), LIMITED }, { check = true })
  local soft, hard, code, again = result.stdout:match("(%d+)\n(%w+)\n\n(%d+)\n(%d+)\n")
  assert(soft == "300" and code == "0" and again == "300", result.stdout .. result.stderr)
  assert(hard == "unlimited" or tonumber(hard) > 300)
end)

-- -------------------------------------------------------------- shell, which, pid

test("process.shell: one line of sh, with the options of run", function()
  local result = process.shell("echo $NAME | tr a-z A-Z; exit 3", { env = { NAME = "x y" } })
  assert(result.stdout == "X Y\n" and result.code == 3)
  local err = expect.failure(process.shell, "echo bad >&2; false", { check = true })
  assert(err.kind == "process" and err.message == "sh: exit code 1: bad", err.message)
  expect.misuse("line: expected a string", process.shell, { "ls" })
end)

test("process.which: finds what could be started", function()
  assert(process.which("sh"):find("^/.*/sh$") and process.which("/bin/sh") == "/bin/sh")
  assert(process.which("no-such-program") == nil and process.which("") == nil)
  assert(process.which("/bin") == nil and process.which("/etc/passwd") == nil)
  assert(process.which("./no/such") == nil and process.which("sh\0x") == nil)
  assert(process.run({ process.which("true") }).code == 0)
  expect.misuse("name: expected a string", process.which, nil)
end)

test("process.pid: the id that a child sees as its parent's", function()
  assert(process.shell("echo $PPID").stdout == process.pid() .. "\n")
end)

test("process.run: misuse names the option and the caller's line", function()
  for text, options in pairs({
    ["input: expected a string, a function"] = { input = 12 },
    ["input: expected"] = { input = {} },
    ["tee: expected true"] = { tee = "stdout" },
    ["tee: expected"] = { tee = {} },
    ["timeout: expected seconds"] = { timeout = -1 },
    ["timeout: expected"] = { timeout = "1s" },
    ["max_output: expected"] = { max_output = -1 },
    ["max_output: expected a number"] = { max_output = 1.5 },
    ["grace: expected seconds"] = { grace = -1 },
    ["grace: expected"] = { grace = 0 / 0 },
    ["check: expected true or false"] = { check = "yes" },
    ["env.A: expected a string"] = { env = { A = {} } },
    ["unknown option 'timout'"] = { timout = 1 },
  }) do
    for _, call in ipairs({
      function() process.run({ "true" }, options) end,
      function() process.shell("true", options) end,
    }) do
      expect.misuse(text, call)
      expect.misuse("test_process_run.lua", call)
    end
  end
  expect.misuse("test_process_run.lua", function() process.spawn({}) end)
  expect.misuse("test_process_run.lua", function() process.spawn({ "ls" }, { stdout = "file" }) end)
end)
