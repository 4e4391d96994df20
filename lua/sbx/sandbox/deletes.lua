-- Deletes of many tasks travel together: while two requests are in flight the next
-- ones gather, and go as one bulk delete.
--
-- No task of its own: whoever finds a free place sends for all that wait. When it is
-- cancelled meanwhile, what it sent for others goes back in line, and one of them
-- takes over. A delete may be sent twice, so what it finds gone then counts as done.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local profile = require("sbx.sandbox.profile")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local deletes = {}

local MOST = 100 -- ids in one request
local AT_ONCE = 2 -- requests in flight
local GATHER = 0.1 -- seconds that a request waits for more to delete, in busy times:
local BUSY = 2 -- seconds after some have come together
local SINGLES = 8 -- at once, where a bulk delete does not do it

---@class sbx.sandbox.Deletes
---@field private client sbx.sandbox.Client
---@field private line table[]     entries that are not in flight, oldest first
---@field private entries table<string, table>  by id, until they are done
---@field private running integer  requests in flight
---@field private no_bulk boolean  the server has no bulk delete
---@field private gathering boolean  a request waits for more to delete
---@field private busy_until number
local Deletes = {}
Deletes.__index = Deletes

-- An entry is one id that is to go: `wanted` by so many tasks, of which `waiters`
-- sleep; `sent` in so many requests; `done` with what became of it: { gone = true },
-- { missing = … } with the error that says so, or { error = … }.

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Deletes
function deletes.new(client)
  return setmetatable({
    client = client, line = {}, entries = {}, running = 0, no_bulk = false,
    gathering = false, busy_until = -math.huge,
  }, Deletes)
end

---A sandbox is gone: nothing that was known of it is needed any more.
---@param client sbx.sandbox.Client
---@param id string
function deletes.forget(client, id)
  client.tokens:evict(id)
  client.reached[id] = nil
  profile.forget(client, id)
  client.owned:remove(id)
end

-- ------------------------------------------------------------------- outcomes

local function finish(self, entry, done)
  if entry.done then return end
  entry.done = done
  self.entries[entry.id] = nil
  if not done.error then deletes.forget(self.client, entry.id) end
  for waiter in pairs(entry.waiters) do
    waiter:wake()
  end
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
  entry.sent = entry.sent + 1
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

-- Only these words: anything else is asked about by itself.
local function says_missing(text)
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
      missing[item.sandbox_id] = says_missing(item.error)
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

---@async
local function send_many(self, batch)
  local ids = {}
  for i, entry in ipairs(batch) do
    ids[i] = entry.id
    entry.sent = entry.sent + 1
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
    return send_singly(self, batch)
  end
  for _, entry in ipairs(batch) do
    finish(self, entry, { error = errors.is_error(err) and error_of(err, entry.id) or err })
  end
end

-- ----------------------------------------------------------------- gathering

-- There may be a place for the next request: somebody who waits has to send it.
local function pass_on(self)
  if self.running >= AT_ONCE then return end
  for _, entry in ipairs(self.line) do
    for waiter in pairs(entry.waiters) do
      entry.waiters[waiter] = nil
      if waiter:wake() then return end
    end
  end
end

-- A task that was cancelled wants it no more. What nobody wants is not deleted,
-- unless a request for it is under way.
local function leave(self, entry)
  entry.wanted = entry.wanted - 1
  if entry.wanted > 0 or entry.done then return end
  for i, other in ipairs(self.line) do
    if other == entry then
      table.remove(self.line, i)
      self.entries[entry.id] = nil
      return
    end
  end
end

-- What a request was cut off from goes first next time.
local function put_back(self, batch)
  local line = {}
  for _, entry in ipairs(batch) do
    if not entry.done and entry.wanted > 0 then
      line[#line + 1] = entry
    elseif not entry.done then
      self.entries[entry.id] = nil
    end
  end
  self.line = table.move(self.line, 1, #self.line, #line + 1, line)
end

---@async
local function gather(self)
  if task.now() > self.busy_until then return end
  self.gathering = true
  local ok, err = pcall(task.sleep, GATHER)
  self.gathering = false
  if not ok then error(err, 0) end
end

local function take(self)
  local batch = table.move(self.line, 1, math.min(MOST, #self.line), 1, {})
  self.line = table.move(self.line, #batch + 1, #self.line, 1, {})
  if #batch > 1 or self.running > 1 then self.busy_until = task.now() + BUSY end
  if #self.line > 0 then pass_on(self) end
  return batch
end

-- Sends one request for those who have waited longest.
---@async
local function lead(self, own)
  local batch = {}
  self.running = self.running + 1
  local ok, err = pcall(function()
    gather(self)
    batch = take(self)
    local send = (#batch == 1 or self.no_bulk) and send_singly or send_many
    if #batch > 0 then send(self, batch) end
  end)
  self.running = self.running - 1
  if not ok then
    put_back(self, batch)
    leave(self, own)
  end
  pass_on(self)
  if not ok then error(err, 0) end
  -- Done is done: being cancelled here shows at the next wait.
  pcall(self.client.owned.flush, self.client.owned)
end

local function enter(self, id)
  local entry = self.entries[id]
  if not entry then
    entry = { id = id, wanted = 0, sent = 0, waiters = {} }
    self.entries[id] = entry
    table.insert(self.line, entry)
  end
  entry.wanted = entry.wanted + 1
  return entry
end

-- Waits until it is decided what becomes of the entry, and helps.
---@async
local function await(self, entry)
  while not entry.done do
    if self.running < AT_ONCE and #self.line > 0 and not self.gathering then
      lead(self, entry)
    else
      local waiter = task.waiter("delete of a sandbox")
      entry.waiters[waiter] = true
      local ok, err = pcall(waiter.wait, waiter)
      entry.waiters[waiter] = nil
      if not ok then
        leave(self, entry)
        error(err, 0)
      end
    end
  end
  return entry.done
end

---Deletes a sandbox. Where there is none, returns the error that says so. Raises
---what else the API says.
---@async
---@param id string
---@return sbx.Error|nil missing
function Deletes:delete(id)
  task.checkpoint()
  local done = await(self, enter(self, id))
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
  for i, id in ipairs(ids) do
    entries[i] = enter(self, id)
  end
  task.map(entries, function(entry)
    failed[entry.id] = await(self, entry).error
  end, { limit = math.max(1, #entries) })
  return failed
end

return deletes
