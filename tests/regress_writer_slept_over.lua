-- A writer that the flush before a wait released was forgotten: the loop slept on.

local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

test("stdio: a writer goes on once its reader has made room", { timeout = 10 }, function()
  local dir <close> = fs.tmpdir({ prefix = "regress-" })
  local path = dir.path .. "/fifo"
  process.run({ "mkfifo", path }, { check = true })
  local sleeper = task.pspawn(task.sleep, 600) -- something else to wait for
  local reader <close> = io.open(path)
  local file <close> = io.open(path, "w")
  local writer = task.spawn(function() file:write(("x"):rep(300000)) end)
  task.yield()
  assert(writer.status == "waiting")
  assert(#reader:read(180000) == 180000)
  writer:join()
  local closer = task.spawn(function() file:close() end)
  assert(#reader:read("a") == 120000)
  closer:join()
  sleeper:cancel()
end)
