-- The prompt on a terminal: brings keys to the editor, inputs to the jobs, and all
-- that is to be seen to the screen.

local clean = require("sbx.log.clean")
local commands = require("sbx.repl.commands")
local complete = require("sbx.repl.complete")
local editor = require("sbx.repl.editor")
local evaluate = require("sbx.repl.evaluate")
local history = require("sbx.repl.history")
local host = require("sbx.core.host")
local jobs = require("sbx.repl.jobs")
local keys = require("sbx.repl.keys")
local names = require("sbx.repl.names")
local output = require("sbx.repl.output")
local program = require("sbx.cli.program")
local screen = require("sbx.progress.screen")
local secret = require("sbx.repl.secret")
local signal = require("sbx.signal")
local stdin = require("sbx.repl.stdin")
local task = require("sbx.task")
local terminal = require("sbx.repl.terminal")
local terminal_core = require("sbx.core.terminal")
local view = require("sbx.repl.view")

local session = {}

local ESCAPE_SECONDS = 0.05 -- for what follows an escape that belongs to a key
local COMPLETION_SECONDS = 0.5
local MOST_WORDS = 200 -- of a completion that are shown
local MOST_ECHO = 100 -- lines of an input that stay on the screen

---@class sbx.repl.Prompted
---@field lua sbx.repl.Session
---@field jobs sbx.repl.Jobs
---@field history sbx.repl.History
---@field terminal sbx.repl.Terminal
---@field command sbx.Task|nil  that runs
---@field queue string[]  what was entered and has to wait
local Prompted = {}
Prompted.__index = Prompted

-- ---------------------------------------------------------------------- prompts

local IDLE = { first = "> ", other = ". " }

-- Whether what is typed now is for a task of the job in the foreground.
local function is_reading(self)
  local job = self.jobs.foreground
  return job ~= nil and job.reading > 0
end

