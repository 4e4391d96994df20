local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local run_support = dofile("tests/run_support.lua")
local support = dofile("tests/fs_watch_support.lua")
local task = require("sbx.task")

local equal, overflow = support.equal, support.overflow
local with_dir, words_until = support.with_dir, support.words_until

test("fs.watch: tells what happens in a folder", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/sub")
    local watch <close> = fs.watch(dir .. "/")
    fs.write(dir .. "/a", "text")
    fs.write(dir .. "/sub/not-mine", "")
    equal(words_until(watch, dir, "a"), "create:a")
    fs.append(dir .. "/a", "more")
    equal(words_until(watch, dir, "a"), "change:a")
    fs.chmod(dir .. "/a", 384)
    equal(words_until(watch, dir, "a"), "change:a")
    fs.rename(dir .. "/a", dir .. "/b")
    equal(words_until(watch, dir, "b"), "rename:b<a")
    fs.mkdir(dir .. "/d")
    fs.rename(dir .. "/b", dir .. "/sub/b")
    equal(words_until(watch, dir, "b"), "create:d/ delete:b")
    fs.rename(dir .. "/sub/b", dir .. "/c")
    fs.remove(dir .. "/c")
    fs.remove(dir .. "/d")
    equal(words_until(watch, dir, "delete:d"), "create:c delete:c delete:d/")
  end)
end)

test("fs.watch: what happens while nobody waits is kept, and said once", function()
  with_dir(function(dir)
    local watch <close> = fs.watch(dir)
    for i = 1, 50 do
      fs.write(dir .. "/a", ("x"):rep(i))
      fs.write(dir .. "/b", ("x"):rep(i))
    end
    fs.remove(dir .. "/a")
    fs.write(dir .. "/a", "")
    fs.write(dir .. "/a", "x")
    fs.touch(dir .. "/end")
    equal(words_until(watch, dir, "end"), "create:a create:b delete:a create:a create:end")
  end)
end)

test("fs.watch: a rename ends what is said once", function()
  with_dir(function(dir)
    fs.write(dir .. "/a", "")
    local watch <close> = fs.watch(dir)
    fs.append(dir .. "/a", "x")
    fs.rename(dir .. "/a", dir .. "/b")
    fs.append(dir .. "/b", "x")
    fs.write(dir .. "/a", "x")
    fs.append(dir .. "/b", "x")
    equal(words_until(watch, dir, "create:a"), "change:a rename:b<a change:b create:a")
  end)
end)

test("fs.watch: events is an iterator, and close ends it", function()
  with_dir(function(dir)
    local watch <close> = fs.watch(dir)
    local seen = 0
    task.scope(function(scope)
      scope:spawn(function()
        for event in watch:events() do
          assert(event.kind == "create")
          seen = seen + 1
        end
        seen = seen + 100
      end)
      for i = 1, 3 do
        fs.mkdir(dir .. "/" .. i)
      end
      while seen < 3 do
        task.sleep(0.001)
      end
      watch:close()
    end)
    assert(seen == 103)
    assert(watch:wait() == nil)
    watch:close()
  end)
end)

test("fs.watch: the end of a folder ends it, also one that is still open", function()
  for _, options in ipairs({ {}, { recursive = true } }) do
    with_dir(function(dir)
      local path = dir .. "/gone"
      fs.mkdir(path)
      local held <close> = fs.open(path)
      local watch <close> = fs.watch(path, options)
      fs.remove(path)
      equal(words_until(watch, dir, "end"), "delete:gone/ end")
      assert(watch:wait() == nil and held:size() >= 0)
    end)
  end
end)

test("fs.watch: a folder that moves away ends it", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/b", { parents = true })
    local watch <close> = fs.watch(dir .. "/a")
    fs.rename(dir .. "/a", dir .. "/c")
    equal(words_until(watch, dir, "end"), "rename:c/<a end")
    fs.mkdir(dir .. "/other")
    local second <close> = fs.watch(dir .. "/c/b")
    fs.rename(dir .. "/c/b", dir .. "/other/b")
    equal(words_until(second, dir, "end"), "delete:c/b/ end")
  end)
end)

