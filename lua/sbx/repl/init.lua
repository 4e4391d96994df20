-- `sbxlua` without a script: a prompt that keeps on working while a person types.

local host = require("sbx.core.host")
local program = require("sbx.cli.program")

---@class sbx.repl
local repl = {}

---@async
local function converse()
  local terminal = require("sbx.repl.terminal")
  if terminal.is_able() then
    require("sbx.repl.session").run()
  else
    require("sbx.repl.plain").run()
  end
end

---Talks to a person on the terminal, or, where standard input is none, runs it as a
---script. What was made there and not marked `keep` is deleted at the end.
---@async
---@param options? { is_local?: boolean }  `is_local`: with sandboxes of this machine
---@return integer  the exit status
function repl.run(options)
  local is_local = options and options.is_local
  if host.isatty(0) then return program.run(is_local, converse) end
  local chunk, problem = loadfile(nil)
  if not chunk then
    io.stderr:write("sbxlua: ", problem, "\n")
    return 1
  end
  return program.run(is_local, chunk)
end

return repl
