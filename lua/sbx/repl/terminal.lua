-- The terminal while a person types on it: its modes, what is read from it, and how
-- it is given to somebody else for a while.

local core = require("sbx.core.terminal")
local draw = require("sbx.core.screen").draw
local host = require("sbx.core.host")
local screen = require("sbx.progress.screen")
local task = require("sbx.task")

local terminal = {}

-- Pastes come between marks.
local MARKS_ON, MARKS_OFF = "\27[?2004h", "\27[?2004l"

---Whether lines can be edited here: standard input and error are a terminal that
---knows more than to print.
---@return boolean
function terminal.is_able()
  local term = os.getenv("TERM") or ""
  return host.isatty(0) and host.isatty(2) and term ~= "" and term ~= "dumb"
end

---@class sbx.repl.Terminal
---@field held integer  how often it was given away
local Terminal = {}
Terminal.__index = Terminal

local function take(self)
  core.raw()
  core.signals(self.busy)
  draw(MARKS_ON, true)
end

---Whether Ctrl-C is to reach what runs, in place of being a key among others.
---@param yes boolean
function Terminal:set_busy(yes)
  self.busy = yes
  if self.held == 0 and not self.ended then core.signals(yes) end
end

---Takes the terminal. It is given back at the end of a `<close>` variable.
---@return sbx.repl.Terminal
function terminal.open()
  local self = setmetatable({ input = io.stdin, held = 0, ended = false, busy = false }, Terminal)
  screen.watch()
  take(self)
  return self
end

---Bytes that were typed, as soon as there are any, or "" when `wake` was called or
---the time is over; nil at the end.
---@async
---@param seconds number|nil
---@return string|nil
function Terminal:read(seconds)
  while self.held > 0 do
    self.waiter = task.waiter("the terminal")
    self.waiter:wait()
  end
  local first, ended
  task.scope(function(scope)
    self.reading = scope
    if self.woken then return end
    if seconds then
      task.move_on(seconds, function()
        first = self.input:read(1)
        ended = not first
      end)
    else
      first = self.input:read(1)
      ended = not first
    end
  end)
  self.reading, self.woken = nil, false
  if first then
    self.stopped = false
    return first .. core.take()
  end
  if ended then return nil end
  return ""
end

---Ends a `read` that waits, or else the next one. Never waits.
function Terminal:wake()
  self.woken = true
  if self.reading then self.reading:cancel("woken") end
end

---Gives the terminal away, with the modes that it had; as often as `resume`.
function Terminal:release()
  self.held = self.held + 1
  if self.held > 1 then return end
  if self.reading then self:wake() end
  screen.hide()
  draw(MARKS_OFF, true)
  core.restore()
end

function Terminal:resume()
  self.held = self.held - 1
  if self.held > 0 then return end
  take(self)
  screen.forget()
  screen.show()
  if self.waiter then
    self.waiter:wake()
    self.waiter = nil
  end
end

---Stops this job as Ctrl-Z does, and goes on when the shell says so.
function Terminal:suspend()
  screen.hide()
  draw(MARKS_OFF, true)
  core.restore()
  core.suspend()
  self.stopped = true
  take(self)
  screen.forget()
  screen.show()
end

---After somebody stopped the program and lets it go on: the shell has changed the modes.
function Terminal:continue()
  -- What `suspend` has seen to.
  local known = self.stopped
  self.stopped = false
  if known then return end
  core.restore()
  if self.held > 0 then return end
  take(self)
  screen.forget()
end

function Terminal:close()
  if self.ended then return end
  self.ended = true
  screen.set_footer(nil)
  draw(MARKS_OFF, true)
  core.restore()
end

Terminal.__close = Terminal.close

return terminal
