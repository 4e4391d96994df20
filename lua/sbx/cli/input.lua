-- Our standard input as a source of bytes, whatever it is.

local errors = require("sbx.errors")
local stream = require("sbx.core.stream")

local input = {}

local PIECE = 65536 -- bytes

---A function that returns what has arrived, as soon as there is something, and nil at the
---end. It waits for a pipe, a terminal or a socket; a file is read at once. Raises `io` for
---what cannot be read, such as a folder.
---@return async fun(): string|nil
function input.source()
  local ok, opened = pcall(stream.open, 0)
  if ok then
    return function() return opened:read() end
  end
  return function()
    local bytes, problem = io.stdin:read(PIECE)
    if problem then
      errors.raise({ kind = "io", op = "read", message = "stdin: " .. tostring(problem) })
    end
    return bytes
  end
end

return input
