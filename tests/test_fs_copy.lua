local expect = dofile("tests/expect.lua")
local core = require("sbx.core.fs")
local fs = require("sbx.fs")
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

-- What a tree holds, in one text: names, links with where they lead, files with
-- their bytes, modes in octal.
---@async
local function content(dir)
  local words = {}
  for full, entry in fs.walk(dir) do
    local text = full:sub(#dir + 2)
    if entry.type == "symlink" then
      text = text .. ">" .. fs.readlink(full)
    elseif entry.type == "file" then
      text = ("%s=%s:%o"):format(text, fs.read(full), fs.stat(full).mode)
    else
      text = ("%s/:%o"):format(text, fs.stat(full).mode)
    end
    words[#words + 1] = text
  end
  return table.concat(words, " ")
end

test("fs.copy: a file, byte for byte, with its mode", function()
  with_dir(function(dir)
    local bytes = ("\0\255text"):rep(500000)
    fs.write(dir .. "/a", bytes, { mode = 448 })
    fs.copy(dir .. "/a", dir .. "/b")
    assert(fs.read(dir .. "/b") == bytes and fs.stat(dir .. "/b").mode == 448)
    fs.write(dir .. "/empty", "")
    fs.copy(dir .. "/empty", dir .. "/e")
    assert(fs.read(dir .. "/e") == "")
    fs.write(dir .. "/other", "other")
    expect.code("EEXIST", fs.copy, dir .. "/other", dir .. "/b")
    assert(fs.read(dir .. "/b") == bytes)
    fs.copy(dir .. "/other", dir .. "/b", { overwrite = true })
    assert(fs.read(dir .. "/b") == "other")
    fs.copy(dir .. "/b", dir .. "/b", { overwrite = true })
    assert(fs.read(dir .. "/b") == "other")
    equal(table.concat(fs.list(dir), " "), "a b e empty other")
  end)
end)

test("fs.copy: what preserve keeps, and what is never kept", function()
  with_dir(function(dir)
    fs.write(dir .. "/a", "x")
    fs.chmod(dir .. "/a", tonumber("4777", 8))
    core.utime(dir .. "/a", 1000000.5, 1000000.5)
    fs.copy(dir .. "/a", dir .. "/b")
    fs.copy(dir .. "/a", dir .. "/c", { preserve = true })
    assert(fs.stat(dir .. "/b").mode & tonumber("7000", 8) == 0)
    assert(fs.stat(dir .. "/b").mtime > 1e9)
    assert(fs.stat(dir .. "/c").mode == tonumber("777", 8))
    assert(fs.stat(dir .. "/c").mtime == 1000000.5)
  end)
end)

test("fs.copy: links stay links", function()
  with_dir(function(dir)
    fs.symlink("nowhere", dir .. "/l")
    fs.copy(dir .. "/l", dir .. "/m")
    equal(fs.readlink(dir .. "/m"), "nowhere")
    fs.write(dir .. "/f", "x")
    expect.code("EEXIST", fs.copy, dir .. "/l", dir .. "/f")
    fs.copy(dir .. "/l", dir .. "/f", { overwrite = true })
    equal(fs.readlink(dir .. "/f"), "nowhere")
    -- A link in the target's place is replaced, not followed.
    fs.write(dir .. "/precious", "precious")
    fs.symlink("precious", dir .. "/p")
    fs.write(dir .. "/g", "g")
    fs.copy(dir .. "/g", dir .. "/p", { overwrite = true })
    assert(fs.read(dir .. "/precious") == "precious" and fs.lstat(dir .. "/p").type == "file")
    fs.mkdir(dir .. "/d")
    expect.failure(fs.copy, dir .. "/l", dir .. "/d", { overwrite = true })
    equal(table.concat(fs.list(dir), " "), "d f g l m p precious")
  end)
end)

test("fs.copy: files in /proc, files with holes", function()
  with_dir(function(dir)
    fs.copy("/proc/self/cmdline", dir .. "/cmdline")
    equal(fs.read(dir .. "/cmdline"), fs.read("/proc/self/cmdline"))
    do
      local file <close> = fs.open(dir .. "/holes", "w")
      file:write_at(50 * 1024 * 1024, "middle")
      file:write_at(100 * 1024 * 1024, "end")
    end
    process.run({ "truncate", "-s", "200M", dir .. "/holes" }, { check = true })
    fs.copy(dir .. "/holes", dir .. "/copy")
    process.run({ "cmp", dir .. "/holes", dir .. "/copy" }, { check = true })
    local used = process.run({ "du", "-k", dir .. "/copy" }, { check = true }).stdout
    assert(tonumber(used:match("^%d+")) < 10000, used)
  end)
end)

test("fs.copy: a tree, into a new place and over an old one", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/sub/deep", { parents = true })
    fs.write(dir .. "/a/f", "f")
    fs.write(dir .. "/a/sub/g", "g", { mode = 448 })
    fs.write(dir .. "/a/sub/deep/.h", "h")
    fs.symlink("../f", dir .. "/a/sub/link")
    fs.chmod(dir .. "/a/sub", tonumber("500", 8))
    local wanted = content(dir .. "/a")
    expect.code("EISDIR", fs.copy, dir .. "/a", dir .. "/b")
    fs.copy(dir .. "/a", dir .. "/b", { recursive = true })
    equal(content(dir .. "/b"), wanted)
    fs.copy(dir .. "/a/", dir .. "/c/", { recursive = true })
    equal(content(dir .. "/c"), wanted)
    expect.code("EEXIST", fs.copy, dir .. "/a", dir .. "/b", { recursive = true })
    fs.chmod(dir .. "/b/sub", tonumber("700", 8))
    fs.write(dir .. "/b/f", "old")
    fs.write(dir .. "/b/more", "more")
    fs.copy(dir .. "/a", dir .. "/b", { recursive = true, overwrite = true })
    assert(fs.read(dir .. "/b/f") == "f" and fs.read(dir .. "/b/more") == "more")
    fs.write(dir .. "/file", "")
    local both = { recursive = true, overwrite = true }
    expect.code("EEXIST", fs.copy, dir .. "/a", dir .. "/file", both)
    -- A link to a folder, where a folder is to go, leads nothing astray.
    fs.mkdir(dir .. "/away")
    fs.remove(dir .. "/b/sub", { recursive = true })
    fs.symlink(dir .. "/away", dir .. "/b/sub")
    expect.code("EEXIST", fs.copy, dir .. "/a", dir .. "/b", both)
    assert(#fs.list(dir .. "/away") == 0)
  end)
end)

test("fs.copy: preserve keeps the times of folders too", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/b", { parents = true })
    fs.write(dir .. "/a/b/f", "")
    for _, name in ipairs({ "/a/b/f", "/a/b", "/a" }) do
      core.utime(dir .. name, 2000000, 2000000)
    end
    fs.chmod(dir .. "/a/b", tonumber("577", 8))
    fs.copy(dir .. "/a", dir .. "/c", { recursive = true, preserve = true })
    for _, name in ipairs({ "/c/b/f", "/c/b", "/c" }) do
      assert(fs.stat(dir .. name).mtime == 2000000, name)
    end
    assert(fs.stat(dir .. "/c/b").mode == tonumber("577", 8))
  end)
end)

test("fs.copy: a folder does not go into itself", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/b", { parents = true })
    fs.symlink("a", dir .. "/link")
    for _, to in ipairs({ "/a/c", "/a/b/c", "/link/c", "/a", "/a/b/../c", "/link/b/c" }) do
      local err = expect.code("EINVAL", fs.copy, dir .. "/a", dir .. to, {
        recursive = true, overwrite = true,
      })
      assert(tostring(err):find("a folder cannot go into itself", 1, true))
    end
    fs.copy(dir .. "/a", dir .. "/ab", { recursive = true })
    fs.copy(dir .. "/a/b", dir .. "/a/c", { recursive = true })
    equal(content(dir .. "/a"):gsub(":%d+", ""), "b/ c/")
  end)
end)

