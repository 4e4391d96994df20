-- The way out for a sandbox that may have one: slirp4netns, a network stack in
-- a process of its own. The host's own network is never shared.
--
-- slirp4netns would also carry the sandbox to services on this machine's own
-- addresses and to a cloud's metadata service. Routes in the sandbox's network
-- namespace fence those off before it starts; inside, nobody may change routes.

local core = require("sbx.core.process")
local errors = require("sbx.errors")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_network
local network = {}

-- Where slirp4netns answers name look-ups.
network.NAMESERVER = "10.0.2.3"

local READY_SECONDS = 10
local STOP_SECONDS = 5
local ENVIRONMENT = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
-- Private networks and link-local addresses, by policy. The sandbox's own
-- network, 10.0.2.0/24, is a narrower route and stays.
local FENCED = {
  "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
}

local function refuse(message)
  errors.raise { kind = "process", message = message }
end

local function run(argv, input)
  local result = process.run(argv, {
    env = ENVIRONMENT, clear_env = true, cwd = "/", timeout = READY_SECONDS, input = input,
    max_output = 256 * 1024,
  })
  if result.code ~= 0 then
    refuse(argv[1] .. ": " .. (result.stderr:match("[^\n]+") or "exit code " .. result.code))
  end
  return result.stdout
end

-- This machine's own IPv4 addresses, which need not be private ones.
local function own_addresses()
  local addresses = {}
  for _, interface in ipairs(json.decode(run { "ip", "-json", "-4", "address", "show" })) do
    for _, info in ipairs(interface.addr_info or {}) do
      local address = info["local"]
      if type(address) == "string" and not address:find("^127%.") then
        addresses[#addresses + 1] = address .. "/32"
      end
    end
  end
  return addresses
end

-- The words that run a program in the sandbox's network namespace.
local function inside(pid, as_root)
  if as_root then return { "nsenter", ("--net=/proc/%d/ns/net"):format(pid) } end
  return { "nsenter", "--target", tostring(pid), "--user", "--net", "--preserve-credentials" }
end

local function fence(pid, as_root)
  local lines = {}
  for _, list in ipairs { FENCED, own_addresses() } do
    for _, address in ipairs(list) do
      lines[#lines + 1] = "route replace unreachable " .. address .. "\n"
    end
  end
  local argv = inside(pid, as_root)
  table.move({ "ip", "-batch", "-" }, 1, 3, #argv + 1, argv)
  run(argv, table.concat(lines))
end

---@class sbx.server.driver.Helper
---@field private process table
---@field private lifeline table  closing it ends slirp4netns
local Helper = {}
Helper.__index = Helper

---Ends the helper and waits for it.
---@async
function Helper:stop()
  self.lifeline:close()
  if task.move_on(STOP_SECONDS, self.process.wait, self.process) then return end
  self.process:kill(9)
  self.process:wait()
end

local function await_ready(helper, ready, complaints)
  local ok, byte = pcall(task.timeout, READY_SECONDS, ready.read, ready, 1)
  if ok and byte then return end
  helper.process:kill(9)
  local text = errors.try(task.timeout, 1, complaints.read, complaints, 4096) or ""
  local reason = text:gsub("%s+$", ""):gsub("%c+", "; "):sub(1, 300)
  helper:stop()
  if not ok and not byte:is("timeout") then error(byte, 0) end
  refuse("slirp4netns: " .. (reason ~= "" and reason or "it did not become ready"))
end

local function start_slirp(pid, as_root)
  local args = {
    "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox",
    "--enable-seccomp", "--ready-fd=3", "--exit-fd=4", "--netns-type=path",
  }
  if not as_root then
    args[#args + 1] = ("--userns-path=/proc/%d/ns/user"):format(pid)
  end
  args[#args + 1] = ("/proc/%d/ns/net"):format(pid)
  args[#args + 1] = "tap0"
  local child = core.spawn {
    file = "slirp4netns",
    args = args,
    env = { "PATH=" .. ENVIRONMENT.PATH },
    cwd = "/",
    detached = true,
    stdio = {
      { fd = 2, kind = "pipe" },
      { fd = 3, kind = "pipe" },
      { fd = 4, kind = "socket" },
    },
  }
  return setmetatable({ process = child, lifeline = child.fds[4] }, Helper), child
end

---Gives the sandbox whose first process is `pid` a fenced way out. Raises
---`process` errors when this machine cannot; the sandbox then has no network.
---@async
---@param pid integer     as seen from here
---@param as_root boolean whether we are root
---@return sbx.server.driver.Helper
function network.attach(pid, as_root)
  fence(pid, as_root)
  local helper, child = start_slirp(pid, as_root)
  local ready <close> = child.fds[3]
  local complaints <close> = child.stderr
  await_ready(helper, ready, complaints)
  return helper
end

return network
