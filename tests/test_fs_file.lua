-- Open files, lines, temporary files.

local expect = dofile("tests/expect.lua")
local core_file = require("sbx.core.file")
local fs = require("sbx.fs")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

-- Runs `fn(path)` with a fresh directory.
---@async
local function with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

local function equal(got, wanted)
  assert(got == wanted, ("got %s, not %s"):format(got, wanted))
end

test("file: seek, read_at and write_at", function()
  with_dir(function(dir)
    fs.write(dir .. "/f", "0123456789")
    local file <close> = fs.open(dir .. "/f", "r+")
    assert(file:seek("set", 3) == 3 and file:read(2) == "34")
    assert(file:seek() == 5 and file:seek("cur", -1) == 4 and file:read(1) == "4")
    assert(file:read_at(0, 3) == "012" and file:read_at(8) == "89" and file:read_at(10) == nil)
    assert(file:seek() == 5 and file:read(1) == "5")
    assert(file:seek("end", -2) == 8 and file:read() == "89" and file:read() == nil)
    file:write_at(1, "ab")
    file:write("XY")
    assert(file:seek("end", 3) == 15)
    file:write("!")
    equal(fs.read(dir .. "/f"), "0ab3456789XY\0\0\0!")
    expect.misuse("offset: -1 lies before the file's start", file.seek, file, "set", -1)
    expect.misuse("whence: expected", file.seek, file, "start")
    expect.misuse("offset: expected", file.read_at, file, -1)
    expect.misuse("file.seek was called without its file", file.seek)
    local adding <close> = fs.open(dir .. "/f", "a")
    adding:write("end")
    expect.code("ESPIPE", adding.seek, adding, "set", 0)
    assert(fs.read(dir .. "/f"):sub(-4) == "!end")
  end)
end)