test("fs.copy: failures say what, from where and why", function()
  with_dir(function(dir)
    equal(tostring(expect.code("ENOENT", fs.copy, dir .. "/x", dir .. "/y")),
      ("stat %s/x: no such file or directory"):format(dir))
    fs.write(dir .. "/f", "")
    local err = expect.code("ENOENT", fs.copy, dir .. "/f", dir .. "/no/where")
    equal(tostring(err), ("copy %s/f to %s/no/where: no such file or directory"):format(dir, dir))
    expect.code("ENOENT", fs.copy, dir, "/nowhere/x/y", { recursive = true })
    expect.code("EINVAL", fs.copy, "/dev/null", dir .. "/null")
    expect.misuse("to: expected a string", fs.copy, "a")
    expect.misuse("unknown option 'recurse'", fs.copy, "a", "b", { recurse = true })
    expect.misuse("overwrite: expected true or false", fs.copy, "a", "b", { overwrite = 1 })
    expect.misuse("empty path", fs.copy, "", "b")
  end)
end)

test("fs.copy: on_error goes on without what failed", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/d", { parents = true })
    fs.write(dir .. "/a/f", "f")
    fs.write(dir .. "/a/d/g", "g")
    process.run({ "mkfifo", dir .. "/a/e" }, { check = true })
    expect.code("EINVAL", fs.copy, dir .. "/a", dir .. "/b", { recursive = true })
    fs.remove(dir .. "/b", { recursive = true })
    fs.mkdir(dir .. "/b")
    fs.write(dir .. "/b/d", "in the way")
    local failed = {}
    fs.copy(dir .. "/a", dir .. "/b", {
      recursive = true, overwrite = true,
      on_error = function(err, where)
        failed[#failed + 1] = where:sub(#dir + 2) .. ":" .. err.code
      end,
    })
    equal(table.concat(failed, " "), "a/d:EEXIST a/e:EINVAL")
    equal(table.concat(fs.list(dir .. "/b"), " "), "d f")
  end)
end)

