-- The states of up to 100 sandboxes in one request. What an answer does not say for
-- certain of one of them stays open, to be asked for by itself.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local wire = require("sbx.sandbox.wire")

local batch_status = {}

batch_status.MOST = 100 -- ids in one request

local no_such_call = { [404] = true, [405] = true }
-- What is wrong with one of them fails all, and only asking for each tells which.
local refused_as_whole = { [400] = true, [413] = true, [422] = true }
local status_of_code = { NOT_FOUND = 404, FORBIDDEN = 403, MANAGED = 409 }

-- Clients whose server has no batch status.
local missing = setmetatable({}, { __mode = "k" })

---What one look at a sandbox shows.
---@class sbx.sandbox.Record
---@field id string
---@field status string
---@field error_type string|nil
---@field error_message string|nil
---@field pending_image_build_id string|nil
---@field box sbx.sandbox.Box|nil  all of it, where the API told that

---Whether the server has turned out to have no such call.
---@param client sbx.sandbox.Client
---@return boolean
function batch_status.is_missing(client)
  return missing[client] or false
end

local function text(value)
  return type(value) == "string" and value or nil
end

local function refusal(op, item)
  local detail = failure.clean(text(item.message) or "")
  return errors.new({
    kind = "api",
    op = op,
    sandbox_id = item.sandbox_id,
    status = status_of_code[item.code],
    code = item.code,
    detail = detail,
    message = ("%s %s: the server answered %s: %s"):format(
      op, failure.clean(item.sandbox_id, nil, 100), item.code, detail),
  })
end

-- What the answer says of those who are wanted: of each what comes first.
local function read(op, statuses, refusals, wanted)
  local found = {}
  local function take(item)
    local id = type(item) == "table" and text(item.sandbox_id)
    return id and wanted[id] and not found[id] and id
  end
  for _, item in ipairs(statuses) do
    local id = take(item)
    if id and text(item.status) then
      found[id] = { record = {
        id = id,
        status = item.status,
        error_type = text(item.error_type),
        error_message = text(item.error_message),
        pending_image_build_id = text(item.pending_image_build_id),
      } }
    end
  end
  for _, item in ipairs(refusals) do
    local id = take(item)
    if id and status_of_code[item.code] then found[id] = { error = refusal(op, item) } end
  end
  return found
end

---Asks for the states of so many. By id `{ record = }`, or `{ error = }` where the API
---tells none; those that are in neither way certain are left out. Nil where the server
---takes no such question: then "missing" when it never does, "refused" when not this one.
---Raises what is true for all.
---@async
---@param client sbx.sandbox.Client
---@param op string  on whose behalf, for messages
---@param ids string[]  each once
---@param raise_429? boolean  a 429 is raised, not waited out
---@return table<string, { record: sbx.sandbox.Record|nil, error: sbx.Error|nil }>|nil found
---@return "missing"|"refused"|nil why
function batch_status.ask(client, op, ids, raise_429)
  local call = {
    op = op,
    method = "POST",
    path = "/sandbox/status:batchGet",
    body = { sandbox_ids = json.array(ids) },
    idempotent = true,
    raise_429 = raise_429,
  }
  local ok, answer = pcall(wire.call, client, call)
  if not ok then
    local code = errors.is_error(answer) and answer.status
    if no_such_call[code] then
      missing[client] = true
      return nil, "missing"
    end
    if refused_as_whole[code] then return nil, "refused" end
    error(answer, 0)
  end
  local wanted = {}
  for _, id in ipairs(ids) do
    wanted[id] = true
  end
  local statuses = failure.field(call, answer, "statuses", "table")
  return read(op, statuses, type(answer.errors) == "table" and answer.errors or {}, wanted)
end

return batch_status
