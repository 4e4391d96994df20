-- Asks the API for the states of sandboxes: many in one request where it can do that,
-- else by its list, else each by itself. A refusal because of too many requests is
-- waited out here, for all who ask.

local box = require("sbx.sandbox.box")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
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

---@class sbx.sandbox.Record  what one look at a sandbox shows
---@field id string
---@field status string
---@field error_type string|nil
---@field error_message string|nil
---@field pending_image_build_id string|nil
---@field box sbx.sandbox.Box|nil  all of it, where the API told that

---@class sbx.sandbox.Asker
---@field hold_until number  no request goes before this moment of `task.now()`
---@field private client sbx.sandbox.Client
---@field private refusals integer  429 answers in a row
---@field private no_batch boolean  the server has no batch status
---@field private pages integer  that the last walk through the list took
local Asker = {}
Asker.__index = Asker

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Asker
function status.asker(client)
  return setmetatable({
    client = client, hold_until = -math.huge, refusals = 0, no_batch = false, pages = FEW,
  }, Asker)
end

---The cheapest way to ask for so many: "one" by one, in a "batch", or by the "list".
---@param count integer
---@return "one"|"batch"|"list"
function Asker:way(count)
  if count == 1 then return "one" end
  if not self.no_batch then return "batch" end
  return count > self.pages and "list" or "one"
end

-- Of several requests that are refused at once only one counts.
local function refused(self, err)
  local now = task.now()
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
    local ok, answer = pcall(fn, ...)
    if ok then
      self.refusals = 0
      return answer
    end
    if not errors.is_error(answer) or answer.status ~= 429 then error(answer, 0) end
    refused(self, answer)
  end
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
  local found = box.from(client, call, (wire.call(client, call)))
  if found.id == id then return found end
  errors.raise({
    kind = "api",
    code = "BAD_ANSWER",
    op = OP,
    sandbox_id = id,
    message = ("%s %s: the server's answer is about another sandbox"):format(
      OP, failure.clean(id, nil, 100)),
  })
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

---@async
local function get_batch(client, ids)
  local call = {
    op = OP,
    method = "POST",
    path = "/sandbox/status:batchGet",
    body = { sandbox_ids = json.array(ids) },
    idempotent = true,
    raise_429 = true,
  }
  local answer = wire.call(client, call)
  return {
    statuses = failure.field(call, answer, "statuses", "table"),
    errors = type(answer.errors) == "table" and answer.errors or {},
  }
end

local status_of_code = { NOT_FOUND = 404, FORBIDDEN = 403, MANAGED = 409 }

local function refusal(item)
  return errors.new({
    kind = "api",
    op = OP,
    sandbox_id = item.sandbox_id,
    status = status_of_code[item.code],
    code = item.code,
    detail = failure.clean(text(item.message) or ""),
    message = ("%s %s: the server answered %s: %s"):format(OP,
      failure.clean(item.sandbox_id, nil, 100), item.code, failure.clean(text(item.message) or "")),
  })
end

-- Tells what the answer says for certain of those who are wanted, each once.
local function read_batch(answer, wanted, tell)
  for _, item in ipairs(answer.statuses) do
    local id = type(item) == "table" and text(item.sandbox_id)
    if id and wanted[id] and text(item.status) then
      wanted[id] = nil
      tell(id, {
        id = id,
        status = item.status,
        error_type = text(item.error_type),
        error_message = text(item.error_message),
        pending_image_build_id = text(item.pending_image_build_id),
      })
    end
  end
  for _, item in ipairs(answer.errors) do
    local id = type(item) == "table" and text(item.sandbox_id)
    if id and wanted[id] and status_of_code[item.code] then
      wanted[id] = nil
      tell(id, nil, refusal(item))
    end
  end
end

local no_such_call = { [404] = true, [405] = true }
-- What is wrong with one of them fails all, and only asking for each tells which.
local refused_as_whole = { [400] = true, [413] = true, [422] = true }

---Asks for up to 100 at once; returns those that the answer leaves open, and whether
---they are better asked for one by one.
---@async
---@param ids string[]
---@param tell sbx.sandbox.Tell
---@return string[] open, boolean singly
function Asker:batch(ids, tell)
  local ok, answer = pcall(ask, self, get_batch, self.client, ids)
  if not ok then
    local code = errors.is_error(answer) and answer.status
    if no_such_call[code] then
      self.no_batch = true
      return ids, false
    end
    if refused_as_whole[code] then return ids, true end
    error(answer, 0)
  end
  local wanted, open = {}, {}
  for _, id in ipairs(ids) do
    wanted[id] = true
  end
  read_batch(answer, wanted, tell)
  for _, id in ipairs(ids) do
    if wanted[id] then open[#open + 1] = id end
  end
  return open, true
end

return status
