-- Simulated sandboxes: no processes, no files, nothing isolated, because nothing runs.
-- What they do is said by a Lua file; without one they boot at once and have a small
-- shell. They are there to try fleets of thousands, and programs that use them.

local agent = require("sbx.server.driver.sim.agent")
local check = require("sbx.check")
local dice = require("sbx.server.dice")
local rules = require("sbx.server.driver.sim.rules")
local task = require("sbx.task")

local sim = { name = "sim" }

---@class sbx.server.sim.Driver : sbx.server.Driver
---@field private rules sbx.server.sim.Rules
---@field private seed integer
---@field private created integer  so many have been asked for
---@field private scope sbx.Scope   where all that goes on by itself runs
---@field private over sbx.core.Waiter
---@field private keeper sbx.Task
local Driver = { name = "sim" }
Driver.__index = Driver

---@class sbx.server.sim.Box : sbx.server.Box
---@field id string
---@field image string
---@field agent sbx.server.sim.Agent
---@field private random function
---@field private listener? function
---@field private death? {reason: string, error_type?: string}
---@field private clock? sbx.Task
local Box = {
  image_source = "sim", image_resolved = "simulated", network_enforced = true,
  limits = { memory = "none", cpu = "none", disk = "none" },
}
Box.__index = Box

-- Nothing is gained by booting a few at a time.
local BOOTS, CAPACITY = 10000, 1000000

---@class sbx.server.sim.Options : sbx.server.driver.Options
---@field argument? string  a file of rules
---@field rules? sbx.server.sim.Rules
---@field seed? integer     of all that is random (default 1)

---@async
---@param options? sbx.server.sim.Options
---@return sbx.server.sim.Driver
function sim.open(options)
  local opts = options or {}
  local self = setmetatable({
    rules = opts.rules or rules.load(opts.argument), seed = check.integer(opts.seed or 1, "seed"),
    created = 0, over = task.waiter("a simulation to end"),
    features = { network_rules = true, images = true, boots = BOOTS, capacity = CAPACITY },
  }, Driver)
  local ready = task.waiter("a simulation to begin")
  self.keeper = task.daemon(function()
    task.scope({ name = "simulated sandboxes" }, function(scope)
      self.scope = scope
      ready:wake()
      self.over:wait()
      scope:cancel("the simulation ended")
    end)
  end)
  ready:wait()
  return self
end

---@return {ok: boolean, problems: string[]}
function Driver.check()
  return { ok = true, problems = {} }
end

local function new_agent(self, box, spec)
  return agent.new {
    workdir = spec.workdir, hostname = spec.hostname, disk = spec.disk_size_gb * 1e9 // 1,
    scope = self.scope,
    answer = function(line)
      return self.rules:result(line, box, box.random)
    end,
    port = function(port)
      return self.rules:port(port, box, box.random)
    end,
  }
end

local function plan_death(self, box, spec)
  if not self.rules:has_death() then return end
  local seconds, reason, error_type = self.rules:death(spec, box.random)
  if not seconds or seconds == math.huge then return end
  box.clock = self.scope:pspawn(function()
    task.sleep(seconds)
    box:die(reason or "the simulated sandbox died", error_type)
  end)
end

---@async
---@param spec sbx.server.driver.Spec
---@return sbx.server.sim.Box
function Driver:create(spec)
  self.created = self.created + 1
  local random = dice.new(("sim %d %d"):format(self.seed, self.created))
  local seconds = self.rules:boot_seconds(spec, random)
  if seconds > 0 then task.sleep(seconds) end
  local box = setmetatable({
    id = spec.id, image = spec.image, random = random, rules = self.rules,
  }, Box)
  box.agent = new_agent(self, box, spec)
  plan_death(self, box, spec)
  self.rules:set_up(box, random)
  return box
end

---@param image string
---@return boolean, string
function Driver:look_for_image(image)
  local ok, problem = pcall(self.rules.boot_seconds, self.rules, { image = image },
    dice.new("look"))
  return ok, ok and "simulated" or tostring(problem)
end

---@async
function Driver:close()
  self.over:wake()
  task.shield(10, self.keeper.pjoin, self.keeper)
end

-- ------------------------------------------------------------------- a sandbox

---@param fn fun(reason: string, error_type: string|nil)
function Box:on_exit(fn)
  if self.death then
    fn(self.death.reason, self.death.error_type)
  else
    self.listener = fn
  end
end

---Ends it as if by itself: for scripts. Never waits.
---@param reason? string
---@param error_type? string  such as "OOM_KILLED"
function Box:die(reason, error_type)
  if self.agent.closed then return end
  self.death = { reason = reason or "it died", error_type = error_type }
  self.agent:close(self.death.reason)
  if self.listener then self.listener(self.death.reason, error_type) end
end

---Holds at once: there is nothing that could be reached.
function Box.set_network() end

function Box:kill()
  self.agent:close("it was ended")
  if self.clock then self.clock:cancel("the sandbox ended") end
  self.clock = nil
end

Box.release = Box.kill

---The bytes of a file in it: for scripts.
---@async
---@param path string
---@return string
function Box:read(path)
  local parts = {}
  self.agent:get(path, function(bytes) parts[#parts + 1] = bytes end)
  return table.concat(parts)
end

---Writes a file in it: for scripts.
---@async
---@param path string
---@param bytes string
function Box:write(path, bytes)
  local given = { bytes }
  self.agent:put(path, function() return table.remove(given) end)
end

return sim
