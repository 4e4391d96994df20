-- The end of a run: what became of creates without an answer, the deletes of what
-- the script left, and the report.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local leftovers = require("sbx.sandbox.leftovers")
local ledger = require("sbx.sandbox.ledger")
local log = require("sbx.log")
local task = require("sbx.task")

local cleanup = {}

local SHARE = 0.85 -- of the time for cleaning up: the rest is for the ledger
local SETTLE_SECONDS = 5 -- for learning what a lost create has made
local AT_ONCE = 64 -- of these
local SHOWN = 20 -- ids in a message
local PAUSES = { 0.25, 0.75, 2 } -- seconds before an API in trouble is asked again

-- Answers behind which the server may still be at work.
local passing = { [502] = true, [503] = true, [504] = true }

-- ------------------------------------------------------------------- deleting

-- Asks once more, with the same idempotency key: that tells what was made, and if
-- nothing was yet, makes what is then deleted.
---@async
local function settle(owner)
  local intents = {}
  for _, intent in pairs(owner.doubts) do
    intents[#intents + 1] = intent
  end
  task.map(intents, function(intent)
    local ok, err = pcall(task.timeout, SETTLE_SECONDS, intent.again)
    if ok then return end
    if errors.is_error(err) and err.kind == "cancelled" then error(err, 0) end
    intent.err = err
  end, { limit = AT_ONCE })
  return #intents > 0
end

-- Every id is tried once, and `delete_again` has those that may be worth it.
---@async
local function delete_left(owner, failed)
  local ids = {}
  for id, box in pairs(owner.boxes) do
    if not box.keep and not failed[id] then ids[#ids + 1] = id end
  end
  table.sort(ids)
  for id, err in pairs(owner.client.deletes:all(ids)) do
    failed[id] = err
  end
end

-- Whether a delete that failed so may succeed a moment later.
local function may_pass(err)
  if not errors.is_error(err) or err.kind == "cancelled" then return false end
  local status = math.tointeger(err.status)
  if status then return status >= 500 or status == 409 or status == 408 end
  return errors.is_error(err.cause) and err.cause.retryable or false
end

---@async
local function delete_again(owner, failed)
  for _, pause in ipairs(PAUSES) do
    local ids = {}
    for id, err in pairs(failed) do
      if owner.boxes[id] and may_pass(err) then ids[#ids + 1] = id end
    end
    if #ids == 0 then return end
    table.sort(ids)
    task.sleep(pause)
    local still = owner.client.deletes:all(ids)
    for _, id in ipairs(ids) do
      failed[id] = still[id]
    end
  end
end

local function is_known(owners, id)
  for _, owner in ipairs(owners) do
    if owner.boxes[id] then return true end
  end
  return false
end

-- Whether there is nothing more to come of a create: the server has answered since,
-- and is not still at work behind a gateway that gave up.
local function is_over(intent)
  local status = errors.is_error(intent.err) and intent.err.status
  return status and not passing[status]
end

-- What the label finds; asked for again where the server is in trouble.
---@async
local function find_labelled(owner)
  local run, teams = ledger.run_id(), owner.teams
  for _, pause in ipairs(PAUSES) do
    local found, err = errors.try(leftovers.list, owner.client, run, teams)
    if found then return found end
    if not may_pass(err) then error(err, 0) end
    task.sleep(pause)
  end
  return leftovers.list(owner.client, run, teams)
end

-- A server that does not know idempotency keys makes a second one when a create is
-- repeated; one that was slow has made it meanwhile. The label finds them.
---@async
local function find_strays(owner, owners)
  local strays, doubts = 0, 0
  for id, box in pairs(find_labelled(owner)) do
    if not is_known(owners, id) then
      owner:adopt(box)
      strays = strays + 1
    end
  end
  for _ in pairs(owner.doubts) do
    doubts = doubts + 1
  end
  for _, intent in pairs(owner.doubts) do
    -- So many strays are what all of them have made.
    if strays >= doubts or is_over(intent) then owner:settle(intent) end
  end
end

---@async
local function clean_up(owner, owners, failed)
  local _, had_doubts = task.gather({
    function() delete_left(owner, failed) end,
    function() return settle(owner) end,
  })
  delete_left(owner, failed)
  if had_doubts or owner.resent then
    if owner.book then owner.book.unsure = true end
    find_strays(owner, owners)
    if owner.book then owner.book.unsure = false end
    delete_left(owner, failed)
  end
  delete_again(owner, failed)
end

-- Returns the first failure that no id can be named for.
---@async
local function clean_up_all(owners, failed)
  local results = {}
  for i, owner in ipairs(owners) do
    results[i] = function() clean_up(owner, owners, failed) end
  end
  for _, result in ipairs(task.settle(results)) do
    if not result.ok then return result.error end
  end
end

-- ------------------------------------------------------------------ reporting

local function names(ids)
  local shown = {}
  for i = 1, math.min(#ids, SHOWN) do
    shown[i] = log.clean(ids[i], 100)
  end
  local text = table.concat(shown, ", ")
  if #ids > SHOWN then text = text .. (" and %d more"):format(#ids - SHOWN) end
  return text
end

local function count(number, what)
  return ("%d %s%s"):format(number, what, number == 1 and "" or what:find("x$") and "es" or "s")
end

-- What is there still: ids, sorted, and how many creates nobody knows the end of.
local function remains(owners)
  local left, kept, doubts = {}, {}, 0
  for _, owner in ipairs(owners) do
    for id, box in pairs(owner.boxes) do
      table.insert(box.keep and kept or left, id)
    end
    for _ in pairs(owner.doubts) do
      doubts = doubts + 1
    end
  end
  table.sort(left)
  table.sort(kept)
  return left, kept, doubts
end

local function report(totals, by_script, left, kept, doubts)
  if totals.created == 0 and doubts == 0 then return end
  local parts = { "created " .. count(totals.created, "sandbox"), "deleted " .. totals.deleted }
  local by_us = totals.deleted - by_script
  if by_us > 0 then parts[2] = ("%s (%d that the script left)"):format(parts[2], by_us) end
  if #kept > 0 then parts[#parts + 1] = ("kept %d: %s"):format(#kept, names(kept)) end
  if #left > 0 then parts[#parts + 1] = ("left %d: %s"):format(#left, names(left)) end
  if doubts > 0 then parts[#parts + 1] = count(doubts, "create") .. " without an answer" end
  log[#left + doubts > 0 and "warn" or "info"](table.concat(parts, ", "))
end

local function failure(left, doubts, cause, hint)
  local parts = {}
  if #left > 0 then
    parts[1] = ("could not delete %s: %s"):format(count(#left, "sandbox"), names(left))
  end
  if doubts > 0 then
    parts[#parts + 1] = count(doubts, "create") .. " without an answer may have made a sandbox"
  end
  return errors.new({
    kind = "api",
    op = "cleanup",
    cause = errors.is_error(cause) and cause or nil,
    message = ("%s (%s)%s"):format(table.concat(parts, "; "),
      cause and tostring(cause) or "the time for cleaning up is over", hint),
  })
end

-- ------------------------------------------------------------------------ end

-- Where deletes would come from once this run is over, for a message.
local function hint_for(owners)
  local all_local, all_noted = true, true
  for _, owner in ipairs(owners) do
    all_local = all_local and owner.client.config.is_local
    all_noted = all_noted and owner.book ~= nil
  end
  if all_local then return "" end -- their server ends now
  if all_noted then return "; `sbxlua gc --yes` deletes what is left" end
  return "; what is left has the label " .. ledger.label()
end

local function is_cancelled(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

-- What stays on purpose is no longer this run's. Its ledger goes, unless something
-- else is left.
---@async
local function put_away(owners, kept)
  for _, owner in ipairs(owners) do
    for _, id in ipairs(kept) do
      owner:let_go(id)
    end
  end
  local ok, err = pcall(ledger.finish)
  if not ok then log.debug("the ledger was not put away", { error = err }) end
  for _, owner in ipairs(owners) do
    owner.book = nil
  end
end

---Deletes what is left of a run, in bulk, and says what became of all that it made.
---Raises when something remains.
---@async
---@param owners sbx.sandbox.Ownership[]
---@param totals { created: integer, deleted: integer }  counts on
function cleanup.finish(owners, totals)
  local failed, cause, by_script = {}, nil, totals.deleted
  local seconds = core.cleanup_seconds() * SHARE
  local ok, in_time, problem = pcall(task.move_on, seconds, clean_up_all, owners, failed)
  if not ok then problem = in_time end
  local left, kept, doubts = remains(owners)
  for _, id in ipairs(left) do
    cause = cause or failed[id]
  end
  cause = cause or not is_cancelled(problem) and problem or nil

  report(totals, by_script, left, kept, doubts)
  local err = cause
  if #left + doubts > 0 then err = failure(left, doubts, cause, hint_for(owners)) end
  put_away(owners, kept)
  if err then error(err, 0) end
end

return cleanup
