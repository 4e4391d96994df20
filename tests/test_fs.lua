local expect = dofile("tests/expect.lua")
local core = require("sbx.core.fs")
local core_file = require("sbx.core.file")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

local fails = expect.code

-- Runs `fn(path)` with a fresh directory.
local function with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

test("fs: what is written is read, byte for byte", function()
  with_dir(function(dir)
    local bytes = ("\0\r\n\255 text"):rep(400000)
    fs.write(dir .. "/a", bytes)
    assert(fs.read(dir .. "/a") == bytes)
    assert(fs.stat(dir .. "/a").size == #bytes)
    fs.write(dir .. "/a", "short")
    assert(fs.read(dir .. "/a") == "short")
    fs.write(dir .. "/a", "er", { append = true })
    assert(fs.read(dir .. "/a") == "shorter")
    fs.write(dir .. "/empty", "")
    assert(fs.read(dir .. "/empty") == "")
  end)
end)

test("fs.read: files that say no size, and the limit", function()
  assert(fs.read("/proc/self/status"):find("Name:"))
  with_dir(function(dir)
    fs.write(dir .. "/a", "0123456789")
    assert(fs.read(dir .. "/a", { max = 10 }) == "0123456789")
    local ok, err = pcall(fs.read, dir .. "/a", { max = 9 })
    assert(not ok and err.kind == "limit", tostring(err))
    ok, err = pcall(fs.read, "/dev/zero", { max = 1000000 })
    assert(not ok and err.kind == "limit", tostring(err))
  end)
end)

test("fs: failures say what, on what and why", function()
  local err = fails("ENOENT", fs.read, "/nowhere/x")
  assert(err.kind == "io" and err.op == "open")
  assert(tostring(err) == "open /nowhere/x: no such file or directory")
  assert(tostring(fails("EISDIR", fs.read, "/")):find("^read /: "))
  assert(fails("ENOENT", fs.rename, "/nowhere/a", "/nowhere/b").message
    == "rename /nowhere/a to /nowhere/b: no such file or directory")
  fails("ENOENT", fs.stat, "/nowhere")
  fails("ENOENT", fs.list, "/nowhere")
  fails("ENOENT", fs.remove, "/nowhere/x")
  fails("ENOENT", fs.realpath, "/nowhere")
  fails("EINVAL", fs.readlink, "/")
  fails("ENOENT", fs.chmod, "/nowhere", 0)
end)

test("fs: a FIFO is refused, not waited for", function()
  with_dir(function(dir)
    process.run({ "mkfifo", dir .. "/fifo" }, { check = true })
    fails("EINVAL", fs.read, dir .. "/fifo")
    fails("ENXIO", fs.write, dir .. "/fifo", "x")
    assert(fs.stat(dir .. "/fifo").type == "fifo")
  end)
end)

test("fs.open: modes", function()
  with_dir(function(dir)
    local path = dir .. "/f"
    fails("ENOENT", fs.open, path, "r")
    do
      local file <close> = fs.open(path, "wx", { perm = 384 })
      file:write("hello")
      assert(file:size() == 5)
      file:sync()
    end
    fails("EEXIST", fs.open, path, "wx")
    assert(fs.stat(path).mode == 384)
    local file <close> = fs.open(path, "r+")
    assert(file:read(3) == "hel")
    file:write("LO")
    assert(file:read(10) == nil)
    assert(fs.read(path) == "helLO")
    local reader <close> = fs.open(path)
    local err = fails("EBADF", reader.write, reader, "x")
    assert(tostring(err) == "write " .. path .. ": bad file descriptor")
  end)
end)

test("fs.open: a closed file refuses; closing twice is harmless", function()
  with_dir(function(dir)
    local file = fs.open(dir .. "/f", "w")
    file:close()
    file:close()
    fails("EBADF", file.write, file, "x")
    fails("EBADF", file.read, file)
  end)
end)

test("fs.open: one task at a time uses a file", function()
  with_dir(function(dir)
    fs.write(dir .. "/f", ("x"):rep(1000000))
    local file <close> = fs.open(dir .. "/f")
    task.scope(function(scope)
      scope:spawn(file.read, file, 1000000)
      task.yield()
      local ok, err = pcall(file.read, file, 1)
      assert(not ok and tostring(err):find("another task is using the file"))
      ok, err = pcall(file.close, file)
      assert(not ok and tostring(err):find("another task is using the file"))
    end)
  end)
end)

test("fs.write_atomic: replaces, sets the mode, leaves nothing else", function()
  with_dir(function(dir)
    local path = dir .. "/f"
    fs.write_atomic(path, "one")
    assert(fs.read(path) == "one" and fs.stat(path).mode == 384)
    fs.write_atomic(path, "two", { mode = 438 })
    assert(fs.read(path) == "two" and fs.stat(path).mode == 438)
    assert(table.concat(fs.list(dir), " ") == "f")
  end)
end)

test("fs.write_atomic: a failure removes its temporary file", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/target")
    fs.write(dir .. "/target/x", "")
    local ok = pcall(fs.write_atomic, dir .. "/target", "bytes")
    assert(not ok)
    assert(table.concat(fs.list(dir), " ") == "target")
    fails("ENOENT", fs.write_atomic, dir .. "/no/where", "bytes")
    -- It is told of the file that was asked for.
    local _, err = pcall(fs.write_atomic, dir .. "/no/where", "bytes")
    assert(tostring(err) == ("write %s/no/where: no such file or directory"):format(dir), err)
    _, err = pcall(fs.write_atomic, dir .. "/target", "bytes")
    assert(tostring(err):find("write " .. dir .. "/target: ", 1, true) == 1, err)
  end)
end)

