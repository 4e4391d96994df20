-- Our standard input as a source of bytes, whatever it is.

local stream = require("sbx.core.stream")

local input = {}

local PIECE = 65536 -- bytes

---A function that returns what has arrived, as soon as there is something, and nil at the
---end. It waits for a pipe, a terminal or a socket; a file is read at once.
---@return async fun(): string|nil
function input.source()
  local ok, opened = pcall(stream.open, 0)
  if ok then
    return function() return opened:read() end
  end
  return function() return io.stdin:read(PIECE) end
end

return input