test("fs.watch: one file, whatever a writer does with it", function()
  with_dir(function(dir)
    local path = dir .. "/file"
    fs.write(path, "one")
    fs.write(dir .. "/other", "")
    local watch <close> = fs.watch(path)
    fs.write(dir .. "/other", "x")
    fs.append(path, "more")
    equal(words_until(watch, dir, "file"), "change:file")
    fs.write_atomic(path, "two")
    equal(words_until(watch, dir, "file"), "change:file")
    fs.append(path, "more")
    equal(words_until(watch, dir, "file"), "change:file")
    fs.remove(path)
    equal(words_until(watch, dir, "end"), "delete:file end")
    fs.write(path, "one")
    local second <close> = fs.watch(path)
    fs.rename(path, dir .. "/new")
    equal(words_until(second, dir, "end"), "rename:new<file end")
    local third <close> = fs.watch(dir .. "/new")
    fs.mkdir(dir .. "/sub")
    fs.rename(dir .. "/new", dir .. "/sub/new")
    equal(words_until(third, dir, "end"), "delete:new end")
  end)
end)

test("fs.watch: an overflow does not hide that a file is gone", { timeout = 400 }, function()
  with_dir(function(dir)
    fs.write(dir .. "/f", "")
    local watch <close> = fs.watch(dir .. "/f")
    overflow(dir)
    fs.remove(dir .. "/f")
    equal(words_until(watch, dir, "end"), "delete:f end")
    fs.write(dir .. "/f", "")
    local second <close> = fs.watch(dir .. "/f")
    overflow(dir)
    equal(words_until(second, dir, "overflow"), "overflow:f")
    fs.append(dir .. "/f", "x")
    equal(words_until(second, dir, "f"), "change:f")
  end)
end)

test("fs.watch: a link is followed once, and paths stay as they were given", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/real")
    fs.symlink("real", dir .. "/link")
    local watch <close> = fs.watch(dir .. "/link", { recursive = true })
    fs.mkdir(dir .. "/real/a")
    fs.write(dir .. "/real/a/f", "")
    equal(words_until(watch, dir, "f"), "create:link/a/ create:link/a/f")
  end)
end)

test("fs.watch: cancelled while it begins it leaves nothing behind", function()
  with_dir(function(dir)
    for i = 1, 40 do
      fs.mkdir(dir .. "/" .. i)
    end
    for turns = 0, 60, 3 do
      task.scope(function(scope)
        scope:spawn(function()
          local watch <close> = fs.watch(dir, { recursive = true })
          watch:wait()
        end)
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
    end
    -- Dropped without a word, while it is busy and while it is idle.
    fs.watch(dir)
    for turns = 0, 5 do
      local watch = fs.watch(dir, { recursive = true })
      fs.mkdir(dir .. "/new" .. turns)
      task.scope(function(scope)
        scope:daemon(watch.wait, watch)
        for _ = 1, turns do
          task.yield()
        end
        watch:close()
      end)
    end
  end)
end)

test("fs.watch: failures and misuse", function()
  expect.code("ENOENT", fs.watch, "/nowhere")
  expect.misuse("path: expected a string", fs.watch)
  expect.misuse("unknown option 'recursiv'", fs.watch, "/", { recursiv = true })
  expect.misuse("recursive: expected true or false", fs.watch, "/", { recursive = 1 })
  with_dir(function(dir)
    local watch <close> = fs.watch(dir)
    task.scope(function(scope)
      scope:daemon(watch.wait, watch)
      task.sleep(0.01)
      expect.misuse("another task waits for this watch", watch.wait, watch)
    end)
    expect.misuse("watch.wait was called without its watch", watch.wait)
  end)
end)

test("fs.watch: more watches than the kernel allows is an error that says so", function()
  local limit = tonumber(fs.read("/proc/sys/fs/inotify/max_user_instances"))
  if limit > 1000 then skip("the kernel allows too many watches here") end
  with_dir(function(dir)
    local watches = {}
    local err = expect.failure(function()
      for i = 1, limit + 1 do
        watches[i] = fs.watch(dir)
      end
    end)
    for _, watch in ipairs(watches) do
      watch:close()
    end
    assert(err.code == "EMFILE" and tostring(err):find("fs.inotify.max_user_instances", 1, true))
  end)
end)

test("fs.watch: a program that only waits for it is not stuck, and ends", function()
  with_dir(function(dir)
    local run <close> = run_support.start({ "-e", [[
      local fs, task = require("sbx.fs"), require("sbx.task")
      local watch = fs.watch(arg[1])
      local other = fs.watch(arg[1])
      task.daemon(other.wait, other)
      print("ready")
      print(watch:wait().kind)]], dir })
    run:await("stdout", "ready")
    fs.write(dir .. "/f", "")
    assert(run:finish() == 0, run.text.stderr)
    equal(run.text.stdout, "ready\ncreate\n")
  end)
end)
