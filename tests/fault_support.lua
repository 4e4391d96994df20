-- For tests of what is tried again: pauses that cost no time, clocks of sbx.http that
-- are short, and what became of a call.

local core = require("sbx.core.task")
local http = require("sbx.http")
local task = require("sbx.task")
local test_module = require("sbx.test")
local timing = require("sbx.core.test")

local support = {}

local ended = { done = true, failed = true, cancelled = true }

-- What takes real time and comes to an end by itself, however busy the machine is.
local at_work = {
  http = true, ["http upload"] = true, connect = true, ["name look-up"] = true, open = true,
  mkstemp = true, mkdir = true, rename = true, remove = true, unlink = true, stat = true,
  chmod = true, fsync = true, write = true, close = true,
}

local HANGS = 5 -- real seconds: what is at work for longer waits for the virtual clock

local function is_at_work()
  for _, each in ipairs(core.list()) do
    if at_work[each.waiting_on] then return true end
  end
  return false
end

---Calls `fn(...)` on the virtual clock and moves that on until it has ended, but not
---while something real is at work: a busy machine is no reason for a deadline to pass.
---@async
---@return boolean ok, any result
function support.at_once(fn, ...)
  local clock = test_module.clock()
  local running = task.pspawn(fn, ...)
  while not ended[running.status] do
    local since = timing.now()
    repeat
      clock:advance(0) -- over after some moments of silence
    until ended[running.status] or not is_at_work() or timing.now() - since > HANGS
    if not ended[running.status] then clock:advance(1) end
  end
  return running:pjoin()
end

---The error that `fn(...)` raises, on the virtual clock.
---@async
function support.failure(fn, ...)
  local ok, err = support.at_once(fn, ...)
  assert(not ok, "expected a failure")
  assert(type(err) == "table" and err.kind, "expected an error object, got " .. tostring(err))
  return err
end

---Until the value is closed no request to a URL that matches `pattern` is waited for
---longer than `seconds`. Only what hangs may match: the rest gets all the time it needs.
function support.impatient(pattern, seconds, connect_seconds)
  local request, stream = http.request, http.stream
  local function hurried(fn)
    return function(method, url, options)
      if url:find(pattern) then
        options.timeout = math.min(options.timeout or seconds, seconds)
        options.connect_timeout = connect_seconds or options.connect_timeout
      end
      return fn(method, url, options)
    end
  end
  http.request, http.stream = hurried(request), hurried(stream)
  return setmetatable({}, { __close = function()
    http.request, http.stream = request, stream
  end })
end

---Claims what an error says: each member of `expected` by name, `cause` as a kind.
function support.expect(err, expected, what)
  for name, value in pairs(expected) do
    local got = rawget(err, name)
    if name == "cause" then got = err.cause and err.cause.kind end
    if name == "unknown" then
      got, value = err.outcome, value and "unknown" or nil
    end
    assert(got == value, ("%s: %s is %s, expected %s (%s)"):format(
      what, name, tostring(got), tostring(value), tostring(err)))
  end
end

return support
