-- The start of one sandbox: a command line that limits, unshares and isolates, and at
-- its end is our agent.
--
-- Where there is something to be done before bubblewrap, a shell does it and becomes
-- bubblewrap: it joins the control group, mounts the sandbox's disk and puts a layer
-- over an image, in a mount namespace of its own. So what it does ends with the
-- sandbox, whatever becomes of us.

local core = require("sbx.core.process")
local disk = require("sbx.server.driver.bwrap_disk")
local image_root = require("sbx.server.driver.bwrap_image")
local root = require("sbx.server.driver.bwrap_root")

---@class sbx.server.driver.bwrap_launch
local launch = {}

---The agent's link: a socket, or in a sandbox that is kept a listening one.
launch.CONTROL_FD = 3
local FIRST_DATA_FD = 4
local MAX_FILES = 65536

-- Not among them are --die-with-parent and --info-fd: bubblewrap's outer process
-- must not be killed, nor write to a pipe that may be closed, before it has told
-- the inner one to go on, which else would wait for that for ever. Our end is
-- told by the control socket alone: the agent starts, finds it closed, and ends.
--
-- Where bubblewrap is root in a user namespace (of ours, for an overlay) it would keep all
-- capabilities, and with them the sandbox could look into its agent.
local NAMESPACES = {
  "--cap-drop", "ALL", "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid",
  "--as-pid-1", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
  "--new-session",
}

---@class sbx.server.driver.bwrap.Plan
---@field spec sbx.server.driver.bwrap.Spec  complete
---@field disk_bytes integer
---@field disk? sbx.server.driver.bwrap.Disk  nil: files are in memory
---@field max_processes integer
---@field uid? integer          to become, as root
---@field joins string[]        files that take a process into its control groups
---@field data_bytes? integer   of each process's memory, where nothing better limits it
---@field image? sbx.server.Image
---@field overlay? boolean      its files can be written to, over the image
---@field nameserver? string
---@field own_userns boolean    leave the way into its user namespace to us
---@field listen? string        path of the socket at which the agent listens

local function bubblewrap(plan)
  local spec = plan.spec
  local args = { "bwrap", table.unpack(NAMESPACES) }
  local function add(...)
    for _, argument in ipairs { ... } do
      args[#args + 1] = tostring(argument)
    end
  end
  if not plan.own_userns then add("--disable-userns") end
  add("--hostname", spec.hostname, "--clearenv", "--setenv", "PATH", root.PATH)
  add("--setenv", "HOME", "/root", "--setenv", "USER", "root", "--setenv", "LOGNAME", "root")
  add("--setenv", "LANG", "C.UTF-8")
  local files, stdio = (plan.image and image_root or root).plan(plan, FIRST_DATA_FD)
  add(table.unpack(files))
  add("--chdir", spec.workdir, "/.agent", launch.CONTROL_FD)
  if plan.listen then add("listen") end
  add("lifetime=" .. math.ceil(spec.lifetime), "nproc=" .. plan.max_processes)
  add("nofile=" .. MAX_FILES, "fsize=" .. plan.disk_bytes)
  return args, stdio
end

local function append(list, more)
  table.move(more, 1, #more, #list + 1, list)
  return list
end

-- The words that start a shell which may mount what nobody else sees.
local function mount_namespace(plan)
  if not plan.disk and not plan.overlay then return {} end
  local before = { "unshare", "--mount", "--propagation", "private" }
  if not plan.uid then append(before, { "--user", "--map-root-user" }) end
  before[#before + 1] = "--"
  return before
end

-- Puts in front of `args` what must be done first: its lines for a shell, which take
-- their words from the shell's arguments.
local function with_shell(plan, args)
  local lines, words = { "set -e" }, {}
  for _, path in ipairs(plan.joins) do
    lines[#lines + 1] = 'echo $$ > "$1"; shift'
    words[#words + 1] = path
  end
  if plan.data_bytes then
    lines[#lines + 1] = ("ulimit -d %d"):format(plan.data_bytes // 1024)
  end
  if plan.disk then disk.mounting(plan.disk, lines, words) end
  if plan.overlay then
    image_root.prepare(plan, lines, words)
  elseif plan.disk then
    lines[#lines + 1] = ("install -d -o %d -g %d %s/root"):format(plan.uid, plan.uid, disk.SPOT)
  end
  local before = mount_namespace(plan)
  if #lines == 1 then return args, plan.uid end
  lines[#lines + 1] = 'exec "$@"'
  append(append(before, { "/bin/sh", "-c", table.concat(lines, "\n"), "sbxlua" }), words)
  if plan.uid then
    local uid = tostring(plan.uid)
    append(before, { "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--" })
  end
  return append(before, args), nil
end

---Starts it. What the child's descriptor 2 says is why it failed, if it does.
---@param plan sbx.server.driver.bwrap.Plan
---@return sbx.core.process.Process
function launch.spawn(plan)
  local args, stdio = bubblewrap(plan)
  local argv, uid = with_shell(plan, args)
  stdio[#stdio + 1] = { fd = 2, kind = "pipe" }
  stdio[#stdio + 1] = {
    fd = launch.CONTROL_FD, kind = plan.listen and "listen" or "socket", path = plan.listen,
  }
  return core.spawn {
    file = argv[1],
    args = argv,
    env = { "PATH=" .. root.PATH },
    cwd = "/",
    uid = uid,
    gid = uid,
    -- A session of its own: a Ctrl-C on our terminal is not for sandboxes.
    detached = true,
    stdio = stdio,
  }
end

return launch
