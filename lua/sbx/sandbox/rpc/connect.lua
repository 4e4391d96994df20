-- The Connect protocol, version 1, over sbx.http: calls that have one answer, and
-- calls that a stream of messages answers. Compression is not offered.
--
-- What the other side says is bounded and cleaned. Its refusals are errors of kind
-- `api` whose `code` is one of the protocol's; what http raises passes through.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local http = require("sbx.http")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local reader = require("sbx.reader")
local task = require("sbx.task")

local connect = {}

local MAX_MESSAGE = 16 * 1024 * 1024 -- bytes of one
local MAX_REFUSAL = 64 * 1024 -- bytes read of an answer that is an error
local LONGEST_MS = 9999999999 -- the header has ten digits
local YIELD_EVERY = 256 -- messages: a flood of small ones must not hold the loop

local COMPRESSED, LAST = 1, 2 -- flags of a frame
local HEADER = 5 -- bytes before each message

local codes = {}
for code in ([[
  canceled unknown invalid_argument deadline_exceeded not_found already_exists
  permission_denied resource_exhausted failed_precondition aborted out_of_range
  unimplemented internal unavailable data_loss unauthenticated]]):gmatch("%S+") do
  codes[code] = true
end

local code_of_status = {
  [400] = "internal", [401] = "unauthenticated", [403] = "permission_denied",
  [404] = "unimplemented", [429] = "unavailable", [502] = "unavailable",
  [503] = "unavailable", [504] = "unavailable",
}

local LONGEST_PAUSE = 86400 -- seconds that a server may ask for

local may_pass = { aborted = true, deadline_exceeded = true, unavailable = true }

---@class sbx.sandbox.ConnectCall
---@field op string
---@field sandbox_id string
---@field url string
---@field token string
---@field secrets string[]  never to appear in an error
---@field request table     schema
---@field response table    schema
---@field message table     what is sent
---@field seconds number    that the server is given
---@field timeout number    seconds that we wait, all told
---@field connect_timeout number
---@field user_agent string
---@field transport table   further options of sbx.http

-- ------------------------------------------------------------------- failures

local function bad_answer(call, what)
  return errors.new({
    kind = "api",
    code = "BAD_ANSWER",
    op = call.op,
    url = failure.clean(call.url, call.secrets),
    sandbox_id = call.sandbox_id,
    message = ("%s %s: cannot make sense of the server's answer: %s"):format(
      call.op, failure.clean(call.sandbox_id, call.secrets, 100), what),
  })
end

local function known_code(document)
  local code = document and document.code
  return codes[code] and code or nil
end

-- The error for a status other than 200.
local function refusal(call, response)
  local err = failure.from_status(call, response)
  err.code = known_code(failure.object(response.body))
    or code_of_status[response.status] or "unknown"
  err.retryable = err.status == 429 or may_pass[err.code] or false
  return err
end

-- What the server asks for: by a header of the answer, or by what follows a stream.
local function pause_of(document, headers)
  local metadata = type(document.metadata) == "table" and document.metadata or {}
  for name, values in pairs(metadata) do
    if type(name) == "string" and name:lower() == "retry-after" then
      local first = type(values) == "table" and values[1] or values
      headers = { ["retry-after"] = type(first) == "string" and first or nil }
    end
  end
  local seconds = (headers["retry-after"] or ""):match("^%s*(%d+)%s*$")
  return seconds and math.min(tonumber(seconds), LONGEST_PAUSE) or nil
end

-- The error that the last frame of a stream tells.
local function told(call, document, headers)
  local frame = document
  document = frame.error
  local code = known_code(document) or "unknown"
  local words = type(document.message) == "string" and document.message or ""
  local detail = failure.clean(words, call.secrets)
  return errors.new({
    kind = "api",
    code = code,
    op = call.op,
    method = "POST",
    url = failure.clean(call.url, call.secrets),
    sandbox_id = call.sandbox_id,
    detail = detail,
    retry_after = pause_of(frame, headers),
    retryable = may_pass[code] or false,
    message = ("%s %s: the server answered %s%s"):format(
      call.op, failure.clean(call.sandbox_id, call.secrets, 100), code,
      detail ~= "" and ": " .. detail or ""),
  })
end

local function decode(call, bytes)
  local ok, message = pcall(protobuf.decode, call.response, bytes)
  if ok then return message end
  error(bad_answer(call, message.message), 0)
end

-- ------------------------------------------------------------------- requests

local function options_of(call, kind)
  local milliseconds = math.min(math.ceil(call.seconds * 1000), LONGEST_MS)
  local options = {
    headers = {
      ["authorization"] = "Bearer " .. call.token,
      ["content-type"] = kind,
      ["connect-protocol-version"] = "1",
      ["connect-timeout-ms"] = ("%d"):format(milliseconds),
      ["user-agent"] = call.user_agent,
    },
    timeout = call.timeout,
    connect_timeout = call.connect_timeout,
    at_most_once = true,
    decompress = false,
  }
  for name, value in pairs(call.transport) do
    options[name] = value
  end
  return options
end

