local core = require("sbx.core.http")
local http = require("sbx.http")
local process = require("sbx.process")
local server = require("sbx.core.server")
local task = require("sbx.task")

-- Listens, and never completes the handshake of another connection.
local HOLE = [[
import socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0)
callers = []
for _ in range(3):
    caller = socket.socket()
    caller.setblocking(False)
    try:
        caller.connect(listener.getsockname())
    except BlockingIOError:
        pass
    callers.append(caller)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
]]

test("http: an abandoned connection attempt harms none that comes after it", function()
  local hole <close> = process.spawn({ "python3", "-c", HOLE }, { stdin = "pipe", stdout = "pipe" })
  local closed = "http://127.0.0.1:" .. math.tointeger(tonumber(hole.stdout:read()))
  local listener <close> = server.listen {}
  local open = "http://127.0.0.1:" .. listener.port
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        listener:accept():respond(200, { Connection = "close" }, "ok")
      end
    end)
    for _ = 1, 3 do
      local ok, err = pcall(http.get, closed, { connect_timeout = 0.05 })
      assert(not ok and err.kind == "timeout", err)
      assert(http.get(open).body == "ok")
      task.move_on(0.05, http.get, closed)
      assert(http.get(open).body == "ok")
    end
    assert(core.stats()[closed].connections == 0)
  end)
end)
