-- The way out for a sandbox that may have one: slirp4netns, a network stack in
-- a process of its own. The host's own network is never shared.
--
-- What may be reached is decided by routes in the sandbox's network namespace, where
-- nobody inside may change them. They are in a table of their own, which is filled
-- before it is looked at, so that there is no moment with half of the rules. Without
-- such a table nothing can be reached.

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local policy = require("sbx.server.driver.bwrap_policy")
local process = require("sbx.process")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_network
local network = {}

-- Where slirp4netns answers name look-ups.
network.NAMESERVER = "10.0.2.3"

local READY_SECONDS, IP_SECONDS = 60, 60
local STOP_SECONDS = 5
local ENVIRONMENT = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
local DEVICE, ADDRESS, MTU = "tap0", "10.0.2.100/24", 65520
local OUT = "via 10.0.2.2 dev " .. DEVICE .. " onlink"
-- Rules are in one of these tables, by turns; its `ip rule` has this preference.
local TABLES, PREFERENCE = { 4101, 4102 }, 4100

local function refuse(message)
  errors.raise { kind = "process", message = message }
end

local function run(argv, input)
  local result = process.run(argv, {
    env = ENVIRONMENT, clear_env = true, cwd = "/", timeout = IP_SECONDS, input = input,
    max_output = 256 * 1024,
  })
  if result.code ~= 0 then
    refuse(argv[1] .. ": " .. (result.stderr:match("[^\n]+") or "exit code " .. result.code))
  end
  return result.stdout
end

