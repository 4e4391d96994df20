-- The fence around a container with a way out: this machine and private networks are not
-- reached, as with the bwrap driver. No engine has a call for that. So it is done by routes
-- in the container's network namespace, which nobody inside may change, and needs to be
-- root on the machine of a Docker engine.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local policy = require("sbx.server.driver.bwrap_policy")
local process = require("sbx.process")

---@class sbx.server.driver.docker.fence
local fence = {}

---Why there is no fence with Podman.
fence.PODMAN = "Podman's are not fenced off"

local SECONDS = 10
local ENVIRONMENT = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
local TABLE, PREFERENCE = 4101, 4100
local MAX_FILE = 1024 * 1024
local NOT_ROOT = "only root can fence off other networks"

-- A process id may by now mean another process, even one of this machine's own network:
-- the address is looked for where the routes would go.
local SCRIPT = [[ip -o -4 address show dev eth0 | grep -qF " $1/" || exit 7; exec ip -batch -]]

local function cannot(why)
  errors.raise { kind = "unsupported", message = why }
end

local function run(argv, input)
  local result = process.run(argv, {
    env = ENVIRONMENT, clear_env = true, cwd = "/", timeout = SECONDS, input = input,
    max_output = MAX_FILE,
  })
  if result.code == 0 then return result.stdout end
  cannot(("%s: %s"):format(argv[1], result.stderr:match("[^\n]+") or "exit code " .. result.code))
end

---Why there can be no fence, whatever the container; nil where there may be one.
---@async
---@return string|nil
function fence.obstacle()
  if fs.stat("/proc/self").uid ~= 0 then return NOT_ROOT end
  for _, name in ipairs { "nsenter", "ip" } do
    local _, failure = errors.try(run, { name, name == "ip" and "-V" or "--version" })
    if failure then return tostring(failure) end
  end
  return nil
end

-- This machine's own IPv4 addresses, which need not be private ones.
local function own_networks()
  local list = {}
  for _, interface in ipairs(json.decode(run { "ip", "-json", "-4", "address", "show" })) do
    for _, info in ipairs(interface.addr_info or {}) do
      if type(info["local"]) == "string" then list[#list + 1] = info["local"] .. "/32" end
    end
  end
  return list
end

-- Where names are looked up: by the container, or by the engine on its behalf.
local function add_nameservers(text, list)
  for line in text:gmatch("[^\n]+") do
    local servers = line:match("^nameserver%s+(%S+)") or line:match("^# ExtServers: %[(.*)%]")
    for address in (servers or ""):gmatch("%d+%.%d+%.%d+%.%d+") do
      if policy.parse(address) and not address:find("^127%.") then list[address] = true end
    end
  end
end

local function nameservers(agent)
  local list, inside = {}, ""
  agent:get("/etc/resolv.conf", function(bytes)
    inside = (inside .. bytes):sub(1, MAX_FILE)
  end)
  add_nameservers(inside, list)
  for _, path in ipairs { "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf" } do
    add_nameservers(errors.try(fs.read, path, { max = MAX_FILE }) or "", list)
  end
  return list
end

---What `ip -batch` is given: a table without private networks, which is looked at once it
---is filled, and before that the exception for look-ups of names.
---@param gateway string
---@param own string[]  networks fenced off besides
---@param servers table<string, boolean>  addresses of name servers
---@return string
function fence.lines(gateway, own, servers)
  local lines = policy.routes({ closed = false, denied = {}, remarks = {} }, {
    table = TABLE, out = "via " .. gateway .. " dev eth0 onlink", own = own,
  })
  for address in pairs(servers) do
    for _, protocol in ipairs { "udp", "tcp" } do
      lines[#lines + 1] = ("rule add pref %d to %s/32 ipproto %s dport 53 table main\n"):format(
        PREFERENCE - 1, address, protocol)
    end
  end
  lines[#lines + 1] = ("rule add pref %d table %d\n"):format(PREFERENCE, TABLE)
  return table.concat(lines)
end

-- The container's first process, where it is one of this machine.
local function local_process(found)
  local pid = found.State and math.tointeger(found.State.Pid)
  local mounts = pid and pid > 0
    and errors.try(fs.read, ("/proc/%d/mountinfo"):format(pid), { max = MAX_FILE })
  -- Some of its files in /etc are mounted from a folder of its name.
  if mounts and mounts:find(found.Id, 1, true) then return pid end
  cannot("the engine is not on this machine")
end

---Puts the fence around a container before anything but the agent runs in it. Raises
---`unsupported` when that cannot be done here; then there is none.
---@async
---@param found table   what the engine says of the container
---@param network string  the name of its network
---@param agent sbx.server.Agent
function fence.put(found, network, agent)
  if fs.stat("/proc/self").uid ~= 0 then cannot(NOT_ROOT) end
  local pid = local_process(found)
  local networks = found.NetworkSettings and found.NetworkSettings.Networks or {}
  local facts = networks[network] or {}
  local address, gateway = tostring(facts.IPAddress), tostring(facts.Gateway)
  if not (policy.parse(address) and policy.parse(gateway)) then
    cannot("the engine does not say where the container's network leads")
  end
  run({ "nsenter", ("--net=/proc/%d/ns/net"):format(pid), "sh", "-c", SCRIPT, "sh", address },
    fence.lines(gateway, own_networks(), nameservers(agent)))
end

return fence
