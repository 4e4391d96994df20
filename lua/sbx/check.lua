-- Checks what callers pass. Misuse raises a plain string that names the culprit.

local check = {}

-- Stands for "no default" in a table of defaults, where nil cannot.
check.none = setmetatable({}, { __name = "none" })

local function names_of(defaults)
  local names = {}
  for name in pairs(defaults) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- A level for `error`: `level`, or the next one further out that is the script's
-- own and not the library's. 0 where there is none.
local function script_level(level)
  level = level + 1
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then return 0 end
    if info.currentline > 0 and info.source:sub(1, 5) ~= "@sbx/" then return level - 1 end
    level = level + 1
  end
end

---Raises `text`, which says what the script did wrong, with the place in it.
---@param text string
function check.fail(text)
  error(text, script_level(2))
end

---Whether `value` can be called: a function, or an object with `__call`.
---@param value any
---@return boolean
function check.is_callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and type(meta.__call) == "function"
end

-- What was meant, or else all that could have been.
local function hint(name, defaults)
  local names = names_of(defaults)
  local guess = require("sbx.nearest").hint(name, names)
  if guess ~= "" or #names == 0 then return guess end
  return "; there are: " .. table.concat(names, ", ")
end

---Returns `given` completed by `defaults`, as a new table. A key that has no
---default is unknown and raises, so that a misspelt option cannot pass.
---@param given table|nil
---@param defaults table  option name → default, or `check.none`
---@param level? integer  whose line the error names (default: the caller's caller)
---@return table
function check.options(given, defaults, level)
  level = (level or 2) + 1
  if given ~= nil and type(given) ~= "table" then
    error("options: expected a table, got a " .. type(given), script_level(level))
  end
  local options = {}
  for name, default in pairs(defaults) do
    if default ~= check.none then options[name] = default end
  end
  for name, value in pairs(given or {}) do
    if type(name) ~= "string" or defaults[name] == nil then
      local text = "unknown option '" .. tostring(name) .. "'"
      if type(name) == "string" then text = text .. hint(name, defaults) end
      error(text, script_level(level))
    end
    options[name] = value
  end
  return options
end

local function fail(value, name, expected, level)
  local got = value == nil and "nothing" or "a " .. type(value)
  if type(value) == "number" then got = tostring(value) end
  error(name .. ": expected " .. expected .. ", got " .. got, script_level(level + 1))
end

local function checker(type_name, expected)
  return function(value, name, level)
    if type(value) ~= type_name then fail(value, name, expected, (level or 2) + 1) end
    return value
  end
end

-- Each takes (value, name, level?) and returns the value.

---@type fun(value: any, name: string, level?: integer): string
check.string = checker("string", "a string")
---@type fun(value: any, name: string, level?: integer): boolean
check.boolean = checker("boolean", "true or false")
---@type fun(value: any, name: string, level?: integer): table
check.table = checker("table", "a table")
---@type fun(value: any, name: string, level?: integer): function
check.fn = checker("function", "a function")

---A finite number, perhaps within bounds.
---@param value any
---@param name string
---@param least? number
---@param most? number
---@return number
function check.number(value, name, least, most)
  if type(value) ~= "number" or value ~= value then fail(value, name, "a number", 3) end
  if (least and value < least) or (most and value > most) then
    local range = "at least " .. tostring(least)
    if least and most then
      range = "between " .. least .. " and " .. most
    elseif most then
      range = "at most " .. tostring(most)
    end
    fail(value, name, "a number " .. range, 3)
  end
  return value
end

---A whole number, perhaps within bounds; 3.0 counts and is returned as 3.
---@param value any
---@param name string
---@param least? integer
---@param most? integer
---@return integer
function check.integer(value, name, least, most)
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole then fail(value, name, "a whole number", 3) end
  if (least and whole < least) or (most and whole > most) then
    local range = "a whole number of at least " .. tostring(least)
    if least and most then
      range = "a whole number between " .. least .. " and " .. most
    elseif most then
      range = "a whole number of at most " .. tostring(most)
    end
    fail(value, name, range, 3)
  end
  return whole
end

---Makes the methods of `class`, which is its objects' metatable, say so when they
---are called with a dot in place of the colon.
---@param class table
---@param label string  what a caller's variable may be called: "box"
---@param metatable? table  of the objects, where that is not `class`
---@param names? string[]   the methods (default: all)
function check.methods(class, label, metatable, names)
  metatable = metatable or class
  local chosen = {}
  for _, name in ipairs(names or names_of(class)) do
    chosen[name] = class[name]
  end
  for name, method in pairs(chosen) do
    if type(method) == "function" and name:sub(1, 2) ~= "__" then
      class[name] = function(self, ...)
        if getmetatable(self) ~= metatable then
          error(("%s.%s was called without its %s: write %s:%s(…)")
            :format(label, name, label, label, name), script_level(2))
        end
        return method(self, ...)
      end
    end
  end
end

return check
