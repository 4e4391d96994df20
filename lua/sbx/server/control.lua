-- The control plane: sandboxes are made, looked at and ended here. Each handler
-- takes (server, request, params, caller) and returns a status and a JSON object. A sandbox
-- that the path names is one that the caller may use; others are looked at here.

local errors = require("sbx.errors")
local json = require("sbx.json")
local keys = require("sbx.server.keys")
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

-- Where a driver is strict, an image that it has not is known before anything is made.
local function refuse_missing_image(driver, spec)
  if not driver.strict_images then return end
  local accessible, details = driver:look_for_image(spec.docker_image)
  if accessible then return end
  reply.invalid("docker_image", spec.docker_image .. ": " .. details)
end

function control.create(server, request, _, caller)
  local driver = server.fleet.driver
  local spec, faults = validate.create(reply.json_body(request), {
    profile = server.profile,
    network_rules = driver.features ~= nil and driver.features.network_rules == true,
    has_login = function(id) return server.logins:get(id) ~= nil end,
  })
  if not spec then
    local words = {}
    for index, fault in ipairs(faults) do
      words[index] = fault.param .. ": " .. fault.details
    end
    reply.refuse(422, table.concat(words, "; "), { errors = json.array(faults) })
  end

  refuse_missing_image(driver, spec)
  keys.sign(caller, spec)
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

-- The user that a request is about, or nil for all that the caller may see. Clients send
-- what their configuration says, which may be a user of another service: that says nothing.
local function wanted_user(server, caller, user)
  if user == nil or user == json.null or user == "" then return nil end
  if type(user) ~= "string" then reply.invalid("user_id", "expected a string") end
  if not server.keys:is_user(user) then return nil end
  if not caller.admin and user ~= caller.user_id then
    reply.refuse(403, "user_id: the sandboxes of other users need the server's own key")
  end
  return user
end

-- A value of a query, nil when it is empty.
local function filled(request, name)
  local given = reply.query(request, name)
  return given ~= "" and given or nil
end

-- What a list is asked for; others than the server's own key see what is theirs.
local function list_query(server, request, caller)
  local labels = {}
  for _, label in ipairs(request.query.labels or {}) do
    if label ~= "" then labels[#labels + 1] = label end
  end
  local user = wanted_user(server, caller, reply.query(request, "user_id"))
  return {
    labels = labels,
    user = user or not caller.admin and caller.user_id or nil,
    team = filled(request, "team_id"),
    status = filled(request, "status"),
    active = wants_active(request),
  }
end

function control.list(server, request, _, caller)
  local page = positive(request, "page", 1, 1000000000)
  local per_page = positive(request, "per_page", 50, 1000)
  local first = (page - 1) * per_page + 1
  local last = first + per_page - 1
  local found, total = server.fleet.store:list(list_query(server, request, caller), first, last)

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

-- Which of those that carry the labels a bulk delete means: the caller's own, unless it
-- says whose.
local function whose(server, body, caller)
  local user = wanted_user(server, caller, body.user_id)
  local everybody = body.all_users
  if everybody ~= nil and everybody ~= json.null and type(everybody) ~= "boolean" then
    reply.invalid("all_users", "expected true or false")
  elseif everybody == true and not caller.admin then
    reply.refuse(403, "all_users: the sandboxes of other users need the server's own key")
  end
  return function(record)
    if user then return keys.user_id(record) == user end
    return everybody == true or keys.owns(caller, record)
  end
end

function control.bulk_delete(server, request, _, caller)
  local body = reply.json_body(request)
  local ids = string_list(body, "sandbox_ids", 500)
  local labels = string_list(body, "labels", 50)
  if (ids == nil) == (labels == nil) then
    reply.refuse(422, "give either sandbox_ids or labels")
  end
  local is_meant = whose(server, body, caller)

  local records, succeeded, failed = {}, {}, {}
  for _, id in ipairs(ids or {}) do
    local record = server.fleet.store:get(id)
    if record and keys.may_use(caller, record) then
      records[#records + 1] = record
      succeeded[#succeeded + 1] = id
    else
      failed[#failed + 1] = { sandbox_id = id, error = "not found" }
    end
  end
  if labels then
    records = server.fleet.store:list { labels = labels, active = true, accept = is_meant }
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
    is_vm = record.spec.vm == true,
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

function control.batch_status(server, request, _, caller)
  local ids = string_list(reply.json_body(request), "sandbox_ids", 100)
  if not ids then reply.invalid("sandbox_ids", "required") end
  local statuses, missing, seen = {}, {}, {}
  for _, id in ipairs(ids) do
    if seen[id] then reply.invalid("sandbox_ids", "an id is there twice") end
    seen[id] = true
  end
  for _, id in ipairs(ids) do
    local record = server.fleet.store:get(id)
    if record and not keys.may_use(caller, record) then record = nil end
    server.limits:check("batch_get", caller.name, request.remote, record and id)
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

return control
