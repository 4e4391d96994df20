local core = require("sbx.core.server")
local net = require("sbx.core.net")
local task = require("sbx.task")

local HOST = "Host: h\r\n"

-- What a proxy in front of us may understand in another way.
local ambiguous = {
  ["a blank before the colon"] = "POST / HTTP/1.1\r\n" .. HOST .. "Content-Length : 5\r\n\r\nhello",
  ["a tab before the colon"] = "POST / HTTP/1.1\r\n"
    .. HOST
    .. "Content-Length: 5\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
  ["a blank in a name"] = "GET / HTTP/1.1\r\n" .. HOST .. "Content Length: 5\r\n\r\n",
  ["a folded encoding"] = "POST / HTTP/1.1\r\n"
    .. HOST
    .. "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
  ["a folded length"] = "POST / HTTP/1.1\r\n" .. HOST .. "Content-Length:\r\n 5\r\n\r\nhello",
  ["a folded value"] = "POST / HTTP/1.1\r\n" .. HOST .. "X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
  ["a fold before any header"] = "POST / HTTP/1.1\r\n Content-Length: 5\r\n" .. HOST .. "\r\nhello",
  ["a lone CR in a value"] = "GET / HTTP/1.1\r\n" .. HOST .. "X: a\rContent-Length: 5\r\n\r\n",
  ["a blank in the target"] = "GET /a b HTTP/1.1\r\n" .. HOST .. "\r\n",
  ["chunks from HTTP/1.0"] = "POST / HTTP/1.0\r\n"
    .. HOST
    .. "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}

local fine = "GET /?a=b HTTP/1.1\r\n" .. HOST .. "X-Empty:\r\nX-Blank: \t \r\nX-Tight:value\r\n"
  .. "X-Wide: \t two words\r\nX-High: \xC3\xA9\r\nConnection: close\r\n\r\n"

local function say(listener, text)
  local stream <close> = net.connect("127.0.0.1", listener.port)
  stream:write(text)
  local got = {}
  repeat
    local bytes = stream:read()
    got[#got + 1] = bytes
  until not bytes
  return table.concat(got)
end

test("listener: refuses what a proxy may read in another way", function()
  local listener <close> = core.listen {}
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        local request = listener:accept()
        request:respond(200, { Connection = "close" }, request.headers["x-wide"] or "accepted")
      end
    end)
    for name, text in pairs(ambiguous) do
      local answer = task.timeout(60, say, listener, text)
      assert(answer:find("^HTTP/1%.[01] 400 "), name .. ": " .. answer)
      assert(not answer:find("accepted", 1, true), name)
    end
    assert(task.timeout(60, say, listener, fine):find("two words$"))
  end)
end)
