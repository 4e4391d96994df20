-- Watching a tree: folders that come, move and go.

local fs = require("sbx.fs")
local process = require("sbx.process")
local support = dofile("tests/fs_watch_support.lua")
local task = require("sbx.task")

local word = support.word
local equal, overflow = support.equal, support.overflow
local with_dir, words_until = support.with_dir, support.words_until

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
test("fs.watch recursive: no file is missed in folders that appear", { timeout = 400 }, function()
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
        local event = task.timeout(60, watch.wait, watch)
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

test("fs.watch: events that were lost are owned up to", { timeout = 400 }, function()
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

-- Does what comes to mind in a tree, and now and then moves a part of it out of the
-- tree and back.
local MISCHIEF = [[
import os, random, shutil, sys
random.seed(int(sys.argv[2]))
tree, outside = sys.argv[1] + "/tree", sys.argv[1] + "/outside"
def some():
    path = tree
    while random.random() < 0.7:
        path += "/" + random.choice("abc")
    return path
for i in range(int(sys.argv[3])):
    try:
        what = random.randrange(8)
        if what < 2: os.makedirs(some() + "/" + random.choice("abc"))
        elif what < 4: open(some() + "/" + random.choice("xyz"), "w").close()
        elif what == 4:
            names = [some() + "/" + random.choice("abcxyz") for i in "12"]
            os.rename(*names)
        elif what == 5: os.unlink(some() + "/" + random.choice("xyz"))
        elif what == 6:
            victim = some() + "/" + random.choice("abc")
            if random.random() < 0.2: shutil.rmtree(victim)
        else:
            place = outside + "/" + str(random.randrange(3))
            victim = some() + "/" + random.choice("abc")
            if os.path.exists(place): os.rename(place, victim)
            else: os.rename(victim, place)
    except OSError:
        pass
open(tree + "/end", "w").close()
]]

-- What a script knows of the tree that only listens.
local function apply(known, event)
  local function below(path)
    local found = {}
    for name in pairs(known) do
      if name == path or name:sub(1, #path + 1) == path .. "/" then found[#found + 1] = name end
    end
    return found
  end
  if event.kind == "create" then known[event.path] = true end
  if event.kind == "delete" then
    for _, name in ipairs(below(event.path)) do
      known[name] = nil
    end
  end
  if event.kind == "rename" then
    for _, name in ipairs(below(event.path)) do
      known[name] = nil
    end
    for _, name in ipairs(below(event.from)) do
      known[name] = nil
      known[event.path .. name:sub(#event.from + 1)] = true
    end
    known[event.path] = true
  end
end

test("fs.watch recursive: who listens knows the tree", { timeout = 400 }, function()
  for seed = 1, 6 do
    with_dir(function(dir)
      fs.mkdir(dir .. "/tree/a/b", { parents = true })
      fs.mkdir(dir .. "/outside")
      local watch <close> = fs.watch(dir .. "/tree", { recursive = true })
      local known = {}
      local function look(path)
        for below in fs.walk(path) do
          known[below] = true
        end
      end
      look(dir .. "/tree")
      local function learn(event)
        if event.kind ~= "overflow" then return apply(known, event) end
        known = {}
        look(dir .. "/tree")
      end
      task.scope(function(scope)
        scope:daemon(process.run, { "python3", "-c", MISCHIEF, dir, tostring(seed), "800" },
          { check = true })
        local event
        repeat
          event = task.timeout(60, watch.wait, watch)
          learn(event)
          if seed % 2 == 0 then task.sleep(0.0002) end
        until event.path == dir .. "/tree/end"
        -- What was found by looking comes after what the kernel told of.
        while task.move_on(0.5, function() event = watch:wait() end) do
          learn(event)
        end
      end)
      local wrong = {}
      for path in fs.walk(dir .. "/tree") do
        if not known[path] then wrong[#wrong + 1] = "missed " .. path end
        known[path] = nil
      end
      for path in pairs(known) do
        wrong[#wrong + 1] = "made up " .. path
      end
      assert(#wrong == 0, "seed " .. seed .. ": " .. table.concat(wrong, ", "))
    end)
  end
end)

test("fs.watch recursive: folders deeper than a path may be long", { timeout = 400 }, function()
  with_dir(function(dir)
    local watch <close> = fs.watch(dir, { recursive = true })
    process.run({ "python3", "-c", [[
import os, sys
os.chdir(sys.argv[1])
for i in range(60):
    os.mkdir("d" * 100)
    os.chdir("d" * 100)
open("bottom", "w").close()]], dir }, { check = true })
    local words = words_until(watch, dir, "bottom")
    assert(select(2, words:gsub("create", "")) == 61)
  end)
end)