local function check_kind(call, headers, wanted, encoding)
  local kind = (headers["content-type"] or ""):lower():match("^%s*([^;%s]*)")
  if kind ~= wanted then
    local got = failure.clean(headers["content-type"] or "nothing", call.secrets, 100)
    error(bad_answer(call, ("expected %s, got %s"):format(wanted, got)), 0)
  end
  if (headers[encoding] or "identity"):lower() ~= "identity" then
    error(bad_answer(call, "it is compressed, which was not asked for"), 0)
  end
end

---Makes a call that has one answer, and returns it.
---@async
---@param call sbx.sandbox.ConnectCall
---@return table message
function connect.unary(call)
  local options = options_of(call, "application/proto")
  options.headers["accept-encoding"] = "identity"
  options.body = protobuf.encode(call.request, call.message)
  options.max_body = MAX_MESSAGE
  local response = http.request("POST", call.url, options)
  if response.status ~= 200 then error(refusal(call, response), 0) end
  check_kind(call, response.headers, "application/proto", "content-encoding")
  return decode(call, response.body)
end

-- -------------------------------------------------------------------- streams

---@class sbx.sandbox.ConnectStream
---@field private call sbx.sandbox.ConnectCall
---@field private answer sbx.http.Stream
---@field private reader sbx.Reader
---@field private head? string     of the frame whose message has not come yet
---@field private held table[]     messages that were put back, the next one last
---@field private ended boolean    the last frame has come
---@field private count integer    messages so far
local Stream = {}
Stream.__index = Stream

local function read_refusal(call, answer)
  local ok, body = pcall(function()
    local parts, size = {}, 0
    while size < MAX_REFUSAL do
      local bytes = answer:read(MAX_REFUSAL - size)
      if not bytes then break end
      parts[#parts + 1] = bytes
      size = size + #bytes
    end
    return table.concat(parts)
  end)
  -- The status counts, also where the words behind it are lost.
  if not ok and errors.is_error(body) and body.kind == "cancelled" then error(body, 0) end
  return refusal(call, {
    status = answer.status, headers = answer.headers, retry_after = answer.retry_after,
    body = ok and body or nil,
  })
end

---Makes a call that a stream of messages answers, and waits for its beginning.
---@async
---@param call sbx.sandbox.ConnectCall
---@return sbx.sandbox.ConnectStream
function connect.open(call)
  local options = options_of(call, "application/connect+proto")
  options.headers["connect-content-encoding"] = "identity"
  options.headers["connect-accept-encoding"] = "identity"
  local message = protobuf.encode(call.request, call.message)
  options.body = string.pack(">Bs4", 0, message)
  local answer = http.stream("POST", call.url, options)
  local self = setmetatable({
    call = call,
    answer = answer,
    reader = reader.new(function() return answer:read() end),
    held = {},
    ended = false,
    count = 0,
  }, Stream)
  local ok, err = pcall(function()
    if answer.status ~= 200 then error(read_refusal(call, answer), 0) end
    check_kind(call, answer.headers, "application/connect+proto", "connect-content-encoding")
  end)
  if ok then return self end
  self:close()
  error(err, 0)
end

local function cut_short(self)
  return bad_answer(self.call, "the stream broke off in the middle")
end

-- The flags and the bytes of the next frame. Cancelled between the two, it goes on
-- where it was.
---@async
local function read_frame(self)
  local head = self.head or self.reader:bytes(HEADER)
  if not head or #head < HEADER then error(cut_short(self), 0) end
  self.head = head
  local flags, size = string.unpack(">BI4", head)
  if flags & COMPRESSED ~= 0 then
    error(bad_answer(self.call, "it is compressed, which was not asked for"), 0)
  end
  if flags & ~LAST ~= 0 then
    error(bad_answer(self.call, ("a frame has the flags %d"):format(flags)), 0)
  end
  if size > MAX_MESSAGE then
    error(bad_answer(self.call, ("a message of %d bytes is longer than %d"):format(
      size, MAX_MESSAGE)), 0)
  end
  local bytes = size == 0 and "" or self.reader:bytes(size)
  if not bytes or #bytes < size then error(cut_short(self), 0) end
  self.head = nil
  return flags & LAST ~= 0, bytes
end

local function finish(self, bytes)
  local document = failure.object(bytes)
  if not document then error(bad_answer(self.call, "its last frame is no JSON object"), 0) end
  self.ended = true
  if type(document.error) == "table" then
    error(told(self.call, document, self.answer.headers), 0)
  end
end

---The next message, or nil after the last one. Raises what the server says went
---wrong, kind `api` for an answer that makes no sense, and what http raises. A
---cancelled call loses nothing.
---@async
---@return table|nil
function Stream:next()
  if #self.held > 0 then return table.remove(self.held) end
  if self.ended then return nil end
  self.count = self.count + 1
  if self.count % YIELD_EVERY == 0 then task.yield() end
  local last, bytes = read_frame(self)
  if not last then return decode(self.call, bytes) end
  return finish(self, bytes)
end

---Puts a message back before those not read yet.
---@param message table
function Stream:unread(message)
  self.held[#self.held + 1] = message
end

---Reads what is left after the last message that counts, so that the connection can
---serve again; at most for so long.
---@async
---@param seconds number
function Stream:drain(seconds)
  task.move_on(seconds, pcall, function()
    while self:next() do end
    self.reader:all(MAX_REFUSAL)
  end)
end

---Lets go of the connection. Twice is harmless.
function Stream:close()
  self.answer:close()
end

Stream.__close = Stream.close

return connect