---What the kernel takes for this machine itself, which need not be private networks.
---@param text string  as /proc/net/fib_trie, an address before what is known of it
---@return string[] networks  with the length of their prefix; loopback is not among them
function network.own_networks(text)
  local networks, seen, address = {}, {}, nil
  for line in text:gmatch("[^\n]+") do
    address = line:match("|%-%- ([%d.]+)") or address
    local length = line:match("^%s*/(%d+) host LOCAL")
    local found = length and address .. "/" .. length
    if found and not seen[found] and not found:find("^127%.") then
      seen[found] = true
      networks[#networks + 1] = found
    end
  end
  return networks
end

-- The words that run `argv` in the sandbox's network namespace.
local function inside(pid, as_root, argv)
  local words = { "nsenter", ("--net=/proc/%d/ns/net"):format(pid) }
  if not as_root then
    words = { "nsenter", "--target", tostring(pid), "--user", "--net", "--preserve-credentials" }
  end
  return table.move(argv, 1, #argv, #words + 1, words)
end

-- Gives lines to `ip`: a string, or a function that returns one when it is time.
local function batch(pid, as_root, lines)
  run(inside(pid, as_root, { "ip", "-batch", "-" }), lines)
end

-- The table that is looked at now, or nil.
local function current_table(pid, as_root)
  local show = { "ip", "-json", "rule", "show", "pref", tostring(PREFERENCE) }
  local rules = run(inside(pid, as_root, show))
  for _, rule in ipairs(rules:find("%S") and json.decode(rules) or {}) do
    local number = math.tointeger(tonumber(rule.table))
    if number then return number end
  end
  return nil
end

---What the rules mean now, as `policy.plan`.
---@async
---@param rules? {allowlist: string[]|nil, denylist: string[]|nil}
---@return sbx.server.driver.bwrap.NetworkPlan
function network.plan(rules)
  return policy.plan(rules)
end

-- The lines that fill a table and have it looked at, instead of that of `before`.
local function lines_of(plan, before)
  local now = before == TABLES[1] and TABLES[2] or TABLES[1]
  local lines = policy.routes(plan, {
    table = now, out = OUT, nameserver = network.NAMESERVER,
    own = network.own_networks(fs.read("/proc/net/fib_trie")),
  })
  table.insert(lines, 1, ("route flush table %d\n"):format(now))
  lines[#lines + 1] = ("rule add pref %d table %d\n"):format(PREFERENCE, now)
  if before then
    lines[#lines + 1] = ("rule del pref %d table %d\n"):format(PREFERENCE, before)
  end
  return table.concat(lines)
end

---Puts rules in force in the sandbox whose first process is `pid`, which has a way out.
---Raises `process` errors when this machine cannot; then those of before hold.
---@async
---@param pid integer     as seen from here
---@param as_root boolean whether we are root
---@param plan sbx.server.driver.bwrap.NetworkPlan
function network.apply(pid, as_root, plan)
  batch(pid, as_root, lines_of(plan, current_table(pid, as_root)))
end

-- ------------------------------------------------------------------ slirp4netns

---@class sbx.server.driver.Helper
---@field identity? sbx.server.driver.Identity
---@field private process? table
---@field private lifeline? table  closing it ends slirp4netns
local Helper = {}
Helper.__index = Helper

---Ends the helper and waits for it.
---@async
function Helper:stop()
  if self.lifeline then
    self.lifeline:close()
    if task.move_on(STOP_SECONDS, self.process.wait, self.process) then return end
  end
  processes.kill(self.identity, true)
  if self.process then
    self.process:wait()
  else
    processes.await_end(self.identity, STOP_SECONDS)
  end
end

---A helper that an earlier run started; nil when it has ended.
---@async
---@param identity any
---@return sbx.server.driver.Helper|nil
function network.find(identity)
  return processes.is_alive(identity) and setmetatable({ identity = identity }, Helper) or nil
end

local function await_ready(helper, ready, complaints)
  local ok, byte = pcall(task.timeout, READY_SECONDS, ready.read, ready, 1)
  if ok and byte then return end
  if not ok and not byte:is("timeout") then error(byte, 0) end
  helper.process:kill_group(9)
  local text = errors.try(task.timeout, 1, complaints.read, complaints, 4096) or ""
  local reason = text:gsub("%s+$", ""):gsub("%c+", "; "):sub(1, 300)
  refuse("slirp4netns: " .. (reason ~= "" and reason or "it did not become ready"))
end

-- It ends when descriptor 4 does, which is ours; or with a sandbox that is kept, for
-- which another program waits at the other end of a pipe.
local function slirp_command(pid, as_root, keep)
  local words = {
    "slirp4netns", "--mtu=" .. MTU, "--disable-host-loopback", "--enable-seccomp", "--ready-fd=3",
    keep and "--exit-fd=0" or "--exit-fd=4", "--netns-type=path",
  }
  if as_root then
    words[#words + 1] = "--enable-sandbox" -- which a user cannot in the end
    -- Its sandbox lets go of this machine's mounts where they are shared, and so of what is
    -- mounted on them here, such as the file systems of Docker's containers.
    words = table.move(words, 1, #words, 5, { "unshare", "--mount", "--propagation", "private" })
  else
    words[#words + 1] = ("--userns-path=/proc/%d/ns/user"):format(pid)
  end
  words[#words + 1] = ("/proc/%d/ns/net"):format(pid)
  words[#words + 1] = DEVICE
  if not keep then return words end
  -- The end of descriptor 3 must be seen when slirp4netns fails, so nobody else has it.
  local script = ('tail --pid=%d -f /dev/null 3>&- | "$@" & exec 3>&-; wait'):format(pid)
  return table.move(words, 1, #words, 5, { "/bin/sh", "-c", script, "slirp4netns" })
end

local function start_slirp(pid, as_root, keep)
  local words = slirp_command(pid, as_root, keep)
  local stdio = { { fd = 2, kind = "pipe" }, { fd = 3, kind = "pipe" } }
  if not keep then stdio[3] = { fd = 4, kind = "socket" } end
  local child = core.spawn {
    file = words[1],
    args = words,
    env = { "PATH=" .. ENVIRONMENT.PATH },
    cwd = "/",
    detached = true,
    stdio = stdio,
  }
  if keep then child:unref() end
  return setmetatable({
    process = child, lifeline = child.fds[4], identity = processes.identify(child.pid),
  }, Helper), child
end

-- The lines for a device that has just come, perhaps in place of one whose slirp4netns
-- has died. Without the usual rules, only ours lead anywhere.
local function first_lines(plan)
  return ("rule flush\nlink set %s mtu %d up\naddress add %s dev %s\n"):format(
    DEVICE, MTU, ADDRESS, DEVICE) .. lines_of(plan, nil)
end

---Gives the sandbox whose first process is `pid` a way out, as far as rules allow. Raises
---`process` errors when this machine cannot; then there is none.
---@async
---@param pid integer     as seen from here
---@param as_root boolean whether we are root
---@param keep? boolean   it outlives this program, and ends with the sandbox
---@param plan sbx.server.driver.bwrap.NetworkPlan
---@return sbx.server.driver.Helper
function network.attach(pid, as_root, keep, plan)
  local text = first_lines(plan)
  local helper, child = start_slirp(pid, as_root, keep)
  local ready <close> = child.fds[3]
  local complaints <close> = child.stderr
  -- `ip` starts beside slirp4netns, and is told what to do once that is there.
  local ok, failure = pcall(batch, pid, as_root, function()
    if not text then return nil end
    await_ready(helper, ready, complaints)
    local lines = text
    text = nil
    return lines
  end)
  if ok then return helper end
  helper.process:kill_group(9)
  task.shield(STOP_SECONDS, helper.stop, helper)
  error(failure, 0)
end

return network
