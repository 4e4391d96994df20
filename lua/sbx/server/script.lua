-- A Lua file of the user that returns a table of settings: chaos, and what is simulated.
-- Whatever is wrong with it is told with the file and, where it can be found, the line.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local nearest = require("sbx.nearest")

---@class sbx.server.Script
---@field path string
---@field value table
---@field private source string
local Script = {}
Script.__index = Script

local script = {}

local function raise(message)
  errors.raise { kind = "script", message = message }
end

-- The line where `key` gets its value, as far as the text shows that.
local function line_of(source, key)
  local name = tostring(key):gsub("%p", "%%%0")
  local number = 0
  for line in (source .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    local code = line:gsub("%-%-.*$", "")
    if code:find("%f[%w_]" .. name .. "%f[^%w_]%s*=")
      or code:find("%[%s*[\"']?" .. name .. "[\"']?%s*%]%s*=") then
      return number
    end
  end
  return nil
end

---Reads and runs a file. Raises kind `script`.
---@async
---@param path string
---@return sbx.server.Script
function script.load(path)
  local ok, source = pcall(fs.read, path)
  if not ok then raise(tostring(source)) end
  local chunk, problem = load(source, "@" .. path, "t")
  if not chunk then raise(problem) end
  local done, value = pcall(chunk)
  if not done then raise(tostring(value)) end
  if type(value) ~= "table" then
    raise(("%s: it must return a table, and returns a %s"):format(path, type(value)))
  end
  return setmetatable({ path = path, value = value, source = source }, Script)
end

---The same for a table that is there already.
---@param value table
---@param name? string
---@return sbx.server.Script
function script.of(value, name)
  return setmetatable({ path = name or "script", value = value, source = "" }, Script)
end

---Raises that the value at `key` is wrong.
---@param key any      the last name on the way to it
---@param words string
function Script:fail(key, words)
  local line = line_of(self.source, key)
  raise(("%s:%s %s: %s"):format(self.path, line and line .. ":" or "", tostring(key), words))
end

---Raises unless `value` is a table all of whose keys are among those of `known`.
---@param value any
---@param known table<string, any>
---@param name string  of the table
function Script:check_keys(value, known, name)
  if type(value) ~= "table" then self:fail(name, "expected a table, got a " .. type(value)) end
  for key in pairs(value) do
    if known[key] == nil then
      local names = {}
      for one in pairs(known) do
        names[#names + 1] = one
      end
      table.sort(names)
      local close = type(key) == "string" and nearest.word(key, names)
      self:fail(key, ("unknown in %s%s"):format(name, close
        and ("; did you mean '%s'?"):format(close) or "; known are " .. table.concat(names, ", ")))
    end
  end
end

---Calls a function of the script's. What it raises is raised as kind `script`.
---@async
---@param fn function
---@param ... any
---@return any ...
function Script.call(_, fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  if errors.is_error(results[2]) then error(results[2], 0) end
  raise(tostring(results[2]))
end

return script
