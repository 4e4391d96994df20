-- Runs the trees of shell scripts in a simulated sandbox: enough of POSIX sh for the
-- scripts that clients send, with nothing outside of memory.
--
-- The one fact to keep in mind: a shell that is to leave something (exit, a loop, a
-- function, or because its process was killed) sets `flow`, and everything returns
-- until that is dealt with. Nothing is raised.

local expand = require("sbx.server.driver.sim.expand")
local files = require("sbx.server.driver.sim.files")
local parse = require("sbx.server.driver.sim.parse")
local pipes = require("sbx.server.driver.sim.pipes")
local task = require("sbx.task")

---@class sbx.server.sim.Shell
---@field world sbx.server.sim.World
---@field files sbx.server.sim.Files
---@field process sbx.server.sim.Process
---@field variables table<string, string>
---@field exported table<string, boolean>
---@field functions table<string, table>
---@field arguments string[]
---@field name string          $0
---@field pid integer          $$
---@field cwd string
---@field fds table<integer, table>
---@field status integer       $?
---@field private substituted integer  the status of the last command substitution
---@field last_background integer|nil
---@field traps table<string, string>
---@field flow nil|"exit"|"return"|"break"|"continue"
---@field levels integer       of loops that are still to be left
---@field strict boolean       set -u
---@field errexit boolean      set -e
---@field budget {steps: integer}  shared by all that one command starts
---@field depth integer
local Shell = {}
Shell.__index = Shell

local shell = {}

local MAX_STEPS = 300000
local STEPS_BETWEEN_PAUSES = 500
local MAX_DEPTH = 150
local MAX_PIPE = 16 * 1024 * 1024

---@class sbx.server.sim.World  what the shells of one sandbox share
---@field files sbx.server.sim.Files
---@field processes sbx.server.sim.Processes
---@field spawn fun(fn: async fun())   starts a task that lives as long as the sandbox
---@field answer async fun(line: string): table|nil  what the script says to a command
---@field builtins table<string, function>
---@field tools table<string, function>
---@field hostname string

---A shell in a process.
---@param world sbx.server.sim.World
---@param process sbx.server.sim.Process
---@param options {env: table<string, string>, cwd: string, fds: table, name?: string, arguments?: string[], budget?: table, depth?: integer}
---@return sbx.server.sim.Shell
function shell.new(world, process, options)
  local self = setmetatable({
    world = world, files = world.files, process = process, variables = {}, exported = {},
    functions = {}, arguments = options.arguments or {}, name = options.name or "sh",
    pid = process.pid, cwd = options.cwd, fds = options.fds, status = 0, traps = process.traps,
    levels = 0, strict = false, errexit = false, budget = options.budget or { steps = 0 },
    depth = options.depth or 0,
  }, Shell)
  for name, value in pairs(options.env) do
    self.variables[name], self.exported[name] = value, true
  end
  return self
end

---Says something on the standard error and lets the shell end.
---@param words string
function Shell:fail(words)
  self:complain(words)
  self.flow, self.status = "exit", 2
end

---@param words string
---@param fds? table
function Shell:complain(words, fds)
  local out = (fds or self.fds)[2]
  if out and out.write then out:write(("%s: %s\n"):format(self.name, words)) end
end

---The variables that a program gets.
---@return table<string, string>
function Shell:environment()
  local env = {}
  for name in pairs(self.exported) do
    env[name] = self.variables[name]
  end
  return env
end

---@param path string
---@return string
function Shell:resolve(path)
  return files.resolve(self.cwd, path)
end

local function copy(from)
  local to = {}
  for key, value in pairs(from) do
    to[key] = value
  end
  return to
end

---The same shell once more, whose changes are its own.
---@param fds? table
---@param process? sbx.server.sim.Process
---@return sbx.server.sim.Shell
function Shell:fork(fds, process)
  local made = setmetatable(copy(self), Shell)
  made.variables, made.exported = copy(self.variables), copy(self.exported)
  made.functions = copy(self.functions)
  made.fds, made.process = fds or self.fds, process or self.process
  made.traps, made.levels, made.flow = process and process.traps or {}, 0, nil
  made.depth = self.depth + 1
  return made
end

-- ----------------------------------------------------------- signals and budgets

-- Deals with signals; true when the shell is to leave.
local function must_leave(self)
  local process = self.process
  if process.killed then
    self.flow, self.status = "exit", 128 + process.killed
    return true
  end
  while #process.pending > 0 and not self.flow do
    local name = table.remove(process.pending, 1)
    local text = process.traps[name]
    if text then
      local before = self.status
      self:eval(text)
      if not self.flow then self.status = before end
    end
  end
  return self.flow ~= nil
end

