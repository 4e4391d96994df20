-- Looks at sandboxes on behalf of all who wait for them: in rounds, each of which asks
-- for all that are due in as few requests as that takes.
--
-- No task of its own. One of those who wait keeps the time until the next round; each
-- request of a round is sent by one who waits for a sandbox in it. When it is cancelled
-- another one takes over.

local errors = require("sbx.errors")
local observe = require("sbx.observe")
local status = require("sbx.sandbox.status")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")

local poller = {}

local GATHER = 0.025 -- seconds from the first wish to look until the request
local FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.1, 5, 1.5 -- seconds between looks at one
local BUILD_PAUSE, BUILD_SLACK = 10, 1 -- the same while its image is built
local SHARE, LEAST_INTERVAL, MOST_INTERVAL = 0.02, 0.1, 1 -- seconds between rounds
local FEW, QUICK = 8, 0.02 -- for so many a server of our own is asked that soon again
local MOST = 100 -- ids in one request
local AT_ONCE = 8 -- requests in flight
local TICK = 0.0005 -- seconds that count as none

---@class sbx.sandbox.Poller
---@field private asker sbx.sandbox.Asker
---@field private governor sbx.sandbox.Governor
---@field private entries table<string, table>  what is watched, by id
---@field private count integer  of them
---@field private sleepers table<sbx.sandbox.Watch, boolean>  those who wait for news
---@field private keeper sbx.sandbox.Watch|nil  who keeps the time
---@field private wake_at number  until when it sleeps
---@field private last_round number
---@field private line table[]  requests to send
---@field private carried integer  requests in flight
local Poller = {}
Poller.__index = Poller

-- One who waits for one sandbox.
---@class sbx.sandbox.Watch
---@field private poller sbx.sandbox.Poller
---@field private entry table
---@field private wanting boolean  it is in `next`
---@field private waiter sbx.core.Waiter|nil  on which it sleeps
---@field private awake boolean  it was woken, and has not run yet
---@field private news table|nil  { record = } or { error = } for it
---@field private job table|nil   the request that it is to send, or sends
---@field private known string|nil  what it was told last
local Watch = {}
Watch.__index = Watch

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Poller
function poller.new(client)
  return setmetatable({
    asker = status.asker(client), governor = client.governor,
    entries = {}, count = 0, sleepers = {},
    wake_at = math.huge, last_round = -math.huge, line = {}, carried = 0,
  }, Poller)
end

-- Whether asking often costs nothing: a sandbox of this machine is there in no time.
local function may_hurry(self)
  return self.count <= FEW and self.governor:is_free()
end

local function first_pause(self)
  return may_hurry(self) and QUICK or FIRST_PAUSE
end

---Begins to watch a sandbox; `close` ends it. For one task.
---@param id string
---@return sbx.sandbox.Watch
function Poller:watch(id)
  local entry = self.entries[id]
  local soon = task.now() + GATHER
  if not entry then
    entry = {
      id = id, watches = {}, due = soon, slack = GATHER, flying = false,
    }
    self.entries[id] = entry
    self.count = self.count + 1
    entry.pause = first_pause(self)
  end
  if soon < entry.due then
    entry.due, entry.slack = soon, GATHER
  end
  local watch = setmetatable({ poller = self, entry = entry, wanting = false }, Watch)
  table.insert(entry.watches, watch)
  return watch
end

-- What is asked about stays until the answer is there: who comes meanwhile shares it.
local function drop_unwatched(self, entry)
  if #entry.watches > 0 or entry.flying or self.entries[entry.id] ~= entry then return end
  self.entries[entry.id] = nil
  self.count = self.count - 1
end

function Watch:close()
  local watches = self.entry.watches
  for i = #watches, 1, -1 do
    if watches[i] == self then table.remove(watches, i) end
  end
  drop_unwatched(self.poller, self.entry)
end

Watch.__close = Watch.close

-- ------------------------------------------------------------------------ telling

-- Sees to it that `watch` looks at what it is given; false when it was cancelled.
local function reach(watch)
  if not watch.waiter or watch.awake then return true end
  watch.awake = watch.waiter:wake()
  return watch.awake
end

-- Worth waking somebody for: a change, and what calls for a probe.
local function key_of(record)
  return record.status .. (record.pending_image_build_id and " building" or "")
end

