-- Runs the trees of shell scripts in a simulated sandbox: enough of POSIX sh for the
-- scripts that clients send, with nothing outside of memory.
--
-- The one fact to keep in mind: a shell that is to leave something (exit, a loop, a
-- function, or because its process was killed) sets `flow`, and everything returns
-- until that is dealt with. Nothing is raised.

local files = require("sbx.server.driver.sim.files")
local nodes = require("sbx.server.driver.sim.nodes")
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

---@return table<integer, table>
function Shell:copy_fds()
  return copy(self.fds)
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

---Deals with signals; true when the shell is to leave.
---@async
---@return boolean
function Shell:must_leave()
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

-- --------------------------------------------------------------------- commands

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
  return self:run(tree)
end

---What a command writes, without the line feeds at its end.
---@async
---@param tree table
---@return string
function Shell:substitute(tree)
  local fds = copy(self.fds)
  local sink = pipes.sink(pipes.MAX)
  fds[1] = sink
  local sub = self:fork(fds)
  sub:run(tree)
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
  self:run(body)
  self.depth = self.depth - 1
  self.arguments, self.fds = arguments, outer
  if self.flow == "return" then self.flow = nil end
  return self.status
end

---Runs a node of a script's tree. Returns its status.
---@async
---@param node table
---@return integer
function Shell:run(node)
  if self:must_leave() or not spend(self) then
    self:must_leave()
    return self.status
  end
  local status = nodes[node.kind](self, node)
  if not self.flow then self.status = status end
  if self:must_leave() then return self.status end
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
    sub:run(node)
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
