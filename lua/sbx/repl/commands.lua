-- The prompt's own commands: lines that begin with a colon. Each runs beside what is
-- in the foreground; what it prints appears above the line.

local clean = require("sbx.log.clean")
local complete = require("sbx.repl.complete")
local host = require("sbx.core.host")
local inspect = require("sbx.inspect")
local jobs = require("sbx.repl.jobs")
local nearest = require("sbx.nearest")
local program_end = require("sbx.run")
local places = require("sbx.repl.complete_strings")
local task = require("sbx.task")
local time = require("sbx.time")
local width = require("sbx.cli.width")

local commands = {}

---@class sbx.repl.Command
---@field name string
---@field usage string
---@field summary string
---@field run async fun(self: sbx.repl.Prompted, argument: string)
---@field words nil|"code"|async fun(self: sbx.repl.Prompted, prefix: string): { text: string }[]

local function fail(text, ...)
  error(text:format(...), 0)
end

local function words_of(texts)
  local words = {}
  for i, text in ipairs(texts) do
    words[i] = { text = text }
  end
  return words
end

local function job_numbers(self)
  local numbers = {}
  for i, job in ipairs(self.jobs:alive()) do
    numbers[i] = tostring(job.number)
  end
  return words_of(numbers)
end

local function find_job(self, argument)
  local number = argument ~= "" and math.tointeger(tonumber(argument)) or nil
  if argument ~= "" and not number then fail("expected the number of a job, got '%s'", argument) end
  local job = self.jobs:find(number)
  if not job then fail(number and "no job %d" or "no job is running", number) end
  return job
end

local function living_job(self, argument)
  local job = find_job(self, argument)
  if job.ended then fail("job %d has ended", job.number) end
  return job
end

