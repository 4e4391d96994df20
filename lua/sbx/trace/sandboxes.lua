-- Sandboxes in a trace: a track for each, and on it its phases. A phase is written when it
-- is over, so that one which never ends leaves nothing half open.

local core = require("sbx.core.trace")
local observe = require("sbx.observe")
local trace = require("sbx.trace")

local sandboxes = {}

local SOON = { PENDING = true } -- nobody has begun to make it yet
local ENDED = { ERROR = true, TERMINATED = true, TIMEOUT = true }

local tracks = {} -- id → { tid, phase, since }
local count = 0

local function open_track(id, began)
  count = count + 1
  local track = { tid = count, id = trace.clean(id), began = began }
  tracks[id] = track
  trace.emit({
    ph = "M", pid = trace.SANDBOXES, tid = count, name = "thread_name", args = { name = track.id },
  })
  trace.emit({
    ph = "B", pid = trace.SANDBOXES, tid = count, ts = began, cat = "sandbox",
    name = "sandbox " .. track.id, args = { sandbox = track.id },
  })
  return track
end

local function enter(track, phase, at)
  track.phase, track.since = phase, at
end

local function leave(track, now, unfinished)
  if not track.phase then return end
  trace.emit({
    ph = "X", pid = trace.SANDBOXES, tid = track.tid, ts = track.since, dur = now - track.since,
    cat = "phase", name = track.phase,
    args = { sandbox = track.id, status = track.status, unfinished = unfinished },
  })
  track.phase = nil
end

local function close_track(id, now, unfinished)
  local track = tracks[id]
  leave(track, now, unfinished)
  tracks[id] = nil
  trace.emit({
    ph = "E", pid = trace.SANDBOXES, tid = track.tid, ts = now,
    args = { status = track.status, deleted = not unfinished },
  })
end

local function move_on(track, phase, now)
  leave(track, now)
  enter(track, phase, now)
end

local on = {}

-- `seconds` ago the create was asked for; now the API has accepted it.
function on.create(id, now, seconds)
  if tracks[id] then return end
  local began = math.max(0, now - seconds * 1e6)
  local track = open_track(id, began)
  track.status = "PENDING"
  enter(track, "accept", began)
  move_on(track, "schedule", now)
end

-- A sandbox that this run has not made counts from where it is seen first.
local function known(id, now)
  return tracks[id] or open_track(id, now)
end

function on.status(id, now, status)
  local track = tracks[id]
  if not track then return end
  track.status = trace.clean(status)
  if ENDED[status] then
    leave(track, now)
  elseif status == "RUNNING" then
    if track.phase == "schedule" or track.phase == "boot" then
      -- What was not seen in between belongs to the boot.
      if track.phase == "schedule" then track.phase = "boot" end
      move_on(track, "first exec", now)
    end
  elseif not SOON[status] and track.phase == "schedule" then
    move_on(track, "boot", now)
  end
end

function on.exec(id, now)
  local track = known(id, now)
  if track.phase ~= "use" and track.phase ~= "delete" then
    track.status = track.status or "RUNNING"
    move_on(track, "use", now)
  end
end

function on.delete(id, now)
  local track = known(id, now)
  if track.phase ~= "delete" then move_on(track, "delete", now) end
end

function on.deleted(id, now)
  local track = tracks[id]
  if not track then return end
  track.status = "TERMINATED"
  close_track(id, now)
end

---From now on sandboxes are traced.
function sandboxes.start()
  observe.phase = function(id, phase, value)
    local now = core.now()
    if now then on[phase](id, now, value) end
  end
end

---Ends the tracks of those that are still there.
function sandboxes.stop()
  observe.phase = nil
  local now = core.now()
  local ids = {}
  for id in pairs(tracks) do
    ids[#ids + 1] = id
  end
  table.sort(ids)
  for _, id in ipairs(ids) do
    if now then close_track(id, now, true) end
  end
  tracks = {}
end

return sandboxes
