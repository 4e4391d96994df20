-- Sandboxes on an image: what they write is theirs, and the image never changes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "images_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local importer = require("sbx.server.images_import")
local overlay = require("sbx.server.driver.bwrap_overlay")
local process = require("sbx.process")
local task = require("sbx.task")

local am_root = fs.stat("/proc/self").uid == 0
-- Where a user cannot put files over an image, it is read-only but for some folders.
local writable = am_root or overlay.probe()

-- Runs `fn(run, image, driver, store)` with an image; `run(options, use)` starts a
-- sandbox on it and calls `use(sh, box)`.
local function with_image(fn, more)
  support.with_store(function(store, place)
    support.python(place, "root('r')\n" .. (more or ""))
    local image = importer.import(store, "tools", place .. "/r")
    local driver = bwrap.open { images = store }
    fn(function(options, use)
      local spec = {
        id = "image-" .. hash.random_hex(4), hostname = "box-1", image = "tools:latest",
        workdir = "/sandbox-workspace",
      }
      for name, value in pairs(options) do
        spec[name] = value
      end
      local box = driver:create(spec)
      local ok, failure = pcall(use, function(command)
        return box.agent:exec { command = command, timeout = 60 }
      end, box)
      box:kill()
      if not ok then error(failure, 0) end
    end, image, driver, store)
    driver:close()
  end)
end