local function give_news(watch, news)
  if not watch.wanting or watch.news then return end
  if news.record and news.record.status ~= "RUNNING" and watch.known == key_of(news.record) then
    return
  end
  if reach(watch) then watch.news = news end
end

-- Seconds between two rounds: the more there are, the longer.
local function interval_of(self)
  if may_hurry(self) then return QUICK end
  return math.max(LEAST_INTERVAL, math.min(MOST_INTERVAL, SHARE * self.count))
end

local function plan_next(self, entry, record)
  local building = record.status == "PENDING" and record.pending_image_build_id
  if building then
    entry.due, entry.slack = task.now() + BUILD_PAUSE, BUILD_SLACK
    return
  end
  -- That a command gets through follows soon.
  local has_booted = record.status == "RUNNING" and entry.status ~= "RUNNING"
  if has_booted then entry.pause = first_pause(self) end
  entry.status = record.status
  entry.pause = math.max(entry.pause, interval_of(self))
  entry.due = task.now() + throttle.jitter(entry.pause)
  entry.slack = entry.pause / 2
  entry.pause = math.min(LONGEST_PAUSE, entry.pause * GROWTH)
end

-- Nothing is known of it this time: it is looked at again, less and less often.
local function put_off(self, entry, err)
  entry.flying = false
  entry.trouble = err
  entry.pause = math.max(entry.pause, interval_of(self))
  entry.due = task.now() + throttle.jitter(entry.pause)
  entry.slack = entry.pause / 2
  entry.pause = math.min(LONGEST_PAUSE, entry.pause * GROWTH)
end

