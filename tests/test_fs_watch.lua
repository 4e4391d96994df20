local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")

-- Runs `fn(path)` with a fresh directory.
---@async
local function with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

-- An event in one word: what happened, and where below `dir`.
local function word(event, dir)
  if not event then return "end" end
  local function below(path)
    assert(path:sub(1, #dir) == dir, path)
    return path:sub(#dir + 2)
  end
  local text = event.kind .. ":" .. below(event.path) .. (event.is_dir and "/" or "")
  return event.from and text .. "<" .. below(event.from) or text
end

-- The words of all events up to one that matches, or of those of a while.
---@async
local function words_until(watch, dir, last)
  local words = {}
  task.timeout(20, function()
    repeat
      words[#words + 1] = word(watch:wait(), dir)
    until words[#words]:find(last)
  end)
  return table.concat(words, " ")
end

local function equal(got, wanted)
  assert(got == wanted, ("got %s, not %s"):format(got, wanted))
end

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

test("fs.watch: a cancelled wait loses nothing", function()
  with_dir(function(dir)
    local watch <close> = fs.watch(dir, { recursive = true })
    assert(not task.move_on(0.01, watch.wait, watch))
    fs.mkdir(dir .. "/x/y/z", { parents = true })
    fs.write(dir .. "/x/y/z/f", "")
    local words = {}
    -- Cancelled after so many turns, again and again, until all has come.
    for turns = 0, 2000 do
      local event
      task.scope(function(scope)
        scope:spawn(function()
          event = watch:wait()
        end)
        for _ = 1, turns % 7 do
          task.yield()
        end
        task.sleep(turns % 3 / 1000)
        scope:cancel()
      end)
      if event then words[#words + 1] = word(event, dir) end
      if #words == 4 then break end
    end
    equal(table.concat(words, " "), "create:x/ create:x/y/ create:x/y/z/ create:x/y/z/f")
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

test("fs.watch recursive: folders that are there and folders that come", function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/a/b", { parents = true })
    fs.write(dir .. "/a/b/old", "")
    local watch <close> = fs.watch(dir, { recursive = true })
    fs.append(dir .. "/a/b/old", "x")
    equal(words_until(watch, dir, "old"), "change:a/b/old")
    fs.mkdir(dir .. "/new")
    equal(words_until(watch, dir, "new"), "create:new/")
    fs.write(dir .. "/new/f", "")
    fs.mkdir(dir .. "/new/sub")
    equal(words_until(watch, dir, "sub"), "create:new/f create:new/sub/")
    fs.symlink(dir .. "/a", dir .. "/new/link")
    fs.append(dir .. "/a/b/old", "x")
    equal(words_until(watch, dir, "old"), "create:new/link change:a/b/old")
  end)
end)

-- Whatever is made while folders are being found is told of, and once.
test("fs.watch recursive: no file is missed in folders that appear", { timeout = 120 }, function()
  with_dir(function(dir)
    local watch <close> = fs.watch(dir, { recursive = true })
    local wanted = {}
    for i = 0, 199 do
      local folder = ("%s/%d/%d/%d"):format(dir, i % 3, i % 10, i)
      for _, name in ipairs({ "x", "y" }) do
        wanted[folder .. "/" .. name] = 1
        folder = folder .. "/deep"
      end
    end
    task.scope(function(scope)
      scope:daemon(function()
        process.run({ "sh", "-c", [[cd "$1" || exit
          for i in $(seq 0 199); do
            mkdir -p $((i % 3))/$((i % 10))/$i/deep
            : >$((i % 3))/$((i % 10))/$i/x
            : >$((i % 3))/$((i % 10))/$i/deep/y
          done]], "sh", dir }, { check = true })
      end)
      while next(wanted) do
        local event = task.timeout(30, watch.wait, watch)
        if event.kind == "create" and not event.is_dir then
          assert(wanted[event.path] == 1, event.path .. " came twice, or never was")
          wanted[event.path] = nil
        end
        assert(event.kind ~= "overflow")
      end
    end)
  end)
end)

test("fs.watch recursive: folders that move stay known, or are forgotten", function()
  with_dir(function(outer)
    local dir = outer .. "/tree"
    fs.mkdir(dir .. "/a/b/c", { parents = true })
    fs.mkdir(dir .. "/z")
    local watch <close> = fs.watch(dir, { recursive = true })
    fs.rename(dir .. "/a", dir .. "/z/n")
    fs.write(dir .. "/z/n/b/c/f", "")
    equal(words_until(watch, dir, "f$"), "rename:z/n/<a create:z/n/b/c/f")
    fs.rename(dir .. "/z/n/b", outer .. "/b")
    fs.write(outer .. "/b/c/unseen", "")
    fs.write(dir .. "/seen", "")
    equal(words_until(watch, dir, "seen"), "delete:z/n/b/ create:seen")
    fs.rename(outer .. "/b", dir .. "/back")
    equal(words_until(watch, dir, "unseen"),
      "create:back/ create:back/c/ create:back/c/f create:back/c/unseen")
    fs.write(dir .. "/back/c/f", "x")
    equal(words_until(watch, dir, "f$"), "change:back/c/f")
    fs.remove(dir .. "/back", { recursive = true })
    fs.mkdir(dir .. "/back")
    fs.write(dir .. "/back/f", "x")
    equal(words_until(watch, dir, "back/f$"), "delete:back/c/f delete:back/c/unseen "
      .. "delete:back/c/ delete:back/ create:back/ create:back/f")
  end)
end)

-- Fills the kernel's queue.
---@async
local function overflow(dir)
  local limit = tonumber(fs.read("/proc/sys/fs/inotify/max_queued_events"))
  if limit > 100000 then skip("the kernel keeps too many events here") end
  process.run({ "python3", "-c", [[
import os, sys
for i in range(int(sys.argv[2])):
    name = sys.argv[1] + "/x" + str(i % 2)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.unlink(name)]], dir, tostring(limit) }, { check = true })
end

test("fs.watch: events that were lost are owned up to", { timeout = 120 }, function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/old")
    local watch <close> = fs.watch(dir, { recursive = true })
    overflow(dir)
    fs.mkdir(dir .. "/new/sub", { parents = true })
    fs.rename(dir .. "/old", dir .. "/new/old")
    assert(words_until(watch, dir, "overflow"):find("^create:x0 delete:x0 create:x1"))
    -- What was made meanwhile is watched by now.
    fs.write(dir .. "/new/sub/f", "")
    fs.write(dir .. "/new/old/f", "")
    equal(words_until(watch, dir, "old/f"), "create:new/sub/f create:new/old/f")
    overflow(dir)
    fs.remove(dir, { recursive = true })
    assert(words_until(watch, dir, "end"):find("delete:/ end$"))
  end)
end)

test("fs.watch: an overflow does not hide that a file is gone", { timeout = 120 }, function()
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
