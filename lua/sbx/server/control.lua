-- The control plane: sandboxes are made, looked at and ended here. Each handler
-- takes (server, request, params) and returns a status and a JSON object.

local errors = require("sbx.errors")
local json = require("sbx.json")
local reply = require("sbx.server.reply")
local task = require("sbx.task")
local text = require("sbx.server.text")
local validate = require("sbx.server.validate")

local control = {}

local function known(server, params)
  local record = server.fleet.store:get(params.id)
  if not record then reply.refuse(404, "Sandbox not found") end
  return record
end

local function or_null(value)
  if value == nil then return json.null end
  return value
end

function control.create(server, request)
  local spec, faults = validate.create(reply.json_body(request))
  if not spec then
    local words = {}
    for index, fault in ipairs(faults) do
      words[index] = fault.param .. ": " .. fault.details
    end
    reply.refuse(422, table.concat(words, "; "), { errors = json.array(faults) })
  end

  local ok, record = pcall(server.fleet.create, server.fleet, spec)
  if ok then return 201, record:view() end
  if errors.is_error(record) and record.kind == "conflict" then
    reply.refuse(409, record.message)
  elseif errors.is_error(record) and record.kind == "limit" then
    reply.refuse(429, record.message, nil, { ["Retry-After"] = "2" })
  end
  error(record, 0)
end

local function positive(request, name, default, most)
  local given = reply.query(request, name)
  if not given or given == "" then return default end
  local number = math.tointeger(tonumber(given))
  if not number or number < 1 or number > most then
    reply.invalid(name, "expected a whole number from 1 to " .. most)
  end
  return number
end

-- Only a plain "true" in any case hides what has ended; false means no filter.
local function wants_active(request)
  return (reply.query(request, "is_active") or ""):lower() == "true"
end

local function list_filter(request)
  local labels = {}
  for _, label in ipairs(request.query.labels or {}) do
    if label ~= "" then labels[#labels + 1] = label end
  end
  local status = reply.query(request, "status") or ""
  local active = wants_active(request)
  local team = reply.query(request, "team_id") or ""
  return function(record)
    if active and record:ended() then return false end
    if status ~= "" and record.status ~= status then return false end
    if team ~= "" and record.spec.team_id ~= team then return false end
    return record:has_labels(labels)
  end
end

function control.list(server, request)
  local page = positive(request, "page", 1, 1000000000)
  local per_page = positive(request, "per_page", 50, 1000)
  local first = (page - 1) * per_page + 1
  local last = first + per_page - 1
  local found, total = server.fleet.store:select(list_filter(request), first, last)

  local views = {}
  for index, record in ipairs(found) do
    views[index] = record:view()
  end
  return 200, {
    sandboxes = json.array(views),
    total = total,
    page = page,
    per_page = per_page,
    has_next = last < total,
  }
end

function control.get(server, _, params)
  return 200, known(server, params):view()
end

function control.delete(server, _, params)
  local record = known(server, params)
  server.fleet:delete(record)
  return 200, { success = true, message = "Deleted " .. record.id }
end

local function string_list(body, name, most)
  local list = body[name]
  if list == nil or list == json.null then return nil end
  if not text.is_list(list) or #list < 1 or #list > most then
    reply.invalid(name, "expected a list of 1 to " .. most .. " strings")
  end
  for _, entry in ipairs(list) do
    if type(entry) ~= "string" then reply.invalid(name, "expected a list of strings") end
  end
  return list
end

local function delete_all(server, records)
  task.map(records, function(record)
    server.fleet:delete(record)
  end, { limit = 32 })
end

function control.bulk_delete(server, request)
  local body = reply.json_body(request)
  local ids = string_list(body, "sandbox_ids", 500)
  local labels = string_list(body, "labels", 50)
  if (ids == nil) == (labels == nil) then
    reply.refuse(422, "give either sandbox_ids or labels")
  end

  local records, succeeded, failed = {}, {}, {}
  for _, id in ipairs(ids or {}) do
    local record = server.fleet.store:get(id)
    if record then
      records[#records + 1] = record
      succeeded[#succeeded + 1] = id
    else
      failed[#failed + 1] = { sandbox_id = id, error = "not found" }
    end
  end
  if labels then
    records = server.fleet.store:select(function(record)
      return not record:ended() and record:has_labels(labels)
    end)
    for index, record in ipairs(records) do
      succeeded[index] = record.id
    end
  end
  delete_all(server, records)
  return 200, {
    succeeded = json.array(succeeded),
    failed = json.array(failed),
    message = ("%d deleted, %d failed"):format(#succeeded, #failed),
  }
end

function control.logs(server, _, params)
  return 200, { logs = known(server, params).logs:text() }
end

-- Also before it runs: the gateway then answers 409, which clients understand.
function control.auth(server, _, params)
  local record = known(server, params)
  local token, expires_at = server.tokens:issue(record.id)
  return 200, {
    token = token,
    gateway_url = server.url .. "/gw",
    user_ns = "local",
    job_id = record.job_id,
    expires_at = expires_at,
    is_vm = false,
  }
end

function control.error_context(server, _, params)
  local record = known(server, params)
  return 200, {
    status = record.status,
    errorType = or_null(record.error_type),
    errorMessage = or_null(record.error_message),
  }
end

function control.batch_status(server, request)
  local ids = string_list(reply.json_body(request), "sandbox_ids", 100)
  if not ids then reply.invalid("sandbox_ids", "required") end
  local statuses, missing = {}, {}
  for _, id in ipairs(ids) do
    local record = server.fleet.store:get(id)
    if record then
      statuses[#statuses + 1] = {
        sandbox_id = id,
        status = record.status,
        error_type = or_null(record.error_type),
        error_message = or_null(record.error_message),
        pending_image_build_id = json.null,
      }
    else
      missing[#missing + 1] = {
        sandbox_id = id, code = "NOT_FOUND", message = "No such sandbox",
      }
    end
  end
  return 200, { statuses = json.array(statuses), errors = json.array(missing) }
end

local function policy_view(record)
  local empty = json.array {}
  return {
    policy = {
      allowlist = record.spec.network and json.null or empty,
      denylist = record.spec.network and empty or json.null,
    },
    generation = 1,
    applied_generation = 1,
    applied = true,
  }
end

function control.egress_get(server, _, params)
  return 200, policy_view(known(server, params))
end

-- A container's network is decided at its start. Asking for what it has is
-- fine; anything else is refused rather than pretended.
function control.egress_put(server, request, params)
  local record = known(server, params)
  local body = reply.json_body(request)
  local function is_empty(list)
    return text.is_list(list) and #list == 0
  end
  local wanted
  if is_empty(body.allowlist) and not text.is_list(body.denylist) then wanted = false end
  if is_empty(body.denylist) and not text.is_list(body.allowlist) then wanted = true end
  if wanted == record.spec.network then return 200, policy_view(record) end
  reply.refuse(422, "the network of a container is the whole one or none, decided when it is"
    .. " created; make another sandbox with network_access = " .. tostring(wanted or false))
end

return control
