-- Live processes that this run has opened, for its end: what nobody closed is ended then, and
-- told. Only what finds a process again is held here, so that whoever drops one drops its
-- connection and its output, too.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local log = require("sbx.log")
local run = require("sbx.run")
local session = require("sbx.sandbox.rpc.session")
local task = require("sbx.task")

local held = {}

local KILL_SECONDS = 5
local AT_ONCE = 32
local SHOWN = 20 -- in a message

---@class sbx.sandbox.Held
---@field client sbx.sandbox.Client
---@field sandbox_id string
---@field pid integer|nil
---@field tag string|nil

local records, registered = {}, false

-- What became of them, and how loudly it is told.
local OUTCOMES = {
  { "left", "warn", "could not be ended, and may run on" },
  { "killed", "warn", "was killed" },
  { "gone", "info", "ended with its sandbox" },
}

-- Ends a process. Returns one of the outcomes, or "over" where it had ended before.
---@async
local function finish_one(record)
  local box = record.client.owned.boxes[record.sandbox_id]
  if box and not box.keep then return "gone" end -- with it, in a moment
  local selector = record.pid and { pid = record.pid } or { tag = record.tag }
  local ok, err = session.kill(record.client, record.sandbox_id, selector, KILL_SECONDS)
  if ok then return "killed" end
  if errors.is_error(err) and err:is("not_running") then return "gone" end
  return errors.is_error(err) and err.code == "not_found" and "over" or "left"
end

local function tell(level, what, names)
  if #names == 0 then return end
  local text = table.concat(names, ", ", 1, math.min(#names, SHOWN))
  if #names > SHOWN then text = text .. (" and %d more"):format(#names - SHOWN) end
  log[level](("process %s was never closed: it %s; hold it as `local p <close> = …`, or detach it")
    :format(text, what))
end

---@async
local function finish()
  local list = {}
  for record in pairs(records) do
    list[#list + 1] = record
  end
  records, registered = {}, false
  table.sort(list, function(a, b)
    if a.sandbox_id ~= b.sandbox_id then return a.sandbox_id < b.sandbox_id end
    return (a.pid or 0) < (b.pid or 0)
  end)
  local ends = task.map(list, finish_one, { limit = AT_ONCE })
  for _, outcome in ipairs(OUTCOMES) do
    local names = {}
    for i, record in ipairs(list) do
      if ends[i] == outcome[1] then
        names[#names + 1] = ("%s of sandbox %s"):format(
          failure.clean(tostring(record.pid or record.tag), nil, 100),
          failure.clean(record.sandbox_id, nil, 100))
      end
    end
    tell(outcome[2], outcome[3], names)
  end
end

---Notes a process that belongs to this run.
---@param record sbx.sandbox.Held
---@return sbx.sandbox.Held
function held.add(record)
  records[record] = true
  if not registered then
    registered = true
    run.defer(finish, "ending the processes that the script left")
  end
  return record
end

---It has ended, or was closed, or is to live on.
---@param record sbx.sandbox.Held|nil
function held.remove(record)
  if record then records[record] = nil end
end

return held
