-- Deleting many sandboxes by one call: a list of them, or all with certain labels.

local check = require("sbx.check")
local deletes = require("sbx.sandbox.deletes")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local request = require("sbx.sandbox.request")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local MOST = 100 -- ids in one request

---@class sbx.sandbox.BulkDelete
---@field sandbox_ids? (string|sbx.sandbox.Box)[]
---@field labels? string[]
---@field team_id? string
---@field user_id? string
---@field all_users? boolean  needs the rights of a team's admin

-- The ids, each once, in requests.
local function batches_of(targets)
  local seen, batches, count = {}, {}, #check.table(targets, "sandbox_ids")
  for at in pairs(targets) do
    -- A misspelt option would be an empty list.
    if math.type(at) ~= "integer" or at < 1 or at > count then
      error(("sandbox_ids: expected a list; it has '%s'"):format(tostring(at)), 0)
    end
  end
  for _, target in ipairs(targets) do
    local id = wire.id_of(target)
    if not seen[id] then
      seen[id] = true
      if #batches == 0 or #batches[#batches] == MOST then batches[#batches + 1] = {} end
      table.insert(batches[#batches], id)
    end
  end
  return batches
end

local function check_labels(labels)
  if #request.labels(labels) == 0 then error("labels: is empty", 0) end
end

-- Returns the options, and the batches of ids where there are ids.
local function checked(what)
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
  for _, name in ipairs({ "team_id", "user_id" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  check.boolean(options.all_users, "all_users")
  if options.labels then
    check_labels(options.labels)
    return options
  end
  return options, batches_of(options.sandbox_ids)
end

local function set_of(ids)
  local set = {}
  for _, id in ipairs(ids) do
    set[id] = true
  end
  return set
end

local function succeed(client, result, id)
  result.succeeded[#result.succeeded + 1] = id
  deletes.forget(client, id)
end

local function fail(result, id, why)
  result.failed[#result.failed + 1] = { sandbox_id = id, error = failure.clean(why) }
end

-- Adds what an answer says of `ids`, of each once; without them, of whatever it names.
local function read(client, call, answer, attempts, ids, result)
  local wanted = ids and set_of(ids)
  local function take(id)
    if type(id) ~= "string" or wanted and not wanted[id] then return false end
    if wanted then wanted[id] = nil end
    return true
  end
  for _, id in ipairs(failure.field(call, answer, "succeeded", "table")) do
    if take(id) then succeed(client, result, id) end
  end
  for _, item in ipairs(type(answer.failed) == "table" and answer.failed or {}) do
    local id = type(item) == "table" and item.sandbox_id
    if take(id) then
      -- After a lost answer, "not found" is what success looks like.
      if attempts > 1 and deletes.says_missing(item.error) then
        succeed(client, result, id)
      else
        fail(result, id, type(item.error) == "string" and item.error or "no reason given")
      end
    end
  end
  for _, id in ipairs(ids or {}) do
    if wanted[id] then fail(result, id, "the server said nothing about it") end
  end
  result.message = type(answer.message) == "string" and failure.clean(answer.message) or ""
end

---@async
local function send(client, options, ids, result)
  local call = {
    op = "bulk_delete",
    method = "DELETE",
    path = "/sandbox",
    even_closed = true,
    body = {
      sandbox_ids = ids and json.array(ids),
      labels = options.labels and json.array(options.labels),
      team_id = options.team_id,
      user_id = options.user_id,
      all_users = options.all_users,
    },
  }
  local ok, answer, attempts = pcall(wire.call, client, call)
  if ok then return read(client, call, answer, attempts, ids, result) end
  if errors.is_error(answer) then
    -- What went before is not lost.
    answer.succeeded, answer.failed = result.succeeded, result.failed
  end
  error(answer, 0)
end

---Deletes many: a list of sandboxes or ids, or `{ labels = {…} }` for all that carry
---every label. What the API did not delete is in `failed`, with its reason. Raises when
---a request fails as a whole: the error then has `succeeded` and `failed` so far.
---@async
---@param what (string|sbx.sandbox.Box)[]|sbx.sandbox.BulkDelete
---@return { succeeded: string[], failed: { sandbox_id: string, error: string }[] }
function methods:bulk_delete(what)
  local options, batches = request.blame(checked, what)
  local result = { succeeded = {}, failed = {}, message = "" }
  local ok, err = pcall(function()
    if not batches then return send(self, options, nil, result) end
    for _, ids in ipairs(batches) do
      send(self, options, ids, result)
    end
  end)
  pcall(self.owned.flush, self.owned)
  if not ok then error(err, 0) end
  return result
end

return { methods = methods }
