-- Asks the API for the states of sandboxes: many in one request where it can do that,
-- else by its list, else each by itself. A refusal because of too many requests is
-- waited out here, for all who ask.

local batch_status = require("sbx.sandbox.batch_status")
local box = require("sbx.sandbox.box")
local errors = require("sbx.errors")
local listing = require("sbx.sandbox.listing")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local wire = require("sbx.sandbox.wire")

local status = {}

local OP = "wait_for_creation"
local MAX_PAGES = 1000
local FEW = 1 -- ids up to which asking for each is cheaper than listing
local FIRST_PAUSE, LONGEST_PAUSE = 0.2, 60 -- seconds after a 429
local TICK = 0.0005 -- seconds that count as none
local AVOID = 30 -- seconds without batches after one that broke the server

---@class sbx.sandbox.Asker
---@field hold_until number  no request goes before this moment of `task.now()`
---@field private client sbx.sandbox.Client
---@field refusal sbx.Error|nil  the last 429, until something is answered
---@field private refusals integer  429 answers in a row
---@field private avoid_batch_until number  a batch was too much for the server
---@field private pages integer  that the last walk through the list took
local Asker = {}
Asker.__index = Asker

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Asker
function status.asker(client)
  return setmetatable({
    client = client, hold_until = -math.huge, refusals = 0, pages = FEW,
    avoid_batch_until = -math.huge,
  }, Asker)
end

---The cheapest way to ask for so many: "one" by one, in a "batch", or by the "list".
---@param count integer
---@return "one"|"batch"|"list"
function Asker:way(count)
  if count == 1 then return "one" end
  local avoided = task.now() < self.avoid_batch_until
  if not avoided and not batch_status.is_missing(self.client) then return "batch" end
  return count > self.pages and "list" or "one"
end

-- Of several requests that are refused at once only one counts.
local function refused(self, err)
  local now = task.now()
  self.refusal = err
  if now + TICK >= self.hold_until then
    self.refusals = self.refusals + 1
    local pause = math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ math.min(self.refusals - 1, 20))
    self.hold_until = now + throttle.jitter(pause)
  end
  self.hold_until = math.max(self.hold_until, now + (err.retry_after or 0))
end

-- Calls `fn(...)` until it is not refused any more. How long that is worth the wait is
-- for the deadlines of those who ask to say.
---@async
local function ask(self, fn, ...)
  while true do
    while task.now() + TICK < self.hold_until do
      task.sleep(self.hold_until - task.now())
    end
    local ok, answer, more = pcall(fn, ...)
    if ok then
      self.refusals, self.refusal = 0, nil
      return answer, more
    end
    if not errors.is_error(answer) or answer.status ~= 429 then error(answer, 0) end
    refused(self, answer)
  end
end

-- Whether the server has failed over what it was asked, and no gateway before it.
local function is_broken(err)
  local code = errors.is_error(err) and err.status
  return code == 500 or code and code >= 520 and code < 600
end

local function text(value)
  return type(value) == "string" and value or nil
end

local function record_of_box(found)
  return {
    id = found.id,
    status = found.status,
    error_type = text(found.error_type),
    error_message = text(found.error_message),
    pending_image_build_id = text(found.pending_image_build_id),
    box = found,
  }
end

---@async
local function get(client, id)
  local call = {
    op = OP,
    method = "GET",
    path = wire.sandbox_path(id),
    sandbox_id = id,
    raise_429 = true,
  }
  return box.from(client, call, (wire.call(client, call)))
end

---@alias sbx.sandbox.Tell fun(id: string, record: sbx.sandbox.Record|nil, err: any)

---Asks for one.
---@async
---@param ids string[]
---@param tell sbx.sandbox.Tell
function Asker:one(ids, tell)
  tell(ids[1], record_of_box(ask(self, get, self.client, ids[1])))
end

---Reads the list until all were on it; returns those that were not, because they have
---ended or because its pages moved meanwhile. After a 429 the same page comes again.
---@async
---@param ids string[]
---@param tell sbx.sandbox.Tell
---@return string[] open
function Asker:list(ids, tell)
  local wanted, missing = {}, #ids
  for _, id in ipairs(ids) do
    wanted[id] = true
  end
  local options = { per_page = 100, exclude_terminated = true, user_id = "" }
  for page = 1, MAX_PAGES do
    -- No patience: it is had here.
    local found = ask(self, listing.page, self.client, options, page, 0)
    self.pages = math.max(FEW, page)
    for _, item in ipairs(found) do
      if wanted[item.id] then
        wanted[item.id] = nil
        missing = missing - 1
        tell(item.id, record_of_box(item))
      end
    end
    if missing <= 0 or not found.has_next then break end
  end
  local open = {}
  for _, id in ipairs(ids) do
    if wanted[id] then open[#open + 1] = id end
  end
  return open
end

---Asks for up to 100 at once; returns those that the answer leaves open, and whether
---they are better asked for one by one.
---@async
---@param ids string[]
---@param tell sbx.sandbox.Tell
---@return string[] open, boolean singly
function Asker:batch(ids, tell)
  local ok, found, why = pcall(ask, self, batch_status.ask, self.client, OP, ids, true)
  if not ok then
    local err = found
    if not is_broken(err) then error(err, 0) end
    -- Perhaps by one of them, and the list does not mind.
    self.avoid_batch_until = task.now() + AVOID
    return ids, false
  end
  if not found then return ids, why == "refused" end
  local open = {}
  for _, id in ipairs(ids) do
    local news = found[id]
    if news then tell(id, news.record, news.error) else open[#open + 1] = id end
  end
  return open, true
end

-- ---------------------------------------------------------------------- trouble

local passing_status = { [408] = true, [425] = true, [502] = true, [503] = true, [504] = true }
local passing_cause = { connect = true, dns = true, http = true, timeout = true }

---Whether it is worth asking again after this error, as it says nothing about the
---sandboxes. A server that has never answered may not be there at all: that is told.
---@param err any
---@return boolean
function Asker:may_pass(err)
  if not errors.is_error(err) or err.kind == "cancelled" then return false end
  if err.retry_after and err.status then
    self.hold_until = math.max(self.hold_until, task.now() + err.retry_after)
  end
  if err.status then return passing_status[err.status] or is_broken(err) end
  local cause = errors.is_error(err.cause) and err.cause.kind
  return self.client.heard == true and passing_cause[cause] or false
end

return status
