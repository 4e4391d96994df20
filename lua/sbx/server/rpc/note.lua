-- What is noted down of a program with the agent that runs it, for a server that takes the
-- sandbox up again: how the program is called, and what was asked for.
--
-- The note comes back out of the sandbox, where anybody may have changed it.

local errors = require("sbx.errors")
local json = require("sbx.json")
local text = require("sbx.server.text")
local time = require("sbx.core.time")
local validate = require("sbx.server.validate")

local note = {}

local MAX_BYTES = 30 * 1024
local MAX_NAME = 256
local MAX_ARGUMENTS = 1024

local function clean(value)
  return type(value) == "string" and text.valid_utf8(value) or nil
end

local function clean_command(command)
  local args, envs = {}, {}
  for index, word in ipairs(command.args or {}) do
    args[index] = text.valid_utf8(word)
  end
  for name, value in pairs(command.envs or {}) do
    envs[text.valid_utf8(name)] = text.valid_utf8(value)
  end
  return {
    cmd = clean(command.cmd), cwd = clean(command.cwd), user = clean(command.user),
    args = json.array(args), envs = json.object(envs),
  }
end

---@param message table  as of Start
---@param seconds number|nil  that it may run
---@return string
function note.encode(message, seconds)
  local fields = {
    kind = "rpc", tag = clean(message.tag), uuid = clean(message.session_uuid),
    ends_at = seconds and time.wall() + seconds, command = clean_command(message.command),
  }
  -- Of what is too long the beginnings are left out: it is only for lists.
  for _, name in ipairs { "envs", "args", "cwd", "cmd" } do
    local written = json.encode(fields)
    if #written <= MAX_BYTES then return written end
    fields.command[name] = nil
  end
  return json.encode(fields)
end

local function name_of(value)
  if type(value) ~= "string" or value == "" or #value > MAX_NAME then return nil end
  return value
end

local function strings(list)
  local found = {}
  for index = 1, math.min(type(list) == "table" and #list or 0, MAX_ARGUMENTS) do
    if type(list[index]) ~= "string" then break end
    found[index] = list[index]
  end
  return found
end

---@param written string
---@return {kind: string, tag?: string, uuid?: string, seconds?: number, command: table}|nil
function note.decode(written)
  local fields = errors.try(json.decode, written)
  if type(fields) ~= "table" or type(fields.kind) ~= "string" then return nil end
  local given = type(fields.command) == "table" and fields.command or {}
  local envs = validate.environment(type(given.envs) == "table" and given.envs or {})
  local ends_at = math.type(fields.ends_at) and fields.ends_at
  return {
    kind = fields.kind, tag = name_of(fields.tag), uuid = name_of(fields.uuid),
    seconds = ends_at and math.max(0.001, ends_at - time.wall()) or nil,
    command = {
      cmd = clean(given.cmd) or "", args = strings(given.args), cwd = clean(given.cwd),
      envs = envs or {}, user = clean(given.user),
    },
  }
end

return note
