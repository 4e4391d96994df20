-- How fast requests may go to the control plane, for each class of endpoints. It
-- starts from the limits that the API publishes and believes what the server says;
-- pace.lua has the arithmetic.
--
-- The processes of one user share what is known and what is used, in a file of the
-- state folder. Where there is none, or another process does not let go of it, each
-- goes by its own knowledge.

local endpoints = require("sbx.sandbox.endpoints")
local errors = require("sbx.errors")
local limit = require("sbx.limit")
local log = require("sbx.log")
local pace = require("sbx.sandbox.pace")
local rate_headers = require("sbx.sandbox.rate_headers")
local state = require("sbx.sandbox.state")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.core.time")

local governor = {}

local WINDOW = 60 -- seconds after which a sandbox's requests count no more
local SLICE = 0.05 -- seconds of a wait between two looks at whether it is over
local LOOK_EVERY = 1 -- seconds between two looks at what other processes know
local LOCK_SECONDS = 0.5 -- that another process may hold the file
local ALONE_SECONDS = 5 -- that it is left alone after that
local STALE = 1 -- seconds after which a place that nobody took is lost
local MANY_SANDBOXES = 2000 -- whose knowledge is kept
local FEW_AT_ONCE, MOST_AT_ONCE = 8, 64

-- ------------------------------------------------------------------------ lanes

-- Requests that share a limit.
---@class sbx.sandbox.Lane
---@field class string
---@field published sbx.sandbox.Limit|nil
---@field shared boolean            with other processes
---@field pace sbx.sandbox.Pace     what this process knows
---@field own sbx.sandbox.Pace|nil  this process's share of a burst
---@field turn sbx.sync.Mutex|nil   of those who wait, one at a time asks for a place
---@field place { at: number, epoch: number }|nil  promised, and not taken yet

---@class sbx.sandbox.Governor
---@field private config sbx.sandbox.Config
---@field private path string|false|nil  the shared file; nil: not looked for yet
---@field private free boolean           the server has no limits to begin with
---@field private lanes table<string, sbx.sandbox.Lane>
---@field private sandboxes table<string, sbx.sandbox.Lane>
---@field private sandbox_count integer
---@field private sandbox_most integer
---@field private widths table<string, sbx.limit.Adaptive>
---@field private looked number          when the shared file was read last
---@field private alone_until number
local Governor = {}
Governor.__index = Governor

---@param config sbx.sandbox.Config
---@return sbx.sandbox.Governor
function governor.new(config)
  local self = setmetatable({
    config = config,
    free = config.is_local or false,
    lanes = {}, widths = {}, looked = -math.huge, alone_until = -math.huge,
    sandboxes = {}, sandbox_count = 0, sandbox_most = MANY_SANDBOXES,
  }, Governor)
  if config.is_local or config.api_key == "" then self.path = false end
  return self
end

local function new_lane(self, class, published, shared)
  if self.free then published = nil end
  return {
    class = class, published = published, shared = shared,
    pace = pace.new(published, time.wall()),
    turn = shared and sync.mutex("rate of " .. class) or nil,
  }
end

-- Forgets the sandboxes that nothing was asked about lately.
local function forget_old(self)
  local now, kept = time.wall(), 0
  for key, lane in pairs(self.sandboxes) do
    local known = lane.pace
    if now - known.last > WINDOW and now > known.paused_until then
      self.sandboxes[key] = nil
    else
      kept = kept + 1
    end
  end
  self.sandbox_count = kept
  self.sandbox_most = math.max(MANY_SANDBOXES, 2 * kept)
end

-- What a request shares its limit with; nil where nothing is known of that and it is
-- not to be made.
local function lane_of(self, class, id, make)
  local list, key = self.lanes, class
  if id then list, key = self.sandboxes, class .. " " .. id end
  local lane = list[key]
  if lane or not make then return lane end
  if not id then
    lane = new_lane(self, class, endpoints.limits[class], true)
  else
    if self.sandbox_count >= self.sandbox_most then forget_old(self) end
    lane = new_lane(self, class, endpoints.limits_of_one[class], false)
    self.sandbox_count = self.sandbox_count + 1
  end
  list[key] = lane
  return lane
end

