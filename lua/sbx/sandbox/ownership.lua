-- Which sandboxes this run made and has not deleted. At the end of the run,
-- however it ends, what is left and not marked `keep` is deleted and reported.

local errors = require("sbx.errors")
local host = require("sbx.core.host")
local log = require("sbx.log")
local run = require("sbx.run")
local task = require("sbx.task")

---@class sbx.sandbox.Ownership
---@field private client sbx.sandbox.Client
---@field private boxes table<string, sbx.sandbox.Box>
---@field private unsettled table<string, fun(): sbx.sandbox.Box>  creates without an answer
local Ownership = {}
Ownership.__index = Ownership

local ownership = {}

local BATCH = 100 -- ids in one bulk delete
local SHOWN = 20 -- ids in a message
local SETTLE_SECONDS = 3 -- for learning what a lost create has made

-- All that is owned in this run, in the order of creation, for the text that a
-- second Ctrl-C prints. A list with links, so that each change costs the same
-- however large the fleet is.
local list = { count = 0 }
local owners = {} -- every client with something to clean up
local registered = false

local function first_ids()
  local ids, node = {}, list.first
  while node and #ids < SHOWN do
    if not node.box.keep then ids[#ids + 1] = log.clean(node.box.id, 100) end
    node = node.next
  end
  if list.count > #ids then ids[#ids + 1] = ("and %d more"):format(list.count - #ids) end
  return table.concat(ids, ", ")
end

local function tell_host()
  if not host.set_abandoned then return end
  local ids = first_ids()
  host.set_abandoned(ids ~= "" and "sandboxes left: " .. ids or "")
end

local function link(box)
  local node = { box = box, previous = list.last }
  if list.last then list.last.next = node else list.first = node end
  list.last = node
  list.count = list.count + 1
  return node
end

local function unlink(node)
  if node.previous then node.previous.next = node.next else list.first = node.next end
  if node.next then node.next.previous = node.previous else list.last = node.previous end
  list.count = list.count - 1
end

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Ownership
function ownership.new(client)
  return setmetatable({ client = client, boxes = {}, nodes = {}, unsettled = {} }, Ownership)
end

---How many sandboxes of this run are neither deleted nor marked `keep`.
---@return integer
function ownership.left()
  local count, node = 0, list.first
  while node do
    if not node.box.keep then count = count + 1 end
    node = node.next
  end
  return count
end

---@async
local function finish()
  registered = false
  local all, failed = {}, nil
  for owner in pairs(owners) do
    all[#all + 1] = owner
  end
  for _, owner in ipairs(all) do
    local ok, err = pcall(owner.delete_left, owner)
    if not ok then failed = failed or err end
  end
  if failed then error(failed, 0) end
end

local function register(self)
  owners[self] = true
  if registered then return end
  registered = true
  run.defer(finish, "deleting the sandboxes that the script left")
end

---@param box sbx.sandbox.Box  just created
function Ownership:add(box)
  if self.boxes[box.id] then return end
  self.boxes[box.id] = box
  self.nodes[box.id] = link(box)
  register(self)
  tell_host()
end

---@param id string
---@return boolean
function Ownership:has(id)
  return self.boxes[id] ~= nil
end

---The sandbox is deleted or gone: its object says so from now on.
---@param id string
function Ownership:remove(id)
  local box = self.boxes[id]
  if not box then return end
  box.status = "TERMINATED"
  unlink(self.nodes[id])
  self.boxes[id], self.nodes[id] = nil, nil
  tell_host()
end

---Remembers a create whose answer was lost. `again` sends it once more with the
---same idempotency key, and so returns what was made.
---@param key string
---@param again async fun(): sbx.sandbox.Box
function Ownership:add_unsettled(key, again)
  self.unsettled[key] = again
  register(self)
end

---The create with this key has got its answer after all.
---@param key string
function Ownership:settled(key)
  self.unsettled[key] = nil
end

---@async
function Ownership:settle()
  local pending = self.unsettled
  self.unsettled = {}
  for _, again in pairs(pending) do
    errors.try(task.timeout, SETTLE_SECONDS, again)
  end
end

local function left_over(boxes)
  local ids = {}
  for id, box in pairs(boxes) do
    if not box.keep then ids[#ids + 1] = id end
  end
  table.sort(ids)
  return ids
end

local function summary(ids)
  local shown = table.concat(ids, ", ", 1, math.min(#ids, SHOWN))
  if #ids > SHOWN then shown = shown .. (" and %d more"):format(#ids - SHOWN) end
  return ("%d sandbox%s that the script left: %s"):format(
    #ids, #ids == 1 and "" or "es", shown)
end

---@async
function Ownership:delete_batch(batch)
  errors.try(self.client.bulk_delete, self.client, { sandbox_ids = batch })
  -- One by one what the server did not confirm: it may lack the bulk call.
  task.map(batch, function(id)
    if self.boxes[id] then errors.try(self.client.delete, self.client, id) end
  end)
end

---Deletes what is left, in bulk, and says so. Raises when something remains.
---@async
function Ownership:delete_left()
  self:settle()
  owners[self] = nil
  local ids = left_over(self.boxes)
  if #ids == 0 then return end
  for first = 1, #ids, BATCH do
    self:delete_batch(table.move(ids, first, math.min(first + BATCH - 1, #ids), 1, {}))
  end
  local deleted, remaining = {}, {}
  for _, id in ipairs(ids) do
    table.insert(self.boxes[id] and remaining or deleted, id)
  end
  if #deleted > 0 then log.info("deleted " .. summary(deleted)) end
  if #remaining == 0 then return end
  errors.raise({
    kind = "api",
    op = "cleanup",
    message = "could not delete " .. summary(remaining),
  })
end

return ownership
