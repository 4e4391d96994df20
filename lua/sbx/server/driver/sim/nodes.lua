-- What the shell of a simulated sandbox does with each kind of node in a script's tree:
-- (shell, node) → status. See `sbx.server.driver.sim.parse` for the kinds.

local expand = require("sbx.server.driver.sim.expand")
local pipes = require("sbx.server.driver.sim.pipes")
local redirect = require("sbx.server.driver.sim.redirect")

---@type table<string, async fun(self: sbx.server.sim.Shell, node: table): integer>
local nodes = {}

function nodes.simple(self, node)
  self.substituted = 0
  local words = expand.fields(self, node.words)
  if self.flow then return self.status end
  local fds = redirect.apply(self, node.redirects)
  if not fds then return 2 end
  local values = {}
  for i, assign in ipairs(node.assigns) do
    values[i] = expand.text(self, assign.value)
  end
  if self.flow then return self.status end
  if #words == 0 then
    for i, assign in ipairs(node.assigns) do
      self.variables[assign.name] = values[i]
    end
    return self.substituted
  end
  if words[1] == "exec" and #words == 1 then
    self.fds = fds
    return 0
  end
  local env
  if #node.assigns > 0 then
    env = self:environment()
    for i, assign in ipairs(node.assigns) do
      env[assign.name] = values[i]
      -- A builtin sees it too; it stays, as it does for special ones.
      if self.world.builtins[words[1]] then self.variables[assign.name] = values[i] end
    end
  end
  return self:command(words, fds, env)
end

function nodes.list(self, node)
  local status = 0
  for _, item in ipairs(node.items) do
    if item.background then
      status = self:background(item.node)
      self.status = status
    else
      status = self:run(item.node)
    end
    if self.flow then return self.status end
    local tested = item.node.kind == "and" or item.node.kind == "or" or item.node.inverted
    if self.errexit and status ~= 0 and not tested and not self.testing then
      self.flow = "exit"
      return status
    end
  end
  return status
end

-- A condition's failure is no reason to end.
local function test(self, node)
  local before = self.testing
  self.testing = true
  local status = self:run(node)
  self.testing = before
  return status
end

nodes["and"] = function(self, node)
  local status = test(self, node.left)
  if status ~= 0 or self.flow then return status end
  return self:run(node.right)
end

nodes["or"] = function(self, node)
  local status = test(self, node.left)
  if status == 0 or self.flow then return status end
  return self:run(node.right)
end

-- One after the other: each gets what the one before has written.
function nodes.pipe(self, node)
  local input, status = self.fds[0], 0
  for i, part in ipairs(node.list) do
    local fds = self:copy_fds()
    fds[0] = input
    local sink
    if i < #node.list then
      sink = pipes.sink(pipes.MAX)
      fds[1] = sink
    end
    if #node.list == 1 then
      status = test(self, part)
    else
      local sub = self:fork(fds)
      status = sub:run(part)
    end
    if self:must_leave() then return self.status end
    if sink then input = pipes.text(sink:text()) end
  end
  if node.inverted then return status == 0 and 1 or 0 end
  return status
end

local function with_redirects(self, node, fn)
  local fds = redirect.apply(self, node.redirects)
  if not fds then return 1 end
  local outer = self.fds
  self.fds = fds
  local status = fn()
  self.fds = outer
  return status
end

function nodes.subshell(self, node)
  return with_redirects(self, node, function()
    local sub = self:fork()
    sub:run(node.body)
    sub:run_exit_trap()
    return sub.status
  end)
end

function nodes.group(self, node)
  return with_redirects(self, node, function()
    return self:run(node.body)
  end)
end

nodes["if"] = function(self, node)
  return with_redirects(self, node, function()
    for _, arm in ipairs(node.arms) do
      local status = test(self, arm.condition)
      if self.flow then return status end
      if status == 0 then return self:run(arm.body) end
    end
    return node.otherwise and self:run(node.otherwise) or 0
  end)
end

-- After the body of a loop: true when the loop is over.
local function leaves_loop(self)
  if self.flow ~= "break" and self.flow ~= "continue" then return self.flow ~= nil end
  if self.levels > 1 then
    self.levels = self.levels - 1
    return true
  end
  local ends = self.flow == "break"
  self.flow = nil
  return ends
end

nodes["while"] = function(self, node)
  return with_redirects(self, node, function()
    local status = 0
    while true do
      local condition = test(self, node.condition)
      if self.flow then return self.status end
      if (condition == 0) == node.inverted then return status end
      status = self:run(node.body)
      if leaves_loop(self) then return self.status end
    end
  end)
end

nodes["for"] = function(self, node)
  return with_redirects(self, node, function()
    local list = node.words and expand.fields(self, node.words) or self.arguments
    local status = 0
    for _, value in ipairs(list) do
      self.variables[node.name] = value
      status = self:run(node.body)
      if leaves_loop(self) then return self.status end
    end
    return status
  end)
end

nodes["case"] = function(self, node)
  return with_redirects(self, node, function()
    local text = expand.text(self, node.word)
    for _, arm in ipairs(node.arms) do
      for _, pattern in ipairs(arm.patterns) do
        if expand.matches(text, expand.pattern(self, pattern)) then return self:run(arm.body) end
      end
    end
    return 0
  end)
end

nodes["function"] = function(self, node)
  self.functions[node.name] = node.body
  return 0
end

return nodes
