-- Real sandboxes by bubblewrap, and attempts to get out of them.

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local net = require("sbx.net")
local process = require("sbx.process")
local task = require("sbx.task")

local function create(options)
  local spec = { id = "test", image = "python:3.11-slim", hostname = "box-1", log = function() end }
  for name, value in pairs(options or {}) do
    spec[name] = value
  end
  return bwrap.open():create(spec)
end

-- Runs `fn(box, sh)`; `sh(command)` returns the command's result.
local function with_box(options, fn)
  local box = create(options)
  local ok, failure = pcall(fn, box, function(command, timeout)
    return box.agent:exec { command = command, timeout = timeout or 20 }
  end)
  box:kill()
  if not ok then error(failure, 0) end
end

local function python(text)
  return "cat > /tmp/t.py <<'END'\n" .. text .. "\nEND\npython3 /tmp/t.py"
end

local function uid_outside(pid)
  return fs.read("/proc/" .. pid .. "/status"):match("\nUid:%s+(%d+)")
end

test("bwrap: the check finds that it works here", function()
  local report = bwrap.open():check()
  assert(report.ok, table.concat(report.problems, "\n"))
end)

test("bwrap: a sandbox has what a script expects of it", function()
  with_box({ workdir = "/sandbox-workspace" }, function(box, sh)
    assert(sh("python -c 'print(42)'").stdout == "42\n")
    assert(sh("env -i sh -c 'python -c \"print(42)\"'").stdout == "42\n")
    assert(sh("pwd; hostname; whoami").stdout == "/sandbox-workspace\nbox-1\nroot\n")
    local places = "/tmp /workspace /sandbox-workspace /root /home /var/tmp /run /dev/shm"
    local result = sh("for d in " .. places .. "; do echo x > $d/x && cat $d/x || echo $d; done")
    assert(result.stdout == ("x\n"):rep(8), result.stdout)
    assert(sh("awk 'BEGIN { print 1 }'; date +%Z; getent hosts localhost").exit_code == 0)
    assert(sh("echo x > /usr/x").exit_code ~= 0)
    assert(box.image_source == "host" and box.image_resolved:find("read-only", 1, true))
    assert(box.limits.memory == "none" and box.limits.files == "rlimit")
  end)
end)

test("bwrap: says once that another root stands in for the image", function()
  local lines = {}
  with_box({
    log = function(line)
      lines[#lines + 1] = line
    end,
  }, function() end)
  local text = table.concat(lines, "\n")
  assert(text:find("image python:3.11-slim is not in the local store", 1, true))
end)

test("bwrap: commands have the sandbox's environment, and ps does not", function()
  with_box({ env = { SECRET_WORD = "xyzzy-4711" } }, function(box, sh)
    assert(sh("echo $SECRET_WORD").stdout == "xyzzy-4711\n")
    local own = box.agent:exec { command = "echo $SECRET_WORD", env = { SECRET_WORD = "mine" } }
    assert(own.stdout == "mine\n")
    for _, name in ipairs { "cmdline", "environ" } do
      local text = errors.try(fs.read, "/proc/" .. box.pid .. "/" .. name) or ""
      assert(not text:find("xyzzy", 1, true))
    end
  end)
end)

test("bwrap: the sandbox is a user of its own on this machine", function()
  local one <close>, mine = setmetatable({ box = create() }, {
    __close = function(holder)
      holder.box:kill()
    end,
  }), fs.stat("/proc/self").uid
  local outside = uid_outside(one.box.pid)
  assert(outside ~= "0")
  if mine ~= 0 then return end
  assert(tonumber(outside) >= 1000000 and tonumber(outside) == one.box.uid)
  with_box(nil, function(other)
    assert(other.uid ~= one.box.uid)
  end)
end)

test("bwrap: this machine's files are not there", function()
  local folder <close> = fs.tmpdir()
  fs.write(folder.path .. "/marker", "x")
  with_box(nil, function(box, sh)
    assert(sh("cat /etc/shadow").exit_code ~= 0)
    assert(sh("test -e " .. folder.path).exit_code ~= 0)
    assert(sh("ls -A /root /home /srv /tmp | grep -v : | grep .").stdout == "")
    assert(sh("test -e /sys/kernel || test -e /boot || test -e /mnt").exit_code ~= 0)
    assert(sh("ls /dev").stdout:find("vda") == nil)
    assert(sh("cat /proc/kcore | head -c 1").stdout == "")
    assert(sh("echo x > /proc/sys/kernel/core_pattern").exit_code ~= 0)
    assert(sh("echo x > /proc/sysrq-trigger").exit_code ~= 0)
    assert(sh("ls /proc/self/fd").stdout == "0\n1\n2\n3\n")
    assert(box.agent:stat("/etc/passwd").type == "file")
  end)
end)

test("bwrap: the agent cannot be killed, changed, read or traced from inside", function()
  with_box(nil, function(_, sh)
    assert(sh("kill -9 1; kill -9 -1").exit_code == 137)
    assert(sh("echo alive").stdout == "alive\n")
    assert(sh("echo x > /proc/1/exe").exit_code ~= 0)
    assert(sh("echo x > /.agent || rm -f /.agent || mv /.agent /x").exit_code ~= 0)
    assert(sh("cat /proc/1/mem /proc/1/environ /proc/1/maps").stdout == "")
    assert(sh("readlink /proc/1/fd/3").exit_code ~= 0)
    local traced = sh(python [[
import ctypes
print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))]])
    assert(traced.stdout == "-1\n", traced.stdout .. traced.stderr)
  end)
