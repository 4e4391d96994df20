-- Who may use which sandbox on the gateway, and that it counts as used meanwhile. What
-- is wrong is told as data: each plane has words of its own for it.

local sandbox = require("sbx.server.sandbox")
local reply = require("sbx.server.reply")
local time = require("sbx.core.time")

local access = {}

---The sandbox that the token and the URL agree on, whatever its status; or nil and what
---is wrong: the token, or the sandbox, which is not remembered.
---@param server sbx.server.Server
---@param request sbx.core.Request
---@param params {ns: string, job: string}
---@return sbx.server.Sandbox|nil
---@return "token"|"gone"|nil problem
---@return string|nil words  for a token; the sandbox's id for one that is gone
function access.find(server, request, params)
  local id, problem = server.tokens:sandbox_of(reply.bearer(request))
  if not id or params.ns ~= "local" or sandbox.id_of_job(params.job) ~= id then
    return nil, "token", problem or "Token is for another sandbox"
  end
  local record = server.fleet.store:get(id)
  if not record then return nil, "gone", id end
  return record
end

---Whether commands can be given to it.
---@param record sbx.server.Sandbox
---@return boolean
function access.is_running(record)
  return record.status == "RUNNING" and record.box ~= nil
end

---Calls `fn(...)` while the sandbox counts as used, and returns what that returns.
---@async
---@param record sbx.server.Sandbox
---@param fn async fun(...): any
---@param ... any
---@return any
function access.using(record, fn, ...)
  record.calls = record.calls + 1
  local _ <close> = setmetatable({}, {
    __close = function()
      record.calls = record.calls - 1
      record.last_used = time.now()
    end,
  })
  return fn(...)
end

return access
