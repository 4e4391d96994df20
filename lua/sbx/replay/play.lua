-- Answers the requests of a run from a recording: no network, no key, no time. The clock of
-- tasks is a virtual one, which begins when the recording did; every answer takes as long as
-- it took, by that clock.

local answer = require("sbx.replay.answer")
local clock = require("sbx.core.test")
local config = require("sbx.sandbox.config")
local errors = require("sbx.errors")
local exchange = require("sbx.http.exchange")
local file = require("sbx.replay.file")
local host = require("sbx.core.host")
local json = require("sbx.json")
local log = require("sbx.log")
local match = require("sbx.replay.match")
local observe = require("sbx.observe")
local request = require("sbx.replay.request")
local response = require("sbx.http.response")
local sandboxes = require("sbx.replay.sandboxes")
local scrubs = require("sbx.replay.scrub")
local streams = require("sbx.http.stream")
local task = require("sbx.task")
local tokens = require("sbx.replay.tokens")

local play = {}

local MOST_SHOWN = 200 -- bytes of an address in a message
local NO_SERVER = "http://replay.invalid"
local UPLOAD_PIECES = 1000000 -- of a body from an iterator

local state -- of the replay, while there is one

local function shown(method, url)
  return log.clean(("%s %s"):format(method, url:gsub("%?.*$", "")), MOST_SHOWN)
end

-- ------------------------------------------------------------------ no answer

local function not_recorded(self, sent)
  local nearest, difference = self.match:nearest(sent)
  local hint = nearest
    and ("the nearest is %s%s"):format(shown(nearest.method, nearest.url), difference)
    or "it has no request at all"
  self.missing = self.missing + 1
  errors.raise({
    kind = "replay", op = "http", code = "NOT_RECORDED", method = sent.method,
    url = sent.url:match("^[^?]*"), sent = false, retryable = false,
    nearest = nearest and { method = nearest.method, url = nearest.url, body = nearest.body },
    message = ("%s: not in the recording %s; %s. If the script has changed, record anew")
      :format(shown(sent.method, sent.url), self.recording.path, hint),
  })
end

local function refuse(what)
  errors.raise({
    kind = "replay", op = "http", code = "NOT_REPLAYABLE", retryable = false, sent = false,
    message = what .. " cannot be recorded and replayed: only requests of sbx.http can",
  })
end

-- ------------------------------------------------------------------- answering

-- What an iterator would have sent is asked for all the same: it may do more than that.
---@async
local function drain(wire)
  for _, feed in ipairs(wire.feeds or {}) do
    wire.begun = true
    for _ = 1, UPLOAD_PIECES do
      if feed.read() == nil then break end
    end
  end
end

local function made(document)
  return {
    n = 0, at = 0, seconds = 0.001, pieces = {},
    answer = {
      status = 200, reason = "OK", headers = { ["content-type"] = "application/json" },
      text = json.encode(document),
    },
  }
end

local function find(self, sent)
  local now = task.now() - self.context.began
  local document = sandboxes.is_batch(sent) and self.sandboxes:answer(sent, now)
  local found = not document and self.match:find(sent)
  if not document and not found then document = self.sandboxes:answer(sent, now) end
  if found then return found end
  if not document then not_recorded(self, sent) end
  local entry = made(document)
  entry.url = sent.url
  entry.at = now
  return entry
end

---@async
local function played(self, wire)
  local sent = request.from(wire, self.scrub)
  local found = find(self, sent)
  if wire.feeds then drain(wire) end
  if found.cancelled then task.waiter("an answer that never came"):wait() end
  task.sleep(found.seconds)
  if found.error then error(answer.error(found.error), 0) end
  local result
  if wire.streamed then
    result = setmetatable(answer.stream(self.context, found, wire), streams.class)
  else
    result = setmetatable(answer.whole(self.context, found, wire), response.Response)
  end
  result.method = wire.method
  return result
end

-- ------------------------------------------------------------ beginning and end

local function learn(self, recording)
  for _, each in ipairs(recording.exchanges) do
    local recorded = each.answer or {}
    for _, text in ipairs({ recorded.text or "", recorded.url or "" }) do
      self.context.bindings:learn(text)
    end
    for _, value in pairs(recorded.headers or {}) do
      if type(value) == "string" then self.context.bindings:learn(value) end
    end
    for _, piece in ipairs(each.pieces) do
      if piece.text then self.context.bindings:learn(piece.text) end
    end
  end
end

local function shut_network()
  local websocket = require("sbx.http.websocket")
  websocket.open = function() refuse("a WebSocket") end
  local net = require("sbx.net")
  net.connect = function() refuse("a connection of sbx.net") end
end

---From now on requests are answered from the recording. Raises kind `usage` for a file
---that is none, `io` where it cannot be read.
---@async
---@param path string
function play.start(path)
  local recording = file.read(path)
  local bindings = tokens.bindings()
  state = {
    recording = recording, scrub = scrubs.new(), missing = 0,
    match = match.new(recording, bindings), sandboxes = sandboxes.new(recording),
    context = { bindings = bindings },
  }
  learn(state, recording)
  clock.set_virtual(true, recording.at)
  state.context.began = task.now()
  math.randomseed(recording.seed)
  config.set_local({ url = recording.base or NO_SERVER, api_key = "replay" })
  exchange.wrap(function()
    return function(wire) return (played(state, wire)) end
  end)
  shut_network()
  observe.replays = true
end

---Ends the replay.
function play.stop()
  clock.set_virtual(false)
  if state.missing == 0 then return end
  pcall(host.write, 2, ("sbxlua: --replay: %d request%s not in %s\n"):format(state.missing,
    state.missing == 1 and " was" or "s were", state.recording.path))
end

return play