local function spend(self)
  local budget = self.budget
  budget.steps = budget.steps + 1
  if budget.steps % STEPS_BETWEEN_PAUSES == 0 then task.yield() end
  if budget.steps < MAX_STEPS then return true end
  if budget.steps == MAX_STEPS then
    self:complain(("not simulated: a command of more than %d steps"):format(MAX_STEPS))
  end
  self.process:signal(9)
  return false
end

-- ---------------------------------------------------------------- redirections

local CODES = { ENOENT = "No such file or directory", EISDIR = "Is a directory",
  ENOTDIR = "Not a directory", EACCES = "Permission denied", EEXIST = "File exists",
  ENOSPC = "No space left on device", EBUSY = "Device or resource busy",
  EINVAL = "Invalid argument" }

---@param code string
---@return string
function shell.words_of(code)
  return CODES[code] or code
end

local function open_for_reading(self, path)
  local bytes, code = self.files:read(self:resolve(path))
  if not bytes then return nil, code end
  return pipes.text(bytes)
end

local function open_for_writing(self, path, append)
  local full = self:resolve(path)
  if full == "/dev/null" then return pipes.null end
  local node, code = self.files:open(full, append)
  if not node then return nil, code end
  return pipes.file(self.files, node)
end

-- The descriptors with some redirections; nil when one fails, which is told.
local function redirected(self, redirects)
  if #redirects == 0 then return self.fds end
  local fds = copy(self.fds)
  for _, one in ipairs(redirects) do
    local stream, code
    if one.document then
      stream = pipes.text(expand.text(self, one.document))
    else
      local target = expand.text(self, one.word)
      if one.op == "<&" or one.op == ">&" then
        if target == "-" then
          stream = false
        else
          stream = fds[math.tointeger(tonumber(target))]
          if not stream then code = "bad file descriptor" end
        end
      elseif one.op == "<" then
        stream, code = open_for_reading(self, target)
      else
        stream, code = open_for_writing(self, target, one.op == ">>" or one.op == "<>")
      end
      if code then
        self:complain(("cannot open %s: %s"):format(target, shell.words_of(code)), fds)
        return nil
      end
    end
    fds[one.fd] = stream or nil
  end
  return fds
end

-- --------------------------------------------------------------------- commands

local run

---Runs a script's text here. Returns its status.
---@async
---@param text string
---@return integer
function Shell:eval(text)
  local tree, problem = parse.script(text)
  if not tree then
    self:fail(problem)
    return self.status
  end
  return run(self, tree)
end

---What a command writes, without the line feeds at its end.
---@async
---@param tree table
---@return string
function Shell:substitute(tree)
  local fds = copy(self.fds)
  local sink = pipes.sink(MAX_PIPE)
  fds[1] = sink
  local sub = self:fork(fds)
  run(sub, tree)
  self.substituted = sub.status
  return (sink:text():gsub("\n+$", ""))
end

---Runs a program in a process of its own and waits for it.
---@async
---@param fn async fun(process: sbx.server.sim.Process): integer
---@param env table<string, string>
---@return integer status
function Shell:run_child(fn, env)
  local parent = self.process
  local child = self.world.processes:spawn(parent, env)
  if not child then
    self:complain("cannot fork: too many simulated processes")
    return 254
  end
  parent.child = child
  child:finish(fn(child), false)
  parent.child = nil
  return child.status
end

-- Runs a program, known or not.
local function run_program(self, words, fds, env)
  self.process.env = env
  local name = words[1]:match("[^/]+$") or words[1]
  local given = self.world.answer(table.concat(words, " "))
  if given then
    if given.seconds and not self.process:nap(given.seconds) then return 143 end
    if given.stdout and fds[1] then fds[1]:write(given.stdout) end
    if given.stderr and fds[2] then fds[2]:write(given.stderr) end
    return given.exit_code or 0
  end
  local tool = self.world.tools[name]
  if tool then return tool(self, words, fds, env) end
  self:complain(words[1] .. ": not simulated; a script of --driver sim=FILE can say what it does",
    fds)
  return 127
end

