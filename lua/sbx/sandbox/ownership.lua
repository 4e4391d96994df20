-- Which sandboxes this run made and has not deleted. At the end of the run,
-- however it ends, what is left and not marked `keep` is deleted and reported.

local cleanup = require("sbx.sandbox.cleanup")
local host = require("sbx.core.host")
local ledger = require("sbx.sandbox.ledger")
local log = require("sbx.log")
local run = require("sbx.run")

---A create that is about to be sent, or was.
---@class sbx.sandbox.Intent
---@field key string     the idempotency key: the server makes one sandbox for it
---@field body table
---@field keep boolean
---@field in_doubt boolean|nil  it may have made a sandbox that nobody knows of
---@field err any        why that is not known

---@class sbx.sandbox.Ownership
---@field client sbx.sandbox.Client
---@field boxes table<string, sbx.sandbox.Box>  made here and not deleted, by id
---@field doubts table<string, sbx.sandbox.Intent>  creates without an answer, by key
---@field teams table<string, boolean>  for which something was made; "" for none
---@field resent boolean  a create was sent more than once
---@field book sbx.sandbox.Ledger|nil
---@field private nodes table<string, table>
local Ownership = {}
Ownership.__index = Ownership

local ownership = {}

local SHOWN = 20 -- ids in a message

-- All that is owned in this run, in the order of creation, for the text that a
-- second Ctrl-C prints. A list with links, so that each change costs the same
-- however large the fleet is.
local list = { count = 0 }
local owners = {} -- every client with something to clean up
local totals = { created = 0, deleted = 0 }
local registered = false

local function first_ids()
  local ids, node = {}, list.first
  while node and #ids < SHOWN do
    if not node.box.keep then ids[#ids + 1] = log.clean(node.box.id, 100) end
    node = node.next
  end
  if node then ids[#ids + 1] = ("and %d more"):format(list.count - #ids) end
  return table.concat(ids, ", ")
end

local function tell_host(owner)
  local ids = first_ids()
  local hint = owner.book and "sbxlua gc deletes what is left; " or ""
  host.set_abandoned(ids ~= "" and hint .. "sandboxes left: " .. ids or "")
end

local function link(box)
  local node = { box = box, previous = list.last, totals = totals }
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
  return setmetatable({
    client = client, boxes = {}, nodes = {}, doubts = {}, teams = {}, resent = false,
  }, Ownership)
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

---The sandboxes that this run has made and not deleted, in the order of creation.
---@return sbx.sandbox.Box[]
function ownership.list()
  local boxes, node = {}, list.first
  while node do
    boxes[#boxes + 1] = node.box
    node = node.next
  end
  return boxes
end

---@async
local function finish()
  local all = {}
  for owner in pairs(owners) do
    all[#all + 1] = owner
  end
  registered, owners = false, {}
  local ok, err = pcall(cleanup.finish, all, totals)
  totals = { created = 0, deleted = 0 }
  if not ok then error(err, 0) end
end

local function register(self)
  owners[self] = true
  if registered then return end
  registered = true
  run.defer(finish, "deleting the sandboxes that the script left")
end

-- -------------------------------------------------------------------- creates

---Notes that a create is about to be sent, which gets its key and the labels of
---this run. Waits until the disk has it.
---@async
---@param body table
---@param keep boolean
---@return sbx.sandbox.Intent
function Ownership:intend(body, keep)
  local intent = { key = ledger.new_key(), body = body, keep = keep }
  body.idempotency_key = intent.key
  body.labels = ledger.labels(body.labels, keep)
  register(self)
  self.book = ledger.of(self.client.config)
  self.teams[body.team_id or ""] = true
  if self.book then
    local ok, err = pcall(self.book.intend, self.book, intent.key, keep, body.team_id)
    if not ok then
      self.book:made(intent.key, nil, keep)
      error(err, 0)
    end
  end
  return intent
end

---The create has made this.
---@param intent sbx.sandbox.Intent
---@param box sbx.sandbox.Box
function Ownership:made(intent, box)
  intent.in_doubt = nil
  self.doubts[intent.key] = nil
  if self.book then self.book:made(intent.key, box.id, intent.keep) end
  if intent.keep then rawset(box, "keep", true) end
  self:adopt(box)
end

---The create has failed. What it may have made all the same is looked for at the
---end of the run.
---@param intent sbx.sandbox.Intent
---@param err any
function Ownership:failed(intent, err)
  intent.err = err
  intent.keep = false -- nobody has got it
  if intent.in_doubt then
    self.doubts[intent.key] = intent
  else
    self:settle(intent)
  end
end

---Nothing will come of the create any more that is not known.
---@param intent sbx.sandbox.Intent
function Ownership:settle(intent)
  intent.in_doubt = nil
  self.doubts[intent.key] = nil
  if self.book then self.book:made(intent.key, nil, false) end
end

---Takes over a sandbox that this run has made.
---@param box sbx.sandbox.Box
function Ownership:adopt(box)
  if self.boxes[box.id] then return end
  totals.created = totals.created + 1
  self.boxes[box.id] = box
  self.nodes[box.id] = link(box)
  tell_host(self)
end

-- ------------------------------------------------------------- what is owned

---Whether the run is to delete it.
---@param id string
---@return boolean
function Ownership:has(id)
  local box = self.boxes[id]
  return box ~= nil and not box.keep
end

local function drop(self, id)
  unlink(self.nodes[id])
  self.boxes[id], self.nodes[id] = nil, nil
  tell_host(self)
end

---The sandbox is deleted or gone: its object says so from now on.
---@param id string
function Ownership:remove(id)
  local box = self.boxes[id]
  if not box then return end
  box.status = "TERMINATED"
  local counted = self.nodes[id].totals
  counted.deleted = counted.deleted + 1
  if self.book then self.book:gone(id) end
  drop(self, id)
end

---The script has marked it `keep` after it was made.
---@param box sbx.sandbox.Box
function Ownership:mark_kept(box)
  if self.boxes[box.id] == box and self.book then self.book:gone(box.id, true) end
end

---The run is over, and this stays on purpose.
---@param id string
function Ownership:let_go(id)
  local box = self.boxes[id]
  if not box then return end
  self:mark_kept(box)
  drop(self, id)
end

---Waits until the ledger's file has what was noted.
---@async
function Ownership:flush()
  if self.book then self.book:flush() end
end

return ownership
