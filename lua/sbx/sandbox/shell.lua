-- Words for a shell in a sandbox. The wire carries commands, folders and variables
-- as JSON, which means UTF-8; what is something else is spelt out in the command.

local check = require("sbx.check")
local encoding = require("sbx.encoding")
local json = require("sbx.json")
local remote = require("sbx.sandbox.remote")

local shell = {}

local PRINTF_PIECE = 4096 -- bytes of input for one printf

local function no_nul(text, name)
  if text:find("\0", 1, true) then error(name .. ": has a NUL byte", 0) end
  return text
end

---A command line made of a command: a string as it is, a list as its words, none of
---which a shell looks into. Raises a string for what is neither.
---@param command string|string[]
---@return string
function shell.command(command)
  if type(command) == "string" then return no_nul(command, "command") end
  if type(command) ~= "table" or #command == 0 then
    error("command: expected a string or a list of words, got "
      .. (type(command) == "table" and "an empty table" or "a " .. type(command)), 0)
  end
  local words = {}
  for i, word in ipairs(command) do
    local name = ("command[%d]"):format(i)
    words[i] = remote.word(no_nul(check.string(word, name), name))
  end
  for key in pairs(command) do
    if not words[key] then error("command: expected a list of words", 0) end
  end
  if command[1] == "" then error("command[1]: is empty", 0) end
  -- A program, never what the shell has under that name.
  return "exec " .. table.concat(words, " ")
end

---Lines that set what the wire cannot carry; what it can carry.
---@param env table<string, string>|nil
---@param folder string|nil
---@return string prefix, table|nil env, string|nil folder
function shell.split(env, folder)
  local lines, plain = {}, nil
  for name, value in pairs(env or {}) do
    if encoding.utf8_valid(value) and encoding.utf8_valid(name) then
      plain = plain or {}
      plain[name] = value
    else
      if not name:find("^[%a_][%w_]*$") then
        error("env: a value that is no UTF-8 needs a name of letters, digits and _", 0)
      end
      lines[#lines + 1] = ("export %s=%s\n"):format(name, remote.word(value))
    end
  end
  table.sort(lines)
  if folder and not encoding.utf8_valid(folder) then
    local path = folder:sub(1, 1) == "/" and folder or "./" .. folder
    lines[#lines + 1] = ("cd %s || exit 1\n"):format(remote.word(path))
    folder = nil
  end
  return table.concat(lines), plain and json.object(plain), folder
end

---A command that the wire can carry.
---@param command string
---@return string
function shell.portable(command)
  if encoding.utf8_valid(command) then return command end
  return "eval " .. remote.word(command)
end

local function octal(char)
  return ("\\%03o"):format(char:byte())
end

---The command with `input` as its standard input.
---@param command string
---@param input string  any bytes, not too many
---@param name string  of the shell
---@return string
function shell.with_input(command, input, name)
  if input == "" then return ("%s -c %s < /dev/null"):format(name, remote.word(command)) end
  local lines = {}
  for at = 1, #input, PRINTF_PIECE do
    local piece = input:sub(at, at + PRINTF_PIECE - 1):gsub("[^%w /.,:;=_\n]", octal)
    lines[#lines + 1] = ("printf '%s'"):format(piece)
  end
  -- SIGPIPE and a command that does not read are no concern of the one who asked.
  return ("{ %s; } 2>/dev/null | %s -c %s"):format(
    table.concat(lines, "; "), name, remote.word(command))
end

return shell
