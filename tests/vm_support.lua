-- What the tests of virtual machines share: one to talk to, and patience.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local task = require("sbx.task")

local support = {}

---Runs `fn(client, vm, server)` with a virtual machine `sbx-1`.
---@async
---@param handlers table  of its command session
---@param fn async fun(client: table, vm: table, server: table)
---@param options? table  of `rpc.start`
function support.with_vm(handlers, fn, options)
  local vm <close> = rpc.start(handlers, options)
  local server <close> = api.start({ auth = vm:auth() })
  local client <close> = server:client()
  server:add("sbx-1", { vm = true })
  fn(client, vm, server)
end

---Waits until `condition()` holds.
---@async
function support.eventually(condition)
  task.timeout(60, function()
    while not condition() do task.sleep(0.005) end
  end)
end

return support
