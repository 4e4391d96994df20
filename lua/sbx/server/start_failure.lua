-- Why a program of an image cannot be started, in words that say what the image lacks:
-- the kernel says the same ENOENT of a program that is not there, and of one whose loader
-- or interpreter is not.

local errors = require("sbx.errors")

---@class sbx.server.start_failure
local start_failure = {}

local HEAD = 65536 -- bytes in which the name of a loader is looked for
local PT_INTERP = 3
local MAX_HEADERS = 64

local function head_of(agent, path)
  local parts = {}
  local ok = errors.try(agent.get, agent, path, function(bytes)
    parts[#parts + 1] = bytes
  end, { offset = 0, length = HEAD })
  return ok and table.concat(parts) or nil
end

-- The loader that an ELF file names. It may hold anything.
local function elf_loader(bytes)
  local class, order = bytes:byte(5, 6)
  local is_64, endian = class == 2, order == 2 and ">" or "<"
  local ok, name = pcall(function()
    local table_at = (endian .. (is_64 and "I8" or "I4")):unpack(bytes, is_64 and 33 or 29)
    local size, count = (endian .. "I2I2"):unpack(bytes, is_64 and 55 or 43)
    for index = 0, math.min(count, MAX_HEADERS) - 1 do
      local at = table_at + index * size + 1
      if (endian .. "I4"):unpack(bytes, at) == PT_INTERP then
        local place = (endian .. (is_64 and "I8" or "I4")):unpack(bytes, at + (is_64 and 8 or 4))
        return ("z"):unpack(bytes, place + 1)
      end
    end
    return nil
  end)
  return ok and name or nil
end

-- What is needed to run what begins with these bytes: its path, and what it is called.
local function needed_by(bytes)
  if bytes:sub(1, 4) == "\127ELF" then return elf_loader(bytes), "loader" end
  return bytes:match("^#![ \t]*([^%s]+)"), "interpreter"
end

local function exists(agent, path)
  local found, failure = errors.try(agent.stat, agent, path)
  return found ~= nil or failure.code ~= "ENOENT"
end

-- Words from inside a sandbox, fit for a line of text.
local function shown(path)
  return (path:sub(1, 200):gsub("[^\32-\126]", "?"))
end

local function lacks(agent, path)
  if not exists(agent, path) then return "it has no " .. path end
  local bytes = head_of(agent, path)
  local needed, what = needed_by(bytes or "")
  if needed and needed:sub(1, 1) == "/" and not exists(agent, needed) then
    return ("its %s needs the %s %s, which is not in it"):format(path, what, shown(needed))
  end
  return nil
end

---What is wrong with an image in which `path` cannot be started, with what can be done
---about it; nil where nothing is known to be, as when the failure is another one.
---@async
---@param agent sbx.server.Agent
---@param failure any   what starting it has raised
---@param path string   of the program; where it is none, but a name, nothing is known
---@param image string  its name, for people
---@return string|nil
function start_failure.explain(agent, failure, path, image)
  if not errors.is_error(failure) or agent.closed or path:sub(1, 1) ~= "/" then return nil end
  local why
  if failure.code == "ENOENT" then
    why = lacks(agent, path)
  elseif failure.code == "ENOEXEC" then
    why = ("its %s is no program for this machine's processor"):format(path)
  elseif failure.code == "EACCES" then
    why = ("its %s cannot be executed"):format(path)
  end
  if not why then return nil end
  return ("image %s: %s; use an image that is complete, and made for this machine"):format(
    shown(image), why)
end

return start_failure
