-- The prompt on a terminal that can only print: whole lines are read, one input runs
-- at a time.

local commands = require("sbx.repl.commands")
local evaluate = require("sbx.repl.evaluate")
local jobs = require("sbx.repl.jobs")
local names = require("sbx.repl.names")
local output = require("sbx.repl.output")
local program = require("sbx.cli.program")
local task = require("sbx.task")
local terminal_core = require("sbx.core.terminal")

local plain = {}

local function prompt(text)
  io.stderr:write(text)
end

-- Lines until they are a whole input; nil at the end.
---@async
local function read_input(self)
  prompt("> ")
  local text
  while true do
    local line
    self.interrupted = false
    task.scope(function(scope)
      self.reading = scope
      line = io.read("L")
      self.got = true
    end)
    self.reading = nil
    if self.interrupted then
      io.stderr:write("\n")
      return ""
    end
    if not line then return text end
    text = (text and text .. "\n" or "") .. line:gsub("\n$", "")
    if commands.is_one(text) or not evaluate.is_unfinished(text) then return text end
    prompt(". ")
  end
end

local Plain = {}
Plain.__index = Plain

-- What commands expect of a prompt.
function Plain:run(text, options)
  options = options or {}
  self.count = self.count + 1
  local input, problem = options.input, nil
  if not input then
    input, problem = self.lua:compile(text, ("=in[%d]"):format(self.count))
  end
  if not input then
    output.error(problem)
    return
  end
  local job = self.jobs:start(input, text, self.count)
  job.after, job.whole = options.after, options.whole
end

function Plain:ask_to_quit()
  self.ending = true
end

---@async
local function wait_for_foreground(self)
  while self.jobs.foreground do
    self.free = task.waiter("the input")
    self.free:wait()
  end
end

local function on_interrupt(self)
  local job = self.jobs.foreground or (not self.reading and jobs.current())
  if job then
    jobs.cancel(job, "Ctrl-C")
  elseif self.reading then
    self.interrupted = true
    self.reading:cancel("Ctrl-C")
  end
end

---@async
local function converse(self)
  while not self.ending do
    local text = read_input(self)
    if not text then
      io.stderr:write("\n")
      return
    end
    if commands.is_one(text) then
      local ok, err = pcall(commands.run, self, text)
      if not ok then output.error(err) end
    elseif commands.hint(self, text) then
      output.notice(commands.hint(self, text))
    elseif text:find("%S") then
      self:run(text)
    end
    wait_for_foreground(self)
  end
end

---Talks to a person until they leave.
---@async
function plain.run()
  local lua = evaluate.new()
  local env <close> = names.install(lua)
  local self = setmetatable({ lua = lua, count = 0, names = env, ending = false }, Plain)
  local _ <close> = setmetatable({}, { __close = function()
    terminal_core.keep_on(false)
    program.on_interrupt = nil
  end })
  task.scope({ name = "prompt", on_error = "collect" }, function(scope)
    self.jobs = jobs.new(scope, {
      values = function(job, values)
        if values.n > 0 then _G._ = values[1] end
        output.values(values, nil, job.whole)
        if job.after then job.after(job) end
      end,
      ended = function(job)
        if job.state == "failed" then output.error(job.err) end
        if job.state == "cancelled" then output.notice(("[%d] cancelled"):format(job.number)) end
      end,
      busy = function() end,
      free = function()
        if self.free then self.free:wake() end
        self.free = nil
      end,
    })
    program.on_interrupt = function() on_interrupt(self) end
    terminal_core.keep_on(true)
    converse(self)
    terminal_core.keep_on(false)
    for _, job in ipairs(self.jobs:alive()) do
      jobs.cancel(job, "the prompt ends")
    end
  end)
  for _, failure in ipairs(lua:close()) do
    output.error(failure.error, ("closing '%s': "):format(failure.name))
  end
end

return plain
