-- Words for a shell in a sandbox. The wire carries commands, folders and variables
-- as JSON, which means UTF-8; what is something else is spelt out in the command.

local check = require("sbx.check")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local remote = require("sbx.sandbox.remote")

local shell = {}

local PRINTF_PIECE = 4096 -- bytes of input for one printf
local MAX_WORD = 128 * 1024 - 1 -- bytes that Linux takes as one argument or variable
local MAX_TEXT = 96 * 1024 -- of a whole command: a server may wrap it in something

local function no_nul(text, name)
  if text:find("\0", 1, true) then error(name .. ": has a NUL byte", 0) end
  return text
end

---Whether a command can travel as one argument of a shell.
---@param text string
---@return boolean
function shell.fits(text)
  return #text <= MAX_TEXT
end

---Raises kind `limit`, before anything has run.
---@param op string
---@param id string
---@param what string
---@param size integer  bytes
function shell.raise_too_long(op, id, what, size)
  errors.raise({
    kind = "limit",
    code = "E2BIG",
    op = op,
    sandbox_id = id,
    outcome = "not_started",
    message = ("%s %s: %s: %d bytes are more than a command takes; upload them as a file, or "
      .. "give them as its stdin"):format(op, failure.clean(id, nil, 100), what, size),
  })
end

---Raises kind `limit` for a word or a variable that no program can be given.
---@param op string
---@param id string
---@param command string|string[]
---@param env table<string, string>|nil
function shell.check_sizes(op, id, command, env)
  for i, word in ipairs(type(command) == "table" and command or {}) do
    if #word > MAX_WORD then shell.raise_too_long(op, id, ("command[%d]"):format(i), #word) end
  end
  for name, value in pairs(env or {}) do
    local size = #name + #value + 1
    if size > MAX_WORD then
      shell.raise_too_long(op, id, "env." .. failure.clean(name, nil, 100), size)
    end
  end
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
  if command[1]:sub(1, 1) == "-" then
    error("command[1]: begins with '-', which a shell takes for an option; add its folder", 0)
  end
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

---The command with `input` as its standard input, in a shell of its own, so that what
---it exits with is its status.
---@param command string
---@param input string  any bytes, not too many
---@return string
function shell.with_input(command, input)
  -- No other program is needed for that, and none that a PATH of the caller's hides.
  local body = ("( eval %s )"):format(remote.word(command))
  if input == "" then return body .. " < /dev/null" end
  local lines = {}
  for at = 1, #input, PRINTF_PIECE do
    local piece = input:sub(at, at + PRINTF_PIECE - 1):gsub("[^%w /.,:;=_\n]", octal)
    lines[#lines + 1] = ("printf '%s'"):format(piece)
  end
  -- SIGPIPE and a command that does not read are no concern of the one who asked.
  return ("{ %s; } 2>/dev/null | %s"):format(table.concat(lines, "; "), body)
end

return shell
