-- Standard input for what runs at the prompt: lines that are typed while its task
-- waits for them. The keys themselves are the editor's.

local core = require("sbx.core.stock")
local jobs = require("sbx.repl.jobs")

local stdin = {}

---@class sbx.repl.Stdin
---@field reader file*
---@field writer file*
local Stdin = {}
Stdin.__index = Stdin

-- A pipe with both of its ends as files.
---@async
local function open_pipe()
  local reader, descriptor = core.pipe("r")
  local writer = io.open("/proc/self/fd/" .. descriptor, "w")
  core.close_fd(descriptor)
  writer:setvbuf("no")
  return reader, writer
end

---@async
local function renew(self)
  self.reader, self.writer = open_pipe()
  io.stdin = self.reader
  io.input(self.reader)
end

-- A function that counts the job's reading tasks while it waits.
local function counting(self, fn, is_ours)
  return function(...)
    local job = jobs.current()
    if not job or not is_ours(...) then return fn(...) end
    job.reading = job.reading + 1
    self.changed()
    local _ <close> = setmetatable({}, { __close = function()
      job.reading = job.reading - 1
      self.changed()
    end })
    return fn(...)
  end
end

-- The same for functions whose results, iterators, do the reading.
local function counting_lines(self, fn, is_ours)
  return function(...)
    local next_line = fn(...)
    if not is_ours(...) then return next_line end
    return counting(self, next_line, function() return true end)
  end
end

---Puts it in the place of the standard input. `changed` is called when a job begins
---or ends to wait for a line.
---@async
---@param changed fun()
---@return sbx.repl.Stdin
function stdin.install(changed)
  local self = setmetatable({ changed = changed, restore = {} }, Stdin)
  local original = io.stdin
  local methods = getmetatable(original).__index
  local kept = { read = io.read, lines = io.lines, method = methods.read,
    method_lines = methods.lines }
  renew(self)
  local function is_default() return io.input() == self.reader end
  io.read = counting(self, kept.read, is_default)
  methods.read = counting(self, kept.method, function(file) return file == self.reader end)
  io.lines = function(...)
    -- With a name its iterator has values more, which close the file.
    if ... ~= nil then return kept.lines(...) end
    return counting_lines(self, kept.lines, is_default)(...)
  end
  methods.lines = function(...)
    if (...) ~= self.reader then return kept.method_lines(...) end
    return counting_lines(self, kept.method_lines, function() return true end)(...)
  end
  self.undo = function()
    io.read, io.lines, methods.read, methods.lines =
      kept.read, kept.lines, kept.method, kept.method_lines
    io.stdin = original
    io.input(original)
  end
  return self
end

---Gives a line to whoever reads.
---@async
---@param text string  without its line feed
function Stdin:send(text)
  self.writer:write(text, "\n")
end

---Ends the input for whoever reads; what reads later has a new one.
---@async
function Stdin:finish()
  self.writer:close()
  renew(self)
end

---Gives the standard input back.
function Stdin:close()
  self.undo()
  self.writer:close()
end

Stdin.__close = Stdin.close

return stdin
