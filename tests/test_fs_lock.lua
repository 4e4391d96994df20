local expect = require("expect")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

test("lock: one holder at a time, the next one when it lets go", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/lock"
  local held = fs.lock(path)
  assert(fs.stat(path).mode == tonumber("600", 8))
  assert(fs.try_lock(path) == nil)
  local waiting = task.spawn(fs.lock, path)
  task.sleep(0.01)
  assert(waiting.status == "waiting")
  held:close()
  held:close()
  local second <close> = waiting:join()
  assert(second and fs.try_lock(path) == nil)
end)

test("lock: many tasks in turn lose no step", function()
  local dir <close> = fs.tmpdir()
  local path, counter = dir.path .. "/lock", dir.path .. "/counter"
  fs.write(counter, "0")
  local numbers = {}
  for i = 1, 30 do
    numbers[i] = i
  end
  task.map(numbers, function()
    local _ <close> = fs.lock(path)
    local count = tonumber(fs.read(counter))
    task.yield()
    fs.write(counter, tostring(count + 1))
  end)
  assert(fs.read(counter) == "30")
end)

test("lock: it ends with the process that held it", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/lock"
  local child <close> = process.spawn({ host.executable(), "-e", [[
    local held <close> = require("sbx.fs").lock(arg[1])
    print("held")
    require("sbx.task").sleep(60)
  ]], path }, { stdout = "pipe" })
  assert(child.stdout:read() == "held\n")
  assert(fs.try_lock(path) == nil)
  child:kill("KILL")
  local held <close> = task.timeout(60, fs.lock, path)
  assert(held)
end)

test("lock: who is cancelled while waiting holds nothing", function()
  local dir <close> = fs.tmpdir()
  local path = dir.path .. "/lock"
  do
    local held <close> = fs.lock(path)
    for i = 1, 20 do
      assert(held and not task.move_on(i / 4000, fs.lock, path))
    end
  end
  local again <close> = fs.try_lock(path)
  assert(again)
end)

test("lock: a lock that nobody closed goes with the garbage", function()
  local dir <close> = fs.tmpdir()
  fs.lock(dir.path .. "/lock")
  collectgarbage()
  collectgarbage()
  local held <close> = fs.try_lock(dir.path .. "/lock")
  assert(held)
end)

test("lock: refused where there is no folder, on a link, on a folder", function()
  local dir <close> = fs.tmpdir()
  local err = expect.code("ENOENT", fs.lock, dir.path .. "/none/lock")
  assert(tostring(err):find("lock " .. dir.path .. "/none/lock", 1, true))
  fs.symlink("/etc/passwd", dir.path .. "/link")
  expect.code("ELOOP", fs.try_lock, dir.path .. "/link")
  expect.code("EISDIR", fs.try_lock, dir.path)
  expect.misuse("path: expected a string", fs.lock, 5)
end)
