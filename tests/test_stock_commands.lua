-- io.popen and os.execute: commands that run beside everything else.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local expect = dofile(here .. "expect.lua")
local process = require("sbx.process")
local task = require("sbx.task")
local support = dofile(here .. "run_support.lua")

-- Whether a process of this number exists that is no zombie.
local function alive(pid)
  local ok, text = pcall(fs.read, "/proc/" .. pid .. "/stat")
  return ok and not text:find("%) Z ")
end

---@async
local function await_end(pid)
  task.timeout(60, function()
    while alive(pid) do
      task.sleep(0.005)
    end
  end)
end

test("commands: many run at once, and their callers wait side by side", function()
  local dir <close> = fs.tmpdir({ prefix = "commands-" })
  -- Each ends once all have begun: one after the other they never would.
  local all = ("cd %s; : > %%d; until [ -e 1 ] && [ -e 10 ]; do sleep 0.02; done; ")
    :format(dir.path)
  local answers = task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function(i)
    if i % 2 == 0 then return select(3, os.execute(all:format(i) .. "exit " .. i)) end
    local file <close> = io.popen(all:format(i) .. "echo " .. i)
    return file:read("n")
  end)
  assert(table.concat(answers, ",") == "1,2,3,4,5,6,7,8,9,10")
end)

test("commands: a cancelled os.execute stops its command", function()
  local dir <close> = fs.tmpdir({ prefix = "commands-" })
  expect.cancelled_once(function()
    return fs.exists(dir.path .. "/pid") and fs.read(dir.path .. "/pid"):find("\n")
  end, os.execute, "echo $$ > " .. dir.path .. "/pid; exec sleep 100")
  await_end(fs.read(dir.path .. "/pid"):match("%d+"))
end)

test("commands: a cancelled read leaves the command alone, and nothing is lost", function()
  local dir <close> = fs.tmpdir({ prefix = "commands-" })
  local file <close> = io.popen(
    ("printf one; until [ -e %s/on ]; do sleep 0.02; done; echo ' two'"):format(dir.path))
  assert(not task.move_on(0.05, file.read, file))
  fs.write(dir.path .. "/on", "")
  assert(file:read() == "one two" and file:read() == nil)
  local done, how, code = file:close()
  assert(done and how == "exit" and code == 0)
end)

test("commands: a file waits for its command, and stops it when an error ends the block", function()
  local dir <close> = fs.tmpdir({ prefix = "commands-" })
  do
    local file <close> = io.popen("sleep 0.1; echo done > " .. dir.path .. "/done")
    assert(io.type(file) == "file")
  end
  assert(fs.read(dir.path .. "/done") == "done\n")
  local pid
  local ok, err = pcall(function()
    local file <close> = io.popen("echo $$; exec sleep 100")
    pid = file:read("n")
    error("left", 0)
  end)
  assert(not ok and err == "left" and not alive(pid))
end)

test("commands: the end of a scope stops what was started in it", function()
  local file, pid
  task.scope(function()
    file = io.popen("echo $$; exec sleep 100")
    pid = file:read("n")
  end)
  assert(not alive(pid))
  assert(select(2, pcall(file.read, file)) == nil or io.type(file) == "closed file")
end)

test("commands: one that reads from us may use up what it got at the end of its scope", function()
  local dir <close> = fs.tmpdir({ prefix = "commands-" })
  task.scope(function()
    local file = io.popen("sleep 0.1; cat > " .. dir.path .. "/out", "w")
    file:write(("x"):rep(200000), "\n")
  end)
  assert(fs.stat(dir.path .. "/out").size == 200001)
end)

test("commands: a file that nobody has any more ends what its command writes", function()
  local pid
  task.scope(function()
    pid = io.popen("echo $$; exec yes"):read("n")
    collectgarbage()
    collectgarbage()
    await_end(pid)
  end)
end)

test("commands: a command that is gone is an answer to who writes to it", function()
  local file <close> = io.popen("exit 3", "w")
  file:setvbuf("no")
  local done, message, errno = true, nil, nil
  task.timeout(60, function()
    while done do
      task.sleep(0.01)
      done, message, errno = file:write("x")
    end
  end)
  assert(message:find("Broken pipe") and errno == 32)
  local ended, how, code = file:close()
  assert(ended == nil and how == "exit" and code == 3)
end)

test("commands: a slow command suspends only who writes to it", function()
  local file <close> = io.popen("sleep 0.2; wc -c >/dev/null; exit 4", "w")
  local writer = task.spawn(function()
    for _ = 1, 100 do
      file:write(("x"):rep(10000))
    end
    return select(3, file:close())
  end)
  task.sleep(0.05)
  assert(writer.status == "waiting" and writer.waiting_on == "write")
  assert(writer:join() == 4)
end)

test("commands: where the VM cannot wait, the error names what is in the way", function()
  local ok, err = pcall(string.gsub, "x", "x", function() return os.execute("true") end)
  assert(not ok and err:find("cannot wait inside string.gsub", 1, true), err)
  local file = io.popen("true")
  ok, err = pcall(string.gsub, "x", "x", function() file:read() end)
  assert(not ok and err:find("read a pipe cannot wait inside string.gsub", 1, true), err)
  ok, err = pcall(string.gsub, "x", "x", function() file:close() end)
  assert(not ok and err:find("cannot wait inside string.gsub", 1, true), err)
end)

test("commands: what was printed before a command comes before what it prints", function()
  local result = support.run_code([[
    print("one") os.execute("echo two") io.write("three\n")
    local file = io.popen("cat", "w") file:write("four\n") file:close()
    print("five")
  ]])
  assert(result.stdout == "one\ntwo\nthree\nfour\nfive\n", result.stdout)
end)

test("commands: none outlives the program, in whatever way that ends", function()
  for _, ending in ipairs({ "", "error('x')", "os.exit(2)", "task.sleep(600)" }) do
    local run <close> = support.start({ "-e", [[
      local task = require("sbx.task")
      local file = io.popen("echo $$; exec sleep 600")
      print(file:read("n"))
      io.stdout:flush()
    ]] .. ending })
    local pid = run:await("stdout", "(%d+)\n")
    if ending:find("sleep") then run:kill("TERM") end
    run:finish()
    assert(not alive(pid), ending)
  end
end)

test("commands: without a terminal all that a command started ends with it", function()
  local result = process.run({ "setsid", "-w", require("sbx.core.host").executable(), "-e", [[
    local task = require("sbx.task")
    task.move_on(3, os.execute, "sleep 600 & echo $!; sleep 600 | sleep 600")
  ]] }, { timeout = 60, env = { SBXLUA_SLOW_STEP = "0" } })
  await_end(result.stdout:match("%d+"))
end)
