-- io.popen and os.execute: shell commands whose caller waits like anybody else.

local core = require("sbx.core.stock")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")
local tasks = require("sbx.core.task")

local command = {}

-- With a terminal at hand a command is to reach it, and so shares our session;
-- without one it leads its own, and all that it started can be ended with it.
local function leads_session()
  return not (host.isatty(0) or host.isatty(1) or host.isatty(2))
end

local function start(text, options)
  core.push() -- what was printed before it comes before what it prints
  options.session = leads_session()
  return process.spawn({ "/bin/sh", "-c", tostring(text) }, options)
end

-- The three results of stock Lua for a command that has ended.
local function results(code, signal)
  if signal then return nil, "signal", signal end
  return code == 0 or nil, "exit", code
end

---Runs a shell command to its end. Without one: whether there is a shell.
---@async
---@param text? string
---@return boolean|nil ok, "exit"|"signal"|nil how, integer|nil code
function command.execute(text)
  if text == nil then return true end
  local started, child = pcall(start, text, { stdin = "inherit" })
  if not started then return results(127) end -- as when the shell is missing
  local guard <close> = child
  return results(guard:wait())
end

-- What is left to do for a command whose scope ends before it: what it reads
-- from us ends, and may be used up; what it writes nobody will read.
---@async
local function let_go(child, mode, file)
  if io.type(file) == "file" then
    core.set_closer(file, function() end)
    file:close()
  end
  if mode == "w" then child:wait() end
end

-- Owns the child until its end, or that of the scope it was started in.
---@async
local function keep(child, mode, held)
  local _ <close> = setmetatable({}, {
    __close = function()
      if not child.running then return end
      task.move_on(tasks.cleanup_seconds() / 2, let_go, child, mode, held[1])
      child:close()
    end,
  })
  child:wait()
end

---Starts a shell command: a file that reads its output ("r") or writes its input
---("w"). Closing the file waits for the command's end.
---@param text string
---@param mode? "r"|"w"
---@return file*|nil file, string|nil problem
function command.popen(text, mode)
  mode = mode or "r"
  local file, theirs = core.pipe(mode)
  local started, child = pcall(start, text, {
    stdin = mode == "w" and theirs or "inherit",
    stdout = mode == "r" and theirs or "inherit",
    grace = 1,
  })
  core.close_fd(theirs)
  if not started then
    file:close()
    return nil, text .. ": " .. tostring(child)
  end
  -- Held weakly: a file that nobody has any more is closed by the collector.
  local keeper = task.daemon(keep, child, mode, setmetatable({ file }, { __mode = "v" }))
  keeper.name = "io.popen"
  core.set_closer(file, function(failed)
    if failed then child:close() end
    return results(child:wait())
  end)
  return file
end

return command
