-- A trace of a run: what the tasks do and wait for (the runtime writes that by itself),
-- the requests, the sandboxes, what was tried again. In the trace event format of Chrome,
-- which Perfetto shows too. docs/trace.md says what is where.

local core = require("sbx.core.trace")
local errors = require("sbx.errors")
local json = require("sbx.json")
local observe = require("sbx.observe")
local redact = require("sbx.log.redact")
local tasks = require("sbx.core.task")

local trace = {}

local MOST_NAME = 200 -- bytes

trace.TASKS, trace.REQUESTS, trace.SANDBOXES = 1, 2, 3 -- "processes" of the picture

---Text that may stand in a trace: without secrets, on one line, and short.
---@param text string
---@return string
function trace.clean(text)
  text = redact.text(text):gsub("[%c\x7f]", " ")
  if #text > MOST_NAME then text = text:sub(1, MOST_NAME):gsub("[\xc0-\xff][\x80-\xbf]*$", "") end
  return utf8.len(text) and text or "?"
end

---An address as it may be seen: without user, query and fragment.
---@param url string
---@return string
function trace.address(url)
  local plain = url:match("^[^?#]*"):gsub("^(%a[%w+.-]*://)[^/@]*@", "%1")
  return trace.clean(plain)
end

-- To the nanosecond, so that what meets does not overlap.
local function exact(microseconds)
  return math.floor(microseconds * 1000 + 0.5) / 1000
end

---Adds an event; nothing when there is no trace any more.
---@param event table
function trace.emit(event)
  local now = core.now()
  if not now then return end
  local ts = exact(event.ts or now)
  if event.dur then event.dur = exact(exact(event.ts + event.dur) - ts) end
  event.ts = ts
  core.event(json.encode(event))
end

---The task that runs now.
---@return integer
function trace.task()
  local current = tasks.current()
  return current and current.id or 0
end

local function name_processes()
  for pid, name in ipairs({ "tasks", "requests", "sandboxes" }) do
    trace.emit({ ph = "M", pid = pid, tid = 0, name = "process_name", args = { name = name } })
  end
end

---Why something failed, in a word or two: "429", "timeout connect", "ECONNRESET".
---@param err any
---@return string
function trace.cause(err)
  if not errors.is_error(err) then return "error" end
  local cause = errors.is_error(err.cause) and err.cause or err
  local status = err.status or cause.status
  if status then return tostring(status) end
  local word = cause.code or cause.kind
  if cause.kind == "timeout" then word = "timeout" end
  if cause.phase then word = ("%s %s"):format(word, cause.phase) end
  return trace.clean(word)
end

local function on_retry(op, err, pause)
  trace.emit({
    ph = "i", s = "t", cat = "retry", name = "retry", pid = trace.TASKS, tid = trace.task(),
    args = { op = trace.clean(op), cause = trace.cause(err), pause_ms = pause * 1000 },
  })
end

---Whether a trace is being written.
---@return boolean
function trace.is_on()
  return core.now() ~= nil
end

---Begins to write a trace. Raises kind `io` where the file cannot be written; it must be
---a plain one.
---@param path string
function trace.start(path)
  core.open(path, trace.clean)
  name_processes()
  observe.retry = on_retry
  require("sbx.trace.requests").start()
  require("sbx.trace.sandboxes").start()
end

---Ends the trace, with all that has not ended yet. Raises what went wrong when it was
---written.
function trace.stop()
  require("sbx.trace.requests").stop()
  require("sbx.trace.sandboxes").stop()
  observe.retry = nil
  core.close()
end

return trace