---The first line of an input, for a list.
---@param text string
---@return string
function commands.headline(text)
  local line = text:match("^%s*([^\n]*)")
  return line .. (#line < #text and " ..." or "")
end

-- ------------------------------------------------------------------------- jobs

local function list_jobs(self)
  local rows, most, digits = {}, (host.columns(1) or 80) - 1, 1
  for _, job in ipairs(self.jobs.list) do
    digits = math.max(digits, #tostring(job.number))
  end
  for _, job in ipairs(self.jobs.list) do
    local age = time.format_duration(math.floor((job.ended or task.now()) - job.began))
    local waits = not job.ended and job.task.waiting_on
    local mark = ("[%d]%s"):format(job.number, job == self.jobs.foreground and "+" or "")
    local row = ("%s %-9s %6s  %s"):format(width.pad(mark, digits + #"[]+"), job.state, age,
      waits and "(" .. waits .. ") " or "")
    rows[#rows + 1] = width.cut(row .. clean.line(commands.headline(job.text), 200), most)
  end
  print(#rows > 0 and table.concat(rows, "\n") or "no jobs")
end

local function to_foreground(self, argument)
  local job = living_job(self, argument)
  if self.jobs.foreground and self.jobs.foreground ~= job then
    fail("job %d is in the foreground", self.jobs.foreground.number)
  end
  self.jobs:to_foreground(job)
end

local function to_background(self, argument)
  local job = self.jobs.foreground
  if argument ~= "" then job = living_job(self, argument) end
  if not job then fail("no job is in the foreground") end
  if job ~= self.jobs.foreground then fail("job %d is in the background", job.number) end
  -- First this: what waits behind the job begins at once.
  print(("[%d] %s"):format(job.number, commands.headline(job.text)))
  if self.jobs.foreground == job then self.jobs:to_background() end
end

local function cancel(self, argument)
  if argument == "all" then
    for _, job in ipairs(self.jobs:alive()) do
      jobs.cancel(job, ":cancel")
    end
    return
  end
  jobs.cancel(living_job(self, argument), ":cancel")
end

-- What is started in the foreground, which has to be free.
local function start_input(self, text, options)
  if self.jobs.foreground then
    fail("job %d is in the foreground: :bg, or :cancel", self.jobs.foreground.number)
  end
  self:run(text, options)
end

-- ------------------------------------------------------------------------- code

local function measure(self, argument)
  if argument == "" then fail(":time CODE") end
  local cpu = os.clock()
  start_input(self, argument, { after = function(job)
    print(("%.3f s, %.3f s of CPU"):format(job.seconds, os.clock() - cpu))
  end })
end

local function inspect_whole(self, argument)
  if argument == "" then fail(":inspect VALUE") end
  start_input(self, argument, { whole = true })
end

-- A path as the shell has it.
local function from_home(path)
  return (path:gsub("^~/", (os.getenv("HOME") or "~") .. "/"))
end

local function load_file(self, argument)
  if argument == "" then fail(":load FILE") end
  local chunk, problem = loadfile(from_home(argument))
  if not chunk then error(problem, 0) end
  start_input(self, ":load " .. argument, { input = { fn = chunk, run = chunk,
    salvage = function() end } })
end

local function is_own(name)
  return name:find("^sbx%.") or name == "sbx"
end

-- Modules that are files of the user's.
local function loaded_modules()
  local found = {}
  for name in pairs(package.loaded) do
    if type(name) == "string" and not is_own(name) and package.searchpath(name, package.path) then
      found[#found + 1] = name
    end
  end
  table.sort(found)
  return found
end

-- The new table's fields go into the old one, so that who holds it sees them.
local function reload_one(name)
  local before = package.loaded[name]
  package.loaded[name] = nil
  local ok, result = pcall(require, name)
  if not ok then
    package.loaded[name] = before
    error(result, 0)
  end
  if type(before) == "table" and type(result) == "table" then
    for key in pairs(before) do
      if result[key] == nil then before[key] = nil end
    end
    for key, value in pairs(result) do
      before[key] = value
    end
    package.loaded[name] = before
  end
end

local function reload(_, argument)
  local modules = loaded_modules()
  if argument ~= "" then
    if is_own(argument) then fail("modules of the library are not reloaded") end
    if package.loaded[argument] == nil then fail("module '%s' is not loaded", argument) end
    modules = { argument }
  end
  for _, name in ipairs(modules) do
    reload_one(name)
    print("reloaded " .. name)
  end
  if #modules == 0 then print("no modules but the library's are loaded") end
end

-- ------------------------------------------------------------------------ facts

local function shown_page(text)
  return require("sbx.repl.page").render(text, host.columns(1) or 80, inspect.has_colour(1))
end

local function document(self, argument)
  if argument == "" then fail(":doc FUNCTION") end
  local input = self.lua:compile(argument, "=doc")
  local value
  if argument:find("^[%a_][%w_.:]*$") then
    input = self.lua:compile((argument:gsub(":", ".")), "=doc")
  end
  if not input then fail("'%s' is no expression", argument) end
  value = input.run()
  local help = require("sbx.repl.help")
  local text = type(value) == "function" and help.of_function(value, argument)
  if not text and type(value) == "table" then
    text = help.find(argument)
    if text then text = shown_page(text) end
  end
  if not text then fail("nothing is known of '%s'", argument) end
  print(text)
end

local function http(_, argument)
  local stats, lookups = require("sbx.http").stats()
  local rows = {}
  for name, each in pairs(stats) do
    if argument == "" or name:find(argument, 1, true) then
      rows[#rows + 1] = ("%s: %d active, %d queued, %d connections, %d started, %d failed%s")
        :format(name, each.active, each.queued, each.connections, each.started, each.failed,
          each.p50 and (", p50 %.0f ms, p99 %.0f ms"):format(each.p50 * 1000, each.p99 * 1000)
            or "")
    end
  end
  table.sort(rows)
  rows[#rows + 1] = ("%d name look-ups"):format(lookups)
  print(table.concat(rows, "\n"))
end

local function boxes()
  local ownership = package.loaded["sbx.sandbox.ownership"]
  local rows = {}
  for i, box in ipairs(ownership and ownership.list() or {}) do
    rows[i] = require("sbx.inspect.brief").line("sbx.sandbox.Box", box) or tostring(box)
  end
  print(#rows > 0 and table.concat(rows, "\n") or "this session has no sandboxes")
end

-- Ends the trace that `:trace FILE` began, if there is one.
local function end_trace(self)
  if not self.tracing then return end
  self.tracing = nil
  require("sbx.trace").stop()
end

local function trace(self, argument)
  if argument == "" then
    print(task.tree())
  elseif argument == "off" then
    if not self.tracing then fail("no trace that :trace has begun is written") end
    local path = self.tracing
    end_trace(self)
    print(("the trace is in %s: sbxlua explain %s"):format(path, path))
  else
    if self.tracing then fail("the trace goes to %s: :trace off ends it", self.tracing) end
    local tracer, path = require("sbx.trace"), from_home(argument)
    if tracer.is_on() then fail("--trace writes one of all that happens here") end
    tracer.start(path)
    self.tracing = path
    print(("a trace goes to %s, until :trace off"):format(path))
    program_end.defer(function() end_trace(self) end, "the trace")
  end
end

local list -- of all commands

local HINTS = "Ctrl-C cancels what is in the foreground, Ctrl-R searches the history, "
  .. "Tab completes.\nModules of the library are globals: task.sleep(1), sandbox.client()."

-- The commands, and what each is for: beside it, or below where the window is narrow.
local function overview(cells)
  local lines, indent = {}, (" "):rep(cells >= 72 and 21 or 6)
  for _, each in ipairs(list) do
    local rows = width.wrap(each.summary, cells - #indent)
    if cells >= 72 then
      rows[1] = width.pad("  " .. each.usage, #indent) .. rows[1]
    else
      rows[1] = "  " .. each.usage .. "\n" .. indent .. rows[1]
    end
    lines[#lines + 1] = table.concat(rows, "\n" .. indent)
  end
  return table.concat(lines, "\n") .. "\n" .. table.concat(width.wrap(HINTS, cells), "\n")
end

local function help(_, argument)
  if argument == "" then
    print(overview((host.columns(1) or 80) - 1))
    return
  end
  local text, problem = require("sbx.repl.help").find(argument)
  if not text then fail("%s", problem) end
  print(shown_page(text))
end

local function page_names()
  local names = {}
  for _, page in ipairs(require("sbx.docs").pages()) do
    names[#names + 1] = page.name
  end
  return words_of(names)
end

-- -------------------------------------------------------------------------- list

local function entry(usage, summary, run, words)
  return { name = usage:match("^:(%a+)"), usage = usage, summary = summary, run = run,
    words = words }
end

---@type sbx.repl.Command[]
list = {
  entry(":help [MODULE]", "this list, or a page of the documentation", help, page_names),
  entry(":doc FUNCTION", "what is known of a function", document, "code"),
  entry(":inspect VALUE", "shows all fields of what is one line else", inspect_whole, "code"),
  entry(":jobs", "inputs that run or have ended lately", list_jobs),
  entry(":fg [N]", "brings a job to the foreground", to_foreground, job_numbers),
  entry(":bg", "leaves the job in the foreground to itself", to_background),
  entry(":cancel [N|all]", "ends a job and all its tasks", cancel, job_numbers),
  entry(":trace [FILE|off]", "what each task waits for; or a trace, to a file", trace,
    function(_, prefix) return places.files(prefix) end),
  entry(":time CODE", "runs it and says how long it took", measure, "code"),
  entry(":load FILE", "runs a script", load_file, function(_, prefix)
    return places.files(prefix)
  end),
  entry(":reload [MODULE]", "loads modules again that were required", reload, function()
    return words_of(loaded_modules())
  end),
  entry(":http [HOST]", "what the connections to each host do", http),
  entry(":boxes", "the sandboxes of this session", boxes),
  entry(":quit", "leaves; so does Ctrl-D", function(self) self:ask_to_quit() end),
}

local by_name, names = {}, {}
for i, each in ipairs(list) do
  by_name[each.name], names[i] = each, each.name
end

---Whether a text is a command. A label of Lua, `::a::`, is none.
---@param text string
---@return boolean
function commands.is_one(text)
  return text:find("^%s*:") ~= nil and not text:find("^%s*::") and not text:find("\n.*\n")
end

-- The command of this name; a beginning that only one has is enough.
local function command_of(name)
  if by_name[name] then return by_name[name] end
  local meant, begin_so = {}, {}
  for _, each in ipairs(list) do
    if each.name:sub(1, #name) == name then
      meant[#meant + 1], begin_so[#begin_so + 1] = each, ":" .. each.name
    end
  end
  if #meant == 1 then return meant[1] end
  if #meant > 1 then fail("':%s' may be %s", name, table.concat(begin_so, ", ")) end
  local guess = nearest.word(name, names)
  fail("no command ':%s'%s", name,
    guess and "; did you mean ':" .. guess .. "'?" or ": :help lists them")
end

-- What people type who want to know more, or to leave.
local WORDS = {
  help = "help", ["?"] = "help", exit = "quit", quit = "quit",
}

---What to say of an input that is meant for the prompt and not for Lua: "exit", "help()".
---Nil for others, and where there is such a variable.
---@param self sbx.repl.Prompted
---@param text string
---@return string|nil
function commands.hint(self, text)
  local word = text:match("^%s*([%a?]+)%s*%(?%s*%)?%s*$")
  local name = word and WORDS[word]
  if not name or rawget(_G, word) ~= nil or select(2, self.lua:value(word)) then return nil end
  return name == "help" and "a command: :help" or "to leave: :quit, or Ctrl-D"
end

---@async
---@param self sbx.repl.Prompted
---@param text string
function commands.run(self, text)
  local name, argument = text:match("^%s*:(%a*)%s*(.-)%s*$")
  if name == "" then fail("a command is a colon and a word: :help lists them") end
  command_of(name).run(self, argument)
end

---What a command's line may become.
---@async
---@param self sbx.repl.Prompted
---@param text string
---@return sbx.repl.Completion|nil
function commands.complete(self, text)
  local prefix = text:match("^:(%a*)$")
  local words, wanted
  if prefix then
    words, wanted = words_of(names), prefix
  else
    local name, argument = text:match("^:(%a+)%s+(.*)$")
    local found = name and by_name[name]
    if not found or not found.words then return nil end
    if found.words == "code" then return complete.at(argument, self.names) end
    wanted = argument:match("^%S*$")
    if not wanted then return nil end
    words = found.words(self, wanted)
  end
  local kept = {}
  for _, word in ipairs(words) do
    if word.text:sub(1, #wanted) == wanted then kept[#kept + 1] = word end
  end
  table.sort(kept, function(a, b) return a.text < b.text end)
  return { count = #wanted, words = kept }
end

return commands
