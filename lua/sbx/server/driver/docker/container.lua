-- Containers: what one is made of, and the calls of its life. Its first process is our
-- agent, which a volume brings along, so that the image needs nothing for it, and is spoken
-- to through the container's standard input and output: nobody inside can reach
-- those, and no command costs the engine a call.

local errors = require("sbx.errors")
local json = require("sbx.json")
local task = require("sbx.task")
local time = require("sbx.core.time")

---@class sbx.server.driver.docker.container
local container = {}

container.SERVER_LABEL = "sbxlua.server"
container.SANDBOX_LABEL = "sbxlua.sandbox"
container.RUN_LABEL = "sbxlua.run"

container.AGENT_FOLDER = "/.sbxlua"
container.AGENT = container.AGENT_FOLDER .. "/agent"

local GIB = 1024 * 1024 * 1024
local LEAST_MEMORY = 6 * 1024 * 1024 -- of engines
local MAX_PROCESSES = 512
local START_SECONDS = 120
local GONE_SECONDS = 20
local GREETING_SECONDS = 10
-- With which the agent goes over to another server: see agent_protocol.h.
local RENEWAL_MARK = "\xfesbxlua agent: another server now"

-- What root inside may still do: own files and users, bind low ports. Not among them,
-- though engines give them by default: raw sockets, device files, chroot, capabilities
-- on files, the audit log.
local CAPABILITIES = {
  "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID",
}

---@class sbx.server.driver.docker.Facts  what the engine can limit, from its /info
---@field MemoryLimit boolean
---@field CpuCfsQuota boolean
---@field PidsLimit boolean
---@field CgroupVersion? string
---@field NCPU? integer
---@field Driver? string   of its storage
---@field OSType? string

---@class sbx.server.driver.docker.Plan
---@field spec sbx.server.driver.Spec
---@field server string       id of the server, for the label
---@field run string          id of this run of it
---@field network string      mode of the engine
---@field volume string       that has the agent
---@field keep boolean        it outlives its connection
---@field podman boolean
---@field storage boolean     the engine can limit its disk
---@field facts sbx.server.driver.docker.Facts

local function labels_of(plan)
  local labels = {}
  for name, value in pairs(plan.spec.labels or {}) do
    labels[name] = value
  end
  labels[container.SERVER_LABEL] = plan.server
  labels[container.SANDBOX_LABEL] = plan.spec.id
  labels[container.RUN_LABEL] = plan.run
  return json.object(labels)
end

local function limits_of(plan)
  local spec, facts, config = plan.spec, plan.facts, {}
  if facts.MemoryLimit then
    config.Memory = math.max(LEAST_MEMORY, math.floor(spec.memory_gb * GIB))
    config.MemorySwap = config.Memory -- both together: no swap
  end
  if facts.CpuCfsQuota then
    -- Engines refuse more than there are.
    local cores = math.max(0.01, math.min(spec.cpu_cores, facts.NCPU or spec.cpu_cores))
    config.NanoCpus = math.floor(cores * 1e9)
  end
  if facts.PidsLimit then config.PidsLimit = MAX_PROCESSES end
  if plan.storage then config.StorageOpt = { size = ("%d"):format(spec.disk_size_gb * GIB) } end
  return config
end

local function mounts(volume, read_only)
  return json.array { {
    Type = "volume", Source = volume, Target = container.AGENT_FOLDER, ReadOnly = read_only,
    VolumeOptions = { NoCopy = true },
  } }
end

---The body of the call that makes a container through which a volume is filled.
---@param image string
---@param volume string  name
---@param server string
---@return table
function container.filler(image, volume, server)
  return {
    Image = image, Cmd = json.array { "/" }, Labels = { [container.SERVER_LABEL] = server },
    HostConfig = { NetworkMode = "none", Mounts = mounts(volume, false) },
  }
end