-- All of a tree, as text: names, kinds, sizes, times, content of small files.
local function snapshot(image)
  local lines = {}
  for path, entry in fs.walk(image.folder .. "/rootfs") do
    local facts = fs.lstat(path)
    local text = entry.type == "file" and facts.size < 4096 and fs.read(path) or facts.size
    local line = { path, entry.type, facts.mode, facts.uid, facts.mtime, text }
    lines[#lines + 1] = table.concat(line, " ")
  end
  return table.concat(lines, "\n")
end

-- What is mounted of the store on this machine. Others mount things of their own meanwhile.
local function mounts(store)
  local found = {}
  for line in fs.read("/proc/self/mountinfo"):gmatch("[^\n]+") do
    if line:find(store.folder, 1, true) then found[#found + 1] = line end
  end
  return table.concat(found, "\n")
end

test("bwrap image: it is what runs, not this machine", function()
  with_image(function(run, image)
    run({}, function(sh, box)
      assert(box.image_source == "store", box.image_source)
      assert(box.image_resolved:find("tools:latest", 1, true), box.image_resolved)
      assert(sh("cat /etc/marker").stdout == "from the image\n")
      assert(sh("pwd; hostname; id -u").stdout == "/sandbox-workspace\nbox-1\n0\n")
      assert(sh("test -e /usr/bin/python3 || test -e /etc/debian_version").exit_code ~= 0)
      assert(sh("cat /etc/hosts").stdout:find("box-1", 1, true))
      assert(sh("ls /proc/self/fd").stdout == "0\n1\n2\n3\n")
      assert(sh("echo x > /dev/x").exit_code ~= 0)
      assert(sh("test -w /dev/null && test -e /dev/shm").exit_code == 0)
      assert(sh("cat /proc/1/environ; echo x > /.agent").exit_code ~= 0)
      local outside = fs.read("/proc/" .. box.pid .. "/status"):match("\nUid:%s+(%d+)")
      assert(outside == tostring(image.uid or fs.stat("/proc/self").uid))
    end)
  end)
end)

test("bwrap image: everything can be written, and nothing of it gets to the image", function()
  with_image(function(run, image, _, store)
    local before = snapshot(image)
    run({}, function(sh)
      assert(sh("echo mine > /tmp/x && echo mine > /sandbox-workspace/x").exit_code == 0)
      if not writable then
        assert(sh("echo x > /etc/x").exit_code ~= 0)
        return
      end
      local result = sh([[set -e
        echo changed > /etc/marker; echo new > /usr/bin/new; chmod 755 /usr/bin/new
        rm /etc/passwd; rm -r /var/lib; mkdir -p /var/lib/y
        mv /usr /usr2; mkdir /usr; mv /usr2 /usr/two
        ln /etc/marker /etc/hard; ln -s /etc/marker /etc/soft; chmod 600 /etc/hard
        rm -rf /var; mkdir /var; echo x > /x; cat /etc/hard /etc/soft]])
      assert(result.stdout == "changed\nchanged\n", result.stdout .. result.stderr)
      assert(sh("test -e /var/lib").exit_code ~= 0 and sh("cat /usr/two/bin/new").stdout == "new\n")
    end)
    assert(snapshot(image) == before, "the image has changed")
    assert(mounts(store) == "", "mounts are left on this machine: " .. mounts(store))
    run({}, function(sh)
      assert(sh("cat /etc/marker").stdout == "from the image\n")
      assert(sh("test -d /var/lib/x && test ! -e /x").exit_code == 0)
    end)
  end)
end)

test("bwrap image: two sandboxes do not see each other's files", function()
  with_image(function(run)
    run({}, function(sh)
      assert(sh("echo one > /tmp/x; echo one > /root/x").exit_code == 0)
      run({}, function(other, box)
        assert(other("test -e /tmp/x || test -e /root/x").exit_code ~= 0)
        assert(other("echo two > /tmp/x").exit_code == 0)
        assert(other("kill -9 -1").exit_code ~= 0)
        assert(box.agent:stat("/tmp/x").type == "file")
      end)
      assert(sh("cat /tmp/x; echo alive").stdout == "one\nalive\n")
    end)
  end)
end)

test("bwrap image: what is written has a limit", function()
  with_image(function(run)
    run({ disk_size_gb = 0.02, memory_gb = 0.5 }, function(sh, box)
      local target = writable and "/usr/big" or "/sandbox-workspace/big"
      assert(sh("head -c 60000000 /dev/zero > " .. target).exit_code ~= 0)
      assert(box.agent:stat(target).size < 22 * 1024 * 1024)
      assert(sh("rm " .. target .. "; echo x > " .. target).exit_code == 0)
      -- The number of files, too.
      local many = "i=0; while [ $i -lt 40000 ] && true > /tmp/f$i; do i=$((i+1)); done; echo $i"
      assert(not writable or tonumber(sh(many).stdout) < 40000)
    end)
  end)
end)

-- Links where the driver itself writes or mounts, all to places of this machine.
local TRAPS = [[
import tempfile
for name in ('proc', 'dev', 'tmp', 'root', 'run', 'home', 'workspace', 'sandbox-workspace', 'opt'):
    os.symlink('/oldroot/TARGET', 'r/' + name)
for name in ('hosts', 'hostname', 'resolv.conf'):
    os.symlink('/oldroot/TARGET/' + name, 'r/etc/' + name)
os.symlink('/oldroot/TARGET/agent', 'r/.agent')
os.symlink('TARGET', 'r/srv')
]]

test("bwrap image: links in it lead nowhere else", function()
  local target <close> = fs.tmpdir { prefix = "trap-" }
  fs.chmod(target.path, 511)
  with_image(function(run)
    run({ hostname = "trapped" }, function(sh)
      assert(sh("cat /etc/hosts").stdout:find("trapped", 1, true))
      assert(sh("echo x > /tmp/x && echo x > /sandbox-workspace/x").exit_code == 0)
      assert(sh("ls /oldroot").exit_code ~= 0)
      sh("echo x > /srv/x; echo x > /opt/x; mkdir -p /home/x")
    end)
  end, (TRAPS:gsub("TARGET", target.path)))
  assert(#fs.list(target.path) == 0, table.concat(fs.list(target.path), " "))
end)

test("bwrap image: its variables are under the sandbox's own", function()
  support.with_store(function(store, place)
    support.python(place, [[
root('r')
layout('l', [folder_bytes('r')], {
    'Env': ['FROM=image', 'BOTH=image', 'PATH=/bin:/opt'], 'User': 'ann'})]])
    importer.import(store, "env", place .. "/l")
    local driver = bwrap.open { images = store }
    local box = driver:create { id = "env", image = "env", env = { BOTH = "box" } }
    local command = "echo $FROM $BOTH $ONE $PATH"
    local result = box.agent:exec { command = command, env = { ONE = "call" } }
    box:kill()
    assert(result.stdout == "image box call /bin:/opt\n", result.stdout)
  end)
end)

test("bwrap image: one that runs cannot be removed; later it can", function()
  with_image(function(run, _, _, store)
    run({}, function(sh)
      local ok, failure = pcall(store.remove, store, "tools")
      assert(not ok and failure.kind == "conflict")
      assert(sh("cat /etc/marker").exit_code == 0)
    end)
    store:remove("tools")
  end)
end)

test("bwrap image: what is not in the store, by rule or refused", function()
  with_image(function(run, _, driver, store)
    run({ image = "python:3.11-slim" }, function(_, box)
      assert(box.image_source == "host")
    end)
    assert(driver:look_for_image("tools") and driver:look_for_image("python"))
    local strict = bwrap.open { images = store, strict_images = true }
    local ok, failure = pcall(strict.create, strict, { id = "x", image = "python:3.11-slim" })
    assert(not ok and failure.kind == "image_pull", tostring(failure))
    assert(failure.message:find("sbxlua image import python:3.11-slim", 1, true))
    local found, details = strict:look_for_image("python")
    assert(not found and details:find("import", 1, true))
    assert(strict:check().ok)
  end)
end)

test("bwrap image: a server that is killed leaves no mount and no process", function()
  with_image(function(_, image, _, store)
    local script = store.folder .. "/start.lua"
    local word = "killed-" .. hash.random_hex(6)
    fs.write(script, ([[
local driver = require("sbx.server.driver.bwrap").open {
  images = require("sbx.server.images").open(%q) }
local task = require("sbx.task")
for i = 1, 3 do
  task.spawn(driver.create, driver, { id = "k" .. i, image = "tools", hostname = %q })
end
task.sleep(60)
]]):format(store.folder, word))
    for i = 1, 6 do
      local child <close> = process.spawn({ host.executable(), script })
      task.sleep(0.02 + i * 0.015)
      child:kill(9)
      child:wait()
      task.timeout(60, function()
        local left
        repeat
          left = false
          for _, pid in ipairs(fs.list("/proc")) do
            local line = pid:find("^%d+$") and errors.try(fs.read, "/proc/" .. pid .. "/cmdline")
            left = left or (line and line:find(word, 1, true))
          end
          if left then task.sleep(0.02) end
        until not left
      end)
    end
    assert(mounts(store) == "", mounts(store))
    assert(#image:users() == 0)
  end)
end)
