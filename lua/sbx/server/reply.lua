-- How a handler refuses: it raises the whole answer, from however deep, and the
-- route's wrapper sends it.

local errors = require("sbx.errors")
local json = require("sbx.json")
local task = require("sbx.task")
local text = require("sbx.server.text")

local reply = {}

---Seconds for a whole body of JSON, however slowly it comes.
reply.body_seconds = 60

-- What is wrong with a body or a query, field by field, as each 422 says.
local function with_errors(status, body, detail)
  if status ~= 422 or body.errors then return end
  body.errors = json.array { { param = "request", details = detail } }
end

---Raises an answer of the control plane: `{"detail": …}`.
---@param status integer
---@param detail string
---@param more? table  further members of the body, such as `errors`
---@param headers? table<string, string>
function reply.refuse(status, detail, more, headers)
  local body = { detail = detail }
  for name, value in pairs(more or {}) do
    body[name] = value
  end
  with_errors(status, body, detail)
  errors.raise {
    kind = "refused", message = detail, status = status, body = body, headers = headers,
  }
end

---Raises an answer of the gateway: `{"error": …, "message": …, "code": …}`.
---@param status integer
---@param code string   short and stable, such as "file_not_found"
---@param message string
---@param more? table
---@param headers? table<string, string>
function reply.refuse_gateway(status, code, message, more, headers)
  message = text.valid_utf8(message) -- a path in it may hold any bytes
  local body = { error = code, message = message, code = status }
  for name, value in pairs(more or {}) do
    body[name] = value
  end
  errors.raise {
    kind = "refused", message = message, status = status, body = body, headers = headers,
  }
end

---Raises 422 for one field of a request's body or query.
---@param param string
---@param details string
function reply.invalid(param, details)
  reply.refuse(422, param .. ": " .. details, {
    errors = json.array { { param = param, details = details } },
  })
end

---The JSON object in the body of `request`; an empty body counts as `{}`.
---Raises 408, 413 and 422.
---@async
---@param request table
---@param limit? integer  bytes (default 4 MiB)
---@return table
function reply.json_body(request, limit)
  local ok, bytes = pcall(task.timeout, reply.body_seconds, request.read_all, request,
    limit or 4194304)
  if not ok then
    if errors.is_error(bytes) and bytes:is("limit") then
      reply.refuse(413, "request body is too large")
    elseif errors.is_error(bytes) and bytes:is("timeout") then
      reply.refuse(408, "request body did not arrive in time")
    end
    error(bytes, 0)
  end
  if not bytes or bytes == "" then return {} end
  local parsed, body = pcall(json.decode, bytes)
  if not parsed then reply.refuse(422, "body: not valid JSON: " .. tostring(body)) end
  if type(body) ~= "table" or bytes:match("^%s*%[") then
    reply.refuse(422, "body: expected a JSON object")
  end
  return body
end

---One value of the query, or nil.
---@param request table
---@param name string
---@return string|nil
function reply.query(request, name)
  local values = request.query[name]
  return values and values[1]
end

---The bearer token of `request`, or nil.
---@param request table
---@return string|nil
function reply.bearer(request)
  local header = request.headers.authorization
  return header and header:match("^[Bb]earer%s+(%S+)%s*$")
end

return reply
