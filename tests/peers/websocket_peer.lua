-- Starts websocket_peer.py. Loaded with dofile by the tests that need it.

local process = require("sbx.process")

local peer = {}

-- The packaged module belongs to the system's own Python, which need not be the
-- first in the path.
local function find_python()
  for _, python in ipairs({ "/usr/bin/python3", "python3" }) do
    local ok, found = pcall(process.run, { python, "-c", "import websockets" })
    if ok and found.code == 0 then return python end
  end
end

---Starts the server, or skips the test where Python has no `websockets`.
---@async
---@param ... string  arguments of websocket_peer.py
---@return table peer  closable; `url` without a trailing slash
function peer.start(...)
  local python = find_python() or skip("Python has no module websockets")
  local child = process.spawn(
    { python, "tests/peers/websocket_peer.py", ... },
    { stdin = "pipe", stdout = "pipe", stderr = "null", grace = 0 }
  )
  local line = ""
  while not line:find("\n") do
    local bytes = child.stdout:read()
    if not bytes then error("websocket_peer.py did not start") end
    line = line .. bytes
  end
  local scheme = (...) == "--tls" and "wss" or "ws"
  local port = line:match("%d+")
  return setmetatable({ url = scheme .. "://127.0.0.1:" .. port, port = port }, {
    __close = function() child:close() end,
  })
end

return peer
