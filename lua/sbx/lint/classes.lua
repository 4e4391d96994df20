-- The real table of a class, found in the loaded library: it says what methods its
-- objects have, whatever the comments say.

local api = require("sbx.lint.api")
local host = require("sbx.core.host")

local classes = {}

local found = {} -- class name → its methods' table, or false

local MOST = 5000 -- values looked at: a class is near its module

-- Classes are values that the functions of their modules hold on to. The nearest
-- values are looked at first.
local function search(start, name)
  local seen = { [_G] = true, [package] = true, [package.loaded] = true, [start] = true }
  local queue, at = { start }, 1
  local function add(value)
    local kind = type(value)
    if (kind ~= "function" and kind ~= "table") or seen[value] then return end
    seen[value] = true
    queue[#queue + 1] = value
  end
  while queue[at] and at <= MOST do
    local value = queue[at]
    at = at + 1
    if type(value) == "table" then
      if rawget(value, "__name") == name then return value end
      for _, each in next, value do
        add(each)
      end
    else
      local i = 1
      local upvalue, each = debug.getupvalue(value, i)
      while upvalue do
        add(each)
        i = i + 1
        upvalue, each = debug.getupvalue(value, i)
      end
    end
  end
end

local function look(name)
  for _, module in ipairs(api.modules_of(name)) do
    if host.file(module) then
      local value = api.value(module)
      local class = (type(value) == "table" or type(value) == "function") and search(value, name)
      if class then return class end
    end
  end
  return false
end

---Whether objects of the class have what is called `name`; nil when nobody knows.
---@param class string
---@param name string
---@return boolean|nil
function classes.has(class, name)
  if found[class] == nil then found[class] = look(class) end
  local real = found[class]
  if not real then return nil end
  local index = rawget(real, "__index")
  if type(index) == "function" or index == nil then return nil end
  local ok, value = pcall(function() return index[name] end)
  if not ok then return nil end
  return value ~= nil
end

return classes