end)

test("bwrap: the kernel's dangerous calls are refused", function()
  with_box(nil, function(_, sh)
    local result = sh(python [[
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
calls = {'keyctl': (219 if arm else 250, 0, 0, 0), 'unshare': (97 if arm else 272, 0x10000000),
    'mount': (40 if arm else 165, b'x', b'/tmp', b'tmpfs', 0, 0), 'clone3': (435, 0, 0),
    'clone': (220 if arm else 56, 0x10000000 | 17, 0, 0, 0, 0), 'io_uring': (425, 1, 0),
    'bpf': (280 if arm else 321, 0, 0, 0), 'userfaultfd': (282 if arm else 323, 0),
    'setns': (268 if arm else 308, 0, 0), 'fsopen': (430, b'tmpfs', 0)}
for name, args in sorted(calls.items()):
    value = libc.syscall(*args)
    print(name, value, errno.errorcode[ctypes.get_errno()])
for family in (socket.AF_VSOCK, 38, socket.AF_PACKET, 16):
    try:
        socket.socket(family, socket.SOCK_RAW if family == 16 else socket.SOCK_STREAM)
        print(family, 'open')
    except OSError as e:
        print(family, errno.errorcode[e.errno])]])
    assert(result.stdout == [[
bpf -1 EPERM
clone -1 EPERM
clone3 -1 ENOSYS
fsopen -1 EPERM
io_uring -1 EPERM
keyctl -1 EPERM
mount -1 EPERM
setns -1 EPERM
unshare -1 EPERM
userfaultfd -1 EPERM
40 EAFNOSUPPORT
38 EAFNOSUPPORT
17 EAFNOSUPPORT
16 open
]], result.stdout .. result.stderr)
    assert(sh("unshare -U true; unshare -m true").exit_code ~= 0)
    assert(sh("mount -t tmpfs none /tmp").exit_code ~= 0)
  end)
end)

test("bwrap: ordinary programs live with the filter", function()
  with_box(nil, function(_, sh)
    local result = sh(python [[
import multiprocessing, socket, sqlite3, ssl, subprocess, tempfile, threading
thread = threading.Thread(target=lambda: print('thread'))
thread.start()
thread.join()
print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())
print(sum(multiprocessing.Pool(2).map(abs, [-1, 2])))
ssl.create_default_context()
sqlite3.connect(tempfile.mktemp()).execute('create table t (a)')
a, b = socket.socketpair()
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(server.getsockname())
print('done')]])
    assert(result.stdout == "thread\nchild\n3\ndone\n", result.stdout .. result.stderr)
  end)
end)

test("bwrap: without a network there is nothing but its own loopback", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  with_box({ network = false }, function(box, sh)
    assert(box.network_enforced)
    local result = sh(python(([[
import errno, socket
for address in (('127.0.0.1', %d), ('192.0.2.1', 80), ('169.254.169.254', 80)):
    try:
        socket.create_connection(address, 5)
        print('connected')
    except OSError as e:
        print(errno.errorcode[e.errno])
print(open('/proc/net/unix').read().count('@'))]]):format(listener.port)))
    assert(result.stdout == "ECONNREFUSED\nENETUNREACH\nENETUNREACH\n0\n",
      result.stdout .. result.stderr)
  end)
end)

