local core = require("sbx.core.server")
local net = require("sbx.core.net")
local task = require("sbx.task")

test("listener: writing to an answer that went out whole is no failure", function()
  local listener <close> = core.listen {}
  local stream <close> = net.connect("127.0.0.1", listener.port)
  stream:write("HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
  stream:shutdown()
  local request <close> = listener:accept()
  repeat
    task.sleep(0.01)
  until request.gone
  request:start(200)
  local answer = ""
  repeat
    local bytes = stream:read()
    answer = answer .. (bytes or "")
  until not bytes
  assert(answer:find("^HTTP/1%.1 200 "), answer)
  request:write("what HEAD does not show")
  request:finish()
end)
