-- Deletes of many tasks travel together: while two requests are in flight the next
-- ones gather, and go as one bulk delete. A delete may be sent twice, when the task
-- that sent it was cancelled; what the second one finds gone counts as done.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local gather = require("sbx.sandbox.gather")
local json = require("sbx.json")
local observe = require("sbx.observe")
local profile = require("sbx.sandbox.profile")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local deletes = {}

local MOST = 100 -- ids in one request
local MOST_OF_MANY = 500 -- the API's own limit, for a fleet that is to go at once
local AT_ONCE = 2 -- requests in flight
local SINGLES = 8 -- at once, where a bulk delete does not do it

-- An entry was `sent` in so many requests, and is done with what became of it:
-- { gone = true }, { missing = … } with the error that says so, or { error = … }.

---@class sbx.sandbox.Deletes
---@field private client sbx.sandbox.Client
---@field private gather sbx.sandbox.Gather
---@field private no_bulk boolean  the server has no bulk delete
local Deletes = {}
Deletes.__index = Deletes

---A sandbox is gone: nothing that was known of it is needed any more.
---@param client sbx.sandbox.Client
---@param id string
function deletes.forget(client, id)
  client.tokens:evict(id)
  client.reached[id] = nil
  profile.forget(client, id)
  client.owned:remove(id)
  if observe.phase then observe.phase(id, "deleted") end
end

-- ------------------------------------------------------------------- outcomes

local function finish(self, entry, done)
  local first = self.gather:finish(entry, done)
  if first and not done.error then deletes.forget(self.client, entry.id) end
end

local function no_such_sandbox(id)
  return errors.new({
    kind = "api",
    op = "delete",
    status = 404,
    sandbox_id = id,
    message = ("delete %s: there is no such sandbox"):format(failure.clean(id, nil, 100)),
  })
end

local function finish_missing(self, entry, attempts, err)
  -- After a lost answer, "not found" is what success looks like.
  if entry.sent > 1 or attempts > 1 then
    finish(self, entry, { gone = true })
  else
    finish(self, entry, { missing = err or no_such_sandbox(entry.id) })
  end
end

-- What failed for all of a bulk delete, told of one.
local function error_of(err, id)
  local fields = {}
  for name, value in pairs(err) do
    fields[name] = value
  end
  fields.op, fields.sandbox_id = "delete", id
  local text = err.message:gsub("^bulk_delete", "")
  fields.message = "delete " .. failure.clean(id, nil, 100) .. text
  return errors.new(fields)
end