-- This machine's addresses other than loopback.
local function own_addresses()
  local text = process.run({ "hostname", "-I" }).stdout
  local list = {}
  for address in text:gmatch("%d+%.%d+%.%d+%.%d+") do
    list[#list + 1] = address
  end
  return list
end

test("bwrap: a network is slirp's, and leads neither to this machine nor to private ones",
  function()
    local listener <close> = net.listen("0.0.0.0", 0)
    local lines = {}
    local spec = {
      network = true,
      log = function(line)
        lines[#lines + 1] = line
      end,
    }
    with_box(spec, function(box, sh)
      if not box.network_enforced then
        assert(not os.getenv("SBXLUA_TEST_NETWORK"), table.concat(lines, "\n"))
        -- No slirp4netns, or no right to use it: then no network, and that is said.
        assert(table.concat(lines, "\n"):find("network asked for but not given", 1, true))
        assert(not sh("cat /proc/net/dev").stdout:find("tap0", 1, true))
        return
      end
      assert(sh("cat /proc/net/dev").stdout:find("tap0", 1, true))
      local places = own_addresses()
      for _, address in ipairs { "127.0.0.1", "10.0.2.2", "169.254.169.254", "192.168.1.1" } do
        places[#places + 1] = address
      end
      local result = sh(python(([[
import socket, sys
for address in '%s'.split():
    try:
        socket.create_connection((address, %d), 5)
        print('reached', address)
    except (ConnectionRefusedError, socket.timeout) as e:
        if address != '127.0.0.1':
            print(address, e)
    except OSError:
        pass]]):format(table.concat(places, " "), listener.port)), 60)
      assert(result.exit_code == 0 and result.stdout == "", result.stdout .. result.stderr)
      assert(sh("ip route del unreachable 169.254.0.0/16").exit_code ~= 0)
    end)
  end)

test("bwrap: processes, disk and memory files are bounded", function()
  with_box({ disk_size_gb = 0.02 }, function(box, sh)
    local result = sh("head -c 60000000 /dev/zero > /tmp/big")
    assert(result.exit_code ~= 0 and box.agent:stat("/tmp/big").size < 22 * 1024 * 1024)
    assert(sh("rm /tmp/big; head -c 100000000 /dev/zero > /dev/shm/x").exit_code ~= 0)
    local bomb = sh("f() { f | f & }; f; exec sleep 60", 1) -- nothing can fork any more
    assert(bomb.timed_out)
    assert(sh("echo alive; ulimit -c").stdout == "alive\n0\n")
  end)
end)

test("bwrap: kill leaves no process, and can be asked for twice", function()
  local box = create()
  box.agent:exec { command = "setsid sleep 1000 & setsid setsid sleep 1000 &" }
  local pid = box.pid
  task.scope(function(scope)
    scope:spawn(box.kill, box)
    scope:spawn(box.kill, box)
  end)
  box:kill()
  assert(not fs.exists("/proc/" .. pid))
  local ok, failure = pcall(box.agent.exec, box.agent, { command = "true" })
  assert(not ok and failure.kind == "not_running")
end)

test("bwrap: an end that nobody asked for is told, one that was is not", function()
  local box = create { lifetime = 1 }
  local reason = task.waiter("the end of a sandbox")
  box:on_exit(function(text)
    reason:wake(text)
  end)
  local text = task.timeout(60, reason.wait, reason)
  assert(text:find("ended", 1, true))
  box:kill()

  local other = create()
  other:on_exit(function()
    error("told of an end that was asked for")
  end)
  other:kill()
end)

-- Processes of this machine that have `word` on their command line.
local function processes_with(word)
  local found = {}
  for _, pid in ipairs(fs.list("/proc")) do
    local line = pid:find("^%d+$") and errors.try(fs.read, "/proc/" .. pid .. "/cmdline")
    if line and line:find(word, 1, true) then found[#found + 1] = pid end
  end
  return found
end

local function await_no_processes(word)
  local left
  local gone = task.move_on(60, function()
    repeat
      left = processes_with(word)
      if #left > 0 then task.sleep(0.01) end
    until #left == 0
  end)
  assert(gone, "left behind: " .. table.concat(left, " "))
end

test("bwrap: a start that is cancelled leaves nothing", function()
  local word = "cancelled-" .. hash.random_hex(8)
  for i = 0, 9 do
    local ok, box = task.move_on(i * 0.0015, create, { hostname = word })
    if ok then box:kill() end
    await_no_processes(word) -- which follow the one that was waited for
  end
end)

test("bwrap: a server that is killed at any moment leaves nothing", function()
  local folder <close> = fs.tmpdir()
  local word = "killed-" .. hash.random_hex(8)
  local script = folder.path .. "/start.lua"
  fs.write(script, ([[
local bwrap = require("sbx.server.driver.bwrap")
local task = require("sbx.task")
for _ = 1, 4 do
  local driver = bwrap.open()
  task.spawn(driver.create, driver, { id = "x", hostname = %q, log = function() end })
end
task.sleep(60)
]]):format(word))
  for i = 1, 12 do
    local child <close> = process.spawn({ host.executable(), script })
    -- Where in the start the blow falls is left to chance and to this pause.
    task.sleep(0.01 + i * 0.004)
    child:kill(9)
    child:wait()
    await_no_processes(word)
  end
end)

test("bwrap: twenty start, run and end at once", function()
  task.scope(function(scope)
    local boxes = {}
    for i = 1, 20 do
      boxes[i] = scope:spawn(function()
        with_box({ hostname = "n-" .. i }, function(_, sh)
          assert(sh("hostname").stdout == "n-" .. i .. "\n")
        end)
      end)
    end
    for _, each in ipairs(boxes) do
      each:join()
    end
  end)
end)

test("bwrap: a host name of any characters does no harm", function()
  with_box({ hostname = ("a b/\n"):rep(50) }, function(_, sh)
    assert(#sh("hostname").stdout == 64)
  end)
end)
