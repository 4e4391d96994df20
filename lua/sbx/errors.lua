-- Error objects: what the world refused, in a form that scripts can ask.
--
-- Fields: kind, message, and where they apply op, code, phase, status, detail,
-- retryable, retry_after (seconds), cause, errors, traceback, sandbox_id,
-- request_id, attempts. `tostring(e)` is one line.

local check = require("sbx.check")
local core = require("sbx.core.errors")

---@class sbx.Error
---@field kind string
---@field message string
---@field op? string
---@field code? string
---@field phase? string
---@field retryable? boolean
---@field retry_after? number
---@field cause? any
---@field errors? any[]
---@field traceback? string
local Error = {}

local errors = {}

local metatable = core.metatable
metatable.__index = Error
metatable.__name = "sbx.error"

function metatable.__tostring(e)
  local text = tostring(rawget(e, "message") or rawget(e, "kind") or "error")
  return (text:gsub("%s*[\r\n]+%s*", " "))
end

-- Kinds that count as another one too: `e:is("not_running")` holds for an oom.
local parents = {
  unauthorized = "api",
  payment_required = "api",
  api_timeout = "api",
  file_not_found = "api",
  file_too_large = "api",
  batch_unsupported = "api",
  oom = "not_running",
  sandbox_timeout = "not_running",
  image_pull = "not_running",
  command_timeout = "timeout",
  upload_timeout = "timeout",
  download_timeout = "timeout",
}

local function kind_is(kind, wanted)
  while kind do
    if kind == wanted then return true end
    kind = parents[kind]
  end
  return false
end

---True when this error, or one that caused it, is of `kind`.
---@param kind string
---@return boolean
function Error:is(kind)
  local e, steps = self, 0
  while errors.is_error(e) and steps < 100 do
    if kind_is(rawget(e, "kind"), kind) then return true end
    e, steps = rawget(e, "cause"), steps + 1
  end
  return false
end

---True for an error object, false for anything else.
---@param value any
---@return boolean
function errors.is_error(value)
  return type(value) == "table" and getmetatable(value) == metatable
end

---Makes an error object of `fields`, which it takes over.
---@param fields table  with `kind` and `message`
---@return sbx.Error
function errors.new(fields)
  if type(fields) ~= "table" then check.table(fields, "fields") end
  return setmetatable(fields, metatable)
end

---Raises an error object made of `fields`.
---@param fields table  with `kind` and `message`
function errors.raise(fields)
  error(errors.new(fields), 0)
end

---Calls `fn(...)`: its results, or `nil, err` when it fails. A cancellation is
---not a failure to be handled and passes through.
---@async
---@generic T
---@param fn async fun(...): T
---@param ... any  for `fn`
---@return T|nil, any
function errors.try(fn, ...)
  local function finish(ok, ...)
    if ok then return ... end
    local err = ...
    if errors.is_error(err) and err.kind == "cancelled" then error(err, 0) end
    return nil, err
  end
  return finish(pcall(fn, ...))
end

return errors