-- From now on nothing is limited but by refusals.
local function set_free(self)
  self.free = true
  self.path = false
  local now = time.wall()
  for _, list in ipairs({ self.lanes, self.sandboxes }) do
    for _, lane in pairs(list) do
      lane.published, lane.place, lane.own = nil, nil, nil
      lane.pace = pace.new(nil, now)
    end
  end
  self.widths = {}
end

---Whether the server is one of ours, which limits nothing but by refusals.
---@return boolean
function Governor:is_free()
  return self.free
end

-- ---------------------------------------------------------------------- sharing

---@async
local function path_of(self)
  if self.path == nil then
    local path = state.file("limits", self.config) or false
    -- It may have turned out meanwhile that there is nothing to share.
    if self.path == nil then self.path = path end
  end
  return self.path
end

-- Takes over what other processes know.
local function adopt(lane, all)
  for class, known in pairs(all) do
    if not pace.is_valid(known) then all[class] = nil end
  end
  lane.pace = all[lane.class] or lane.pace
  all[lane.class] = lane.pace
end

-- Calls `fn(pace, published, now)`, with what all processes know where that is to be
-- had. Nothing is written when it returns false.
---@async
local function visit(self, lane, fn)
  local path = lane.shared and not self.free and path_of(self)
  if not path or time.now() < self.alone_until then
    return fn(lane.pace, lane.published, time.wall())
  end
  local done, result = false, nil
  local _, err = errors.try(state.update, path, LOCK_SECONDS, function(all)
    adopt(lane, all)
    result, done = fn(lane.pace, lane.published, time.wall()), true
    return result
  end)
  if err then
    log.debug("rate limits are not shared", { path = path, error = err })
    local busy = errors.is_error(err) and err.kind == "timeout"
    self.alone_until = time.now() + (busy and ALONE_SECONDS or WINDOW)
  end
  if done then return result end
  return fn(lane.pace, lane.published, time.wall())
end

-- Reads what other processes know, without holding them up.
---@async
local function look(self, lane)
  local path = lane.shared and not self.free and path_of(self)
  if not path or time.now() < self.alone_until then return end
  local all = state.read(path)
  if next(all) == nil then return end -- it is being made
  for class, other in pairs(self.lanes) do
    if other.shared and pace.is_valid(all[class]) then other.pace = all[class] end
  end
end

-- ---------------------------------------------------------------------- waiting

