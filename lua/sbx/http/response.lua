-- Answers, and what becomes of a status that was not wanted.

local errors = require("sbx.errors")
local json = require("sbx.json")

---@class sbx.http.Timing
---@field queue number       seconds until admission; the others count from there
---@field dns number
---@field connect number
---@field tls number
---@field first_byte number
---@field total number       of a stream: 0 until its end was read
---@field reused boolean     an existing connection carried the request

---What answers have in common, read whole or as a stream.
---@class sbx.http.Answer
---@field status integer
---@field reason string
---@field method string       of the last request, when redirects were followed
---@field headers table<string, string>  lower-case names; repeated ones joined by ", "
---@field set_cookies? string[]          each Set-Cookie header
---@field url string          after redirects, without user and password
---@field label string        the URL as it may be logged: without query
---@field retry_after? number seconds that the server asks to wait
---@field attempts? integer   tries, where `retry` was given
---@field timing sbx.http.Timing

---@class sbx.http.Response: sbx.http.Answer
---@field body? string        absent when saved
---@field saved? string       the path that the body was saved to
---@field size integer        bytes of the body, decoded
local Response = {}
Response.__index = Response
Response.__name = "sbx.http.Response"

local response = { Response = Response }

---A body as JSON. Raises an error of kind `json` when it is none.
---@param answer sbx.http.Answer
---@param bytes string
---@return any
function response.decode(answer, bytes)
  local ok, value = pcall(json.decode, bytes)
  if ok then return value end
  local reason = errors.is_error(value) and value.message or tostring(value)
  return errors.raise {
    kind = "json",
    op = "http",
    message = ("%s %s: the answer is not JSON: %s"):format(answer.method, answer.label, reason),
    status = answer.status,
    url = answer.label,
    cause = value,
  }
end

---The body as JSON. Raises an error of kind `json` when it is none.
---@return any
function Response:json()
  return response.decode(self, self.body or "")
end

---@param answer sbx.http.Answer
---@return string
function response.describe(answer)
  return ("%s %s: %d %s"):format(answer.method, answer.label, answer.status, answer.reason)
end

Response.__tostring = response.describe

-- Statuses after which the same request may well succeed.
local TRANSIENT = { [408] = true, [425] = true, [502] = true, [503] = true, [504] = true }

local EXCERPT = 1024

---The error that a bad status is.
---@param answer sbx.http.Answer
---@param once boolean   the request must not run twice
---@param spent boolean  it cannot be sent again
---@return sbx.Error
function response.error(answer, once, spent)
  local status = answer.status
  local reason = answer.reason:gsub("%c", " "):sub(1, 80)
  return errors.new {
    kind = "http",
    op = "http",
    message = ("%s %s: %d %s"):format(answer.method, answer.label, status, reason),
    status = status,
    method = answer.method,
    url = answer.label,
    body = (answer.body or ""):sub(1, EXCERPT),
    sent = true,
    retry_after = answer.retry_after,
    attempts = answer.attempts,
    -- 429 says that nothing was done.
    retryable = not spent and (status == 429 or (TRANSIENT[status] and not once)) or false,
  }
end

return response
