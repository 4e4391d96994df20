local core = require("sbx.core.server")
local net = require("sbx.core.net")
local task = require("sbx.task")

local PARTS = ('--edge\r\nContent-Disposition: form-data; name="x"; filename="%d"\r\n\r\n\r\n')
local TOTAL = 48 << 20 -- bytes, well past what the kernel keeps for a slow reader

test("listener: a form of empty parts waits for its reader", function()
  local listener <close> = core.listen {}
  local block = {}
  for i = 1, 10000 do
    block[i] = PARTS:format(i)
  end
  local bytes = table.concat(block)
  task.scope(function(scope)
    local sent = 0
    scope:daemon(function()
      local stream <close> = net.connect("127.0.0.1", listener.port)
      stream:write("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " .. TOTAL .. "\r\n"
        .. "Content-Type: multipart/form-data; boundary=edge\r\n\r\n")
      while sent + #bytes < TOTAL do
        stream:write(bytes)
        sent = sent + #bytes
      end
    end)
    local request <close> = listener:accept()
    request:form()
    local _, name, filename = request:read()
    assert(name == "x" and filename == "1")
    local before
    repeat -- until the peer stands still
      before = sent
      task.sleep(0.3)
    until sent == before
    assert(sent + 2 * #bytes < TOTAL, sent)
    for i = 2, 3000 do -- and every part is there
      _, _, filename = request:read()
      assert(filename == tostring(i), filename)
    end
  end)
end)
