-- The states of many sandboxes at once, and why one of them is in trouble.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local BATCH = 100 -- ids in one request
local AT_ONCE = { batches = 4, single = 16 }

local no_such_call = { [404] = true, [405] = true }
-- What is wrong with one of them fails all, and only asking for each tells which.
local refused_as_whole = { [400] = true, [413] = true, [422] = true }
local status_of_code = { NOT_FOUND = 404, FORBIDDEN = 403, MANAGED = 409 }

-- Clients whose server has no batch status.
local without_batch = setmetatable({}, { __mode = "k" })

local shape = {
  sandbox_id = "string", status = "string", error_type = "string?", error_message = "string?",
  pending_image_build_id = "string?",
}
local error_shape = { sandbox_id = "string", code = "string", message = "string?" }

-- ---------------------------------------------------------------- error context

---@class sbx.sandbox.ErrorContext
---@field status string|nil
---@field error_type string|nil  OOM_KILLED, TIMEOUT, IMAGE_PULL_FAILED …
---@field error_message string|nil

---@async
local function ask(client, op, id, rest)
  local call = {
    op = op, method = "GET", path = wire.sandbox_path(id, rest), sandbox_id = id,
  }
  return call, (wire.call(client, call))
end

-- Either spelling of a field.
local function context_from(call, answer)
  local found = answers.read(call, answer, {
    status = "string?", errorType = "string?", errorMessage = "string?",
  })
  local older = answers.read(call, answer, { error_type = "string?", error_message = "string?" })
  found.error_type = found.error_type or older.error_type
  found.error_message = found.error_message or older.error_message
  return found
end

---Why a sandbox is in trouble, as the API says it; all nil but for `status` when it is
---not. Servers that do not have this call are asked for the sandbox.
---@async
---@param target string|sbx.sandbox.Box
---@return sbx.sandbox.ErrorContext
function methods:get_error_context(target)
  local id = wire.id_of(target)
  local ok, call, answer = pcall(ask, self, "get_error_context", id, "/error-context")
  if not ok then
    local err = call
    if not errors.is_error(err) or not no_such_call[err.status] then error(err, 0) end
    call, answer = ask(self, "get_error_context", id)
  end
  return context_from(call, answer)
end

-- ----------------------------------------------------------------------- states

---@class sbx.sandbox.Status
---@field id string
---@field status string  PENDING, PROVISIONING, RUNNING, PAUSED, ERROR, TERMINATED, TIMEOUT …
---@field error_type string|nil
---@field error_message string|nil
---@field pending_image_build_id string|nil  the image that it waits for

local function one_error(id, code, text)
  return errors.new({
    kind = "api",
    op = "get_status",
    sandbox_id = id,
    status = status_of_code[code],
    code = failure.clean(code, nil, 100),
    detail = failure.clean(text),
    message = ("get_status %s: the server answered %s: %s"):format(
      failure.clean(id, nil, 100), failure.clean(code, nil, 100), failure.clean(text)),
  })
end

---@async
local function get_one(client, id, result)
  local ok, found = pcall(client.get, client, id)
  if ok and found.id == id then
    local record = { id = id }
    for name in pairs(shape) do
      if type(found[name]) == "string" then record[name] = found[name] end
    end
    result.statuses[id] = record
    return
  end
  if ok then
    result.errors[id] = one_error(id, "BAD_ANSWER", "an answer about another sandbox")
    return
  end
  if not errors.is_error(found) or found.kind == "cancelled" then error(found, 0) end
  -- What the API says about this one, and not about all.
  if found.status ~= 404 and found.status ~= 403 and found.code ~= "BAD_ANSWER" then
    error(found, 0)
  end
  result.errors[id] = found
end

---@async
local function get_each(client, ids, result)
  task.map(ids, function(id) get_one(client, id, result) end, { limit = AT_ONCE.single })
end

-- Each wanted id is told about once, and nothing else is.
local function read_batch(call, answer, ids, result)
  local wanted = {}
  for _, id in ipairs(ids) do
    wanted[id] = true
  end
  local function take(name, index, id)
    if not wanted[id] then
      answers.refuse(call, ("'%s[%d].sandbox_id' was not asked for, or comes twice"):format(
        name, index))
    end
    wanted[id] = nil
  end
  for i, item in ipairs(answers.list(call, answer, "statuses", shape)) do
    local id = item.sandbox_id
    take("statuses", i, id)
    item.id, item.sandbox_id = id, nil
    result.statuses[id] = item
  end
  for i, item in ipairs(answers.list(call, answer, "errors", error_shape)) do
    take("errors", i, item.sandbox_id)
    result.errors[item.sandbox_id] = one_error(item.sandbox_id, item.code, item.message or "")
  end
  for id in pairs(wanted) do
    result.errors[id] = one_error(id, "BAD_ANSWER", "nothing about this sandbox")
  end
end

---@async
local function get_batch(client, ids, result)
  if without_batch[client] then return get_each(client, ids, result) end
  local call = {
    op = "get_status",
    method = "POST",
    path = "/sandbox/status:batchGet",
    body = { sandbox_ids = json.array(ids) },
    idempotent = true,
  }
  local ok, answer = pcall(wire.call, client, call)
  if ok then return read_batch(call, answer, ids, result) end
  local status = errors.is_error(answer) and answer.status
  if no_such_call[status] then
    without_batch[client] = true
  elseif not refused_as_whole[status] then
    error(answer, 0)
  end
  get_each(client, ids, result)
end

local function batches_of(targets)
  local seen, batches = {}, {}
  for _, target in ipairs(check.table(targets, "sandboxes")) do
    local id = wire.id_of(target)
    if not seen[id] then
      seen[id] = true
      local last = batches[#batches]
      if not last or #last == BATCH then
        last = {}
        batches[#batches + 1] = last
      end
      last[#last + 1] = id
    end
  end
  return batches
end

---The states of any number of sandboxes, by id, with a request for each hundred; and an
---error by id for those of which the API tells none, because they are gone for one.
---Servers that have no batch status are asked for each by itself.
---@async
---@param targets (string|sbx.sandbox.Box)[]  one that is named twice is asked for once
---@return table<string, sbx.sandbox.Status> statuses, table<string, sbx.Error> failures
function methods:get_status(targets)
  local batches = request.blame(batches_of, targets)
  local result = { statuses = {}, errors = {} }
  task.map(batches, function(ids) get_batch(self, ids, result) end, { limit = AT_ONCE.batches })
  return result.statuses, result.errors
end

return { methods = methods }
