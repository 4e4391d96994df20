-- Records the requests of a run and their answers, for `--replay`. docs/replay.md has the
-- format. The file has its name only once the run has ended.

local copy = require("sbx.fs.copy")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local exchange = require("sbx.http.exchange")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local log = require("sbx.log")
local observe = require("sbx.observe")
local request = require("sbx.replay.request")
local scrubs = require("sbx.replay.scrub")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.time")
local tokens = require("sbx.replay.tokens")

local record = {}

record.VERSION = 1

local PIECE = 512 * 1024 -- bytes of a body in one line
local WRITE_SECONDS = 60

local state -- of the recording, while there is one

-- What an error is made of again.
local ERROR_FIELDS = {
  "kind", "message", "op", "code", "phase", "method", "url", "status", "retryable", "sent",
  "retry_after",
}

-- --------------------------------------------------------------------- writing

-- Lines of other requests may come between those of one. What has arrived is handed to the
-- script whatever becomes of the file.
---@async
local function put(self, line)
  if self.problem then return end
  local text = json.encode(line, { sort_keys = true }) .. "\n"
  local ok, err = pcall(task.shield, WRITE_SECONDS, function()
    local _ <close> = self.turn:lock()
    if self.file then self.file:write(text) end
  end)
  if not ok then self.problem = self.problem or err end
end

local function now(self)
  return math.floor((task.now() - self.start) * 1e6 + 0.5) / 1e6
end

-- Text as such, all else in base64; nothing for nothing.
local function set_bytes(self, line, bytes)
  if bytes == "" then return line end
  bytes = self.scrub:bytes(bytes)
  if encoding.utf8_valid(bytes) then
    line.text = self.tokens:told(bytes)
  else
    line.base64 = encoding.base64(bytes)
  end
  return line
end