local function arguments(plan)
  local list = json.array {
    "0", ("lifetime=%d"):format(math.ceil(plan.spec.lifetime)), "workdir=" .. plan.spec.workdir,
  }
  if plan.keep then list[#list + 1] = "renew" end
  return list
end

---The body of the call that makes the container.
---@param plan sbx.server.driver.docker.Plan
---@return table
function container.definition(plan)
  local config = limits_of(plan)
  config.NetworkMode = plan.network
  config.CapDrop = json.array { "ALL" }
  config.CapAdd = json.array(CAPABILITIES)
  config.SecurityOpt = json.array { "no-new-privileges" }
  config.Init = false
  -- A server that is killed closes the container's input, by which the agent ends.
  config.AutoRemove = not plan.keep
  config.RestartPolicy = { Name = "no" }
  config.Mounts = mounts(plan.volume, true)
  -- Or all that passes between agent and server would be kept on the engine's disk.
  config.LogConfig = { Type = "none" }
  return {
    Image = plan.spec.image,
    Entrypoint = json.array { container.AGENT },
    Cmd = arguments(plan),
    Env = json.array {},
    User = "0:0",
    WorkingDir = "/",
    -- A host name is 64 bytes at most.
    Hostname = plan.spec.hostname:gsub("[^%w-]", "-"):sub(1, 63),
    Labels = labels_of(plan),
    Tty = false,
    OpenStdin = true,
    StdinOnce = not plan.keep,
    AttachStdin = true, AttachStdout = true, AttachStderr = true,
    StopSignal = "SIGKILL",
    -- Podman would set up a timer for it, even for none.
    Healthcheck = not plan.podman and { Test = json.array { "NONE" } } or nil,
    NetworkDisabled = plan.network == "none",
    HostConfig = config,
  }
end

---What is enforced, and by what.
---@param plan sbx.server.driver.docker.Plan
---@return table<string, string|integer>
function container.limits(plan)
  local config, by = limits_of(plan), "cgroup" .. (plan.facts.CgroupVersion or "1")
  return {
    memory = config.Memory and by or "none",
    memory_bytes = config.Memory,
    cpu = config.NanoCpus and by or "none",
    processes = config.PidsLimit and by or "none",
    max_processes = config.PidsLimit,
    disk = config.StorageOpt and "engine" or "none",
  }
end

-- ------------------------------------------------------------------------ calls

local function path_of(id, rest)
  return "/containers/" .. id .. (rest or "")
end

-- Engines know of disk limits only once one is asked for.
local function is_storage_problem(failure)
  local words = errors.is_error(failure) and failure.detail
  return words and (words:find("storage-opt", 1, true) or words:find("storage opt", 1, true)
    or words:find("pquota", 1, true) or words:find("quota", 1, true)) and true or false
end

---Makes the container, without starting it. `plan.storage` becomes false when the
---engine turns out not to limit disks. Returns its id and the engine's warnings.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param plan sbx.server.driver.docker.Plan
---@return string id
---@return string[] warnings
function container.create(engine, plan)
  local ok, res = pcall(engine.call, engine, "POST", "/containers/create", {
    what = "create a container of " .. plan.spec.image,
    query = { name = "sbxlua-" .. plan.spec.id },
    json = container.definition(plan),
  })
  if ok then
    local made = res:json()
    local warnings = type(made.Warnings) == "table" and made.Warnings or {}
    return made.Id, warnings
  end
  if not plan.storage or not is_storage_problem(res) then error(res, 0) end
  plan.storage = false
  return container.create(engine, plan)
end

---Its standard input and output.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
---@return sbx.server.driver.docker.Hijacked
function container.attach(engine, id)
  return engine:hijack(path_of(id, "/attach?stream=1&stdin=1&stdout=1&stderr=1"),
    "attach to a container")
end

---The standard input and output of one that another server spoke to before.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
---@return sbx.server.driver.docker.Hijacked
function container.take_over(engine, id)
  local stream = container.attach(engine, id)
  local ok, failure = pcall(function()
    container.signal(engine, id, "SIGUSR1")
    task.timeout(GREETING_SECONDS, stream.skip_past, stream, RENEWAL_MARK)
    stream:write(RENEWAL_MARK)
  end)
  if ok then return stream end
  stream:close()
  error(failure, 0)
end

---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
function container.start(engine, id)
  engine:call("POST", path_of(id, "/start"), {
    what = "start a container", timeout = START_SECONDS,
  })
end

---What the engine knows of it; nil when there is no such container.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
---@return table|nil
function container.inspect(engine, id)
  local ok, found = pcall(engine.get, engine, path_of(id, "/json"), "look at a container")
  if ok then return found end
  -- Podman, when it is removed at this moment.
  local words = errors.is_error(found) and found.detail
  if words and words:find("no such container", 1, true) then return nil end
  error(found, 0)
end

---Sends a signal to its first process.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
---@param signal string
function container.signal(engine, id, signal)
  engine:call("POST", path_of(id, "/kill"), {
    what = "signal a container", query = { signal = signal },
  })
end

-- Somebody else, such as the engine itself, may be ending or removing it, in which
-- case engines refuse with all kinds of statuses. True once it is gone.
local function try_to_remove(engine, id)
  local ok, res = pcall(engine.call, engine, "DELETE", path_of(id), {
    what = "remove a container", query = { force = 1, v = 1 }, accept = { [404] = true },
  })
  if ok and res.status == 404 then return true, nil end
  if not ok and not (errors.is_error(res) and res.status) then error(res, 0) end
  return not container.inspect(engine, id), not ok and res or nil
end

---Ends and removes it with its volumes, and waits until it is gone. Harmless when
---there is none.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param id string
function container.remove(engine, id)
  local until_then = time.now() + GONE_SECONDS
  while true do
    local gone, refusal = try_to_remove(engine, id)
    if gone then return end
    if time.now() > until_then then
      error(refusal or errors.new {
        kind = "process", op = "engine",
        message = "remove a container: the engine has not done it after 20 s",
      }, 0)
    end
    task.sleep(0.05)
  end
end

---All containers with the server's label, whatever their state: their ids and labels.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param server string
---@return {Id: string, Labels: table<string, string>}[]
function container.list(engine, server)
  local label = container.SERVER_LABEL .. "=" .. server
  return engine:get("/containers/json", "list containers", {
    all = 1, filters = json.encode { label = json.array { label } },
  }) or {}
end

return container