local function prompt(self)
  if self.asking then return { first = self.asking.text .. " ", other = "  " } end
  local job = self.jobs.foreground
  if not job then return IDLE end
  if is_reading(self) then return { first = "stdin: ", other = "stdin: " } end
  local queued = #self.queue > 0 and (" +%d"):format(#self.queue) or ""
  local first = ("[%d%s] "):format(job.number, queued)
  return { first = first, other = (" "):rep(#first) }
end

local function columns()
  return host.columns(2) or 80
end

local function echo(self, text, with)
  screen.leave(view.echo(text, with or prompt(self), columns(), MOST_ECHO))
end

-- ----------------------------------------------------------------------- inputs

local function remember(self, text)
  if self.history:add(text) then
    self.scope:pspawn(self.history.save, self.history, text).name = "history"
  end
end

---Runs an input in the foreground, where there is no job now. Never waits.
---@param text string
---@param options? { input?: sbx.repl.Input, after?: async fun(job: sbx.repl.Job), whole?: boolean }
function Prompted:run(text, options)
  options = options or {}
  self.count = self.count + 1
  local number = self.count
  local input, problem = options.input, nil
  if not input then
    input, problem = self.lua:compile(text, ("=in[%d]"):format(number))
  end
  if not input then
    self:tell(function() output.error(problem) end)
    return
  end
  local job = self.jobs:start(input, text, number)
  job.after, job.whole = options.after, options.whole
end

---Runs `fn` beside what else is going on: for what is printed.
---@param fn async fun()
function Prompted:tell(fn)
  self.scope:pspawn(function()
    local ok, err = pcall(fn)
    if not ok then output.error(err) end
  end).name = "prompt"
end

-- What waits behind a job does not outlive its cancelling.
local function drop_queue(self)
  self.dropped = self.queue
  self.queue = {}
end

local function tell_dropped(self)
  local dropped = self.dropped or {}
  self.dropped = nil
  for _, text in ipairs(dropped) do
    output.notice("not run: " .. clean.line(commands.headline(text), 200))
  end
end

local run_next

-- One command at a time, and what is entered behind it after it.
local function command(self, text)
  self.command = self.scope:pspawn(function()
    local ok, err = pcall(commands.run, self, text)
    self.command = nil
    if not ok and not self.ending then output.error(err) end
    tell_dropped(self)
    run_next(self)
  end)
  self.command.name = "command"
end

-- The next of what was entered while something else ran.
function run_next(self)
  while #self.queue > 0 and not self.jobs.foreground and not self.command and not self.ending do
    local text = table.remove(self.queue, 1)
    echo(self, text, IDLE)
    if commands.is_one(text) then command(self, text) else self:run(text) end
  end
  screen.refresh()
end

local function accept(self)
  local text = self.editor.buffer:text()
  if is_reading(self) then
    echo(self, text)
    self.editor:reset()
    self.stdin:send(text)
    return
  end
  self.editor:reset()
  if not text:find("%S") then
    echo(self, text)
    return
  end
  remember(self, text)
  local is_command, hint = commands.is_one(text), commands.hint(self, text)
  if hint then
    echo(self, text, IDLE)
    self:tell(function() output.notice(hint) end)
  elseif self.command or (self.jobs.foreground and not is_command) then
    table.insert(self.queue, text)
  elseif is_command then
    echo(self, text, IDLE)
    command(self, text)
  else
    echo(self, text)
    self:run(text)
  end
end

-- ------------------------------------------------------------------- completion

local function completion(self)
  local found
  task.move_on(COMPLETION_SECONDS, function()
    found = complete.at(self.editor.buffer:before(), self.names)
  end)
  return found
end

local function complete_word(self)
  local buffer = self.editor.buffer
  -- Where nothing stands before the cursor a tab is a tab: two blanks.
  if not buffer.lines[buffer.row]:sub(1, buffer.at - 1):find("%S") then
    self.editor:complete(0, "  ")
    return
  end
  local found = completion(self)
  if not found or #found.words == 0 then return end
  local common = complete.common(found.words)
  local line = buffer.lines[buffer.row]
  local ends = #found.words == 1 and found.closing and common:sub(-1) ~= "/"
  if ends and line:sub(buffer.at, buffer.at) ~= found.closing then
    common = common .. found.closing
  end
  local word = line:sub(buffer.at - found.count, buffer.at - 1)
  if common ~= word and common ~= "" then
    self.editor:complete(found.count, common)
  elseif #found.words > 1 then
    screen.leave(complete.columns(found.words, columns(), MOST_WORDS))
  end
end

-- ---------------------------------------------------------------------- the end

-- What would end with the prompt: "2 jobs and 1 sandbox", or nil.
local function alive(self)
  local parts = {}
  local function add(count, word, words)
    if count > 0 then parts[#parts + 1] = ("%d %s"):format(count, count == 1 and word or words) end
  end
  add(#self.jobs:alive() + #self.queue, "job", "jobs")
  local ownership = package.loaded["sbx.sandbox.ownership"]
  add(ownership and ownership.left() or 0, "sandbox", "sandboxes")
  return #parts > 0 and table.concat(parts, " and ") or nil
end

---Ends the prompt. Never waits.
function Prompted:quit()
  self.ending, self.queue = true, {}
  self.terminal:wake()
end

---Ends it, after a question where that ends jobs or sandboxes too.
function Prompted:ask_to_quit()
  local left = alive(self)
  if not left then
    self:quit()
    return
  end
  self.asking = {
    text = ("%s will end: leave? [y/N]"):format(left),
    yes = function() self:quit() end,
  }
  screen.refresh()
end

local function answer(self, key)
  local asking = self.asking
  local word = key.text or key.name or "paste"
  self.asking = nil
  screen.leave(view.echo((key.text or ""):sub(1, 1), { first = asking.text .. " ", other = "" },
    columns(), 1))
  if word:find("^[yYjJ]") or key.name == "ctrl-d" then asking.yes() end
end

-- ------------------------------------------------------------------------- keys

local actions = {}

function actions.accept(self)
  accept(self)
end

function actions.complete(self)
  complete_word(self)
end

function actions.interrupt(self)
  local job = self.jobs.foreground
  if job then
    drop_queue(self)
    jobs.cancel(job, "Ctrl-C")
    return
  end
  if self.command then
    drop_queue(self)
    self.command:cancel("Ctrl-C")
    return
  end
  echo(self, self.editor.buffer:text() .. "^C")
  self.editor:reset()
end

actions["end"] = function(self)
  if is_reading(self) then
    self.stdin:finish()
  else
    self:ask_to_quit()
  end
end

function actions.suspend(self)
  self.terminal:suspend()
end

function actions.clear()
  screen.clear()
end

local function take_key(self, key)
  if self.asking then
    answer(self, key)
    return
  end
  local action = self.editor:key(key)
  if action then actions[action](self) end
end

-- Ctrl-C as a signal, while a job is in the foreground. Runs outside every task, or inside the one that keeps
-- all others from running: it cannot wait.
local function on_interrupt(self)
  local job = self.jobs.foreground
  -- Where the one before has not been seen, too, something holds the loop.
  if not job and (self.inbox or self.terminal.busy) then job = jobs.current() end
  if job then
    drop_queue(self)
    jobs.cancel(job, "Ctrl-C")
    return
  end
  self.inbox = { bytes = terminal_core.take() }
  self.terminal:wake()
end

local function take_keys(self, found)
  for _, key in ipairs(found) do
    take_key(self, key)
    if self.ending then return end
  end
end

-- Reads keys until the end.
---@async
local function read_keys(self)
  local decoder = keys.decoder()
  while not self.ending do
    if not self.jobs.foreground and self.terminal.busy then self.terminal:set_busy(false) end
    screen.refresh()
    local bytes = self.terminal:read(decoder:is_pending() and ESCAPE_SECONDS or nil)
    local inbox = self.inbox
    self.inbox = nil
    if inbox then
      take_keys(self, decoder:feed(inbox.bytes))
      take_keys(self, { { name = "ctrl-c" } })
    elseif not bytes then
      return -- the terminal is gone
    elseif bytes == "" then
      take_keys(self, decoder:give_up())
    else
      take_keys(self, decoder:feed(bytes))
    end
  end
end

-- ----------------------------------------------------------------------- events

local function events(self)
  return {
    values = function(job, values)
      if values.n > 0 then _G._ = values[1] end
      output.values(values, job.background and ("[%d] "):format(job.number) or nil, job.whole)
      if job.after then job.after(job) end
    end,
    ended = function(job)
      local label = job ~= self.jobs.foreground and ("[%d] "):format(job.number) or ""
      if job.state == "failed" then
        output.error(job.err, label)
      elseif job.state == "cancelled" then
        output.notice(("[%d] cancelled"):format(job.number))
        tell_dropped(self)
      elseif job.background then
        output.notice(("[%d] done"):format(job.number))
      end
    end,
    busy = function() self.terminal:set_busy(true) end,
    free = function()
      self.terminal:set_busy(false)
      run_next(self)
    end,
  }
end

---@async
local function watch_signals(self)
  local listener <close> = signal.listen("WINCH", "CONT")
  for name in listener:each() do
    if name == "CONT" then self.terminal:continue() end
    screen.draw()
  end
end

-- Commands that a person runs from here have the terminal for themselves.
local function wrap_execute(self)
  local original = os.execute
  local function release()
    self.terminal:release()
    return setmetatable({}, { __close = function() self.terminal:resume() end })
  end
  os.execute = function(...)
    if ... == nil then return original(...) end
    local _ <close> = release()
    return original(...)
  end
  return setmetatable({}, { __close = function() os.execute = original end })
end

-- -------------------------------------------------------------------- the prompt

---@async
local function close_variables(self)
  for _, failure in ipairs(self.lua:close()) do
    output.error(failure.error, ("closing '%s': "):format(failure.name))
  end
end

---@async
local function converse(self)
  local input <close> = stdin.install(function() screen.refresh() end)
  self.stdin = input
  local _ <close> = wrap_execute(self)
  task.scope({ name = "prompt", on_error = "collect" }, function(scope)
    self.scope = scope
    self.jobs = jobs.new(scope, events(self))
    scope:daemon(watch_signals, self)
    program.on_interrupt = function() on_interrupt(self) end
    -- No key is read then.
    program.on_slow = function() self.terminal:set_busy(true) end
    terminal_core.keep_on(true)
    screen.set_footer(function(width, most)
      return view.rows(self.editor, prompt(self), width, most)
    end)
    read_keys(self)
    terminal_core.keep_on(false)
    program.on_interrupt, program.on_slow = nil, nil
    self.ending = true
    self.terminal:close()
    for _, job in ipairs(self.jobs:alive()) do
      jobs.cancel(job, "the prompt ends")
    end
  end)
  close_variables(self)
end

---Talks to a person until they leave. Terminal and signals are given back then.
---@async
function session.run()
  local lua = evaluate.new()
  local env <close> = names.install(lua)
  secret.learn()
  local self = setmetatable({
    lua = lua, history = history.open(), queue = {}, count = 0, ending = false, names = env,
  }, Prompted)
  env.command = function(text) return commands.complete(self, text) end
  self.editor = editor.new({
    history = self.history,
    is_unfinished = function(text)
      return not self.asking and not is_reading(self) and not commands.is_one(text)
        and evaluate.is_unfinished(text)
    end,
  })
  output.notice(("sbxlua %s (%s). :help for help, Ctrl-D to leave."):format(host.version,
    _VERSION))
  local opened <close> = terminal.open()
  self.terminal = opened
  local _ <close> = setmetatable({}, { __close = function()
    terminal_core.keep_on(false)
    program.on_interrupt, program.on_slow = nil, nil
  end })
  converse(self)
end

return session
