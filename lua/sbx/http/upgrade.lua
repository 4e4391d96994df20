-- The handshake of a WebSocket: asks the server to go over from HTTP, and checks
-- its answer.

local core = require("sbx.core.websocket")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local task = require("sbx.task")

---@class sbx.http.upgrade
local upgrade = {}

local HEAD_MOST = 64 * 1024 -- bytes of the answer's head
local INTERIM_MOST = 8 -- answers 1xx before the answer
local EXCERPT = 1024 -- bytes of a refusal's body
local EXCERPT_SECONDS = 2

-- Statuses after which the same request may well succeed.
local TRANSIENT = {
  [408] = true, [425] = true, [429] = true, [502] = true, [503] = true, [504] = true,
}

local function fail(target, reason, fields)
  fields.message = ("websocket %s: %s"):format(target.label, reason)
  fields.kind = fields.kind or "http"
  fields.op, fields.url = "websocket", target.label
  errors.raise(fields)
end

local function breach(target, reason)
  fail(target, reason, { code = "EPROTO", phase = "wait" })
end

-- 16 random bytes, as base64.
local function new_key()
  local bytes = hash.random_hex(16):gsub("%x%x", function(digits)
    return string.char(tonumber(digits, 16))
  end)
  return hash.base64(bytes)
end

local function write_request(target, headers, protocols, key)
  local lines = {
    "GET " .. target.path .. " HTTP/1.1",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " .. key,
  }
  if #protocols > 0 then
    lines[#lines + 1] = "Sec-WebSocket-Protocol: " .. table.concat(protocols, ", ")
  end
  for i = 1, #headers, 2 do
    lines[#lines + 1] = headers[i] .. ": " .. headers[i + 1]
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

-- Reads up to the empty line. Returns what is before it, and what came after.
---@async
local function read_head(stream, target, buffer)
  while true do
    local stop, last = buffer:find("\r\n\r\n", 1, true)
    if stop and stop <= HEAD_MOST then
      return buffer:sub(1, stop - 1), buffer:sub(last + 1)
    end
    if #buffer > HEAD_MOST then
      fail(target, ("more than %d bytes of headers"):format(HEAD_MOST),
        { kind = "limit", code = "EMSGSIZE", phase = "receive" })
    end
    local piece = stream:read()
    if not piece then
      fail(target, "the connection broke before the answer",
        { code = "EOF", phase = "wait", retryable = true })
    end
    buffer = buffer .. piece
  end
end

local function parse_head(text, target)
  local status, reason = text:match("^HTTP/1%.[01] (%d%d%d) ?([^\r\n]*)")
  if not status then breach(target, "the answer is not HTTP/1") end
  local headers = {}
  for line in text:gmatch("\r\n([^\r\n]*)") do
    local name, value = line:match("^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
    if not name then breach(target, "the answer has a malformed header") end
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  return tonumber(status), (reason:gsub("%c", " ")), headers
end

local function has_token(list, token)
  for one in (list or ""):lower():gmatch("[^,%s]+") do
    if one == token then return true end
  end
  return false
end

-- The bytes of a chunked body, as far as they are there.
local function join_chunks(text)
  local parts, at = {}, 1
  while true do
    local digits, start = text:match("^(%x+)[^\n]*\n()", at)
    local size = digits and #digits <= 8 and tonumber(digits, 16)
    if not size or size == 0 then return table.concat(parts) end
    parts[#parts + 1] = text:sub(start, start + size - 1)
    at = start + size + 2
  end
end

-- The beginning of a refusal's body, if it comes soon.
---@async
local function read_excerpt(stream, headers, body)
  local chunked = has_token(headers["transfer-encoding"], "chunked")
  local length = tonumber(headers["content-length"])
  local most = chunked and 2 * EXCERPT or EXCERPT
  local wanted = math.min(not chunked and length or most, most)
  task.move_on(EXCERPT_SECONDS, function()
    while #body < wanted do
      local piece = errors.try(stream.read, stream)
      if not piece then return end
      body = body .. piece
    end
  end)
  if length and not chunked then body = body:sub(1, length) end
  if chunked then body = join_chunks(body) end
  return body:sub(1, EXCERPT)
end

---@async
local function refuse(stream, target, status, reason, headers, rest)
  fail(target, ("%d %s"):format(status, reason:sub(1, 80)), {
    status = status,
    phase = "wait",
    body = read_excerpt(stream, headers, rest),
    retry_after = tonumber((headers["retry-after"] or ""):match("^%d+$")),
    retryable = TRANSIENT[status] or false,
  })
end

local function check_answer(target, headers, protocols, key)
  if not has_token(headers.upgrade, "websocket")
    or not has_token(headers.connection, "upgrade") then
    breach(target, "the server says 101, but not to a WebSocket")
  end
  if headers["sec-websocket-accept"] ~= core.accept_for(key) then
    breach(target, "the server has not read our key: Sec-WebSocket-Accept is wrong")
  end
  if (headers["sec-websocket-extensions"] or "") ~= "" then
    breach(target, "the server uses an extension that was not offered")
  end
  local chosen = headers["sec-websocket-protocol"]
  if not chosen then return nil end
  for _, name in ipairs(protocols) do
    if name == chosen then return chosen end
  end
  breach(target, "the server chose a protocol that was not offered")
end

---Asks for a WebSocket on a fresh connection.
---@async
---@param stream sbx.Dial
---@param target table
---@param headers string[]  name, value, name, value …
---@param protocols string[]
---@return string|nil protocol  that the server chose
---@return string rest          what came behind its answer
function upgrade.ask(stream, target, headers, protocols)
  local key = new_key()
  stream:write(write_request(target, headers, protocols, key))
  local rest = ""
  for _ = 1, INTERIM_MOST do
    local head
    head, rest = read_head(stream, target, rest)
    local status, reason, answer = parse_head(head, target)
    if status == 101 then return check_answer(target, answer, protocols, key), rest end
    if status >= 200 then refuse(stream, target, status, reason, answer, rest) end
  end
  breach(target, "too many interim answers")
end

---Whether a program may close with this code.
---@param code integer
function upgrade.may_close_with(code)
  return code >= 3000 or
    (code <= 1014 and code ~= 1004 and code ~= 1005 and code ~= 1006)
end

return upgrade
