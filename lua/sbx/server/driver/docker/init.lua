-- Sandboxes by a container engine: Docker, or Podman through the same API. One container
-- for each, with the image that was asked for.

local agent = require("sbx.server.agent")
local box = require("sbx.server.driver.docker.box")
local builds = require("sbx.server.driver.docker.builds")
local check = require("sbx.server.driver.docker.check")
local container = require("sbx.server.driver.docker.container")
local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local fence = require("sbx.server.driver.docker.fence")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local images = require("sbx.server.driver.docker.images")
local network = require("sbx.server.driver.docker.network")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.core.time")
local volume = require("sbx.server.driver.docker.volume")

---@class sbx.server.driver.docker
local docker = { name = "docker" }

local CREATE_SECONDS, REMOVE_SECONDS = 120, 60
local TRIES, PAUSE_SECONDS = 5, 0.25
local UNFENCED = "sandboxes with a network reach this machine and private networks: "

---@class sbx.server.driver.docker.Driver: sbx.server.Driver
---@field engine sbx.server.driver.docker.Engine
---@field private options sbx.server.driver.Options
---@field private server string  id that its containers bear, the same for the same folder
---@field private run string
---@field private facts? table   the engine's /info
---@field private storage boolean   the engine may be able to limit disks
---@field private networked boolean
---@field private filled boolean    the volume with the agent is there
---@field private filling sbx.sync.Mutex
local Driver = { name = "docker", features = { network_rules = false, images = true } }
Driver.__index = Driver

-- The id of the server with this folder; without a folder, of this run.
local function server_id(folder)
  if not folder then return hash.random_hex(16) end
  local path = folder .. "/docker-server-id"
  if not fs.exists(path) then fs.write_atomic(path, hash.random_hex(16) .. "\n", { mode = 384 }) end
  local id = fs.read(path, { max = 256 }):match("^(%x+)%s*$")
  if id then return id end
  errors.raise { kind = "process", message = path .. ": holds no id; remove the file" }
end

---Connects to nothing yet. `options.argument` is the engine's socket.
---@async
---@param options? sbx.server.driver.Options
---@return sbx.server.driver.docker.Driver
function docker.open(options)
  options = options or {}
  return setmetatable({
    options = options,
    engine = engines.open(engines.socket_path(options.argument)),
    server = server_id(options.folder),
    run = hash.random_hex(8),
    storage = true,
    networked = false,
    filled = false,
    filling = sync.mutex(),
  }, Driver)
end

---What the engine can do, as it says itself.
---@async
---@return sbx.server.driver.docker.Facts
function Driver:engine_facts()
  if not self.facts then
    self.facts = self.engine:get("/info", "ask what the engine can do") or {}
  end
  return self.facts
end

-- Podman closes a container's input with the connection of who was attached to it, so
-- that its agent ends with the server.
local function keeps(self)
  return self.options.keep and not self.engine:is_podman() or false
end

-- Asked for the login of an image's registry; `wanted` is the id of one that was named.
local function logins(self, wanted)
  local credentials = self.options.credentials
  return credentials and function(image)
    return credentials(image, wanted)
  end
end

-- -------------------------------------------------------------------- the start

local function plan_of(self, spec)
  local mode = "none"
  if spec.network then
    mode = network.ensure(self.engine)
    self.networked = not self.engine:is_podman()
  end
  return {
    spec = spec, server = self.server, run = self.run, network = mode, storage = self.storage,
    volume = volume.name(), podman = self.engine:is_podman(),
    keep = keeps(self), facts = self:engine_facts(),
  }
end

-- What the agent, or the engine, said before it gave up.
local function explain(failure, stream)
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  local said = stream.complaint:gsub("%c+", " "):gsub("%s+$", "")
  if said == "" then error(failure, 0) end
  errors.raise {
    kind = "process", op = "start a sandbox", cause = failure, message = "its agent: " .. said,
  }
end

-- The file systems of fuse-overlayfs are mounts below a shared one: who lets go of that with
-- all below it in a namespace of its own, as slirp4netns does when root runs it, takes them
-- away from everybody. What is left then is an empty root.
local function verify_root(self, made)
  if self:engine_facts().Driver ~= "fuse-overlayfs" then return end
  local mounts = ""
  made.agent:get("/proc/self/mountinfo", function(bytes)
    mounts = mounts .. bytes
  end)
  local kind = mounts:match("^%S+ %S+ %S+ %S+ / [^\n]- %- (%S+)")
  if kind and kind:find("fuse", 1, true) then return end
  local words = "the container has lost its root file system"
  errors.raise { kind = "process", op = "engine", status = 500, detail = words, message = words }
end

-- Attached before the start, so that not a byte of the agent's is missed.
local function bring_up(self, made)
  local stream = container.attach(self.engine, made.container)
  local started, failure = pcall(container.start, self.engine, made.container)
  if not started then
    stream:close()
    error(failure, 0)
  end
  local ok, result = pcall(agent.attach, stream, box.on_link_end(made))
  if not ok then explain(result, stream) end
  made.agent = result
  verify_root(self, made)
end

-- Whether a container with a way out is kept from this machine and from private networks.
-- Where it is not, that is said, and the sandbox is started all the same.
local function fence_off(self, made, plan)
  if plan.podman then
    plan.spec.notice(UNFENCED .. fence.PODMAN)
    return false
  end
  local found = container.inspect(self.engine, made.container) or {}
  local ok, failure = pcall(fence.put, found, plan.network, made.agent)
  if ok then return true end
  if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
  plan.spec.notice(UNFENCED .. tostring(failure))
  return false
end

