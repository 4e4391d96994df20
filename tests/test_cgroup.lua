-- Control groups. The second version is tried on folders that only look like it: what
-- is written where is right there, whether a kernel would obey is not shown. The rest
-- is real, where this machine lets us.

local cgroup = require("sbx.server.driver.cgroup")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local owners = require("sbx.server.driver.cgroup_owner")
local process = require("sbx.process")
local task = require("sbx.task")

local MIB = 1024 * 1024

-- A server of this process; one that has a folder when a name is given.
local function owner_named(folder, more)
  local owner = owners.this()
  owner.folder = folder
  for name, value in pairs(more or {}) do
    owner[name] = value
  end
  return owner
end

local S1 = { folder = "51", keeps = false, space = "1", pid = 2, start = "3" }

-- ---------------------------------------------------------- version 2, pretended

-- A folder that looks like a version 2 hierarchy; `below` is the group of ours.
local function pretend(folder, below, controllers)
  local function add(path)
    fs.mkdir(path, { parents = true })
    fs.write(path .. "/cgroup.controllers", controllers .. "\n")
    fs.write(path .. "/cgroup.subtree_control", "")
    fs.write(path .. "/cgroup.procs", "")
  end
  add(folder)
  if below ~= "" then add(folder .. below) end
  -- The kernel would make these files with the folder.
  local base = folder .. below .. "/sbxlua"
  add(base)
  return {
    mounts = "cgroup2 " .. folder:gsub(" ", "\\040") .. " cgroup2 rw,nosuid 0 0\n",
    own = "0::" .. (below == "" and "/" or below) .. "\n",
    pid = 4711,
  }, base
end

local function text(...)
  return fs.read(table.concat({ ... }, "/"))
end

