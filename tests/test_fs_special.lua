-- What is rare until it happens: no permission, no room, strange names and files.

local expect = dofile("tests/expect.lua")
local support = dofile("tests/run_support.lua")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

-- Runs `fn(path)` with a fresh directory.
---@async
local function with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

local NOBODY = 65534

-- Runs a piece of Lua as a user without rights, and returns what it prints.
---@async
local function as_nobody(code, ...)
  if fs.stat("/proc/self").uid ~= 0 then skip("needs root, to give it up") end
  local user = { uid = NOBODY, gid = NOBODY }
  if not pcall(support.run, { "--version" }, user) then skip("others may not run this program") end
  local arguments = { "-e", 'local fs = require("sbx.fs") local dir = arg[1]\n' .. code, ... }
  local result = support.run(arguments, user)
  assert(result.code == 0, result.stderr)
  return result.stdout
end

local function equal(got, wanted)
  assert(got == wanted, ("got %s, not %s"):format(got, wanted))
end

local SAY = [[
  local function say(fn, ...)
    local ok, err = pcall(fn, ...)
    print(ok and "done" or err.code)
  end
]]

test("fs: what one may not do says so", function()
  with_dir(function(dir)
    fs.chmod(dir, tonumber("755", 8))
    fs.write(dir .. "/secret", "x", { mode = 384 })
    fs.mkdir(dir .. "/closed", { mode = 448 })
    fs.write(dir .. "/open", "x")
    equal(as_nobody(SAY .. [[
      say(fs.read, dir .. "/secret")
      say(fs.write, dir .. "/open", "y")
      say(fs.list, dir .. "/closed")
      say(fs.stat, dir .. "/closed/x")
      say(fs.mkdir, dir .. "/new")
      say(fs.remove, dir .. "/open")
      say(fs.remove, dir, { recursive = true })
      say(fs.copy, dir .. "/secret", "/tmp/never")
      say(fs.copy, dir .. "/open", dir .. "/copy")
      say(fs.write_atomic, dir .. "/open", "y")
      say(fs.watch, dir .. "/closed")
      say(fs.tmpfile, { dir = dir })
      say(fs.touch, dir .. "/open")
      say(fs.chmod, dir .. "/open", 511)]], dir),
      ("EACCES\n"):rep(13) .. "EPERM\n")
    assert(fs.read(dir .. "/open") == "x" and fs.read(dir .. "/secret") == "x")
  end)
end)

