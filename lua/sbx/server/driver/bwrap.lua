-- Sandboxes by bubblewrap: one for each, with namespaces of its own and our
-- agent as its first process. Needs no daemon, no images and no privileges.
--
-- Started by root, a sandbox would be this machine's root with fewer rights. So
-- as root every sandbox gets a user id of its own first, from a range that
-- belongs to nobody; without that, nothing is started.

local agent = require("sbx.server.agent")
local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local log = require("sbx.log")
local network = require("sbx.server.driver.bwrap_network")
local process = require("sbx.process")
local root = require("sbx.server.driver.bwrap_root")
local task = require("sbx.task")
local time = require("sbx.core.time")

---@class sbx.server.driver.bwrap
local bwrap = { name = "bwrap" }

local FIRST_UID, UIDS_EACH, SLOTS = 1000000, 65536, 30000
local STOP_SECONDS = 5
-- A sandbox ends by itself after this time whatever happens to its server; a
-- little more than the longest lifetime that can be asked for.
local LONGEST_LIFE = 25 * 3600
local MAX_PROCESSES, MAX_FILES = 512, 65536
local CONTROL_FD, FIRST_DATA_FD = 3, 4

-- Not among them are --die-with-parent and --info-fd: bubblewrap's outer process
-- must not be killed, nor write to a pipe that may be closed, before it has told
-- the inner one to go on, which else would wait for that for ever. Our end is
-- told by the control socket alone: the agent starts, finds it closed, and ends.
local NAMESPACES = {
  "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--as-pid-1", "--unshare-net",
  "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--new-session",
}

---@class sbx.server.driver.bwrap.Spec
---@field id string
---@field image? string
---@field network? boolean
---@field env? table<string, string>
---@field memory_gb? number
---@field cpu_cores? number
---@field disk_size_gb? number
---@field hostname? string
---@field workdir? string     made, and where commands start (default /workspace)
---@field lifetime? number    seconds; then the sandbox ends by itself
---@field log fun(line: string)
---@field notice? fun(line: string)  for what the user must know (default: log)

---A running sandbox.
---@class sbx.server.driver.bwrap.Box
---@field agent sbx.server.Agent
---@field image_source string
---@field image_resolved string
---@field network_enforced boolean  it has the network that was asked for, no more and no less
---@field limits table<string, string|integer>  what is enforced, and by what
---@field pid? integer        of its first process, as seen from here
---@field uid? integer        that it runs as on this machine; nil: our own
---@field private process table
---@field private helper? sbx.server.driver.Helper
---@field private slot? integer
---@field private ended? string     why it has ended
---@field private killed boolean    we ended it
---@field private listener? fun(reason: string)
local Box = {}
Box.__index = Box

-- ---------------------------------------------------------------- user ids

-- Slots in use by this process. Two servers may draw the same one, which only
-- makes two sandboxes share a count of processes.
local slots = {}

local function take_slot()
  local slot
  repeat
    slot = math.random(0, SLOTS - 1)
  until not slots[slot]
  slots[slot] = true
  return slot
end

local am_root

local function is_root()
  if am_root == nil then am_root = fs.stat("/proc/self").uid == 0 end
  return am_root
end

-- ------------------------------------------------------------------ the start