local function is_cancelled(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

-- -------------------------------------------------------------------- sending

---@async
local function send_one(self, entry)
  entry.sent = (entry.sent or 0) + 1
  local ok, err = pcall(wire.call, self.client, {
    op = "delete",
    method = "DELETE",
    path = wire.sandbox_path(entry.id),
    sandbox_id = entry.id,
    even_closed = true,
  })
  if ok then return finish(self, entry, { gone = true }) end
  if is_cancelled(err) then error(err, 0) end
  if errors.is_error(err) and err.status == 404 then
    return finish_missing(self, entry, err.attempts or 1, err)
  end
  finish(self, entry, { error = err })
end

---@async
local function send_singly(self, batch)
  if #batch == 1 then return send_one(self, batch[1]) end
  task.map(batch, function(entry) send_one(self, entry) end, { limit = SINGLES })
end

---Whether the reason that a bulk delete gives means that there is no such sandbox. Only
---these words: anything else is asked about by itself.
---@param text any
---@return boolean
function deletes.says_missing(text)
  if type(text) ~= "string" then return false end
  local words = text:lower():gsub("[%s_]+", " "):gsub("%.$", "")
  return words == "not found" or words == "sandbox not found"
end

-- Takes from an answer what it says for certain; returns the entries that it leaves
-- open.
local function take_answer(self, batch, answer, attempts)
  local gone, missing, open = {}, {}, {}
  for _, id in ipairs(type(answer.succeeded) == "table" and answer.succeeded or {}) do
    gone[id] = true
  end
  for _, item in ipairs(type(answer.failed) == "table" and answer.failed or {}) do
    if type(item) == "table" and type(item.sandbox_id) == "string" then
      missing[item.sandbox_id] = deletes.says_missing(item.error)
    end
  end
  for _, entry in ipairs(batch) do
    if gone[entry.id] then
      finish(self, entry, { gone = true })
    elseif missing[entry.id] then
      finish_missing(self, entry, attempts)
    else
      open[#open + 1] = entry
    end
  end
  return open
end

local no_such_call = { [404] = true, [405] = true, [501] = true }

-- Whether the same would be answered to each of them by itself.
local function is_for_all(err)
  if not errors.is_error(err) or not err.status then return true end
  return err.status == 401 or err.status == 402 or err.status == 403 or err.status == 429
end

-- For the lifetime of the client.
---@private
function Deletes:give_up_bulk(batch)
  self.no_bulk = true
  for _, entry in ipairs(batch) do
    entry.sent = entry.sent - 1 -- nothing can have come of that
  end
end

local send_many

-- The server may take fewer at once than the API says.
---@async
local function send_in_parts(self, batch)
  self.gather.most = MOST
  for first = 1, #batch, MOST do
    send_many(self, table.move(batch, first, math.min(first + MOST - 1, #batch), 1, {}))
  end
end

---@async
function send_many(self, batch)
  local ids = {}
  for i, entry in ipairs(batch) do
    ids[i] = entry.id
    entry.sent = (entry.sent or 0) + 1
  end
  local ok, answer, attempts = pcall(wire.call, self.client, {
    op = "bulk_delete",
    method = "DELETE",
    path = "/sandbox",
    even_closed = true,
    body = { sandbox_ids = json.array(ids), all_users = false },
  })
  if ok then
    local open = take_answer(self, batch, answer, attempts)
    if #open > 0 then send_singly(self, open) end
    return
  end
  local err = answer
  if is_cancelled(err) then error(err, 0) end
  if not is_for_all(err) then
    if no_such_call[err.status] then self:give_up_bulk(batch) end
    if not self.no_bulk and #batch > MOST then return send_in_parts(self, batch) end
    return send_singly(self, batch)
  end
  for _, entry in ipairs(batch) do
    finish(self, entry, { error = errors.is_error(err) and error_of(err, entry.id) or err })
  end
end

---@async
local function send(self, batch)
  local send_batch = (#batch == 1 or self.no_bulk) and send_singly or send_many
  send_batch(self, batch)
  -- Done is done: being cancelled here shows at the next wait.
  pcall(self.client.owned.flush, self.client.owned)
end

-- -------------------------------------------------------------------- asking

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Deletes
function deletes.new(client)
  local self = setmetatable({ client = client, no_bulk = false }, Deletes)
  self.gather = gather.new({
    what = "delete of a sandbox", most = MOST, at_once = AT_ONCE,
    send = function(batch) send(self, batch) end,
  })
  return self
end

---Deletes a sandbox. Where there is none, returns the error that says so. Raises
---what else the API says.
---@async
---@param id string
---@return sbx.Error|nil missing
function Deletes:delete(id)
  task.checkpoint()
  if observe.phase then observe.phase(id, "delete") end
  local done = self.gather:await(self.gather:enter(id))
  if done.error then error(done.error, 0) end
  return done.missing
end

---Deletes many, in as few requests as that takes: an error for each id that is still
---there.
---@async
---@param ids string[]
---@return table<string, any> errors
function Deletes:all(ids)
  local failed, entries = {}, {}
  if #ids > AT_ONCE * MOST * 2 then self.gather.most = MOST_OF_MANY end
  for i, id in ipairs(ids) do
    if observe.phase then observe.phase(id, "delete") end
    entries[i] = self.gather:enter(id)
  end
  task.map(entries, function(entry)
    failed[entry.id] = self.gather:await(entry).error
  end, { limit = math.max(1, #entries) })
  return failed
end

return deletes
