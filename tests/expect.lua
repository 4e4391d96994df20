-- What tests expect of a call that must fail.

local errors = require("sbx.errors")
local task = require("sbx.task")

local expect = {}

---Expects `fn(...)` to raise an error object, and returns it.
---@async
function expect.failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "did not fail")
  assert(errors.is_error(err), tostring(err))
  return err
end

---The same, with this `code`.
---@async
function expect.code(code, fn, ...)
  local err = expect.failure(fn, ...)
  assert(err.code == code, tostring(err))
  return err
end

---Expects `fn(...)` to refuse its arguments: a plain string that holds `text`.
---@async
function expect.misuse(text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "did not fail")
  assert(type(err) == "string" and err:find(text, 1, true), tostring(err))
end

---Expects `fn(...)` to raise anything whose text holds `text`, and returns it.
---@async
function expect.fails(text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "did not fail, expected: " .. text)
  assert(tostring(err):find(text, 1, true), tostring(err))
  return err
end

---Runs `fn(...)` until `condition(running)` holds, however long that takes, and cancels it
---then. Expects that it has not come to an end by itself.
---@async
---@param condition fun(running: sbx.Task): any
function expect.cancelled_once(condition, fn, ...)
  task.scope(function(scope, ...)
    local running = scope:pspawn(fn, ...)
    task.timeout(60, function()
      while not condition(running) do
        assert(running.status ~= "done" and running.status ~= "failed", running.status)
        task.sleep(0.002)
      end
    end)
    running:cancel()
    assert(not running:pjoin(), "it had ended")
  end, ...)
end

---Whether `text` is in any string that can be reached from `value`.
function expect.shows(value, text, seen)
  seen = seen or {}
  if type(value) == "string" then return value:find(text, 1, true) ~= nil end
  if type(value) ~= "table" or seen[value] then return false end
  seen[value] = true
  for name, item in pairs(value) do
    if expect.shows(name, text, seen) or expect.shows(item, text, seen) then return true end
  end
  return expect.shows(tostring(value), text, seen)
end

return expect
