-- A multipart body whose first part came from an iterator was never sent when the
-- iterator gave its bytes at once: libcurl remembered that the part had had nothing
-- when it asked first, and did not ask again.

local http = require("sbx.http")
local server = require("sbx.core.server")
local task = require("sbx.task")

local function answer(request)
  local size = 0
  request:form()
  while true do
    local bytes = request:read()
    if not bytes then break end
    size = size + #bytes
  end
  request:respond(200, {}, tostring(size))
end

local function pieces(count, size)
  local left = count
  return function()
    left = left - 1
    return left >= 0 and ("x"):rep(size) or nil
  end
end

test("http upload: an iterator that has its bytes at once is sent as the first part", function()
  local listener = server.listen({ host = "127.0.0.1", port = 0 })
  local url = "http://127.0.0.1:" .. listener.port .. "/"
  task.daemon(function()
    while true do
      local ok, request = pcall(listener.accept, listener)
      if not ok then return end
      task.daemon(answer, request)
    end
  end)
  for _, form in ipairs({ { 1, 10 }, { 10, 10 }, { 1, 100000 }, { 4, 300000 } }) do
    local size = form[1] * form[2]
    task.map({ size, false, size, false }, function(known)
      local part = {
        name = "file", filename = "x", size = known or nil, data = pieces(form[1], form[2]),
      }
      local response = http.post(url, { multipart = { part }, timeout = 10 })
      assert(response.body == tostring(size))
    end, { limit = 3 })
  end
  listener:close()
end)