-- Half of a burst is left to other processes, which may come a moment later.
---@async
local function wait_for_share(lane)
  local known = lane.pace
  local half = math.max(1, known.burst // 2)
  local own = lane.own
  if not own or own.burst ~= half then
    own = pace.new(nil, time.wall())
    own.burst, own.tokens = half, half
    lane.own = own
  end
  own.rate = known.rate
  local at = pace.reserve(own, nil, time.wall())
  while lane.own == own and time.wall() < at do
    task.sleep(math.min(SLICE, at - time.wall()))
  end
end

---@async
local function ask_for_place(self, lane)
  local place
  visit(self, lane, function(known, published, now)
    place = { at = pace.reserve(known, published, now), epoch = known.epoch }
    place.is_paused = now < known.paused_until
  end)
  return place
end

-- Waits for the time of a place. True when it may be taken, false when what it was
-- promised on holds no more.
---@async
local function wait_for_place(self, lane, place)
  local waited = false
  while true do
    local at = place.at
    -- Without limits a place is only worth waiting for while there is a pause.
    if self.free then at = math.min(at, lane.pace.paused_until) end
    local left = at - time.wall()
    if left <= 0 then break end
    if lane.pace.epoch ~= place.epoch then return false end
    waited = true
    task.sleep(math.min(SLICE, left))
  end
  if waited then look(self, lane) end
  return lane.pace.epoch == place.epoch
end

-- Waits until a request of the lane may go: nil, or the seconds of a pause that is
-- longer than `patience`.
---@async
local function wait_for_lane(self, lane, patience, in_turn)
  while true do
    local now = time.wall()
    local known = lane.pace
    pace.refresh(known, lane.published, now)
    if now < known.paused_until and known.paused_until - now > patience then
      return known.paused_until - now
    end
    if pace.is_open(known, now) then
      known.sent, known.last = known.sent + 1, now
      return nil
    end
    local place = in_turn and lane.place
    if not place or now - place.at > STALE then place = ask_for_place(self, lane) end
    -- Who is cancelled while it waits leaves its place to the next.
    if in_turn then lane.place = place end
    local taken = wait_for_place(self, lane, place)
    if in_turn then lane.place = nil end
    if taken then return nil end
  end
end

-- How many may be on their way: narrow at first where a limit is published, and of
-- other classes only once the server had too much.
local function width_of(self, class, overloaded)
  local width = self.widths[class]
  local seeded = endpoints.limits[class] and not self.free
  if not width and (seeded or overloaded) then
    width = limit.adaptive({
      start = seeded and FEW_AT_ONCE or MOST_AT_ONCE // 2, min = 2, max = MOST_AT_ONCE,
      name = class,
    })
    self.widths[class] = width
  end
  return width
end

-- A place among the requests that are on their way, and the time to go.
---@async
local function enter(self, lane, patience, in_turn)
  local width = width_of(self, lane.class)
  local place = width and width:acquire()
  local ok, seconds = pcall(wait_for_lane, self, lane, patience, in_turn)
  if ok and not seconds then return place or nil end
  if place then place:release() end
  if not ok then error(seconds, 0) end
  return nil, seconds
end

---@async
local function enter_in_turn(self, lane, patience)
  if not lane.turn or pace.is_open(lane.pace, time.wall()) then
    return enter(self, lane, patience, false)
  end
  local _ <close> = lane.turn:lock()
  if lane.pace.rate > 0 and not lane.place then wait_for_share(lane) end
  return enter(self, lane, patience, true)
end

---The right to send one request. Close it when the answer is there.
---@class sbx.sandbox.Grant
---@field package class string
---@field package id string|nil
---@field package lane sbx.sandbox.Lane|nil    none: nothing limits it
---@field package place sbx.limit.Place|nil
---@field package epoch number
local Grant = {}
Grant.__index = Grant

---Gives the place back. Twice is harmless.
function Grant:close()
  if self.place then self.place:release() end
end

Grant.__close = Grant.close

---Waits until a request of this class may go, behind those who came before.
---@async
---@param class string    as `endpoints.class_of` gives it
---@param id string|nil
---@param patience number  seconds of a pause that the server asked for
---@param again boolean    it was refused before: it does not stand in line once more
---@return sbx.sandbox.Grant|nil  nil: the pause is longer
---@return number|nil seconds     of the pause
function Governor:admit(class, id, patience, again)
  local lane = lane_of(self, class, id, not self.free)
  local grant = setmetatable({ class = class, id = id, lane = lane, epoch = 0 }, Grant)
  if not lane then
    local width = width_of(self, class)
    grant.place = width and width:acquire()
    return grant
  end
  if lane.shared and not self.free and time.now() - self.looked > LOOK_EVERY then
    self.looked = time.now()
    look(self, lane)
  end
  local enter_it = again and enter or enter_in_turn
  local place, seconds = enter_it(self, lane, patience, false)
  if seconds then return nil, seconds end
  grant.place, grant.epoch = place, lane.pace.epoch
  return grant
end

local function tell_width(self, grant, status)
  if status == 429 or status == 503 then
    width_of(self, grant.class, true)
    if grant.place then grant.place:overload() end
  elseif grant.place then
    grant.place:ok()
  end
end

---@async
local function learn(self, grant, answer)
  local status, headers = answer.status, answer.headers
  if not status then return end
  if headers and not self.free and (headers["server"] or ""):find("^sbxlua") then
    set_free(self)
  end
  tell_width(self, grant, status)
  if status == 429 then
    local lane = lane_of(self, grant.class, grant.id, true)
    visit(self, lane, function(known, published, now)
      pace.refuse(known, published, grant.epoch, answer.retry_after, now, not self.free)
    end)
    return
  end
  local lane = grant.lane
  local told = lane and headers and not self.free and rate_headers(headers, time.wall())
  if not lane or (not told and lane.pace.refusals == 0) then return end
  visit(self, lane, function(known, published, now)
    return pace.accept(known, published, told, now)
  end)
end

---Learns from an answer, or from the error of a request that got none. Never raises:
---the answer must not be lost on the way to who asked for it.
---@async
---@param grant sbx.sandbox.Grant
---@param answer { status: integer|nil, headers: table|nil, retry_after: number|nil }
function Governor:learn(grant, answer)
  local ok, err = pcall(learn, self, grant, answer)
  if not ok and not errors.is_error(err) then
    log.debug("rate limits", { error = err })
  end
end

return governor