test("fs: folders that one may not read, in a walk, a glob, a copy and a watch", function()
  with_dir(function(dir)
    fs.chmod(dir, tonumber("755", 8))
    fs.mkdir(dir .. "/tree/a", { parents = true })
    fs.mkdir(dir .. "/tree/b", { mode = 448 })
    fs.mkdir(dir .. "/tree/c")
    fs.write(dir .. "/tree/c/f", "")
    fs.mkdir(dir .. "/mine")
    process.run({ "chown", tostring(NOBODY), dir .. "/mine" }, { check = true })
    equal(as_nobody([[
      local skipped = {}
      local function on_error(err, path) skipped[#skipped + 1] = path:match(".$") .. err.code end
      local names, tree = {}, dir .. "/tree"
      for path in fs.walk(tree, { on_error = on_error }) do names[#names + 1] = path:match(".$") end
      print(table.concat(names, " "), table.concat(skipped, " "))
      print(#fs.glob("**/f", { root = tree, on_error = on_error }), #skipped)
      fs.copy(tree, dir .. "/mine/copy", { recursive = true, on_error = on_error })
      print(table.concat(fs.list(dir .. "/mine/copy"), " "), #skipped)
      local watch <close> = fs.watch(tree, { recursive = true, on_error = on_error })
      print(#skipped)
      for _, fn in ipairs({
        function() for _ in fs.walk(tree) do end end,
        function() fs.glob(tree .. "/*/f") end,
        function() fs.copy(tree, dir .. "/mine/other", { recursive = true }) end,
        function() fs.watch(tree, { recursive = true }) end,
      }) do
        local _, err = pcall(fn)
        print(err.code)
      end]], dir),
      "a b c f\tbEACCES\n1\t2\na b c\t3\n4\nEACCES\nEACCES\nEACCES\nEACCES\n")
  end)
end)

test("fs.watch: a parent that one may not read is no obstacle", function()
  with_dir(function(dir)
    fs.chmod(dir, tonumber("711", 8))
    fs.mkdir(dir .. "/mine")
    process.run({ "chown", tostring(NOBODY), dir .. "/mine" }, { check = true })
    equal(as_nobody([[
      fs.mkdir(dir .. "/mine/sub")
      local watch <close> = fs.watch(dir .. "/mine/sub")
      fs.write(dir .. "/mine/sub/f", "")
      print(watch:wait().kind)
      fs.chmod(dir .. "/mine", 0)
      fs.chmod(dir .. "/mine", 448)]], dir), "create\n")
    -- One that is let go of while its parent cannot be watched.
    equal(as_nobody([[
      fs.mkdir(dir .. "/mine/a/b", { parents = true })
      fs.chmod(dir .. "/mine/a", 64)
      local watch <close> = fs.watch(dir .. "/mine/a/b")
      fs.chmod(dir .. "/mine/a", 448)
      fs.remove(dir .. "/mine/a/b")
      print(watch:wait().kind, watch:wait())]], dir), "delete\tnil\n")
  end)
end)

test("fs.remove: its own folders it can remove, others' not", function()
  with_dir(function(dir)
    fs.chmod(dir, tonumber("777", 8))
    equal(as_nobody(SAY .. [[
      fs.mkdir(dir .. "/mine/a/b", { parents = true })
      fs.write(dir .. "/mine/a/b/f", "")
      fs.chmod(dir .. "/mine/a/b", 0)
      fs.chmod(dir .. "/mine/a", 320)
      fs.chmod(dir .. "/mine", 128)
      say(fs.remove, dir .. "/mine", { recursive = true })
      fs.mkdir(dir .. "/theirs/a/b", { parents = true })]], dir), "done\n")
    fs.mkdir(dir .. "/theirs/a/b/root")
    fs.write(dir .. "/theirs/a/b/root/f", "")
    equal(as_nobody([[
      local ok, err = pcall(fs.remove, dir .. "/theirs", { recursive = true })
      print(ok, err)]], dir),
      ("false\tunlink %s/theirs/a/b/root/f: permission denied\n"):format(dir))
  end)
end)

test("fs.remove: cancelled, and what has no name of its own", function()
  with_dir(function(dir)
    for _, name in ipairs({ "/", "//", ".", "..", dir .. "/.", dir .. "/..", "./" }) do
      expect.code("EINVAL", fs.remove, name, { recursive = true })
    end
    fs.mkdir(dir .. "/real")
    fs.write(dir .. "/real/f", "")
    fs.symlink("real", dir .. "/link")
    fs.remove(dir .. "/link/", { recursive = true })
    assert(fs.exists(dir .. "/real/f") and not fs.exists(dir .. "/link"))
    process.run({ "python3", "-c", [[
import os, sys
for i in range(2000):
    os.mkdir(sys.argv[1] + "/" + str(i))]], dir .. "/real" }, { check = true })
    for turns = 0, 4 do
      task.scope(function(scope)
        scope:spawn(fs.remove, dir .. "/real", { recursive = true })
        for _ = 1, turns do
          task.yield()
        end
        scope:cancel()
      end)
      assert(fs.exists(dir .. "/real"))
    end
    fs.remove(dir .. "/real", { recursive = true, missing_ok = true })
    fs.remove(dir .. "/real", { recursive = true, missing_ok = true })
    expect.code("ENOENT", fs.remove, dir .. "/real", { recursive = true })
    equal(#fs.list(dir), 0)
  end)
end)

-- Another process swaps a folder for a link to a precious one, again and again,
-- while the tree is removed.
test("fs.remove: a tree that changes does not lead it astray", { timeout = 400 }, function()
  with_dir(function(dir)
    fs.mkdir(dir .. "/precious")
    fs.write(dir .. "/precious/f", "")
    task.scope(function(scope)
      scope:daemon(function()
        process.run({ "python3", "-c", [[
import os, sys
os.chdir(sys.argv[1])
while True:
    try:
        os.makedirs("tree/a/swap", exist_ok=True)
        open("tree/a/swap/f", "w").close()
        os.rename("tree/a/swap", "aside")
        os.symlink("../../precious", "tree/a/swap")
        os.unlink("tree/a/swap")
        os.rename("aside", "tree/a/swap")
    except OSError:
        os.system("rm -rf aside")]], dir })
      end)
      local removed, tries = 0, 0
      repeat
        -- It fails when the other one is quicker, and that is all.
        if pcall(fs.remove, dir .. "/tree", { recursive = true }) then removed = removed + 1 end
        tries = tries + 1
        assert(fs.exists(dir .. "/precious/f"))
        task.sleep(0.001)
      until removed >= 30 and tries >= 300
    end)
  end)
end)

test("fs: a full disk", function()
  with_dir(function(dir)
    expect.code("ENOSPC", fs.write, "/dev/full", "x")
    local ok = pcall(process.run, { "unshare", "-m", "true" }, { check = true })
    if not ok then skip("needs to mount") end
    fs.write(dir .. "/big", ("x"):rep(300000))
    local result = process.run({ "unshare", "-m", "sh", "-c",
      'mkdir "$1/disk" && mount -t tmpfs -o size=128k none "$1/disk" && exec "$2" -e "$3" "$1"',
      "sh", dir, host.executable(), SAY .. [[
      local fs = require("sbx.fs")
      local disk = arg[1] .. "/disk"
      say(fs.write_atomic, disk .. "/f", "old")
      say(fs.copy, arg[1] .. "/big", disk .. "/copy")
      say(fs.copy, arg[1] .. "/big", disk .. "/f", { overwrite = true })
      say(fs.write_atomic, disk .. "/f", ("x"):rep(300000))
      print(table.concat(fs.list(disk), " "), fs.read(disk .. "/f"), fs.disk(disk).total)
      say(fs.rename, disk .. "/f", arg[1] .. "/f")
      fs.copy(disk .. "/f", arg[1] .. "/f")
      print(fs.read(arg[1] .. "/f"))]] }, { timeout = 60 })
    equal(result.stdout, "done\nENOSPC\nENOSPC\nENOSPC\nf\told\t131072\nEXDEV\nold\n")
  end)
end)

test("fs: names with any bytes, and as long as they may be", function()
  with_dir(function(dir)
    for _, name in ipairs({ "a\nb", "\xFF\xFE\x80", ("n"):rep(255), ("é"):rep(127), " ", "-rf" }) do
      local full = path.join(dir, name)
      fs.write(full, "1")
      fs.write_atomic(full, "2")
      fs.copy(full, full, { overwrite = true })
      fs.mkdir(dir .. "/sub")
      fs.copy(full, dir .. "/sub/" .. name)
      assert(fs.read(dir .. "/sub/" .. name) == "2" and fs.list(dir .. "/sub")[1] == name)
      fs.symlink(name, dir .. "/link")
      assert(fs.readlink(dir .. "/link") == name)
      assert(fs.realpath(dir .. "/link") == fs.realpath(full))
      fs.remove(dir .. "/link")
      fs.remove(dir .. "/sub", { recursive = true })
      local watch <close> = fs.watch(dir)
      fs.remove(full)
      assert(watch:wait().path == full)
    end
    expect.code("ENAMETOOLONG", fs.write, dir .. "/" .. ("n"):rep(256), "x")
    expect.code("ENAMETOOLONG", fs.read, dir .. ("/d"):rep(3000))
    expect.misuse("contains a zero byte", fs.copy, "a\0b", "c")
    expect.misuse("contains a zero byte", fs.walk, "a\0b")
    expect.misuse("contains a zero byte", fs.watch, "a\0b")
    expect.misuse("contains a zero byte", fs.glob, "a\0b/*")
  end)
end)

test("fs: FIFOs, sockets, devices and folders, where a file is expected", function()
  with_dir(function(dir)
    process.run({ "mkfifo", dir .. "/fifo" }, { check = true })
    for code, fn in pairs({ EINVAL = fs.read, ENXIO = fs.touch }) do
      expect.code(code, fn, dir .. "/fifo")
    end
    expect.code("EINVAL", fs.lines, dir .. "/fifo")
    expect.code("EINVAL", fs.copy, dir .. "/fifo", dir .. "/copy")
    expect.code("EISDIR", fs.read, dir)
    expect.code("EISDIR", fs.write, dir, "x")
    expect.code("ENOTDIR", fs.list, dir .. "/fifo")
    expect.code("ENOTDIR", fs.read, "/dev/null/x")
    assert(fs.read("/dev/null") == "" and #fs.read("/proc/self/maps") > 1000)
    local file <close> = fs.open("/dev/urandom")
    assert(#file:read(10) == 10)
    local stat = fs.lines("/proc/stat")
    assert(stat():find("^cpu ") and stat():find("^cpu0 "))
    stat:close()
  end)
end)