test("cgroup 2, pretended: as root, limits are written below the top", function()
  local folder <close> = fs.tmpdir()
  local where, base = pretend(folder.path, "", "cpuset cpu io memory pids")
  where.as_root = true
  where.own = "0::/system.slice/x.service\n"
  local groups = assert(cgroup.open(S1, where))
  assert(groups.version == 2)
  assert(groups.enforces.memory == "cgroup2" and groups.enforces.cpu == "cgroup2")
  assert(groups.enforces.processes == "cgroup2")
  -- Each controller is asked for on its own: one that fails takes no other along.
  assert(text(folder.path, "cgroup.subtree_control"):find("^%+%l+\n$"))

  fs.mkdir(base .. "/f51_1_2_3.box")
  fs.write(base .. "/f51_1_2_3.box/memory.swap.max", "max\n")
  local group = groups:create("box", { memory = 64 * MIB, cpu = 0.5, processes = 40 })
  assert(text(base, "f51_1_2_3.box/memory.max") == "67108864\n")
  assert(text(base, "f51_1_2_3.box/memory.swap.max") == "0\n")
  assert(text(base, "f51_1_2_3.box/cpu.max") == "50000 100000\n")
  assert(text(base, "f51_1_2_3.box/pids.max") == "40\n")
  assert(#group.joins == 1 and group.joins[1] == base .. "/f51_1_2_3.box/cgroup.procs")

  assert(group:memory_kills() == nil)
  fs.write(base .. "/f51_1_2_3.box/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
  assert(group:memory_kills() == 2)
  group:kill()
  assert(text(base, "f51_1_2_3.box/cgroup.kill") == "1\n")
end)

test("cgroup 2, pretended: a user gets what is delegated, and no more", function()
  local folder <close> = fs.tmpdir { prefix = "a folder " }
  local where, base = pretend(folder.path, "/user.slice/mine.scope", "memory pids")
  local groups = assert(cgroup.open(S1, where))
  assert(groups.enforces.memory == "cgroup2" and groups.enforces.processes == "cgroup2")
  assert(groups.enforces.cpu == nil)
  groups:create("box", { memory = MIB, cpu = 2 })
  assert(text(base, "f51_1_2_3.box/memory.max") == "1048576\n")
  -- Without swap there is no such file, and none is made.
  assert(not fs.exists(base .. "/f51_1_2_3.box/memory.swap.max"))
  assert(not fs.exists(base .. "/f51_1_2_3.box/cpu.max"))
  assert(not fs.exists(base .. "/f51_1_2_3.box/pids.max"))
end)

test("cgroup 2, pretended: of nothing delegated, or nothing mounted, the reason is told", function()
  local folder <close> = fs.tmpdir()
  local where = pretend(folder.path, "/mine", "")
  local groups, problem = cgroup.open(S1, where)
  assert(not groups and problem:find("no controller is delegated", 1, true), problem)
  groups, problem = cgroup.open(S1, { mounts = "", own = "", pid = 1, as_root = true })
  assert(not groups and problem:find("no control groups are mounted", 1, true))
end)

test("cgroup: plain folders where groups should be are none", function()
  local folder <close> = fs.tmpdir()
  fs.mkdir(folder.path .. "/memory")
  local found, problem = cgroup.open(S1, {
    mounts = "cgroup " .. folder.path .. "/memory cgroup rw,memory 0 0\n", own = "", pid = 1,
    as_root = true,
  })
  assert(not found and type(problem) == "string")
  assert(#fs.list(folder.path .. "/memory") == 0)
end)

test("cgroup 2, pretended: a folder that is nobody's to write to is told", function()
  if fs.stat("/proc/self").uid == 0 then return end
  local where = { mounts = "c /proc cgroup2 rw 0 0\n", own = "0::/self\n", pid = 1 }
  local groups, problem = cgroup.open(S1, where)
  assert(not groups and problem)
end)

-- ------------------------------------------------------------------------- real

local FOLDER = ("%x%04x"):format(core.pid(), math.random(0, 65535))
local server = owner_named(FOLDER)
local groups, unusable = cgroup.open(server)

-- Groups below one of the test's own, as root, where no other server of this machine sweeps.
local function apart(name)
  if fs.stat("/proc/self").uid ~= 0 then return nil, {} end
  local lines, made = {}, {}
  for line in fs.read("/proc/self/mounts"):gmatch("[^\n]+") do
    local before, path, rest = line:match("^(%S+ )(%S+)( cgroup2? .*)$")
    if path and pcall(fs.mkdir, path .. "/" .. name) then
      path = path .. "/" .. name
      made[#made + 1] = path
    end
    if path then lines[#lines + 1] = before .. path .. rest end
  end
  local mounts = table.concat(lines, "\n") .. "\n"
  return { mounts = mounts, own = "0::/elsewhere\n", pid = core.pid(), as_root = true }, made
end

-- A test of real groups; passes where there are none to be had, which a user may not.
local function real(name, fn)
  test("cgroup: " .. name, function()
    if not groups then
      assert(type(unusable) == "string" and unusable ~= "")
      assert(fs.stat("/proc/self").uid ~= 0, unusable)
      return
    end
    fn()
  end)
end

-- Starts a shell that has joined the group before it does anything else.
local function join(group, command)
  local script = ('for f in "$@"; do echo $$ > "$f" || exit 9; done; %s'):format(command)
  return process.spawn({ "/bin/sh", "-c", script, "sh", table.unpack(group.joins) }, {
    stdout = "pipe",
  })
end

local function is_alive(pid)
  local stat = errors.try(fs.read, ("/proc/%d/stat"):format(pid))
  return stat ~= nil and not stat:find("^%d+ %b() Z")
end

real("memory beyond the limit is killed, and counted", function()
  local group = groups:create("memory", { memory = 32 * MIB })
  assert(group:memory_kills() == 0)
  local child <close> = join(group, [[exec python3 -c 'x = bytearray(200 << 20)']])
  assert(child:wait() == 137)
  assert(group:memory_kills() == 1)
  local small <close> = join(group, [[exec python3 -c 'x = bytearray(1 << 20)']])
  assert(small:wait() == 0)
  assert(group:remove())
end)

real("processes are counted, and a bomb goes no further", function()
  local group = groups:create("processes", { processes = 10 })
  local child <close> = join(group, [[
    n=0; while [ $n -lt 30 ] && (sleep 300 >&- & ) 2>&-; do n=$((n+1)); done; echo $n; exit 0]])
  local count = tonumber(child.stdout:read():match("%d+"))
  child:wait()
  assert(count < 10, count)
  assert(group:remove(), "what was in it lives on")
  for _, folder in ipairs(group.folders) do
    assert(not fs.exists(folder))
  end
end)

real("processor time is limited", function()
  local group = groups:create("cpu", { cpu = 0.25 })
  local found
  for _, folder in ipairs(group.folders) do
    for _, name in ipairs { "cpu.max", "cpu.cfs_quota_us" } do
      local value = errors.try(fs.read, folder .. "/" .. name)
      found = found or (value and value:find("^25000%s"))
    end
  end
  assert(found or not groups.enforces.cpu)
  group:remove()
end)

real("a sweep ends what an earlier server left, and spares the living", function()
  local kept = groups:create("kept", { processes = 20 })
  local left = groups:create("left", { processes = 20 })
  local one <close> = join(kept, "exec sleep 300")
  local two <close> = join(left, "exec sleep 300")
  task.sleep(0.1)
  local removed = assert(cgroup.open(server)):sweep { kept = true }
  assert(removed >= 1, removed)
  assert(two:wait() == 137)
  assert(is_alive(one.pid))
  assert(not fs.exists(left.folders[1]) and fs.exists(kept.folders[1]))
  -- Of servers of other names nothing is touched while they live.
  assert(assert(cgroup.open(owner_named())):sweep {})
  assert(is_alive(one.pid))
  assert(groups:sweep {} >= 1)
  assert(one:wait() == 137)
  assert(kept:remove() and left:remove(), "removing twice is harmless")
end)

-- A process that is no more, as the owner of groups.
local function dead_owner(folder, more)
  local child <close> = process.spawn { "sleep", "300" }
  local stat = fs.read(("/proc/%d/stat"):format(child.pid))
  local number, start = 0, nil
  for word in stat:match("^.*%) (.*)$"):gmatch("%S+") do
    number = number + 1
    if number == 20 then start = word end
  end
  child:kill(9)
  child:wait()
  local owner = owner_named(folder, { pid = child.pid, start = start })
  for name, value in pairs(more or {}) do
    owner[name] = value
  end
  return owner
end

real("what dead servers of any folder left is removed, and of the living nothing", function()
  local where, made = apart("sbxlua-test-" .. FOLDER)
  local sweeper = assert(cgroup.open(server, where))
  local function group_of(owner)
    return assert(cgroup.open(owner, where)):create("box", { processes = 20 })
  end
  local dead, plain = group_of(dead_owner(FOLDER .. "a")), group_of(dead_owner(nil))
  local again = group_of(owner_named(FOLDER .. "b"))
  local elsewhere = group_of(dead_owner(FOLDER .. "c", { space = "4711" }))
  local empty = group_of(dead_owner(FOLDER .. "d", { keeps = true }))
  local full = group_of(dead_owner(FOLDER .. "e", { keeps = true }))
  local ended <close> = join(dead, "echo; exec sleep 300")
  local lives <close> = join(full, "echo; exec sleep 300")
  assert(ended.stdout:read() and lives.stdout:read())

  assert(sweeper:sweep {} == 3)
  assert(ended:wait() == 137)
  for _, group in ipairs { dead, plain, empty } do
    assert(not fs.exists(group.folders[1]), group.id)
  end
  for _, group in ipairs { again, elsewhere, full } do
    assert(fs.exists(group.folders[1]), group.id)
  end
  assert(is_alive(lives.pid))
  -- A later run of a server finds its own again, by the name and without it.
  local later = assert(cgroup.open(owner_named(FOLDER .. "e"), where))
  assert(later:find("box").id == full.id and later:find("box", full.id).id == full.id)
  assert(later:find("box", dead.id).id == full.id and not later:find("other"))
  local plain_kept = sweeper:sweep {} -- still spared: it has a process
  assert(plain_kept == 0 and full:remove() and lives:wait() == 137)
  assert(again:remove() and elsewhere:remove())
  sweeper:close()
  for _, path in ipairs(made) do
    fs.remove(path)
  end
end)

test("cgroup: a name tells the owner, and what is not one of ours is left alone", function()
  local folder <close> = fs.tmpdir()
  for _, owner in ipairs {
    owners.this(), owners.this(folder.path), owners.this(folder.path, true),
  } do
    local found, id = owners.parse(owners.name(owner, "a.b-c_1"))
    assert(found and id == "a.b-c_1" and not owners.is_dead(found))
    for _, field in ipairs { "folder", "keeps", "space", "pid", "start" } do
      assert(found[field] == owner[field], field)
    end
  end
  -- Nothing is kept without a folder, from which it could be taken up.
  assert(not owners.this(nil, true).keeps)
  for _, name in ipairs {
    "", "memory.stat", "box", "n_1_2_3", "n_1_2.x", "nab_1_2_3.x", "f_1_2_3.x", "k_1_2_3.x",
    "n_1_99999999999999999999_3.x", "../n_1_2_3.x", "n_1_2_3.",
  } do
    assert(not owners.parse(name), name)
  end
end)

real("the folder of all groups goes with the last one", function()
  local mine = assert(cgroup.open(server))
  local group = mine:create("last", { processes = 20 })
  mine:close()
  assert(fs.exists(group.folders[1]))
  group:remove()
  mine:close()
  -- Other servers of this machine may have groups now; then it stays.
  mine:create("again", { processes = 20 }):remove()
  mine:close()
end)
