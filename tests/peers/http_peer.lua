-- Starts http_peer.py. Loaded with dofile by the tests that need it.

local process = require("sbx.process")

local peer = {}

---@async
---@param ... string  arguments of http_peer.py
---@return table peer  closable; `url` of a TCP one, without a trailing slash
function peer.start(...)
  local child = process.spawn(
    { "python3", "tests/peers/http_peer.py", ... },
    { stdin = "pipe", stdout = "pipe", stderr = "null", grace = 0 }
  )
  local line = ""
  while not line:find("\n") do
    local bytes = child.stdout:read()
    if not bytes then error("http_peer.py did not start") end
    line = line .. bytes
  end
  local scheme = (...) == "--tls" and "https" or "http"
  local port = line:match("%d+")
  return setmetatable({ url = port and scheme .. "://127.0.0.1:" .. port, port = port }, {
    __close = function() child:close() end,
  })
end

return peer