test("fs.copy: cancelled at any point it leaves a whole file or none", { timeout = 400 }, function()
  with_dir(function(dir)
    local size = 40 * 1024 * 1024
    process.run({ "sh", "-c", 'head -c "$1" /dev/urandom >"$2"', "sh", tostring(size),
      dir .. "/a" }, { check = true })
    local cut = 0
    for turns = 0, 30 do
      task.scope(function(scope)
        scope:spawn(fs.copy, dir .. "/a", dir .. "/b")
        for _ = 1, turns do
          task.yield()
        end
        task.sleep(turns / 2000)
        scope:cancel()
      end)
      local names = table.concat(fs.list(dir), " ")
      if names == "a" then
        cut = cut + 1
      else
        equal(names, "a b")
        assert(fs.stat(dir .. "/b").size == size)
        fs.remove(dir .. "/b")
      end
    end
    assert(cut > 3)
  end)
end)

test("fs.copy: cancelled in a tree it leaves whole files", function()
  with_dir(function(dir)
    for i = 1, 20 do
      fs.mkdir(("%s/a/%d"):format(dir, i), { parents = true })
      fs.write(("%s/a/%d/f"):format(dir, i), ("x"):rep(10000))
      fs.symlink("f", ("%s/a/%d/l"):format(dir, i))
    end
    for turns = 0, 60, 4 do
      task.scope(function(scope)
        scope:spawn(fs.copy, dir .. "/a", dir .. "/b", { recursive = true, overwrite = true })
        for _ = 1, turns do
          task.yield()
        end
        task.sleep(turns / 4000)
        scope:cancel()
      end)
      if fs.exists(dir .. "/b") then
        for full, entry in fs.walk(dir .. "/b") do
          assert(entry.name:find("^[%dfl]+$"), full)
          if entry.type == "file" then assert(fs.stat(full).size == 10000) end
        end
      end
    end
  end)
end)

test("fs.copy: uses no more memory for a large file", function()
  with_dir(function(dir)
    process.run({ "truncate", "-s", "1G", dir .. "/a" }, { check = true })
    process.run({ "sh", "-c", "head -c 60000000 /dev/urandom | dd of=" .. dir
      .. "/a conv=notrunc 2>/dev/null" }, { check = true })
    local function resident()
      return tonumber(fs.read("/proc/self/status"):match("VmHWM:%s*(%d+)"))
    end
    local before = resident()
    fs.copy(dir .. "/a", dir .. "/b")
    assert(fs.stat(dir .. "/b").size == 1 << 30 and resident() - before < 20000)
  end)
end)
