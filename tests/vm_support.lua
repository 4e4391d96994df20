-- What the tests of virtual machines share: one to talk to, and patience.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local core = require("sbx.core.task")
local task = require("sbx.task")

local support = {}

-- To end a command the client looks at every process of the sandbox. Here that is this
-- machine, with all that runs on it, so it takes longer.
local function patient_end()
  local before = core.cleanup_seconds()
  core.cleanup_seconds(60)
  return setmetatable({}, { __close = function() core.cleanup_seconds(before) end })
end

---Runs `fn(client, vm, server)` with a virtual machine `sbx-1`.
---@async
---@param handlers table  of its command session
---@param fn async fun(client: table, vm: table, server: table)
---@param options? table  of `rpc.start`
function support.with_vm(handlers, fn, options)
  local _ <close> = patient_end()
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
