-- The states of many sandboxes at once, and why one of them is in trouble.

local answers = require("sbx.sandbox.answers")
local batch_status = require("sbx.sandbox.batch_status")
local check = require("sbx.check")
local errors = require("sbx.errors")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local AT_ONCE = { batches = 4, single = 16 }

local no_such_call = { [404] = true, [405] = true }

local names = { "status", "error_type", "error_message", "pending_image_build_id" }

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

local context_shape = { status = "string?", errorType = "string?", errorMessage = "string?" }

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
  return answers.read(call, answer, context_shape)
end

-- ----------------------------------------------------------------------- states

---@class sbx.sandbox.Status
---@field id string
---@field status string  PENDING, PROVISIONING, RUNNING, PAUSED, ERROR, TERMINATED, TIMEOUT …
---@field error_type string|nil
---@field error_message string|nil
---@field pending_image_build_id string|nil  the image that it waits for

---@async
local function get_one(client, id, result)
  local ok, found = pcall(client.get, client, id)
  if ok then
    local record = { id = id }
    for _, name in ipairs(names) do
      if type(found[name]) == "string" then record[name] = found[name] end
    end
    result.statuses[id] = record
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

---@async
local function get_batch(client, ids, result)
  local found = not batch_status.is_missing(client)
    and batch_status.ask(client, "get_status", ids) or {}
  local open = {}
  for _, id in ipairs(ids) do
    local news = found[id] or {}
    result.statuses[id], result.errors[id] = news.record, news.error
    if not found[id] then open[#open + 1] = id end
  end
  get_each(client, open, result)
end

local function batches_of(targets)
  local seen, batches = {}, {}
  for _, target in ipairs(check.table(targets, "sandboxes")) do
    local id = wire.id_of(target)
    if not seen[id] then
      seen[id] = true
      local last = batches[#batches]
      if not last or #last == batch_status.MOST then
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
