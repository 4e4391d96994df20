-- What tests expect of a call that must fail.

local errors = require("sbx.errors")

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