local function tell(self, entry, record, err)
  entry.flying = false
  if record then
    entry.trouble = nil
    if observe.phase then observe.phase(entry.id, "status", record.status) end
    plan_next(self, entry, record)
  else
    entry.due = task.now() + FIRST_PAUSE
  end
  -- A copy: whoever is woken may end its watch before the others are told.
  for _, watch in ipairs(table.move(entry.watches, 1, #entry.watches, 1, {})) do
    give_news(watch, record and { record = record } or { error = err })
  end
end

-- ------------------------------------------------------------------------- rounds

local function is_wanted(self, entry)
  if self.entries[entry.id] ~= entry then return false end
  for _, watch in ipairs(entry.watches) do
    if watch.wanting and not watch.news then return true end
  end
  return false
end

-- The earliest moment for a round in which something is due at `due`.
local function round_at(self, due)
  return math.max(due, self.last_round + interval_of(self), self.asker.hold_until)
end

local function next_round(self)
  local earliest = math.huge
  for _, entry in pairs(self.entries) do
    if not entry.flying and entry.due < earliest and is_wanted(self, entry) then
      earliest = entry.due
    end
  end
  return round_at(self, earliest)
end

local function add_job(self, way, entries)
  table.insert(self.line, { way = way, entries = entries })
end

-- Cuts what is due into requests.
local function plan(self, entries, singly)
  local way = singly and "one" or self.asker:way(#entries)
  if way == "list" then return add_job(self, way, entries) end
  local size = way == "batch" and MOST or 1
  for first = 1, #entries, size do
    local last = math.min(first + size - 1, #entries)
    add_job(self, first == last and "one" or way, table.move(entries, first, last, 1, {}))
  end
end

local function begin_round(self)
  local now, due = task.now(), {}
  self.last_round = now
  self.line = {}
  for _, entry in pairs(self.entries) do
    if not entry.flying and entry.due - entry.slack <= now + TICK and is_wanted(self, entry) then
      due[#due + 1] = entry
    end
  end
  table.sort(due, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return a.id < b.id
  end)
  plan(self, due)
end

local function give_job(watch, job)
  if not watch.wanting or watch.news or watch.job then return false end
  if not reach(watch) then return false end
  watch.job = job
  return true
end

local function find_carrier(job)
  for _, entry in ipairs(job.entries) do
    for _, watch in ipairs(entry.watches) do
      if give_job(watch, job) then return true end
    end
  end
  return false
end

-- Finds somebody for each request that may go now. What nobody is free for is due
-- again in the next round.
local function hand_out(self)
  while self.carried < AT_ONCE and self.line[1] do
    local job = table.remove(self.line, 1)
    local wanted = {}
    for _, entry in ipairs(job.entries) do
      if not entry.flying and is_wanted(self, entry) then wanted[#wanted + 1] = entry end
    end
    job.entries = wanted
    if #wanted > 0 and find_carrier(job) then
      self.carried = self.carried + 1
      for _, entry in ipairs(wanted) do
        entry.flying = true
      end
    end
  end
end

-- Somebody has to keep the time.
local function appoint(self)
  if self.keeper then return end
  for watch in pairs(self.sleepers) do
    if reach(watch) then return end
  end
end

-- The keeper may not know yet that something is due at `due`.
local function tell_keeper(self, due)
  if self.keeper and round_at(self, due) < self.wake_at then reach(self.keeper) end
end

-- ------------------------------------------------------------------------ carrying

local function land(self, job)
  self.carried = self.carried - 1
  local earliest = math.huge
  for _, entry in ipairs(job.entries) do
    entry.flying = false
    earliest = math.min(earliest, entry.due)
    drop_unwatched(self, entry)
  end
  tell_keeper(self, earliest)
end

local function is_cancelled(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

---@async
local function send(self, job)
  local ids, by_id = {}, {}
  for i, entry in ipairs(job.entries) do
    ids[i] = entry.id
    by_id[entry.id] = entry
  end
  local open, singly = self.asker[job.way](self.asker, ids, function(id, record, err)
    tell(self, by_id[id], record, err)
    by_id[id] = nil
  end)
  local left = {}
  for i, id in ipairs(open or {}) do
    left[i] = by_id[id]
    by_id[id].flying = false
  end
  plan(self, left, singly or job.way == "list")
end

-- Sends the request that `watch` was given. Raises only when it is cancelled.
---@async
local function carry(self, watch)
  local job = watch.job
  appoint(self)
  local ok, err = pcall(send, self, job)
  watch.job = nil
  if not ok and not is_cancelled(err) then
    local may_pass = self.asker:may_pass(err)
    for _, entry in ipairs(job.entries) do
      if entry.flying then
        if may_pass then put_off(self, entry, err) else tell(self, entry, nil, err) end
      end
    end
  end
  local cancelled = not ok and is_cancelled(err)
  if cancelled then watch.wanting = false end
  land(self, job)
  hand_out(self)
  if cancelled then error(err, 0) end
end

-- ------------------------------------------------------------------------- waiting

---@async
local function sleep(self, watch, seconds)
  local waiter = task.waiter("the state of a sandbox")
  watch.waiter, watch.awake = waiter, false
  self.sleepers[watch] = true
  local ok, err
  if seconds < math.huge then
    ok, err = pcall(task.move_on, seconds, waiter.wait, waiter)
  else
    ok, err = pcall(waiter.wait, waiter)
  end
  watch.waiter = nil
  self.sleepers[watch] = nil
  if not ok then error(err, 0) end
end

-- Sleeps until the next round and opens it, unless there is news before.
---@async
local function keep_time(self, watch)
  self.keeper = watch
  local at = next_round(self)
  self.wake_at = at
  local seconds = at - task.now()
  local ok, err = true, nil
  if seconds > TICK then ok, err = pcall(sleep, self, watch, seconds) end
  self.keeper, self.wake_at = nil, math.huge
  if not ok then error(err, 0) end
  if watch.news or watch.job or task.now() + TICK < next_round(self) then return end
  begin_round(self)
  hand_out(self)
end

---@async
local function run(self, watch)
  while not watch.news do
    if watch.job then
      carry(self, watch)
    elseif not self.keeper then
      keep_time(self, watch)
    else
      if not watch.entry.flying then tell_keeper(self, watch.entry.due) end
      sleep(self, watch, math.huge)
    end
  end
end

---Why the last look at the sandbox showed nothing; nil when it did.
---@return sbx.Error|nil
function Watch:trouble()
  return self.entry.trouble or self.poller.asker.refusal
end

---Waits for news of the sandbox: its state when that has changed, or is RUNNING.
---Raises what the API says instead, unless that may pass.
---@async
---@return sbx.sandbox.Record
function Watch:next()
  local owner = self.poller
  self.wanting = true
  local ok, err = pcall(run, owner, self)
  local news, job = self.news, self.job
  self.wanting, self.news, self.job = false, nil, nil
  if job then -- given to it and never sent
    land(owner, job)
    hand_out(owner)
  end
  appoint(owner)
  if not ok then error(err, 0) end
  if news.error then error(news.error, 0) end
  self.known = key_of(news.record)
  return news.record
end

return poller
