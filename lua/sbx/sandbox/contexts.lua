-- Contexts: names for an address, a key and a team, kept in contexts.json of the folder
-- for settings; and which of them counts in this run.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local log = require("sbx.log")

local contexts = {}

local MOST = 1024 * 1024 -- bytes of the file
local MOST_KEY = 4096
local PRIVATE_FILE, PRIVATE_FOLDER = 384, 448 -- 0600, 0700
local OTHERS = 63 -- permissions of group and others

---@class sbx.sandbox.Context
---@field url? string
---@field key_file? string  absolute path of the file with the key
---@field api_key? string   the key itself, where it was copied
---@field team_id? string

---@class sbx.sandbox.Contexts
---@field current? string
---@field contexts table<string, sbx.sandbox.Context>

---@class sbx.sandbox.CommandLine
---@field context? string
---@field url? string
---@field api_key? string
local command_line = {}

---What the command line said, for all clients of this run.
---@param given sbx.sandbox.CommandLine
function contexts.set_command_line(given)
  command_line = given
end

---@return sbx.sandbox.CommandLine
function contexts.command_line()
  return command_line
end

local function bad(message, ...)
  errors.raise({ kind = "usage", op = "contexts", message = message:format(...) })
end

---Where contexts are kept; nil where there is no place for settings.
---@return string|nil
function contexts.path()
  local base = os.getenv("XDG_CONFIG_HOME")
  if not base or base == "" then
    local home = os.getenv("HOME")
    if not home or home == "" then return nil end
    base = home .. "/.config"
  end
  return base .. "/sbxlua/contexts.json"
end

local function checked(path, document)
  local is_object = type(document) == "table" and type(document.contexts) == "table"
  if not is_object then bad("%s: expected an object with `contexts`", path) end
  if document.v ~= 1 then bad("%s: was written by another version", path) end
  if document.current == json.null then document.current = nil end
  for name, context in pairs(document.contexts) do
    if type(name) ~= "string" or type(context) ~= "table" then
      bad("%s: a context is no object", path)
    end
    for _, field in ipairs({ "url", "key_file", "api_key", "team_id" }) do
      local value = context[field]
      if value ~= nil and type(value) ~= "string" then
        bad("%s: context '%s': '%s' must be a string", path, log.clean(name, 100), field)
      end
    end
    if context.api_key then log.redact(context.api_key) end
  end
  return document
end

---All that is kept. A file that is missing counts as empty; one of the wrong shape, or
---with a key that others can read, raises `usage`.
---@async
---@return sbx.sandbox.Contexts
function contexts.load()
  local path = contexts.path()
  if not path then return { contexts = {} } end
  local text, err = errors.try(fs.read, path, { max = MOST })
  if not text then
    if err.code == "ENOENT" or err.code == "ENOTDIR" then return { contexts = {} } end
    bad("%s", log.clean(tostring(err), 300))
  end
  local ok, document = pcall(json.decode, text)
  if not ok then bad("%s is no JSON", path) end -- not where: that might quote a key
  document = checked(path, document)
  for _, context in pairs(document.contexts) do
    if context.api_key and fs.stat(path).mode & OTHERS ~= 0 then
      bad("%s holds a key and can be read by others: chmod 600 it", path)
    end
  end
  return document
end

---Keeps them, in a file that only its owner can read.
---@async
---@param document sbx.sandbox.Contexts
function contexts.save(document)
  local path = contexts.path()
  if not path then
    bad("neither XDG_CONFIG_HOME nor HOME is set: there is no place for contexts")
  end
  fs.mkdir(path:match("^(.*)/"), { parents = true, mode = PRIVATE_FOLDER })
  local text = json.encode({
    v = 1, current = document.current, contexts = json.object(document.contexts),
  }, { pretty = true, sort_keys = true })
  fs.write_atomic(path, text .. "\n", { mode = PRIVATE_FILE })
end

---The key in a file, which only its owner may be able to read. Raises `usage`.
---@async
---@param path string
---@return string
function contexts.read_key(path)
  local shown = log.clean(path, 300)
  local found, err = errors.try(fs.stat, path)
  if not found then bad("key file: %s", log.clean(tostring(err), 300)) end
  if found.type == "file" and found.mode & OTHERS ~= 0 then
    bad("%s: its mode is %03o; a key file must be readable by its owner only (chmod 600)",
      shown, found.mode & 511)
  end
  local text = errors.try(fs.read, path, { max = MOST_KEY })
  local key = text and text:match("^%s*(%S+)%s*$")
  if not key then bad("%s: holds no API key", shown) end
  log.redact(key)
  return key
end

---The context that counts: the one that the command line names, else the current one.
---@async
---@return sbx.sandbox.Context|nil context, string|nil name, boolean|nil named  by the command line
function contexts.in_use()
  local wanted = command_line.context
  local document = contexts.load()
  local name = wanted or document.current
  if not name then return nil end
  local context = document.contexts[name]
  if not context then
    bad("there is no context '%s'; `sbxlua context ls` shows them", log.clean(name, 100))
  end
  return context, name, wanted ~= nil
end

---The key of a context, if it has one.
---@async
---@param context sbx.sandbox.Context
---@return string|nil
function contexts.key_of(context)
  if context.api_key then return context.api_key end
  return context.key_file and contexts.read_key(context.key_file) or nil
end

return contexts
