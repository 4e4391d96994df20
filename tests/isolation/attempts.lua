-- What untrusted code tries in a sandbox, as a table: {name, command} or {name, attempt}.
--
-- A command runs inside, with the variables that `isolation_support.lua` sets, and says
-- "denied" once it has tried, and "ESCAPED" if that got it anywhere. An attempt is a
-- function of the stage: it acts from inside and looks from outside.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local task = require("sbx.task")

local list = {}

local function command(name, text)
  list[#list + 1] = { name = name, command = text .. "\necho denied" }
end

local function attempt(name, fn)
  list[#list + 1] = { name = name, attempt = fn }
end

-- ------------------------------------------------------------ files of the machine

local function reading(path)
  return ('grep -qs "$WORD" %s && echo ESCAPED'):format(path)
end

command("host file by its path", reading('"$MARKER"'))
command("host file by ..", reading('"../../../../../../../..$MARKER" "/tmp/../../..$MARKER"'))
command("host file by the root of others", 'for p in /proc/[0-9]*/root /proc/[0-9]*/cwd; do\n'
  .. reading('"$p$MARKER" "$p/../../../../..$MARKER"') .. "\ndone")
command("host file by descriptors", 'for f in /proc/[0-9]*/fd/*; do\n'
  .. 'case $(readlink $f) in /*) ' .. reading('"$f/../../../../..$MARKER" "$f$MARKER"')
  .. ";; esac\ndone")
command("host file by /proc/self/mountinfo", [[
awk '{ print $4, $5 }' /proc/self/mountinfo | while read -r root at; do
  grep -qs "$WORD" "$at/../$MARKER" "$root$MARKER" && echo ESCAPED
done]])
command("environment and memory map of the agent",
  'for f in environ maps mem auxv stack syscall; do cat /proc/1/$f; done 2>/dev/null | grep -q .'
  .. " && echo ESCAPED")
command("the kernel's memory", "head -c 1 /proc/kcore 2>/dev/null | grep -q . && echo ESCAPED\n"
  .. "head -c 1 /dev/mem 2>/dev/null | grep -q . && echo ESCAPED")
command("sysrq", "(echo h > /proc/sysrq-trigger) 2>/dev/null && echo ESCAPED")
command("the core pattern and its like", [[
for f in core_pattern modprobe poweroff_cmd hostname domainname panic sysrq; do
  old=$(cat /proc/sys/kernel/$f 2>/dev/null) || continue
  (echo "$old" > /proc/sys/kernel/$f) 2>/dev/null && echo "ESCAPED $f"
done]])
command("settings of memory, files and the network", [[
for f in vm/overcommit_memory fs/file-max vm/drop_caches net/core/somaxconn fs/suid_dumpable; do
  old=$(cat /proc/sys/$f 2>/dev/null || echo 1)
  case $f in net/*) continue ;; esac # its own, where there is one
  (echo "$old" > /proc/sys/$f) 2>/dev/null && echo "ESCAPED $f"
done]])
command("/sys", [[
for f in kernel/uevent_helper kernel/mm/transparent_hugepage/enabled kernel/profiling \
    power/state module/kernel/parameters/panic; do
  [ -e /sys/$f ] || continue
  (: >> /sys/$f) 2>/dev/null && echo "ESCAPED $f"
done
find /sys -name uevent -writable 2>/dev/null | head -n 1 | grep -q . && [ -w /sys/kernel ] &&
  echo ESCAPED]])
command("release agents and limits of control groups", [[
find / -xdev -name release_agent -o -xdev -name cgroup.procs -o -xdev -name memory.max \
  -o -xdev -name memory.limit_in_bytes -o -xdev -name devices.allow 2>/dev/null |
while read -r f; do
  (: >> "$f") 2>/dev/null && echo "ESCAPED $f"
done
for f in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/pids.max \
    /sys/fs/cgroup/*/devices.allow /sys/fs/cgroup/*/memory.limit_in_bytes; do
  [ -e "$f" ] && (: >> "$f") 2>/dev/null && echo "ESCAPED $f"
done]])
command("disks and other devices", [[
find /dev -type b 2>/dev/null | grep -q . && echo ESCAPED
for f in kmsg mem port kvm fuse vhost-net vhost-vsock sda vda nvme0n1 loop-control mapper/control
do
  (: < /dev/$f) 2>/dev/null && echo "ESCAPED $f"
done]])
command("sockets of engines and of the machine", [[
for f in /var/run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock \
    /run/dbus/system_bus_socket /run/systemd/private /run/systemd/notify; do
  [ -e $f ] && echo "ESCAPED $f"
done]])
command("programs with the setuid bit", [[
grep -q '^NoNewPrivs:.*1' /proc/self/status || echo ESCAPED
for f in su sudo mount umount passwd newuidmap pkexec; do
  p=$(command -v $f) || continue
  "$p" --help < /dev/null > /dev/null 2>&1
done]])
command("a setuid program of its own", [[
mkdir -p /tmp/suid; cp /bin/sh /tmp/suid/sh; chown 0 /tmp/suid/sh; chmod 4755 /tmp/suid/sh
[ "$(/tmp/suid/sh -c 'grep CapEff /proc/self/status')" = "$(grep CapEff /proc/self/status)" ] ||
  echo ESCAPED]])
command("the agent replaced on disk", [[
for f in /.agent /.sbxlua/agent /proc/1/exe; do
  [ -e $f ] || continue
  (echo x > $f) 2>/dev/null && echo "ESCAPED write $f"
  (: >> $f) 2>/dev/null && echo "ESCAPED append $f"
  rm -f $f 2>/dev/null && echo "ESCAPED remove $f"
  mv $f /tmp/agent 2>/dev/null && echo "ESCAPED move $f"
  chmod 777 $f 2>/dev/null && echo "ESCAPED mode $f"
  rm -f /tmp/hard; ln $f /tmp/hard 2>/dev/null && (echo x > /tmp/hard) 2>/dev/null &&
    echo "ESCAPED link $f"
done]])
command("the agent's descriptors", [[
for n in 0 1 2 3 4 5 6 7 8 9; do
  readlink /proc/1/fd/$n && echo "ESCAPED name of $n"
  (: < /proc/1/fd/$n) 2>/dev/null && echo "ESCAPED read $n"
  (printf '\377\377\377\377' > /proc/1/fd/$n) 2>/dev/null && echo "ESCAPED write $n"
done]])
command("a way to the agent's control socket", [[
find / -xdev -type s 2>/dev/null | grep -v '^/tmp/' | grep -q . && echo ESCAPED
awk 'NR > 1 && $8 != "" { print $8 }' /proc/net/unix 2>/dev/null | grep -q . && echo ESCAPED]])

attempt("files of the machine overwritten", function(stage)
  local name = "escaped-" .. hash.random_hex(6)
  local before = fs.read("/etc/passwd")
  stage:run(([[
for d in / /etc /usr /usr/bin /usr/local/bin /lib /bin /sbin /root /var /opt /srv /boot /home; do
  (echo x > $d/%s) 2>/dev/null
done
ln /etc/passwd /tmp/passwd 2>/dev/null && echo escaped >> /tmp/passwd
echo escaped >> /etc/passwd
:]]):format(name))
  for _, folder in ipairs {
    "", "/etc", "/usr", "/usr/bin", "/usr/local/bin", "/lib", "/root", "/var", "/opt", "/srv",
    "/boot", "/home",
  } do
    assert(not errors.try(fs.stat, folder .. "/" .. name), folder)
  end
  assert(fs.read("/etc/passwd") == before)
  assert(not stage:beside("cat /etc/passwd").stdout:find("escaped", 1, true))
end)

-- --------------------------------------------------------- files through the server

attempt("an upload through a planted folder", function(stage)
  stage:run('ln -s "$HOSTDIR" /tmp/folder; ln -s /proc/1/root"$HOSTDIR" /tmp/folder2')
  for _, path in ipairs { "/tmp/folder/up", "/tmp/folder2/up", "/tmp/folder/deep/er/up" } do
    stage.box:upload(path, { data = "escaped" })
  end
  stage:assert_untouched()
end)

attempt("an upload through a planted link", function(stage)
  stage:run('ln -s "$MARKER" /tmp/link; ln -s "$HOSTDIR/new" /tmp/link2')
  stage.box:upload("/tmp/link", { data = "escaped" })
  stage.box:upload("/tmp/link2", { data = "escaped" })
  stage:assert_untouched()
end)

attempt("an upload whose path leads out", function(stage)
  for _, front in ipairs {
    "", "../../../../../..", "/tmp/../../..", "/proc/1/root", "/proc/self/root",
    "/proc/1/cwd/../..", "/dev/fd/../../../..", "/../..", "//", "/tmp/./..",
  } do
    stage.box:upload(front .. stage.folder .. "/new", { data = "escaped" })
    stage.box:upload(front .. stage.marker, { data = "escaped" })
  end
  stage:assert_untouched()
end)

attempt("uploads while a folder is swapped for a link", function(stage)
  stage:run([[
mkdir -p /tmp/real
(while :; do ln -sfn "$HOSTDIR" /tmp/swap; ln -sfn /tmp/real /tmp/swap; done) > /dev/null 2>&1 &
echo $! > /tmp/swapper]])
  for index = 1, 40 do
    stage.box:upload("/tmp/swap/f" .. index, { data = "escaped" })
  end
  stage:run("kill -9 $(cat /tmp/swapper)")
  stage:assert_untouched()
end)

attempt("a download through planted links", function(stage)
  stage:run('ln -s "$MARKER" /tmp/secret; ln -s "$HOSTDIR" /tmp/secrets\n'
    .. 'ln -s /proc/1/root"$MARKER" /tmp/secret2')
  local name = stage.marker:match("[^/]+$")
  for _, path in ipairs {
    "/tmp/secret", "/tmp/secret2", "/tmp/secrets/" .. name, stage.marker,
    "/proc/1/root" .. stage.marker, "../../../../.." .. stage.marker,
  } do
    local res = stage.box:download(path)
    assert(not res.body:find(stage.word, 1, true), path)
    local _, body = stage.box:read_file(path)
    assert(not json.encode(body):find(stage.word, 1, true), path)
  end
end)

attempt("downloads that never end, and of what the kernel keeps", function(stage)
  stage:run("mkfifo /tmp/pipe; mknod /tmp/zero c 1 5; ln -s /dev/zero /tmp/endless\n"
    .. "ln -s /tmp/loop /tmp/loop; :")
  for _, path in ipairs {
    "/tmp/pipe", "/dev/zero", "/tmp/endless", "/dev/urandom", "/dev/tty", "/proc/1/mem",
    "/proc/kcore", "/proc/kmsg", "/proc/1/fd/3", "/tmp/loop", "/proc/self/mem",
  } do
    local res = task.timeout(20, stage.box.download, stage.box, path)
    assert(res.status >= 400, path .. " " .. res.status)
    assert(select(1, task.timeout(20, stage.box.read_file, stage.box, path)) >= 400, path)
  end
  for _, path in ipairs { "/tmp/pipe", "/dev/full", "/proc/1/mem", "/proc/sysrq-trigger" } do
    task.timeout(20, stage.box.upload, stage.box, path, { data = "b" })
  end
end)

attempt("what the agent itself was given", function(stage)
  local res = stage.box:download("/proc/1/environ")
  for _, word in ipairs { "SBXLUA", "PRIME", "KEY", "TOKEN", "SUDO", "SSH", "XDG" } do
    assert(not res.body:find(word, 1, true), word)
  end
end)

attempt("a working directory and variables that lead out", function(stage)
  stage:run('ln -s "$HOSTDIR" /tmp/there')
  for _, directory in ipairs {
    "/tmp/there", stage.folder, "/proc/1/root" .. stage.folder, "../../../.." .. stage.folder,
  } do
    local _, result = stage.box:exec("cat *; echo escaped > new", { working_dir = directory })
    assert(not tostring(result.stdout):find(stage.word, 1, true), directory)
  end
  stage.box:exec("true", { env = { LD_PRELOAD = stage.marker, PATH = stage.folder } })
  stage:assert_untouched()
end)

-- ------------------------------------------------------------- the network, the others

command("a service on the machine's loopback", '"$ESCAPE" connect 127.0.0.1 "$HOSTPORT"')
command("a service on the machine's own addresses",
  'for a in $ADDRESSES; do "$ESCAPE" connect "$a" "$HOSTPORT"; done')
command("the server's own API", '"$ESCAPE" connect 127.0.0.1 "$APIPORT"\n'
  .. 'for a in $ADDRESSES; do "$ESCAPE" connect "$a" "$APIPORT"; done')
command("the metadata of a cloud", '"$ESCAPE" connect 169.254.169.254 80')
command("every port of the loopback around the machine's", [[
for port in 22 25 80 111 443 631 2375 2376 3306 5432 6379 8701 9090 $HOSTPORT $APIPORT; do
  "$ESCAPE" connect 127.0.0.1 $port
done]])
command("an abstract socket of the machine", '"$ESCAPE" abstract-connect "$ABSTRACT"')
command("the neighbour's port", '"$ESCAPE" connect 127.0.0.1 "$OTHERPORT"')
command("connections of the machine in /proc/net", [[
port=$(printf ':%04X ' "$HOSTPORT")
grep -qs "$port" /proc/net/tcp /proc/1/net/tcp && echo ESCAPED
grep -qs "$ABSTRACT" /proc/net/unix && echo ESCAPED]])
command("processes of the neighbour and of the machine", [[
for f in /proc/[0-9]*/cmdline; do
  tr '\0' ' ' < $f 2>/dev/null | grep -q -e 'sleep 471147[1]' -e 'sbxlua tes[t]' &&
    echo "ESCAPED $f"
done
[ $(ls -d /proc/[0-9]* | wc -l) -lt 50 ] || echo ESCAPED]])
command("shared memory of the machine", [[
[ "$(awk 'NR > 1' /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem 2>/dev/null |
  grep -vc '^ *key')" = 0 ] || echo ESCAPED
ls /dev/shm | grep -q . && echo ESCAPED]])
attempt("everything killed", function(stage)
  assert(stage:run("kill -9 -1; kill -9 1").exit_code == 137)
  assert(stage:run("echo alive").stdout == "alive\n")
  assert(stage:beside("kill -0 $(cat /tmp/sleeper) && echo there").stdout == "there\n")
end)
attempt("files of the neighbour", function(stage)
  local found = stage:run("cat /tmp/mark 2>/dev/null; find / -xdev -name mark 2>/dev/null;"
    .. " touch /tmp/intruder /root/intruder /dev/shm/intruder")
  assert(found.stdout == "", found.stdout)
  assert(stage:beside("find / -xdev -name intruder 2>/dev/null").stdout == "")
end)

-- ------------------------------------------------------------------ what it answers

attempt("output that looks like the agent's frames", function(stage)
  local bytes = "\0\0\0\10\35\0\0\0\1\0\0\0\0\0\255\255\255\255\33\0\0\0\1x\0\0\0\5\17\0\0\0\2"
  stage.box:upload("/tmp/frames", { data = bytes:rep(2000) })
  assert(stage.box:download("/tmp/frames").body == bytes:rep(2000))
  local result = stage:run("cat /tmp/frames; cat /tmp/frames >&2; exit 7")
  assert(result.exit_code == 7 and #result.stdout >= #bytes * 2000)
end)

attempt("output without an end", function(stage)
  local status, result = stage.box:exec("yes | head -c 40000000; yes | head -c 40000000 >&2")
  assert(status == 200 and result.stdout_truncated and result.stderr_truncated)
  assert(#result.stdout == 10485760 and #result.stderr == 10485760)
  assert(stage.box:exec("yes", { timeout = 0.2 }) == 408)
end)

attempt("control bytes for the terminal of who reads the log", function(stage)
  local made = stage.api:create {
    name = "noisy", docker_image = stage.image,
    start_command = "printf '\\033]0;owned\\007\\033[2J\\233x\\r\\000y\\n'",
  }
  stage.api:await(made.id, "RUNNING", "ERROR")
  local text
  task.timeout(20, function()
    repeat
      local _, _, res = stage.api:call("GET", "/sandbox/" .. made.id .. "/logs")
      text = res.body
    until text:find("owned", 1, true)
  end)
  assert(not text:find("[%z\1-\31\127]"), "raw control bytes in the answer")
  stage.api:call("DELETE", "/sandbox/" .. made.id)
end)

return list
