-- FIFOs behind `io.open`, `io.lines` and friends, in this very process.

local core = require("sbx.core.task")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

local function with_fifo(fn)
  local dir <close> = fs.tmpdir({ prefix = "stdio-" })
  process.run({ "mkfifo", dir.path .. "/fifo" }, { check = true })
  return fn(dir.path .. "/fifo", dir.path)
end

test("stdio: opening a FIFO for writing waits for a reader, and can be cancelled", function()
  with_fifo(function(path)
    assert(not task.move_on(0.05, io.open, path, "w"))
    assert(not task.move_on(0.05, io.open, path, "a"))
    assert(not task.move_on(0.05, io.output, path))
    local ok, err = pcall(string.gsub, "x", "x", function() io.open(path, "w") end)
    assert(not ok and err:find("cannot wait inside string.gsub", 1, true), err)
    local reader = task.spawn(function()
      task.sleep(0.05)
      local file <close> = io.open(path)
      return file:read("a")
    end)
    local file <close> = io.open(path, "w")
    assert(io.type(file) == "file" and file:write("through ", 1, "\n") == file)
    assert(file:close() == true)
    assert(reader:join() == "through 1\n")
  end)
end)

test("stdio: a FIFO is read until its writers are gone, by lines too", function()
  with_fifo(function(path)
    local writer = task.spawn(function()
      local file <close> = io.open(path, "w")
      for i = 1, 3 do
        file:write("line ", i, "\n")
        file:flush()
        task.sleep(0.01)
      end
    end)
    local got = {}
    for line in io.lines(path) do
      got[#got + 1] = line
    end
    writer:join()
    assert(table.concat(got, ",") == "line 1,line 2,line 3")
    local read = task.pspawn(function() return dofile(path) end)
    local file = io.open(path, "w")
    file:write("return 'from a FIFO'")
    file:close()
    assert(select(2, read:pjoin()) == "from a FIFO")
  end)
end)

test("stdio: what a FIFO could not take is written after its file is closed or lost", function()
  with_fifo(function(path)
    for _, let_go in ipairs({
      function(file) assert(not task.move_on(0.02, file.close, file)) end,
      function() end,
    }) do
      local reader = io.open(path)
      do
        local file = io.open(path, "w")
        file:setvbuf("full", 1 << 20)
        file:write(("y"):rep(300000))
        let_go(file)
      end
      collectgarbage()
      collectgarbage()
      assert(#reader:read("a") == 300000)
      reader:close()
    end
  end)
end)

test("stdio: closing a file ends who waits for it", function()
  with_fifo(function(path)
    local file = io.open(path, "r+")
    local readers = { task.pspawn(file.read, file), task.pspawn(file.read, file) }
    task.yield()
    assert(readers[1].status == "waiting")
    assert(file:close() == true)
    for _, reader in ipairs(readers) do
      local ok, value, message, code = reader:pjoin()
      assert(ok and value == nil and message:find("Bad file descriptor") and code == 9)
    end
    assert(not pcall(file.read, file) and io.type(file) == "closed file")
  end)
end)

test("stdio: a file that only reads cannot be written, and the other way round", function()
  with_fifo(function(path)
    local both <close> = io.open(path, "r+")
    local reader <close> = io.open(path)
    local writer <close> = io.open(path, "w")
    for _, result in ipairs({ { reader:write("x") }, { writer:read() } }) do
      assert(result[1] == nil and result[3] == 9, tostring(result[2]))
    end
    assert(both:write("both\n") and both:flush() and reader:read() == "both")
    local place, message, code = both:seek("set")
    assert(place == nil and message:find("Illegal seek") and code == 29)
  end)
end)

test("stdio: a peer that is gone is an answer, not the end of the program", function()
  with_fifo(function(path)
    local reader = io.open(path)
    local writer = io.open(path, "w")
    reader:close()
    writer:setvbuf("no")
    local done, message, code = writer:write("x")
    assert(done == nil and message:find("Broken pipe") and code == 32, tostring(message))
    assert(select(3, writer:flush()) == 32 and select(3, writer:close()) == 32)
  end)
end)

test("stdio: nothing of all this is left in the loop", function()
  local before = core.stats()
  with_fifo(function(path)
    for _ = 1, 50 do
      local file <close> = io.open(path, "r+")
      file:write("x")
      task.move_on(0, file.read, file, 5)
    end
  end)
  local now = core.stats()
  assert(now.waits == before.waits and now.tasks == before.tasks)
end)
