-- Making sandboxes, looking at them, deleting them.

local answers = require("sbx.sandbox.answers")
local box = require("sbx.sandbox.box")
local egress = require("sbx.sandbox.egress")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local observe = require("sbx.observe")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local CREATE_SECONDS = 60 -- that a request may hold off a cancellation
local DELETE_SECONDS = 30

local function secret_values(body)
  local values = {}
  for _, map in ipairs({ body.secrets or {}, body.environment_vars or {} }) do
    for _, value in pairs(map) do
      values[#values + 1] = value
    end
  end
  return values
end

-- Nothing on the wire promises isolation except the server's own word for it.
local function is_isolated(made)
  if made.network_access ~= nil then return made.network_access == false end
  local allowed = made.network_allowlist
  return answers.is_list(allowed) and next(allowed) == nil
end

-- The network option that the server did not confirm, or nil.
local function unconfirmed(body, made)
  if body.network_access == false and not is_isolated(made) then
    return "network_access = false"
  end
  local asked = { allowlist = body.network_allowlist, denylist = body.network_denylist }
  local found = { allowlist = made.network_allowlist, denylist = made.network_denylist }
  if next(asked) == nil or egress.confirms(found, asked) then return nil end
  return asked.allowlist and "network_allowlist" or "network_denylist"
end

---@async
local function refuse_open_network(client, made, option, body)
  made.keep = nil
  local ok, err = pcall(task.shield, DELETE_SECONDS, client.delete, client, made.id)
  errors.raise({
    kind = "api",
    code = "NETWORK_NOT_ISOLATED",
    op = "create",
    sandbox_id = made.id,
    message = ("create %s: the server did not confirm %s; the sandbox %s"):format(
      failure.clean(made.id, secret_values(body), 100), option,
      ok and "was deleted" or "could not be deleted: " .. tostring(err)),
  })
end

-- One request, which is not cut off while it is under way, and its answer. What the
-- server has made has an owner when this returns.
---@async
local function send_create(client, intent)
  local body = intent.body
  local call = {
    op = "create",
    method = "POST",
    path = "/sandbox",
    body = body,
    idempotent = true, -- the key in the body makes it so
    shield = not intent.in_doubt and CREATE_SECONDS or nil, -- else it is only asked
    even_closed = intent.in_doubt,
    secrets = secret_values(body),
  }
  local ok, answer, attempts = pcall(wire.call, client, call)
  if not ok then
    intent.in_doubt = intent.in_doubt or call.sent
    error(answer, 0)
  end
  if attempts > 1 then client.owned.resent = true end
  intent.in_doubt = true
  local made = box.from(client, call, answer)
  client.owned:made(intent, made)
  return made
end

-- A server that answered, but not so that it makes sense, has made it: with the same
-- key it says so once more.
---@async
local function send_again(client, intent, err)
  if not (intent.in_doubt and errors.is_error(err) and err.code == "BAD_ANSWER") then
    return false, err
  end
  client.owned.resent = true
  return pcall(send_create, client, intent)
end

---Makes a sandbox and returns it, usually still PENDING. It belongs to this run:
---what the script does not delete, the end of the run does, unless it is marked
---`keep`. Raises `api` and its kinds, among them `unauthorized`,
---`payment_required`, `api_timeout`; a plain error for an unknown option.
---@async
---@param options sbx.sandbox.CreateOptions
---@return sbx.sandbox.Box
function methods:create(options)
  local body, keep = request.blame(request.create, options)
  body.team_id = body.team_id or self.config.team_id()
  task.checkpoint()
  local began = observe.phase and task.now()
  local intent = self.owned:intend(body, keep)
  local ok, made = pcall(send_create, self, intent)
  if not ok then ok, made = send_again(self, intent, made) end
  if not ok then
    intent.again = function() return send_create(self, intent) end
    self.owned:failed(intent, made)
    error(made, 0)
  end
  if began and observe.phase then
    observe.phase(made.id, "create", task.now() - began)
    observe.phase(made.id, "status", made.status)
  end
  -- What has arrived is handed over: being cancelled here shows at the next wait.
  pcall(self.owned.flush, self.owned)
  local option = unconfirmed(body, made)
  if option then refuse_open_network(self, made, option, body) end
  return made
end

---The sandbox with this id. Raises `api` with status 404 when there is none.
---@async
---@param target string|sbx.sandbox.Box
---@return sbx.sandbox.Box
function methods:get(target)
  local id = wire.id_of(target)
  local call = { op = "get", method = "GET", path = wire.sandbox_path(id), sandbox_id = id }
  return box.from(self, call, (wire.call(self, call)))
end

---Deletes a sandbox. Those of many tasks at once go together in bulk. Raises `api`
---with status 404 when there is none.
---@async
---@param target string|sbx.sandbox.Box
function methods:delete(target)
  local id = wire.id_of(target)
  local missing = self.deletes:delete(id)
  if box.is_box(target) then target.status = "TERMINATED" end
  if missing then error(missing, 0) end
end

---What the sandbox has logged so far.
---@async
---@param target string|sbx.sandbox.Box
---@return string
function methods:get_logs(target)
  local id = wire.id_of(target)
  local call = {
    op = "get_logs",
    method = "GET",
    path = wire.sandbox_path(id, "/logs"),
    sandbox_id = id,
  }
  return failure.field(call, wire.call(self, call), "logs", "string")
end

return { methods = methods }
