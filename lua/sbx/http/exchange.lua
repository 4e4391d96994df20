-- From the options of a request to its answer: tries, redirects, bad statuses.

local core = require("sbx.core.http")
local errors = require("sbx.errors")
local options = require("sbx.http.options")
local request = require("sbx.http.request")
local response = require("sbx.http.response")

local Response = response.Response

---@class sbx.http.exchange
local exchange = {}

-- An iterator that has run cannot run again.
local function mark_begun(wire, ok, ...)
  if ok then return ... end
  local err = ...
  if wire.begun and errors.is_error(err) then err.retryable = false end
  error(err, 0)
end

-- One request, one answer.
---@async
local function transmit_wire(wire)
  local answer
  if wire.streamed then
    local open = require("sbx.http.stream").open
    answer = wire.feeds and mark_begun(wire, pcall(open, wire)) or open(wire)
  elseif wire.feeds then
    local upload = require("sbx.http.upload")
    answer = setmetatable(mark_begun(wire, pcall(upload.request, wire)), Response)
  else
    answer = setmetatable(core.request(wire), Response)
  end
  answer.method = wire.method
  return answer
end

local transmit = transmit_wire

-- The rules of `retry`, or raises. Only what is safe to send again is, whatever
-- the caller says.
local function retry_policy(given, level)
  local retry = require("sbx.retry")
  local policy = retry.options(math.tointeger(given) or given, level + 1)
  local wanted = policy.when
  policy.when = function(err)
    return errors.is_error(err) and err.retryable == true and (not wanted or wanted(err))
  end
  return policy
end

-- As transmit, again where that is safe and may help. A bad status is no failure
-- to the caller: when the tries run out, the last answer is.
---@async
local function transmit_again(wire, policy)
  local refused, answer
  local ok, result = pcall(require("sbx.retry").call, function(attempt)
    if answer and answer.close then answer:close() end
    answer = nil
    answer = transmit(wire)
    answer.attempts = attempt
    if answer.status < 400 then return answer end
    refused = response.error(answer, wire.at_most_once, wire.begun)
    error(refused, 0)
  end, policy)
  if ok then return result end
  if result == refused then return answer end
  if answer and answer.close then answer:close() end -- cancelled in a pause
  error(result, 0)
end

local EXCERPT = 1024 -- bytes of a stream's body that an error shows

local function raise_status(answer, wire, moved)
  if answer.close then
    local excerpt <close> = answer
    local ok, bytes = pcall(excerpt.read, excerpt, EXCERPT)
    answer.body = ok and bytes or nil
  end
  local once = wire.at_most_once
  -- Redirected, 429 speaks for the last step alone.
  error(response.error(answer, once, wire.begun or (moved and once)), 0)
end

---@async
local function run(wire, given, follow, retry)
  local function send(step)
    if retry then return transmit_again(step, retry) end
    return transmit(step)
  end
  if not follow then return send(wire), false end
  return require("sbx.http.redirect").follow(wire, given, follow, send)
end

---What requests go through from now on, for traces and recordings: `make` gets the
---function that takes a request of sbx.core.http and returns its answer, and returns
---another one.
---@param make fun(transmit: async fun(wire: table): sbx.http.Answer): (async fun(wire: table): sbx.http.Answer)
function exchange.wrap(make)
  transmit = make(transmit)
end

---Sends a request as its options say, and waits for the answer, or with
---`streamed` for its head.
---@async
---@param method string
---@param url string
---@param given table|nil
---@param streamed boolean
---@param level integer  whose line an error names
---@return sbx.http.Answer
function exchange.send(method, url, given, streamed, level)
  given = given or {}
  if type(given) ~= "table" then
    error("options: expected a table, got a " .. type(given), level + 1)
  end
  options.check(given, options.request, level + 1)
  local wire = request.build(method, url, given, level + 1)
  if streamed then
    if given.save then error("save: a stream is saved with res:save(path)", level + 1) end
    wire.streamed = true
  end
  local answer, moved
  if given.follow or given.retry then
    local follow = given.follow and given.follow ~= 0
      and require("sbx.http.redirect").policy(given.follow, level + 1)
    local retry = given.retry and retry_policy(given.retry, level + 1)
    answer, moved = run(wire, given, follow, retry)
  else
    answer = transmit(wire)
  end
  if given.raise and answer.status >= 400 then raise_status(answer, wire, moved) end
  return answer
end

return exchange
