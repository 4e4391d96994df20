-- What a dead run left: finding it, and deleting it until nothing shows up any more.

local errors = require("sbx.errors")
local leftovers = require("sbx.sandbox.leftovers")
local ledger = require("sbx.sandbox.ledger")
local task = require("sbx.task")
local time = require("sbx.core.time")

local collect = {}

-- A create that was under way when its run died may be carried out this much later.
local LATE = 15 -- seconds
local LONGEST_CREATE = 600 -- seconds from an intent to its request: what is older is over
local FRUITLESS = 6 -- rounds in a row that deleted nothing new
local FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2 -- seconds between rounds
local LOOKUPS = 16 -- at once

local ended = { TERMINATED = true, ERROR = true, TIMEOUT = true }

-- What of those that the list does not show is there still. Of one that cannot be looked
-- at, only the attempt to delete it will tell.
---@async
local function look_up(client, ids, found)
  local statuses, failures = client:get_status(ids)
  task.map(ids, function(id)
    local record, err = statuses[id], failures[id]
    if record and not ended[record.status] then
      found[id] = errors.try(client.get, client, id) or record
    elseif err and err.status ~= 404 then
      found[id] = { id = id, status = "unknown" }
    end
  end, { limit = LOOKUPS })
end

-- What there is of the run now, by id. Those that only the list knows explain creates
-- whose fate the ledger does not tell: they are remembered in `explained`.
---@async
local function find(client, run, explained)
  local found = {}
  for id, each in pairs(leftovers.list(client, run.run, run.teams)) do
    local keeps = run.kept[id] or leftovers.has_label(each, ledger.KEEP)
    if not keeps and not ended[each.status] then
      found[id] = each
      if not run.ids[id] then explained[id] = true end
    end
  end
  local unseen = {}
  for id in pairs(run.ids) do
    if not found[id] then unseen[#unseen + 1] = id end
  end
  look_up(client, unseen, found)
  return found
end

local function count(set)
  local number = 0
  for _ in pairs(set) do
    number = number + 1
  end
  return number
end

-- How many creates of the run may still be carried out.
local function under_way(run, explained)
  if time.wall() - run.youngest > LONGEST_CREATE then return 0 end
  return math.max(0, run.unsettled - count(explained))
end

local function sorted(set)
  local boxes = {}
  for _, each in pairs(set) do
    boxes[#boxes + 1] = each
  end
  table.sort(boxes, function(a, b) return a.id < b.id end)
  return boxes
end

---What a dead run left. Second, how many creates may have been under way when it
---died, of which nothing is to be seen yet.
---@async
---@param client sbx.sandbox.Client
---@param run sbx.sandbox.DeadRun
---@return sbx.sandbox.Box[] boxes, integer under_way
function collect.look(client, run)
  local explained = {}
  local found = find(client, run, explained)
  return sorted(found), under_way(run, explained)
end

-- Deletes what is found; returns whether that was anything new.
---@async
local function delete_found(client, found, state)
  local ids, news = {}, false
  for id in pairs(found) do
    ids[#ids + 1] = id
  end
  state.failed = client.deletes:all(ids)
  for _, id in ipairs(ids) do
    if not state.failed[id] and not state.deleted[id] then
      state.deleted[id], news = found[id], true
    end
  end
  return news
end

---@class sbx.sandbox.Collected
---@field deleted sbx.sandbox.Box[]
---@field left sbx.sandbox.Box[]     still there
---@field err any                    why, where the API has said so

---Deletes what a dead run left, and its ledger once a list shows nothing any more.
---@async
---@param client sbx.sandbox.Client
---@param run sbx.sandbox.DeadRun
---@param on_wait? fun(creates: integer, seconds: number)  called when it waits for them
---@return sbx.sandbox.Collected
function collect.delete(client, run, on_wait)
  local state, explained = { deleted = {}, failed = {} }, {}
  local late_until = time.now() + LATE
  local fruitless, told = 0, false
  local found
  while true do
    found = find(client, run, explained)
    local open = under_way(run, explained)
    local waits = open > 0 and time.now() < late_until
    if next(found) == nil and not waits then break end
    if next(found) == nil then
      if on_wait and not told then on_wait(open, LATE) end
      told = true
    elseif delete_found(client, found, state) then
      fruitless = 0
    else
      fruitless = fruitless + 1
      if fruitless == FRUITLESS then break end
    end
    task.sleep(math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ fruitless))
  end
  if next(found) == nil then run:forget() end
  local _, err = next(state.failed)
  return { deleted = sorted(state.deleted), left = sorted(found), err = err }
end

return collect