-- A read that was cancelled when a thread was already at it.
test("file: what a cancelled read would have read is read next", function()
  with_dir(function(dir)
    local parts = {}
    for i = 1, 20000 do
      parts[i] = ("%07d\n"):format(i)
    end
    fs.write(dir .. "/f", table.concat(parts))
    local file <close> = fs.open(dir .. "/f")
    local got, cancelled, turns = {}, 0, 0
    repeat
      local bytes, ended
      turns = turns + 1
      task.scope(function(scope)
        scope:spawn(function()
          bytes = file:read(4000)
          ended = not bytes
        end)
        for _ = 1, turns % 5 do
          task.yield()
        end
        if turns % 2 == 0 then task.sleep(0.001) end
        scope:cancel()
      end)
      got[#got + 1] = bytes
      if not bytes then cancelled = cancelled + 1 end
    until ended
    assert(cancelled > 1 and table.concat(got) == table.concat(parts))
  end)
end)

test("file.lines: lines, and reading on behind them", function()
  with_dir(function(dir)
    fs.write(dir .. "/f", "one\n\ntwo\r\nlast")
    local file <close> = fs.open(dir .. "/f", "r+")
    local words = {}
    for line in file:lines() do
      words[#words + 1] = line
    end
    equal(table.concat(words, "|"), "one||two\r|last")
    file:seek("set")
    for line in file:lines({ keep = true }) do
      if line == "one\n" then break end
    end
    equal(file:read(3), "\ntw")
    equal(file:lines()(), "o\r")
    assert(file:seek() == 10)
    file:write("LAST")
    equal(fs.read(dir .. "/f"), "one\n\ntwo\r\nLAST")
    file:seek("set")
    local err = expect.failure(file:lines({ max_line = 2 }))
    assert(err.kind == "limit")
    equal(file:read(3), "one")
  end)
end)

test("fs.lines: a file given by its path is closed at its end", function()
  with_dir(function(dir)
    fs.write(dir .. "/f", "a\nb\n")
    local words = {}
    for line in fs.lines(dir .. "/f") do
      words[#words + 1] = line
    end
    for line in fs.lines(dir .. "/f", { keep = true }) do
      words[#words + 1] = line
    end
    equal(table.concat(words, "|"), "a|b|a\n|b\n")
    fs.write(dir .. "/empty", "")
    assert(fs.lines(dir .. "/empty")() == nil)
    local lines = fs.lines(dir .. "/f")
    assert(lines() == "a" and lines() == "b" and lines() == nil and lines() == nil)
    local file <close> = fs.open(dir .. "/f")
    assert(fs.lines(file)() == "a" and file:read() == "b\n")
    expect.code("ENOENT", fs.lines, dir .. "/nowhere")
    expect.code("EISDIR", fs.lines(dir))
    expect.misuse("path: expected a string", fs.lines)
    expect.misuse("unknown option 'kep'", fs.lines, dir .. "/f", { kep = true })
  end)
end)

-- The runner finds a descriptor that stays open.
test("fs.lines: a loop that is left, by break, an error or a cancel", function()
  with_dir(function(dir)
    fs.write(dir .. "/f", ("line\n"):rep(100000))
    do
      local lines <close> = fs.lines(dir .. "/f")
      for line in lines do
        if line == "line" then break end
      end
      assert(lines() == "line")
    end
    local ok = pcall(function()
      local lines <close> = fs.lines(dir .. "/f")
      for _ in lines do
        error("enough")
      end
    end)
    assert(not ok)
    task.scope(function(scope)
      scope:spawn(function()
        local lines <close> = fs.lines(dir .. "/f")
        for _ in lines do
          task.yield()
        end
      end)
      task.sleep(0.002)
      scope:cancel()
    end)
    -- Without the variable it is the collector's, which must not wait.
    for line in fs.lines(dir .. "/f") do
      if line == "line" then break end
    end
    local err = expect.failure(fs.lines("/dev/zero", { max_line = 100000 }))
    assert(err.kind == "limit")
  end)
end)

test("fs.lines: holds a part of the file at a time", function()
  with_dir(function(dir)
    process.run({ "sh", "-c", 'yes "$1" | head -n 400000 >"$2"', "sh", ("x"):rep(99), dir .. "/f" },
      { check = true })
    collectgarbage()
    local before, most, count = collectgarbage("count"), 0, 0
    for _ in fs.lines(dir .. "/f") do
      count = count + 1
      if count % 1000 == 0 then most = math.max(most, collectgarbage("count")) end
    end
    assert(count == 400000 and most - before < 8000, most - before)
  end)
end)

test("fs.tmpfile: private, open, and gone at the end of its variable", function()
  local where
  with_dir(function(dir)
    do
      local tmp <close> = fs.tmpfile({ prefix = "x-", dir = dir })
      where = tmp.path
      assert(path.dirname(where) == dir and path.match("x-??????", path.basename(where)))
      assert(fs.stat(where).mode == 384)
      tmp.file:write("text")
      tmp.file:seek("set", 1)
      assert(tmp.file:read() == "ext" and fs.read(where) == "text")
      assert(tmp.file.path == where)
    end
    assert(#fs.list(dir) == 0)
    local tmp <close> = fs.tmpfile({ dir = dir })
    tmp.file:close()
    fs.remove(tmp.path)
    tmp:close()
    tmp:close()
    assert(path.match("sbxlua-??????", path.basename(tmp.path)))
    expect.code("ENOENT", fs.tmpfile, { dir = dir .. "/nowhere" })
    expect.misuse("prefix: must not contain a slash", fs.tmpfile, { prefix = "../x" })
    expect.misuse("unknown option 'suffix'", fs.tmpdir, { suffix = "x" })
    expect.misuse("dir: expected a string", fs.tmpdir, { dir = 1 })
  end)
end)

test("fs.tmpfile, fs.tmpdir: removed whenever their task is cancelled", function()
  with_dir(function(dir)
    for turns = 0, 40 do
      task.scope(function(scope)
        scope:spawn(function()
          local tmp <close> = fs.tmpfile({ dir = dir })
          tmp.file:write("x")
          local folder <close> = fs.tmpdir({ dir = dir })
          fs.mkdir(folder.path .. "/a/b", { parents = true })
          folder:close()
          task.sleep(100)
        end)
        for _ = 1, turns do
          task.yield()
        end
        if turns % 3 == 0 then task.sleep(0.001) end
        scope:cancel()
      end)
      -- What was made in the turn of the cancel was delivered, or undone.
      assert(#fs.list(dir) == 0, table.concat(fs.list(dir), " "))
    end
    for turns = 0, 10 do
      task.scope(function(scope)
        scope:spawn(core_file.temporary, dir .. "/raw-XXXXXX")
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
    end
  end)
end)

test("fs: append, touch, is_file, is_dir, disk", function()
  with_dir(function(dir)
    local name = dir .. "/f"
    fs.append(name, "a", { mode = 384 })
    fs.append(name, "b")
    assert(fs.read(name) == "ab" and fs.stat(name).mode == 384)
    fs.touch(dir .. "/new")
    assert(fs.read(dir .. "/new") == "")
    local core = require("sbx.core.fs")
    core.utime(name, 5, 5)
    assert(fs.stat(name).mtime == 5)
    fs.touch(name)
    assert(fs.stat(name).mtime > 1e9 and fs.read(name) == "ab")
    expect.code("ENOENT", fs.touch, dir .. "/no/where")
    fs.symlink("f", dir .. "/link")
    fs.symlink(".", dir .. "/here")
    assert(fs.is_file(name) and fs.is_file(dir .. "/link") and not fs.is_file(dir))
    assert(fs.is_dir(dir) and fs.is_dir(dir .. "/here") and not fs.is_dir(name))
    assert(not fs.is_file(dir .. "/nowhere") and not fs.is_dir(name .. "/x"))
    local disk = fs.disk(dir)
    assert(disk.total >= disk.free and disk.free >= disk.available and disk.total > 0)
    expect.code("ENOENT", fs.disk, dir .. "/nowhere")
    expect.misuse("path: expected a string", fs.is_dir)
    expect.misuse("bytes: expected a string", fs.append, name)
  end)
end)
