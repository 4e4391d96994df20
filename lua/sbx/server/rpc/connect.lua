-- The server's side of the Connect protocol, version 1, with the binary codec and
-- without compression: one request's headers, messages and errors. What the calls mean
-- is not known here.
--
-- A call's failure is an error of kind `rpc` with a code of the protocol. Before the
-- first message of a stream it is a status and JSON; later it is the stream's last frame.

local errors = require("sbx.errors")
local json = require("sbx.json")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local reader = require("sbx.reader")
local text = require("sbx.server.text")

local connect = {}

local COMPRESSED, LAST = 1, 2 -- flags of a frame
local HEADER = 5 -- bytes before each message
local MAX_MESSAGE = 4 * 1024 * 1024
local MAX_TIMEOUT_DIGITS = 10
local UNARY, STREAM = "application/proto", "application/connect+proto"

local statuses = {
  canceled = 499, unknown = 500, invalid_argument = 400, deadline_exceeded = 504,
  not_found = 404, already_exists = 409, permission_denied = 403, resource_exhausted = 429,
  failed_precondition = 400, aborted = 409, out_of_range = 400, unimplemented = 501,
  internal = 500, unavailable = 503, data_loss = 500, unauthenticated = 401,
}

---Raises an answer of the protocol.
---@param code string
---@param message string
---@param more? {status?: integer, headers?: table<string, string>, members?: table}
---  another status than the code's; further headers, and members of the JSON
function connect.fail(code, message, more)
  more = more or {}
  errors.raise {
    kind = "rpc", code = code, message = text.valid_utf8(message), headers = more.headers,
    status = more.status or statuses[code], members = more.members,
  }
end

---@class sbx.server.rpc.Call
---@field request sbx.core.Request
---@field kind "unary"|"server"|"client"  which side streams
---@field schema table           of the request's messages
---@field answer table           of the answer's
---@field seconds number|nil     that the client gives it
---@field private begun boolean  the answer's stream has
---@field private input? sbx.Reader
---@field private over? boolean  the request's stream has ended
local Call = {}
Call.__index = Call

-- ------------------------------------------------------------------- the request

local function check_encoding(headers, name, accepted)
  local encoding = (headers[name] or "identity"):lower()
  if encoding == "identity" or encoding == "" then return end
  connect.fail("unimplemented", ("%s: %s is not supported, send identity"):format(
    name, encoding:sub(1, 40)), { headers = { [accepted] = "identity" } })
end

local function check_kind(request, wanted)
  local given = (request.headers["content-type"] or ""):lower():match("^%s*([^;%s]*)")
  if given == wanted then return end
  connect.fail("unimplemented", ("content-type: expected %s, got %s"):format(wanted,
    given ~= "" and given:sub(1, 80) or "none"), {
    status = 415, headers = { ["Accept-Post"] = wanted },
  })
end

local function timeout_of(headers)
  local given = headers["connect-timeout-ms"]
  if not given then return nil end
  local number = #given <= MAX_TIMEOUT_DIGITS and given:match("^%d+$") and tonumber(given)
  if not number then
    connect.fail("invalid_argument", "connect-timeout-ms: expected up to ten digits")
  end
  return number / 1000
end

---Reads the headers of a call. Raises what is wrong with them.
---@param request sbx.core.Request
---@param kind "unary"|"server"|"client"
---@param schema table
---@param answer table
---@return sbx.server.rpc.Call
function connect.call(request, kind, schema, answer)
  local headers = request.headers
  local version = headers["connect-protocol-version"]
  if version and version ~= "1" then
    connect.fail("invalid_argument", "connect-protocol-version: expected 1")
  end
  check_kind(request, kind == "unary" and UNARY or STREAM)
  if kind == "unary" then
    check_encoding(headers, "content-encoding", "Accept-Encoding")
  else
    check_encoding(headers, "connect-content-encoding", "Connect-Accept-Encoding")
  end
  return setmetatable({
    request = request, kind = kind, schema = schema, answer = answer,
    seconds = timeout_of(headers), begun = false,
  }, Call)
