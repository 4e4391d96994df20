-- What a test claims. A claim that does not hold raises an error object of kind
-- `assertion` whose message says where and what, and `detail` more of it.

local check = require("sbx.check")
local compare = require("sbx.test.compare")
local errors = require("sbx.errors")

local assertions = {}

-- Raises in the name of the line `level` calls up.
local function refuse(level, what, message, detail)
  local info = debug.getinfo(level + 1, "Sl")
  local place = info and info.currentline > 0
    and ("%s:%d: "):format(info.short_src, info.currentline) or ""
  if what then message = tostring(what) .. ": " .. message end
  errors.raise { kind = "assertion", message = place .. message, detail = detail }
end

---Claims that two values are equal: numbers, texts and whatever compares equal,
---tables by what they hold, all the way down. NaN equals NaN here.
---@param got any
---@param expected any
---@param what? string  what the values are, for the message
function assertions.equal(got, expected, what)
  local found = compare.differences(got, expected)
  if found.count == 0 then return end
  if found.count == 1 and not found[1]:find("\n", 1, true) then refuse(2, what, found[1]) end
  local lines = table.concat(found, "\n")
  if found.count > #found then lines = ("%s\n(%d more)"):format(lines, found.count - #found) end
  local count = found.count == 1 and "differs" or found.count .. " differences"
  refuse(2, what, count, lines)
end

---Claims that two numbers are no further apart than `within`.
---@param got number
---@param expected number
---@param within? number  default 1e-9
---@param what? string
function assertions.near(got, expected, within, what)
  check.number(expected, "expected")
  within = check.number(within or 1e-9, "within", 0)
  if type(got) == "number" and (got == expected or math.abs(got - expected) <= within) then
    return
  end
  refuse(2, what, ("got %s, expected %s within %s")
    :format(compare.show(got), compare.show(expected), compare.show(within)))
end

---Claims that a text holds a piece of text, or a list an element that is equal.
---@param whole string|table
---@param part any
---@param what? string
function assertions.contains(whole, part, what)
  if type(whole) == "string" and type(part) == "string" then
    if whole:find(part, 1, true) then return end
  elseif type(whole) == "table" then
    for _, value in ipairs(whole) do
      if compare.equal(value, part) then return end
    end
  else
    error("contains: expected a text and a piece of text, or a list and an element", 2)
  end
  refuse(2, what, ("%s does not contain %s"):format(compare.show(whole), compare.show(part)))
end

local function is_expected(err, expected)
  if errors.is_error(err) and (err:is(expected) or err.code == expected) then return true end
  return tostring(err):find(expected) ~= nil
end

---Claims that `fn(...)` fails, and returns its error. `expected` is the kind or
---the code of an error object, or a Lua pattern that the error's text matches.
---@async
---@param fn async fun(...)
---@param expected? string
---@param ... any  for `fn`
---@return any err
function assertions.raises(fn, expected, ...)
  check.fn(fn, "raises")
  if expected ~= nil then
    check.string(expected, "expected")
    local ok = pcall(string.find, "", expected)
    if not ok then error("expected: not a Lua pattern: " .. expected, 2) end
  end
  local ok, err = pcall(fn, ...)
  if ok then
    refuse(2, nil, "did not fail" .. (expected and ", expected " .. expected or ""))
  end
  if expected == nil or is_expected(err, expected) then return err end
  -- The end of the test itself is not what was asked for.
  if errors.is_error(err) and err.kind == "cancelled" then error(err, 0) end
  local text = compare.show(err)
  if errors.is_error(err) then text = ("%s (kind %s)"):format(err, err.kind) end
  refuse(2, nil, ("failed with %s, expected %s"):format(text, expected))
end

return assertions
