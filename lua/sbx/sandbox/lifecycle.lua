-- Making sandboxes, looking at them, deleting them.

local box = require("sbx.sandbox.box")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local hash = require("sbx.hash")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local CREATE_SECONDS = 100 -- that a create may hold off a cancellation
local DELETE_BATCH = 100

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
  return type(allowed) == "table" and next(allowed) == nil
end

---@async
local function refuse_open_network(client, made)
  local ok, err = pcall(client.delete, client, made.id)
  errors.raise({
    kind = "api",
    code = "NETWORK_NOT_ISOLATED",
    op = "create",
    sandbox_id = made.id,
    message = ("create %s: the server did not confirm network_access = false; the sandbox %s")
      :format(made.id, ok and "was deleted" or "could not be deleted: " .. tostring(err)),
  })
end

-- From here to the return nothing may be cancelled: what the server makes must
-- reach an owner. Returns nil and the error of a 429, which made nothing.
---@async
local function create_once(client, body, keep)
  local call = {
    op = "create",
    method = "POST",
    path = "/sandbox",
    body = body,
    idempotent = true, -- the key in the body makes it so
    raise_429 = true,
    secrets = secret_values(body),
  }
  local answer, err = errors.try(wire.call, client, call)
  if not answer then
    if errors.is_error(err) and err.status == 429 then return nil, err end
    error(err, 0)
  end
  local made = box.from(client, call, answer)
  made.keep = keep or nil
  if not keep then client.owned:add(made) end
  if body.network_access == false and not is_isolated(made) then
    refuse_open_network(client, made)
  end
  return made
end

-- True when a create that ended in `err` may have made a sandbox all the same.
local function is_in_doubt(err)
  if not errors.is_error(err) then return false end
  return err.outcome == "unknown" or err.code == "BAD_ANSWER" or err.kind == "timeout"
    or err.kind == "cancelled"
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
  local key = hash.random_hex(16)
  body.idempotency_key = key
  local patience = throttle.new(self.throttle_timeout)

  task.checkpoint()
  while true do
    local ok, made, err = pcall(task.shield, CREATE_SECONDS, create_once, self, body, keep)
    if ok and made then
      self.owned:settled(key)
      return made
    end
    if not ok then err = made end
    if is_in_doubt(err) then
      self.owned:add_unsettled(key, function() return create_once(self, body, false) end)
    end
    if not ok then error(err, 0) end
    patience:pause(err)
  end
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

local function forget(client, id)
  client.tokens:evict(id)
  profile.forget(client, id)
  client.owned:remove(id)
end

---Deletes a sandbox. Raises `api` with status 404 when there is none.
---@async
---@param target string|sbx.sandbox.Box
function methods:delete(target)
  local id = wire.id_of(target)
  local ok, err = pcall(wire.call, self, {
    op = "delete",
    method = "DELETE",
    path = wire.sandbox_path(id),
    sandbox_id = id,
    even_closed = true,
  })
  local missing = not ok and errors.is_error(err) and err.status == 404
  if ok or missing then forget(self, id) end
  if box.is_box(target) and (ok or missing) then target.status = "TERMINATED" end
  -- After a lost answer, "not found" is what success looks like.
  if not ok and not (missing and err.attempts > 1) then error(err, 0) end
end

---@class sbx.sandbox.BulkDelete
---@field sandbox_ids? (string|sbx.sandbox.Box)[]
---@field labels? string[]
---@field team_id? string
---@field user_id? string
---@field all_users? boolean  needs the rights of a team's admin

local function check_bulk(what)
  check.table(what, "bulk_delete")
  if what.sandbox_ids == nil and what.labels == nil then what = { sandbox_ids = what } end
  local options = check.options(what, {
    sandbox_ids = check.none,
    labels = check.none,
    team_id = check.none,
    user_id = check.none,
    all_users = false,
  }, -1)
  if (options.sandbox_ids == nil) == (options.labels == nil) then
    error("bulk_delete: give either sandbox_ids or labels", 0)
  end
  if options.labels and #check.table(options.labels, "labels") == 0 then
    error("labels: is empty", 0)
  end
  local ids = {}
  for i, target in ipairs(options.sandbox_ids or {}) do
    ids[i] = wire.id_of(target)
  end
  options.sandbox_ids = options.sandbox_ids and ids
  return options
end

local function merge(client, call, into, answer)
  for _, id in ipairs(failure.field(call, answer, "succeeded", "table")) do
    if type(id) == "string" then
      into.succeeded[#into.succeeded + 1] = id
      forget(client, id)
    end
  end
  for _, item in ipairs(type(answer.failed) == "table" and answer.failed or {}) do
    if type(item) ~= "table" then item = {} end
    into.failed[#into.failed + 1] = {
      sandbox_id = tostring(item.sandbox_id),
      error = failure.clean(tostring(item.error)),
    }
  end
  into.message = type(answer.message) == "string" and failure.clean(answer.message) or ""
end

---Deletes many: a list of sandboxes or ids, or `{ labels = {…} }` for all that
---carry every label. What could not be deleted is in `failed`, not an error.
---@async
---@param what (string|sbx.sandbox.Box)[]|sbx.sandbox.BulkDelete
---@return { succeeded: string[], failed: { sandbox_id: string, error: string }[] }
function methods:bulk_delete(what)
  local options = request.blame(check_bulk, what)
  local result = { succeeded = {}, failed = {}, message = "" }
  local ids = options.sandbox_ids
  for first = 1, ids and #ids or 1, DELETE_BATCH do
    local last = ids and math.min(first + DELETE_BATCH - 1, #ids)
    local call = {
      op = "bulk_delete",
      method = "DELETE",
      path = "/sandbox",
      even_closed = true,
      body = {
        sandbox_ids = ids and json.array(table.move(ids, first, last, 1, {})),
        labels = options.labels and json.array(options.labels),
        team_id = options.team_id,
        user_id = options.user_id,
        all_users = options.all_users,
      },
    }
    merge(self, call, result, (wire.call(self, call)))
  end
  return result
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