---@async
local function put_pieces(self, n, bytes)
  local at = 1
  while at <= #bytes do
    local last = math.min(at + PIECE - 1, #bytes)
    -- Not within a letter, else the rest of a text would be no text.
    while last < #bytes and last > at + PIECE - 4 and bytes:byte(last + 1) & 0xc0 == 0x80 do
      last = last - 1
    end
    put(self, set_bytes(self, { type = "chunk", n = n }, bytes:sub(at, last)))
    at = last + 1
  end
end

-- -------------------------------------------------------------------- exchanges

local function head_of(self, answer)
  return {
    status = answer.status, reason = self.scrub:bytes(answer.reason or ""),
    headers = self.scrub:headers(answer.headers), retry_after = answer.retry_after,
    url = self.tokens:sent(self.scrub:url(answer.url)),
  }
end

local function error_of(self, err)
  if not errors.is_error(err) then return { kind = "other", message = "not recorded" } end
  local fields = {}
  for _, name in ipairs(ERROR_FIELDS) do
    local value = rawget(err, name)
    if type(value) == "string" then value = self.scrub:bytes(log.clean(value, 1000)) end
    if type(value) == "string" or type(value) == "number" or type(value) == "boolean" then
      fields[name] = value
    end
  end
  return fields
end

local function is_cancelled(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

local function begin(self, wire)
  self.count = self.count + 1
  self.scrub:hide_login(wire)
  local sent = request.from(wire, self.scrub)
  if not self.base then
    local base = sent.url:match("^(https?://.-)/api/v1/")
    if base and not base:find("?", 1, true) then self.base = base end
  end
  return {
    type = "exchange", n = self.count, at = now(self), method = sent.method,
    url = self.tokens:sent(sent.url), kind = sent.kind, again = sent.again or nil,
    body = sent.body and self.tokens:sent(sent.body) or nil,
  }
end

---@async
local function put_saved(self, n, path)
  local file <close> = fs.open(path)
  while true do
    local bytes = file:read(PIECE)
    if not bytes or bytes == "" then return end
    put(self, set_bytes(self, { type = "chunk", n = n }, bytes))
  end
end

-- The answer to a request that is read whole.
---@async
local function put_whole(self, line, answer)
  line.seconds = now(self) - line.at
  local body = self.scrub:answer(answer.body or "")
  line.answer = head_of(self, answer)
  local inline = #body <= PIECE and not answer.saved
  if inline then
    set_bytes(self, line.answer, body)
  else
    line.chunks, line.saved = true, answer.saved and true or nil
  end
  put(self, line)
  if inline then return end
  if answer.saved then
    put_saved(self, line.n, answer.saved)
  else
    put_pieces(self, line.n, body)
  end
  put(self, { type = "last", n = line.n })
end

---@async
local function put_error(self, line, err)
  line.seconds = now(self) - line.at
  if is_cancelled(err) then
    line.cancelled = true
  else
    line.error = error_of(self, err)
  end
  put(self, line)
end

-- --------------------------------------------------------------------- streams

-- The exchange of a stream, whose pieces are noted as they come. The end of a text may be
-- the first part of a secret: it is kept back until more has come.
local Noted = {}
Noted.__index = Noted

local LONGEST_WORD = 4096 -- bytes that are kept back

---@async
local function put_piece(self, bytes, last)
  bytes = self.rest .. bytes
  self.rest = ""
  if not last and encoding.utf8_valid(bytes) then
    local head, word = bytes:match("^(.-)([%w%-._~+/=]*)$")
    if #word > 0 and #word <= LONGEST_WORD then bytes, self.rest = head, word end
  end
  if bytes == "" then return end
  put(self.state, set_bytes(self.state, {
    type = "chunk", n = self.n, at = now(self.state),
  }, bytes))
end

---@async
local function end_stream(self, fields)
  if self.over then return end
  self.over = true
  put_piece(self, "", true)
  fields.type, fields.n, fields.at = "last", self.n, now(self.state)
  put(self.state, fields)
end

---@async
function Noted:read(most)
  local ok, bytes = pcall(self.exchange.read, self.exchange, most)
  if not ok then
    if not is_cancelled(bytes) then end_stream(self, { error = error_of(self.state, bytes) }) end
    error(bytes, 0)
  end
  if bytes then
    put_piece(self, bytes, false)
  else
    end_stream(self, {})
  end
  return bytes
end

function Noted:timing()
  return self.exchange:timing()
end

---@async
function Noted:close()
  self.exchange:close()
  end_stream(self, { closed = true })
end

-- ------------------------------------------------------------------ the wrapper

---@async
local function recorded(self, transmit, wire)
  local line = begin(self, wire)
  local ok, answer = pcall(transmit, wire)
  if not ok then
    put_error(self, line, answer)
    error(answer, 0)
  end
  if not wire.streamed then
    put_whole(self, line, answer)
    return answer
  end
  line.seconds = now(self) - line.at
  line.answer, line.stream = head_of(self, answer), true
  put(self, line)
  answer.exchange = setmetatable({
    exchange = answer.exchange, state = self, n = line.n, rest = "", over = false,
  }, Noted)
  return answer
end

-- Says once that something goes on which a recording cannot have.
local function cannot(self, what)
  if self.told[what] then return end
  self.told[what] = true
  pcall(host.write, 2, ("sbxlua: --record: %s cannot be recorded; a replay will fail there\n")
    :format(what))
end

local function watch(self)
  local websocket = require("sbx.http.websocket")
  local open = websocket.open
  websocket.open = function(...)
    cannot(self, "a WebSocket")
    return open(...)
  end
  local net = require("sbx.net")
  local connect = net.connect
  net.connect = function(...)
    cannot(self, "a connection of sbx.net")
    return connect(...)
  end
end

---Begins to record. Raises kind `io` where the file cannot be written.
---@async
---@param path string
function record.start(path)
  local seed = tonumber(hash.random_hex(4), 16)
  local temporary = ("%s.%s.part"):format(path, hash.random_hex(4))
  local there = errors.try(fs.stat, path)
  if there and there.type == "directory" then
    errors.raise({
      kind = "io", code = "EISDIR", op = "write", message = ("write %s: is a folder"):format(path),
    })
  end
  local opened, file = pcall(fs.open, temporary, "wx", { perm = 384 })
  if not opened then error(copy.told_of(file, path), 0) end
  state = {
    path = path, temporary = temporary, start = task.now(), count = 0, told = {},
    turn = sync.mutex("recording"), scrub = scrubs.new(), tokens = tokens.new(),
    file = file,
  }
  math.randomseed(seed)
  put(state, {
    type = "sbxlua recording", v = record.VERSION, sbxlua = host.version, at = time.wall(),
    seed = seed,
  })
  observe.detached = true
  -- Keys of all kinds, wherever they turn up.
  local hide = log.redact
  log.redact = function(value)
    state.scrub:hide(value)
    hide(value)
  end
  for _, name in ipairs({ "PRIME_API_KEY" }) do
    local value = os.getenv(name)
    if value then state.scrub:hide(value) end
  end
  exchange.wrap(function(transmit)
    return function(wire) return (recorded(state, transmit, wire)) end
  end)
  watch(state)
end

---Ends it: the file takes its name. Raises what went wrong when it was written.
---@async
function record.stop()
  local self = state
  put(self, { type = "end", exchanges = self.count, base = self.base })
  local _ <close> = self.turn:lock()
  local file = self.file
  self.file = nil
  local ok, err = pcall(function()
    file:sync()
    file:close()
    if self.problem then error(self.problem, 0) end
    fs.rename(self.temporary, self.path)
  end)
  if ok then return end
  pcall(file.close, file)
  pcall(fs.remove, self.temporary, { missing_ok = true })
  error(copy.told_of(err, self.path), 0)
end

return record