local function command_line(spec, disk_bytes)
  local args = { "bwrap", table.unpack(NAMESPACES) }
  local function add(...)
    for _, argument in ipairs { ... } do
      args[#args + 1] = argument
    end
  end
  -- As a user, the way out is attached through the sandbox's user namespace,
  -- and this option would hide that one in another. The filter of system calls
  -- refuses new ones in any case.
  if is_root() or not spec.network then add("--disable-userns") end
  add("--hostname", spec.hostname, "--clearenv", "--setenv", "PATH", root.PATH)
  add("--setenv", "HOME", "/root", "--setenv", "USER", "root", "--setenv", "LOGNAME", "root")
  add("--setenv", "LANG", "C.UTF-8")
  local files, stdio = root.plan({
    hostname = spec.hostname,
    workdir = spec.workdir,
    disk_bytes = disk_bytes,
    nameserver = spec.network and network.NAMESERVER or nil,
  }, FIRST_DATA_FD)
  add(table.unpack(files))
  add("--chdir", spec.workdir, "/.agent", tostring(CONTROL_FD))
  add("lifetime=" .. math.ceil(spec.lifetime), "nproc=" .. MAX_PROCESSES)
  add("nofile=" .. MAX_FILES, "fsize=" .. disk_bytes)
  return args, stdio
end

local function spawn(spec, disk_bytes, uid)
  local args, stdio = command_line(spec, disk_bytes)
  stdio[#stdio + 1] = { fd = 2, kind = "pipe" }
  stdio[#stdio + 1] = { fd = CONTROL_FD, kind = "socket" }
  return core.spawn {
    file = "bwrap",
    args = args,
    env = { "PATH=" .. root.PATH },
    cwd = "/",
    uid = uid,
    gid = uid,
    -- A session of its own: a Ctrl-C on our terminal is not for sandboxes.
    detached = true,
    stdio = stdio,
  }
end

local function read_all(stream, limit)
  local parts, size = {}, 0
  while size < limit do
    local bytes = stream:read(limit - size)
    if not bytes then break end
    parts[#parts + 1] = bytes
    size = size + #bytes
  end
  return table.concat(parts)
end

-- What bubblewrap said before it gave up, in one line.
local function complaint(stream)
  local text = errors.try(task.timeout, 2, read_all, stream, 4096) or ""
  return (text:gsub("%c+", " "):gsub("%s+$", ""))
end

-- The first process of the sandbox, by its number outside of it: the only child
-- of bubblewrap's outer process.
local function inner_pid(child)
  local path = ("/proc/%d/task/%d/children"):format(child.pid, child.pid)
  local text = errors.try(fs.read, path)
  return text and math.tointeger(tonumber(text:match("^%d+")))
end

local function host_limits(disk_bytes)
  return {
    memory = "none",
    cpu = "none",
    processes = "rlimit",
    max_processes = MAX_PROCESSES,
    files = "rlimit",
    disk = "tmpfs",
    disk_bytes = disk_bytes,
  }
end

-- Tells the listener, once, of an end that was not asked for.
local function report_end(self)
  local listener = self.listener
  if not self.ended or self.killed or not listener then return end
  self.listener = nil
  local ok, failure = pcall(listener, self.ended)
  if ok then return end
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  log.error("sandbox end was not handled: " .. tostring(failure), { sandbox = self.id })
end

local function watch(self)
  local code, signal = self.process:wait()
  self.agent:close()
  local how = signal and "signal " .. signal or "exit code " .. code
  self.ended = "the sandbox's first process ended (" .. how .. ")"
  report_end(self)
end

local function attach_network(self, spec)
  if not spec.network then
    self.network_enforced = true
    return
  end
  local ok, helper = pcall(network.attach, self.pid, is_root())
  if ok then
    self.helper = helper
    self.network_enforced = true
    spec.log("network: slirp4netns; this machine and private networks are fenced off")
    return
  end
  if errors.is_error(helper) and helper.kind == "cancelled" then error(helper, 0) end
  spec.notice("network asked for but not given: " .. tostring(helper))
end

-- The last word on the one thing that must not go wrong: what user the sandbox
-- is on this machine.
local function verify_user(self)
  local status = fs.read("/proc/" .. self.pid .. "/status")
  local real, effective = status:match("\nUid:%s+(%d+)%s+(%d+)")
  if real and real ~= "0" and real == effective then return end
  errors.raise { kind = "process", message = "a sandbox would run as this machine's root" }
end

-- From the spawned child to a working sandbox; raises when it is not to be.
local function bring_up(self, spec)
  local child = self.process
  local ok, result = pcall(agent.attach, child.fds[CONTROL_FD])
  if not ok then
    if errors.is_error(result) and result.kind == "cancelled" then error(result, 0) end
    local said = complaint(child.stderr)
    if said == "" then said = tostring(result) end
    errors.raise { kind = "process", op = "start a sandbox", message = "bubblewrap: " .. said }
  end
  self.agent = result
  child.stderr:close()
  self.pid = inner_pid(child)
  if not self.pid then
    errors.raise { kind = "process", message = "bubblewrap: no process of the sandbox to be seen" }
  end
  verify_user(self)
  attach_network(self, spec)
end

local function image_facts(spec)
  local resolved = root.describe()
  spec.notice(("image %s is not in the local store; using %s"):format(
    spec.image or "(none)", resolved))
  return "host", resolved
end

local function complete(spec)
  local full = {}
  for key, value in pairs(spec) do
    full[key] = value
  end
  full.log = spec.log or function() end
  full.notice = spec.notice or full.log
  full.hostname = spec.hostname or "sandbox"
  full.workdir = spec.workdir or "/workspace"
  full.lifetime = math.min(spec.lifetime or LONGEST_LIFE, LONGEST_LIFE)
  full.network = spec.network and true or false
  -- A host name is 64 bytes at most, and bubblewrap takes what it is given.
  full.hostname = full.hostname:gsub("[^%w-]", "-"):sub(1, 63)
  return full
end

---Starts a sandbox and waits until its agent is ready. It belongs to the current
---task or scope: when that ends, so does the sandbox; `kill` also waits for it.
---@async
---@param given sbx.server.driver.bwrap.Spec
---@return sbx.server.driver.bwrap.Box
function bwrap.create(given)
  local spec = complete(given)
  local begun = time.now()
  local image_source, image_resolved = image_facts(spec)
  local disk_bytes = root.disk_bytes(spec.disk_size_gb or 10)
  local slot = is_root() and take_slot() or nil
  local uid = slot and FIRST_UID + UIDS_EACH * slot or nil

  local ok, child = pcall(spawn, spec, disk_bytes, uid)
  if not ok then
    if slot then slots[slot] = nil end
    error(child, 0)
  end
  local self = setmetatable({
    id = spec.id,
    process = child,
    slot = slot,
    uid = uid,
    killed = false,
    image_source = image_source,
    image_resolved = image_resolved,
    network_enforced = false,
    limits = host_limits(disk_bytes),
  }, Box)

  local up, failure = pcall(bring_up, self, spec)
  if not up then
    task.shield(4 * STOP_SECONDS, self.kill, self)
    error(failure, 0)
  end
  self.agent.environment = spec.env
  task.daemon(watch, self)
  spec.log(("sandbox started in %.0f ms"):format((time.now() - begun) * 1000))
  return self
end

-- -------------------------------------------------------------------- the end

---Calls `fn(reason)` once when the sandbox ends without having been asked to; at
---once when it has already.
---@param fn fun(reason: string)
function Box:on_exit(fn)
  self.listener = fn
  report_end(self)
end

-- For a sandbox that does not end with its socket: its first process is killed,
-- and with it all the others; then bubblewrap's outer one has no more to wait for.
local function force(child)
  local pid = inner_pid(child)
  -- A child that nobody has waited for keeps its number, so this hits no other.
  if pid then errors.try(process.run, { "/bin/sh", "-c", "kill -9 " .. pid }, { timeout = 5 }) end
  if task.move_on(STOP_SECONDS, child.wait, child) then return end
  child:kill(9)
  child:wait()
end

---Ends the sandbox and waits until every process of it is reaped. Harmless when
---it has ended.
---@async
function Box:kill()
  self.killed = true
  local child = self.process
  -- The agent ends with its socket and, as first process, takes all others
  -- with it; bubblewrap ends when they are gone.
  if self.agent then
    self.agent:close()
  else
    child.fds[CONTROL_FD]:close()
  end
  if not task.move_on(STOP_SECONDS, child.wait, child) then force(child) end
  child.stderr:close()
  if self.helper then
    self.helper:stop()
    self.helper = nil
  end
  if self.slot then slots[self.slot] = nil end
  self.slot = nil
end

-- ------------------------------------------------------------------ the check

-- What bubblewrap's complaints mean, and what to do about them.
local ADVICE = {
  { "uid map", "user namespaces are restricted (AppArmor?): allow them for bwrap, or run as root" },
  { "No permissions to create new namespace",
    "user namespaces are switched off (sysctl kernel.unprivileged_userns_clone, or a container "
    .. "around this program): switch them on, or run as root" },
  { "Creating new namespace failed",
    "namespaces cannot be made here, as in an unprivileged container" },
  { "mount proc", "/proc cannot be mounted anew here, as in an unprivileged container" },
  { "no such file", "bubblewrap is not installed: apt-get install bubblewrap" },
  { "operation not permitted", "this process may not change its user id; run it as a normal user, "
    .. "or as root with CAP_SETUID and CAP_SETGID" },
}

local function explain(failure)
  local text = tostring(failure)
  for _, advice in ipairs(ADVICE) do
    if text:lower():find(advice[1]:lower(), 1, true) then
      return text .. " — " .. advice[2]
    end
  end
  return text
end

-- Runs one command in a throw-away sandbox.
local function probe()
  local box = bwrap.create { id = "check", hostname = "check", lifetime = 60, log = function() end }
  local ok, result = pcall(box.agent.exec, box.agent, {
    command = "test ! -e /etc/shadow && test $$ -lt 100", timeout = 10,
  })
  box:kill()
  if not ok then error(result, 0) end
  if result.exit_code == 0 then return end
  errors.raise { kind = "process", message = "a sandbox is not isolated: " .. result.stderr }
end

---Tries it in a throw-away sandbox.
---@async
---@return {ok: boolean, problems: string[]}
function bwrap.check()
  local ok, problem = pcall(task.scope, probe)
  if ok then return { ok = true, problems = {} } end
  if errors.is_error(problem) and problem.kind == "cancelled" then error(problem, 0) end
  return { ok = false, problems = { explain(problem) } }
end

return bwrap
