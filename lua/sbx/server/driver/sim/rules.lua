-- The file that says what is simulated: how long things take, what commands say, when
-- sandboxes die. Checked once; asked for each sandbox with randomness of its own.

local dice = require("sbx.server.dice")
local errors = require("sbx.errors")
local script = require("sbx.server.script")

---@class sbx.server.sim.Rules
---@field private script sbx.server.Script
---@field private given table
---@field private patterns string[]  of commands, those that say most first
local Rules = {}
Rules.__index = Rules

local rules = {}

local KNOWN = {
  boot = true, exec = true, death = true, images = true, ports = true, memory_kills = true,
  setup = true,
}
local RESULT = { stdout = true, stderr = true, exit_code = true, seconds = true }

local function check_result(self, key, value)
  if type(value) == "string" or type(value) == "function" then return end
  self.script:check_keys(value, RESULT, key)
  for _, name in ipairs { "stdout", "stderr" } do
    local text = value[name]
    if text ~= nil and type(text) ~= "string" then
      self.script:fail(key, name .. ": expected a string, got a " .. type(text))
    end
  end
  if value.exit_code ~= nil and math.type(value.exit_code) ~= "integer" then
    self.script:fail(key, "exit_code: expected a whole number")
  end
  local problem = value.seconds ~= nil and value.seconds ~= math.huge
    and dice.problem(value.seconds)
  if problem then self.script:fail(key, "seconds: " .. problem) end
end

local function check_exec(self, exec)
  if exec == nil or type(exec) == "function" then return end
  if type(exec) ~= "table" then
    self.script:fail("exec", "expected a table of patterns or a function")
  end
  for pattern, value in pairs(exec) do
    local ok, problem = pcall(string.find, "", pattern)
    if type(pattern) ~= "string" or not ok then
      self.script:fail(pattern, "not a Lua pattern: " .. tostring(problem))
    end
    check_result(self, pattern, value)
    self.patterns[#self.patterns + 1] = pattern
  end
  -- Which of several fits must not depend on the order of pairs.
  table.sort(self.patterns, function(a, b)
    if #a ~= #b then return #a > #b end
    return a < b
  end)
end

local function check_images(self, images)
  if images == nil or type(images) == "function" then return end
  if type(images) ~= "table" then self.script:fail("images", "expected a table or a function") end
  for image, problem in pairs(images) do
    if type(problem) ~= "string" and problem ~= true then
      self.script:fail(image, "expected true, or why the image cannot be had")
    end
  end
end

---The rules of a file, or the usual ones.
---@async
---@param path? string
---@return sbx.server.sim.Rules
function rules.load(path)
  local loaded = path and script.load(path) or script.of({}, "sim")
  return rules.of(loaded)
end

---@param loaded sbx.server.Script
---@return sbx.server.sim.Rules
function rules.of(loaded)
  local given = loaded.value
  local self = setmetatable({ script = loaded, given = given, patterns = {} }, Rules)
  loaded:check_keys(given, KNOWN, "a simulation")
  for _, name in ipairs { "boot", "death" } do
    local problem = given[name] ~= nil and dice.problem(given[name])
    if problem then loaded:fail(name, problem) end
  end
  check_exec(self, given.exec)
  check_images(self, given.images)
  for _, name in ipairs { "setup", "memory_kills" } do
    if given[name] ~= nil and type(given[name]) ~= "function" then
      loaded:fail(name, "expected a function")
    end
  end
  if given.ports ~= nil and type(given.ports) ~= "table" then
    loaded:fail("ports", "expected a table: port → text or function(request, box, random)")
  end
  return self
end

local function amount(self, name, ...)
  local given = self.given[name]
  if type(given) ~= "function" then return dice.amount(given, ...) end
  local value, more, kind = self.script:call(given, select(2, ...), (...))
  local problem = value ~= nil and value ~= math.huge and dice.problem(value)
  if problem then self.script:fail(name, "what the function returns: " .. problem) end
  return dice.amount(value, ...), more, kind
end

---Seconds that a sandbox takes to boot. Raises `image_pull` when its image cannot be had.
---@async
---@param spec sbx.server.driver.Spec
---@param random function
---@return number
function Rules:boot_seconds(spec, random)
  local images = self.given.images
  local problem
  if type(images) == "function" then
    problem = self.script:call(images, spec.image, random)
  elseif images then
    problem = images[spec.image]
  end
  if type(problem) == "string" then
    errors.raise {
      kind = "image_pull", message = ("image %s: %s"):format(spec.image, problem),
    }
  end
  return (amount(self, "boot", random, spec)) or 0
end

---Seconds after which a sandbox dies, or nil; why; the error's type.
---@async
---@param spec sbx.server.driver.Spec
---@param random function
---@return number|nil, string|nil, string|nil
function Rules:death(spec, random)
  return amount(self, "death", random, spec)
end

---What is done with a sandbox that has just booted.
---@async
function Rules:set_up(box, random)
  if self.given.setup then self.script:call(self.given.setup, box, random) end
end

local function result_of(self, value, key, command, box, random)
  if type(value) == "function" then
    value = self.script:call(value, command, box, random)
    if value == nil then return nil end
    check_result(self, key, value)
  end
  if type(value) == "string" then return { stdout = value } end
  local seconds = value.seconds
  if seconds ~= math.huge then seconds = dice.amount(seconds, random) end
  return {
    stdout = value.stdout, stderr = value.stderr, exit_code = value.exit_code, seconds = seconds,
  }
end

---What a command does, where the file says so: nil otherwise.
---@async
---@param command string  a program and its arguments
---@param box sbx.server.Box
---@param random function
---@return {stdout?: string, stderr?: string, exit_code?: integer, seconds?: number}|nil
function Rules:result(command, box, random)
  local exec = self.given.exec
  if not exec then return nil end
  if type(exec) == "function" then return result_of(self, exec, "exec", command, box, random) end
  for _, pattern in ipairs(self.patterns) do
    if command:find(pattern) then
      local result = result_of(self, exec[pattern], pattern, command, box, random)
      if result then return result end
    end
  end
  return nil
end

---What answers at a port: the bytes for a request, or nil where nobody listens.
---@async
---@param port integer
---@return (async fun(request: string): string)|nil
function Rules:port(port, box, random)
  local given = self.given.ports and self.given.ports[port]
  if type(given) == "function" then
    return function(request)
      return tostring(self.script:call(given, request, box, random))
    end
  end
  if type(given) ~= "string" then return nil end
  return function()
    return ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
      .. "Connection: close\r\n\r\n%s"):format(#given, given)
  end
end

---@return boolean
function Rules:has_death()
  return self.given.death ~= nil
end

return rules