test("fs.write_atomic: cancelled at any point it leaves all or nothing", function()
  with_dir(function(dir)
    fs.write_atomic(dir .. "/f", "old")
    for turns = 1, 40 do
      task.scope(function(scope)
        scope:spawn(fs.write_atomic, dir .. "/f", ("new"):rep(10000))
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
      local text = fs.read(dir .. "/f")
      assert(text == "old" or text == ("new"):rep(10000))
      assert(table.concat(fs.list(dir), " ") == "f")
    end
  end)
end)

test("fs.mkdir: parents, modes, existing directories", function()
  with_dir(function(dir)
    fails("ENOENT", fs.mkdir, dir .. "/a/b/c")
    fs.mkdir(dir .. "/a/b/c", { parents = true, mode = 448 })
    fs.mkdir(dir .. "/a/b/c", { parents = true })
    fs.mkdir(dir .. "/a/b/d/", { parents = true })
    assert(fs.stat(dir .. "/a/b/c").mode == 448)
    fails("EEXIST", fs.mkdir, dir .. "/a")
    fs.write(dir .. "/file", "")
    fails("EEXIST", fs.mkdir, dir .. "/file", { parents = true })
    assert(pcall(fs.mkdir, dir .. "/file/x", { parents = true }) == false)
    assert(table.concat(fs.list(dir .. "/a/b"), " ") == "c d")
    -- A file system that has no place for directories, and always says ENOENT.
    fails("ENOENT", fs.mkdir, "/proc/none/such", { parents = true })
  end)
end)

test("fs.remove: never follows links", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/keep")
    fs.write(dir .. "/keep/precious", "")
    fs.mkdir(dir .. "/tree/deep/er", { parents = true })
    fs.write(dir .. "/tree/deep/file", "")
    fs.symlink(dir .. "/keep", dir .. "/tree/deep/link")
    fs.symlink("/nowhere", dir .. "/tree/broken")
    assert(fs.readlink(dir .. "/tree/broken") == "/nowhere")
    assert(fs.lstat(dir .. "/tree/broken").type == "symlink")
    assert(not fs.exists(dir .. "/tree/broken"))
    fails("ENOTEMPTY", fs.remove, dir .. "/tree")
    fs.remove(dir .. "/tree", { recursive = true })
    assert(not fs.exists(dir .. "/tree") and fs.exists(dir .. "/keep/precious"))
    fs.symlink(dir .. "/keep", dir .. "/link")
    fs.remove(dir .. "/link", { recursive = true })
    assert(fs.exists(dir .. "/keep/precious"))
    fs.remove(dir .. "/link", { missing_ok = true })
  end)
end)

test("fs.remove: directories that forbid it are no obstacle", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/b", { parents = true })
    fs.write(dir .. "/a/b/f", "")
    fs.chmod(dir .. "/a/b", 0)
    fs.remove(dir .. "/a", { recursive = true })
    assert(#fs.list(dir) == 0)
  end)
end)

test("fs.tmpdir: private, and gone at the end of its variable", function()
  local path
  do
    local dir <close> = fs.tmpdir({ prefix = "sbx-test-" })
    path = dir.path
    assert(path:find("/sbx%-test%-......$"))
    assert(fs.stat(path).mode == 448)
    fs.mkdir(path .. "/x/y", { parents = true })
    assert(fs.realpath(path .. "/x/../x/y/.") == fs.realpath(path) .. "/x/y")
  end
  assert(not fs.exists(path))
end)

test("fs.tmpdir: removed in a cancelled task too", function()
  local path
  task.scope(function(scope)
    scope:spawn(function()
      local dir <close> = fs.tmpdir()
      path = dir.path
      scope:cancel()
      task.sleep(100)
    end)
  end)
  assert(path and not fs.exists(path))
end)

test("fs: a cancelled operation is over when its task is", function()
  with_dir(function(dir)
    for turns = 0, 20 do
      task.scope(function(scope)
        for i = 1, 10 do
          scope:spawn(function()
            local file <close> = fs.open(dir .. "/" .. i, "w")
            file:write(("x"):rep(100000))
          end)
        end
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
    end
  end)
end)

test("fs: a cancelled tmpdir leaves nothing behind", function()
  with_dir(function(dir)
    for turns = 0, 5 do
      task.scope(function(scope)
        scope:spawn(core.mkdtemp, dir .. "/XXXXXX")
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
    end
    -- A result that was already there is delivered, so at most the ones that
    -- came before the cancel can remain.
    assert(#fs.list(dir) <= 6)
  end)
end)

test("fs: misuse raises plain errors", function()
  for _, call in ipairs({
    function() fs.read() end,
    function() fs.read("") end,
    function() fs.read("a\0b") end,
    function() fs.read("/x", { maximum = 1 }) end,
    function() fs.open("/x", "rw") end,
    function() fs.write("/x", nil) end,
    function() fs.chmod("/x", 1 << 20) end,
    function() fs.mkdir("/x", { mode = "755" }) end,
    function() fs.rename("/x") end,
    function() core_file.open("/x", "r") end,
  }) do
    local ok, err = pcall(call)
    assert(not ok and type(err) == "string", tostring(err))
  end
end)

test("fs: a collected file is closed", function()
  with_dir(function(dir)
    local file = fs.open(dir .. "/f", "w")
    file:write("x")
    file = nil
    assert(file == nil and fs.read(dir .. "/f") == "x")
  end)
end)
