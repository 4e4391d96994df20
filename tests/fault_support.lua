-- For tests of what is tried again: pauses that cost no time, clocks of sbx.http that
-- are short, and what became of a call.

local http = require("sbx.http")
local task = require("sbx.task")
local test_module = require("sbx.test")

local support = {}

local ended = { done = true, failed = true, cancelled = true }

---Calls `fn(...)` on the virtual clock and moves that on until it has ended.
---@async
---@return boolean ok, any result
function support.at_once(fn, ...)
  local clock = test_module.clock()
  local running = task.pspawn(fn, ...)
  while not ended[running.status] do
    clock:advance(1)
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

---Until the value is closed no request is waited for longer than `seconds`.
function support.impatient(seconds, connect_seconds)
  local request, stream = http.request, http.stream
  local function hurried(fn)
    return function(method, url, options)
      options.timeout = math.min(options.timeout or seconds, seconds)
      options.connect_timeout = connect_seconds or options.connect_timeout
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
