-- What the programs of a simulated sandbox are made of: their options, inputs and outputs.

local files = require("sbx.server.driver.sim.files")

---@class sbx.server.sim.tool
local tool = {}

---Writes to the standard output. Returns the status.
---@param fds table
---@param bytes string
---@return integer
function tool.write(fds, bytes)
  local out = fds[1]
  if not out or not out.write then return 1 end
  local ok = out:write(bytes)
  return ok and 0 or 1
end

---Says something on the standard error. Returns the status of a failure.
---@param fds table
---@param words string[]  the command
---@param text string
---@return integer
function tool.complain(fds, words, text)
  local out = fds[2]
  if out and out.write then out:write(("%s: %s\n"):format(words[1], text)) end
  return 1
end

---The same of an option that is not simulated.
---@param fds table
---@param words string[]
---@param option string
---@return integer
function tool.no_option(fds, words, option)
  tool.complain(fds, words, "not simulated: option " .. option)
  return 127
end

-- Takes the options apart: letters in `flags`, those in `valued` with a value. Returns
-- both kinds by letter, and the rest; or nil and the first that is unknown.
local function options_of(words, flags, valued)
  local options, rest, at = {}, {}, 2
  while at <= #words do
    local word = words[at]
    if word == "--" then
      table.move(words, at + 1, #words, #rest + 1, rest)
      break
    end
    if word:find("^%-[%w]") then
      local letters = 2
      while letters <= #word do
        local letter = word:sub(letters, letters)
        if valued:find(letter, 1, true) then
          options[letter] = letters < #word and word:sub(letters + 1) or words[at + 1]
          if letters == #word then at = at + 1 end
          letters = #word
        elseif flags:find(letter, 1, true) then
          options[letter] = true
        else
          return nil, "-" .. letter
        end
        letters = letters + 1
      end
    elseif word:find("^%-%-%a") then
      return nil, word
    else
      rest[#rest + 1] = word
    end
    at = at + 1
  end
  return options, rest
end

---A program whose options are checked: fn(sh, options, rest, fds, words, env).
---@param flags string   letters of options without a value
---@param valued string  of those with one
---@param fn async fun(sh: sbx.server.sim.Shell, options: table, rest: string[], fds: table, words: string[], env: table): integer
---@return async fun(sh: sbx.server.sim.Shell, words: string[], fds: table, env: table): integer
function tool.new(flags, valued, fn)
  return function(sh, words, fds, env)
    local options, rest = options_of(words, flags, valued)
    if not options then return tool.no_option(fds, words, rest) end
    return fn(sh, options, rest, fds, words, env)
  end
end

---The bytes of a file, or of the input for none or "-"; or nil and a code.
---@param sh sbx.server.sim.Shell
---@param path string|nil
---@param fds table
---@return string|nil
---@return string|nil code
function tool.bytes_of(sh, path, fds)
  if path == nil or path == "-" then
    return fds[0] and fds[0].all and fds[0]:all() or ""
  end
  return sh.files:read(sh:resolve(path))
end

---Calls fn(bytes, path) for each file, or for the input. Returns the status.
---@param sh sbx.server.sim.Shell
---@param paths string[]
---@param fds table
---@param words string[]
---@param fn fun(bytes: string, path: string|nil)
---@return integer
function tool.each_input(sh, paths, fds, words, fn)
  local status = 0
  for i = 1, math.max(1, #paths) do
    local bytes, code = tool.bytes_of(sh, paths[i], fds)
    if bytes then
      fn(bytes, paths[i])
    else
      status = tool.complain(fds, words, ("%s: %s"):format(paths[i], files.words_of(code)))
    end
  end
  return status
end

return tool