---Runs words as a command: a builtin of the shell, a function or a program.
---@async
---@param words string[]
---@param fds table
---@param env? table<string, string>  of a program (default: the shell's)
---@param plain? boolean  neither builtins that change the shell nor functions
---@return integer
function Shell:command(words, fds, env, plain)
  local builtin = self.world.builtins[words[1]]
  if builtin and not plain then return builtin(self, words, fds) end
  local body = not plain and self.functions[words[1]]
  if not body then return run_program(self, words, fds, env or self:environment()) end
  if self.depth > MAX_DEPTH then
    self:fail("functions call each other too deeply")
    return self.status
  end
  local arguments, outer = self.arguments, self.fds
  self.arguments, self.fds = table.move(words, 2, #words, 1, {}), fds
  self.depth = self.depth + 1
  run(self, body)
  self.depth = self.depth - 1
  self.arguments, self.fds = arguments, outer
  if self.flow == "return" then self.flow = nil end
  return self.status
end

local runners = {}

function runners.simple(self, node)
  self.substituted = 0
  local words = expand.fields(self, node.words)
  if self.flow then return self.status end
  local fds = redirected(self, node.redirects)
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

function runners.list(self, node)
  local status = 0
  for _, item in ipairs(node.items) do
    if item.background then
      status = self:background(item.node)
      self.status = status
    else
      status = run(self, item.node)
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
  local status = run(self, node)
  self.testing = before
  return status
end

runners["and"] = function(self, node)
  local status = test(self, node.left)
  if status ~= 0 or self.flow then return status end
  return run(self, node.right)
end

runners["or"] = function(self, node)
  local status = test(self, node.left)
  if status == 0 or self.flow then return status end
  return run(self, node.right)
end

-- One after the other: each gets what the one before has written.
function runners.pipe(self, node)
  local input, status = self.fds[0], 0
  for i, part in ipairs(node.list) do
    local fds = copy(self.fds)
    fds[0] = input
    local sink
    if i < #node.list then
      sink = pipes.sink(MAX_PIPE)
      fds[1] = sink
    end
    if #node.list == 1 then
      status = test(self, part)
    else
      local sub = self:fork(fds)
      status = run(sub, part)
    end
    if must_leave(self) then return self.status end
    if sink then input = pipes.text(sink:text()) end
  end
  if node.inverted then return status == 0 and 1 or 0 end
  return status
end

local function with_redirects(self, node, fn)
  local fds = redirected(self, node.redirects)
  if not fds then return 1 end
  local outer = self.fds
  self.fds = fds
  local status = fn()
  self.fds = outer
  return status
end

function runners.subshell(self, node)
  return with_redirects(self, node, function()
    local sub = self:fork()
    run(sub, node.body)
    sub:run_exit_trap()
    return sub.status
  end)
end

function runners.group(self, node)
  return with_redirects(self, node, function()
    return run(self, node.body)
  end)
end

runners["if"] = function(self, node)
  return with_redirects(self, node, function()
    for _, arm in ipairs(node.arms) do
      local status = test(self, arm.condition)
      if self.flow then return status end
      if status == 0 then return run(self, arm.body) end
    end
    return node.otherwise and run(self, node.otherwise) or 0
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

runners["while"] = function(self, node)
  return with_redirects(self, node, function()
    local status = 0
    while true do
      local condition = test(self, node.condition)
      if self.flow then return self.status end
      if (condition == 0) == node.inverted then return status end
      status = run(self, node.body)
      if leaves_loop(self) then return self.status end
    end
  end)
end

runners["for"] = function(self, node)
  return with_redirects(self, node, function()
    local list = node.words and expand.fields(self, node.words) or self.arguments
    local status = 0
    for _, value in ipairs(list) do
      self.variables[node.name] = value
      status = run(self, node.body)
      if leaves_loop(self) then return self.status end
    end
    return status
  end)
end

runners["case"] = function(self, node)
  return with_redirects(self, node, function()
    local text = expand.text(self, node.word)
    for _, arm in ipairs(node.arms) do
      for _, pattern in ipairs(arm.patterns) do
        if expand.matches(text, expand.pattern(self, pattern)) then return run(self, arm.body) end
      end
    end
    return 0
  end)
end

runners["function"] = function(self, node)
  self.functions[node.name] = node.body
  return 0
end

function run(self, node)
  if must_leave(self) or not spend(self) then
    must_leave(self)
    return self.status
  end
  local status = runners[node.kind](self, node)
  if not self.flow then self.status = status end
  if must_leave(self) then return self.status end
  return status
end

---Starts a command that goes on by itself. Its pid is `$!`.
---@param node table
---@return integer status
function Shell:background(node)
  local child = self.world.processes:spawn(self.process, self:environment())
  if not child then
    self:complain("cannot fork: too many simulated processes")
    return 254
  end
  self.last_background = child.pid
  local fds = copy(self.fds)
  fds[0] = pipes.null
  local sub = self:fork(fds, child)
  sub.budget = { steps = 0 }
  -- What its parent ignores it ignores too.
  for name, text in pairs(self.traps) do
    if text == "" then child.traps[name] = "" end
  end
  self.world.spawn(function()
    run(sub, node)
    sub:run_exit_trap()
    child:finish(sub.status, true)
  end)
  return 0
end

---What is to be done at the end of a shell.
---@async
function Shell:run_exit_trap()
  local text = self.traps.EXIT
  if not text or self.process.killed then return end
  self.traps.EXIT = nil
  local status = self.status
  self.flow = nil
  self:eval(text)
  if self.flow ~= "exit" then self.status = status end
end

---Runs a whole script. Returns its exit status.
---@async
---@param text string
---@return integer
function Shell:script(text)
  self:eval(text)
  self:run_exit_trap()
  return self.process.killed and 128 + self.process.killed or self.status
end

return shell
