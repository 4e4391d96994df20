-- What requests to the agent are made of, checked: texts, paths, environments.
-- What a script may not pass raises as its misuse; what cannot be sent, as `io`.

local check = require("sbx.check")
local errors = require("sbx.errors")

---@class sbx.server.fields
local fields = {}

local MAX_PATH = 4095
local MAX_COMMAND = 512 * 1024
local MAX_ENVIRONMENT = 256 * 1024
-- The limits of agent_protocol.h.
local MAX_ARGUMENTS, MAX_ENTRIES = 16384, 4096

---Raises an `io` error.
---@param code string
---@param message string
function fields.refuse(code, message)
  errors.raise { kind = "io", code = code, message = message }
end

---A string as the agent wants it. Raises `io` errors for what cannot be sent.
---@param text string
---@param what string
---@param limit integer
---@param code string  of the error when it is too long
---@return string
function fields.text(text, what, limit, code)
  if text:find("\0", 1, true) then
    fields.refuse("EINVAL", what .. ": contains a zero byte")
  elseif #text > limit then
    fields.refuse(code, ("%s: longer than %d bytes"):format(what, limit))
  end
  return string.pack(">s4", text) .. "\0"
end

---@param path string
---@return string
function fields.path(path)
  check.string(path, "path")
  return fields.text(path, "path", MAX_PATH, "ENAMETOOLONG")
end

---@param cwd string  "" is the agent's own
---@return string
function fields.cwd(cwd)
  check.string(cwd, "cwd")
  return fields.text(cwd, "working directory", MAX_PATH, "ENAMETOOLONG")
end

---@param command string
---@return string
function fields.command(command)
  check.string(command, "command")
  return fields.text(command, "command", MAX_COMMAND, "E2BIG")
end

---The program and its arguments.
---@param argv string[]
---@return string
function fields.arguments(argv)
  check.table(argv, "argv")
  local parts, size = {}, 0
  for i, argument in ipairs(argv) do
    check.string(argument, "argv[" .. i .. "]")
    parts[i] = fields.text(argument, "an argument", MAX_COMMAND, "E2BIG")
    size = size + #parts[i]
  end
  if #parts == 0 or argv[1] == "" then fields.refuse("EINVAL", "no program was named") end
  if #parts > MAX_ARGUMENTS or size > MAX_COMMAND then
    fields.refuse("E2BIG", "the arguments are too long")
  end
  return string.pack(">I4", #parts) .. table.concat(parts)
end

---`own` put over `base`, as one table.
---@param base? table<string, string>
---@param own table<string, string>
---@return table<string, string>
function fields.merge(base, own)
  check.table(own, "env")
  local env = {}
  for name, value in pairs(base or {}) do
    env[name] = value
  end
  for name, value in pairs(own) do
    if type(name) ~= "string" or type(value) ~= "string" then
      check.fail("env: expected strings for names and values")
    end
    env[name] = value
  end
  return env
end

---@param env table<string, string>
---@return string
function fields.environment(env)
  local entries, size = {}, 0
  for name, value in pairs(env) do
    if name == "" or name:find("=", 1, true) then
      fields.refuse("EINVAL", "environment: a name is empty or contains '='")
    end
    local entry = fields.text(name .. "=" .. value, "environment", MAX_ENVIRONMENT, "E2BIG")
    size = size + #entry
    entries[#entries + 1] = entry
    if size > MAX_ENVIRONMENT or #entries > MAX_ENTRIES then
      fields.refuse("E2BIG", "environment: too large")
    end
  end
  return string.pack(">I4", #entries) .. table.concat(entries)
end

return fields
