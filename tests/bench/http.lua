-- What a request costs, client and server together: both run in this process.

local measure = dofile("tests/bench/lib/measure.lua")
local http = require("sbx.http")
local server = require("sbx.server.http")
local task = require("sbx.task")

local body = ("x"):rep(1024)

local function answer(request)
  request:respond(200, { ["Content-Type"] = "text/plain" }, body)
end

task.scope(function(scope)
  local listener = server.serve({ scope = scope, routes = { { "GET", "/", answer } } })
  local url = ("http://127.0.0.1:%d/"):format(listener.port)

  local function get()
    assert(#http.get(url).body == #body)
  end

  measure.run("GET of 1 KiB, one after the other", 1000, function()
    for _ = 1, 1000 do
      get()
    end
  end)

  local list = {}
  for i = 1, 4000 do
    list[i] = i
  end
  for _, limit in ipairs({ 16, 64, 256 }) do
    measure.run(("GET of 1 KiB, %d at once"):format(limit), #list, function()
      task.map(list, get, { limit = limit })
    end)
  end
  listener:close()
end)