end

local function too_large(what)
  -- Not 429, the code's own: sent again it would be no smaller.
  connect.fail("resource_exhausted", ("%s: more than %d bytes"):format(what, MAX_MESSAGE),
    { status = 413 })
end

local function decode(self, bytes)
  local ok, message = pcall(protobuf.decode, self.schema, bytes)
  if ok then return message end
  if not errors.is_error(message) then error(message, 0) end
  connect.fail("invalid_argument", message.message)
end

-- The next frame, or nil where the request ends.
---@async
local function read_frame(self)
  local head = self.input:bytes(HEADER)
  if not head then return nil end
  if #head < HEADER then connect.fail("invalid_argument", "the request ends within a frame") end
  local flags, size = string.unpack(">BI4", head)
  if flags & COMPRESSED ~= 0 then
    connect.fail("unimplemented", "a message is compressed, which is not supported",
      { headers = { ["Connect-Accept-Encoding"] = "identity" } })
  elseif flags & ~LAST ~= 0 then
    connect.fail("invalid_argument", ("a frame has the flags %d"):format(flags))
  elseif size > MAX_MESSAGE then
    too_large("a message")
  end
  local bytes = size == 0 and "" or self.input:bytes(size)
  if not bytes or #bytes < size then
    connect.fail("invalid_argument", "the request ends within a message")
  end
  if flags & LAST ~= 0 then return nil end
  return bytes
end

---The next message of a request that is a stream; nil at its end.
---@async
---@return table|nil
function Call:next()
  if self.over then return nil end
  self.input = self.input or reader.new(function() return self.request:read() end)
  local bytes = read_frame(self)
  if bytes then return decode(self, bytes) end
  self.over = true
  return nil
end

---The one message of a request.
---@async
---@return table
function Call:message()
  if self.kind == "unary" then
    local ok, bytes = pcall(self.request.read_all, self.request, MAX_MESSAGE)
    if ok then return decode(self, bytes) end
    if errors.is_error(bytes) and bytes.kind == "limit" then too_large("the message") end
    error(bytes, 0)
  end
  local message = self:next()
  if not message then connect.fail("invalid_argument", "the request has no message") end
  if self:next() then connect.fail("invalid_argument", "the request has more than one message") end
  return message
end

-- -------------------------------------------------------------------- the answer

local function frame(flags, bytes)
  return string.pack(">Bs4", flags, bytes)
end

---Sends a message of the answer: of a stream the next one, else the only one.
---@async
---@param message table
function Call:send(message)
  local bytes = protobuf.encode(self.answer, message)
  if self.kind == "unary" then
    self.request:respond(200, { ["Content-Type"] = UNARY, ["Cache-Control"] = "no-store" }, bytes)
    return
  end
  if not self.begun then
    self.begun = true
    self.request:start(200, { ["Content-Type"] = STREAM, ["Cache-Control"] = "no-store" })
  end
  self.request:write(frame(0, bytes))
end

---Ends the answer's stream well.
---@async
function Call:finish()
  if self.kind == "unary" then return end
  self.request:write(frame(LAST, "{}"))
  self.request:finish()
end

local function body_of(failure)
  local body = {}
  for name, value in pairs(failure.members or {}) do
    body[name] = value
  end
  body.code, body.message = failure.code, failure.message
  return body
end

---Answers with a failure of kind `rpc`, by a status where nothing was sent yet.
---@async
---@param request sbx.core.Request
---@param call sbx.server.rpc.Call|nil
---@param failure sbx.Error
function connect.refuse(request, call, failure)
  if call and call.begun then
    request:write(frame(LAST, json.encode { error = body_of(failure) }))
    request:finish()
    return
  end
  local headers = {
    ["Content-Type"] = "application/json", ["Cache-Control"] = "no-store", ["Server"] = "sbxlua",
  }
  for name, value in pairs(failure.headers or {}) do
    headers[name] = value
  end
  request:respond(failure.status, headers, json.encode(body_of(failure)))
end

return connect