local function describe(self, made, plan, image)
  local spec = plan.spec
  made.image_source = "docker"
  made.image_resolved = images.describe(spec.image, image)
  made.limits = container.limits(plan)
  made.network_enforced = not spec.network or fence_off(self, made, plan)
  made.limits.network = spec.network
    and (made.network_enforced and "public addresses" or "all but neighbours") or "no network"
  if plan.keep then
    made.saved = {
      container = made.container, limits = made.limits, image_resolved = made.image_resolved,
      network_enforced = made.network_enforced,
    }
  elseif self.options.keep then
    spec.notice("Podman's containers end with the server: this sandbox will not be kept")
  end
  self.storage = plan.storage
end

-- Once for all sandboxes.
local function need_agent(self, image)
  if self.filled then return end
  local _ <close> = self.filling:lock()
  if self.filled then return end
  volume.ensure(self.engine, image, self.server)
  self.filled = true
end

local function new_box(self, id, container_id)
  return box.new {
    engine = self.engine, id = id, container = container_id,
    keep = keeps(self),
  }
end

-- One try, of which nothing is left when it fails.
local function try_to_create(self, spec, image)
  need_agent(self, spec.image)
  local plan = plan_of(self, spec)
  -- What has been made must be known to be removed.
  local id, warnings = task.shield(CREATE_SECONDS, container.create, self.engine, plan)
  local made = new_box(self, spec.id, id)
  local up, failure = pcall(bring_up, self, made)
  if not up then
    task.shield(REMOVE_SECONDS, made.kill, made)
    error(failure, 0)
  end
  local described, problem = pcall(describe, self, made, plan, image)
  if not described then
    task.shield(REMOVE_SECONDS, made.kill, made)
    error(problem, 0)
  end
  for _, warning in ipairs(warnings) do
    spec.log("the engine warns: " .. warning)
  end
  return made
end

-- Engines fail now and then for reasons of their own, above all when they have many
-- containers to start: file systems that are not mounted yet, or not any more. And the
-- agent's volume, or the network, may have been removed by a server that has just ended.
local function may_pass(failure)
  if not errors.is_error(failure) or not failure.status then return false end
  local words = failure.detail
  return failure.status >= 500 or words:find(container.AGENT, 1, true) ~= nil
    or words:find("network %S+ not found") ~= nil
end

local function create_at_last(self, spec, image)
  for attempt = 1, TRIES do
    local ok, made = pcall(try_to_create, self, spec, image)
    if ok then return made end
    if attempt == TRIES or not may_pass(made) then error(made, 0) end
    spec.log(tostring(made) .. "; trying again")
    self.filled = false
    task.sleep(attempt * PAUSE_SECONDS)
  end
end

---@async
---@param spec sbx.server.driver.Spec
---@return sbx.server.driver.docker.Box
function Driver:create(spec)
  local begun = time.now()
  local image = images.ensure(self.engine, spec.image, spec.log,
    logins(self, spec.registry_login))
  local made = create_at_last(self, spec, image)
  made.agent.environment = spec.env
  box.watch(made)
  spec.log(("container %s started in %.0f ms"):format(made.container:sub(1, 12),
    (time.now() - begun) * 1000))
  return made
end

-- --------------------------------------------------------------------- restarts

-- Why the container of a sandbox cannot be taken up again; nil when it can.
local function obstacle(self, spec, found)
  if not found then return "its container is gone" end
  local labels = (found.Config or {}).Labels or {}
  if labels[container.SERVER_LABEL] ~= self.server
    or labels[container.SANDBOX_LABEL] ~= spec.id then
    return "its container is not one of this server"
  end
  local state = found.State or {}
  if state.OOMKilled then return "its container ran out of memory" end
  if state.Running then return nil end
  return ("its container ended with exit code %d"):format(state.ExitCode or -1)
end

local function reattach(self, made)
  local stream = container.take_over(self.engine, made.container)
  made.agent = agent.attach(stream, box.on_link_end(made))
end

---@async
---@param spec sbx.server.driver.Spec
---@param saved table
---@return sbx.server.driver.docker.Box|nil
---@return string|nil problem
function Driver:adopt(spec, saved)
  local id = tostring(saved.container)
  if not id:find("^%x+$") then return nil, "what was saved of it is damaged" end
  local problem = obstacle(self, spec, container.inspect(self.engine, id))
  if problem then return nil, problem end
  local made = new_box(self, spec.id, id)
  local ok, failure = pcall(reattach, self, made)
  if not ok then
    task.shield(REMOVE_SECONDS, made.kill, made)
    if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
    return nil, "its agent does not answer: " .. tostring(failure)
  end
  made.agent.environment = spec.env
  made.image_source = "docker"
  made.network_enforced = saved.network_enforced or not spec.network
  made.image_resolved, made.limits = saved.image_resolved, saved.limits
  made.saved = saved
  box.watch(made)
  return made
end

---@async
---@param known table<string, boolean>
---@return integer removed
function Driver:sweep(known)
  local removed = 0
  for _, found in ipairs(container.list(self.engine, self.server)) do
    local labels = found.Labels or {}
    local mine = labels[container.RUN_LABEL] == self.run
    if not mine and not known[labels[container.SANDBOX_LABEL]] then
      container.remove(self.engine, found.Id)
      removed = removed + 1
    end
  end
  return removed
end

---@async
---@param image string
---@param registry_login? string
---@return boolean accessible
---@return string details
function Driver:look_for_image(image, registry_login)
  return images.look(self.engine, image, logins(self, registry_login))
end

builds.equip(Driver) -- images: listed, named, built

---Asks the engine what it is, and where it has images starts one container.
---@async
---@return {ok: boolean, problems: string[]}
function Driver:check()
  return check.run(self)
end

---@async
function Driver:close()
  if self.filled then volume.drop(self.engine) end
  if self.networked then network.drop(self.engine) end
end

return docker
