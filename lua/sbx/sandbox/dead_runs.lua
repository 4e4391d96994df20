-- The ledgers that runs left behind. A run is dead when nobody holds the lock on its
-- file: the process that does so has ended, however that was. Should locks be worth
-- nothing on this disk, the process itself is looked for, too. What stands in a file is
-- believed line by line: it may be torn, or no ledger at all.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local state = require("sbx.sandbox.state")
local time = require("sbx.core.time")

local dead_runs = {}

local MAX_LINE = 64 * 1024 -- bytes
local MAX_NAME = 256 -- bytes of a name, a key or an id
local UNNAMED_SECONDS = 3600 -- after which a file that never got its name is litter

---@class sbx.sandbox.DeadRun
---@field run string
---@field path string
---@field account string     as `state.account` gives it
---@field url string
---@field at number          when it began, seconds since 1970
---@field pid integer|nil
---@field program string|nil
---@field elsewhere string|nil  the machine, where locks may not tell whether it lives
---@field ids table<string, boolean>   made and not known to be gone
---@field kept table<string, boolean>  made to outlive the run
---@field teams table<string, boolean> for which it made some; "" is the account's own
---@field unsettled integer  creates whose fate is unknown
---@field youngest number    when the last of these was about to be sent
---@field private lock sbx.fs.Lock  held, so that nobody else deals with it
local DeadRun = {}
DeadRun.__index = DeadRun

---Gives its lock back.
function DeadRun:close()
  self.lock:close()
end

DeadRun.__close = DeadRun.close

---Nothing of it is left: its file goes.
---@async
function DeadRun:forget()
  fs.remove(self.path, { missing_ok = true })
end

-- -------------------------------------------------------------------- reading

local function text(value)
  return type(value) == "string" and value ~= "" and #value <= MAX_NAME and value or nil
end

-- What no path can hold is no id.
local function id_of(entry)
  local id = text(entry.id)
  return id and id ~= "." and id ~= ".." and not id:find("%c") and id or nil
end

local function number(value)
  return type(value) == "number" and value == value and value or 0
end

local on_line = {}

function on_line.intend(found, entry)
  local key = text(entry.key)
  found.teams[text(entry.team) or ""] = true
  if key and not entry.keep then found.keys[key] = number(entry.at) end
end

function on_line.made(found, entry)
  local key, id = text(entry.key), id_of(entry)
  if key then found.keys[key] = nil end
  if id then (entry.keep and found.kept or found.ids)[id] = true end
end

function on_line.none(found, entry)
  local key = text(entry.key)
  if key then found.keys[key] = nil end
end

function on_line.gone(found, entry)
  local id = id_of(entry)
  if id then found.ids[id], found.kept[id] = nil, nil end
end

function on_line.kept(found, entry)
  local id = id_of(entry)
  if id then found.ids[id], found.kept[id] = nil, true end
end

local function take_line(found, line)
  local ok, entry = pcall(json.decode, line)
  if not ok or type(entry) ~= "table" then return end
  if entry.v == 1 then found.head = found.head or entry end
  local handler = type(entry.e) == "string" and on_line[entry.e]
  if handler then
    found.entries = found.entries + 1
    handler(found, entry)
  end
end

-- The lines of a file; one that is far too long, as of a disk that lost its bytes, is
-- left out. Returns whether there was one.
---@async
local function each_line(path, fn)
  local file <close> = fs.open(path, "r")
  local rest, too_long, damaged = "", false, false
  for bytes in function() return file:read() end do
    rest = rest .. bytes
    local from, at = 1, rest:find("\n", 1, true)
    while at do
      if not too_long and at - from <= MAX_LINE then fn(rest:sub(from, at - 1)) end
      from, too_long = at + 1, false
      at = rest:find("\n", from, true)
    end
    rest = rest:sub(from)
    if #rest > MAX_LINE then
      rest, too_long, damaged = "", true, true
    end
  end
  if not too_long then fn(rest) end
  return damaged
end

---@async
local function read_lines(path)
  local found = { ids = {}, kept = {}, teams = {}, keys = {}, entries = 0 }
  found.damaged = each_line(path, function(line) take_line(found, line) end)
  return found
end

-- Whether the very process still runs, whatever the lock says.
---@async
local function is_running(head)
  local pid, born = math.tointeger(head.pid), text(head.born)
  if not pid or not born or pid < 1 then return false end
  local _, boot = ledger.place()
  return boot ~= nil and head.boot == boot and ledger.born(pid) == born
end

-- A lock on a file of another machine, on a disk that both see, may be worth
-- nothing. The same machine under another name (a container) has the same kernel.
---@async
local function elsewhere(head)
  local host, boot = ledger.place()
  local theirs = text(head.host)
  if not theirs or theirs == host or head.boot == boot then return nil end
  return theirs
end

-- Returns nil and true where it is alive, nil and what is wrong with the file.
---@async
local function read_run(path, lock)
  local found, err = errors.try(read_lines, path)
  if not found then
    local why = tostring(err)
    return nil, why:find(path, 1, true) and why or path .. ": " .. why
  end
  local head = found.head or {}
  if not (text(head.run) and text(head.account)) then
    -- What was sent had its line, and the head, on disk before.
    if found.entries > 0 or found.damaged then return nil, path .. ": it has no head" end
    fs.remove(path, { missing_ok = true })
    return nil
  end
  if is_running(head) then return nil, true end
  local unsettled, youngest = 0, 0
  for _, at in pairs(found.keys) do
    unsettled, youngest = unsettled + 1, math.max(youngest, at)
  end
  return setmetatable({
    run = head.run, path = path, lock = lock, account = head.account,
    url = text(head.url) or "?", at = number(head.at), pid = math.tointeger(head.pid),
    program = text(head.program), elsewhere = elsewhere(head),
    ids = found.ids, kept = found.kept, teams = found.teams,
    unsettled = unsettled, youngest = youngest,
  }, DeadRun)
end

---The run of one file, which holds its lock until it is closed. Nil where there is
---none; then `alive` where its process lives or another one deals with it, or what
---is wrong with the file.
---@async
---@param path string
---@return sbx.sandbox.DeadRun|nil run
---@return boolean alive
---@return string|nil problem
function dead_runs.take(path)
  -- Looked at first: taking the lock of what has just gone would make a new file.
  if not fs.exists(path) then return nil, false end
  local lock, problem = errors.try(fs.try_lock, path)
  if not lock then return nil, problem == nil, problem and tostring(problem) end
  local ok, run, damage = pcall(read_run, path, lock)
  if ok and run then return run, false end
  lock:close()
  if not ok then error(run, 0) end
  if damage == true then return nil, true end
  return nil, false, damage
end

-- Of a process that ended between making the file and naming it.
---@async
local function sweep(path)
  local facts = errors.try(fs.lstat, path)
  if not facts or time.wall() - facts.mtime < UNNAMED_SECONDS then return end
  local lock <close> = errors.try(fs.try_lock, path)
  if lock then errors.try(fs.remove, path, { missing_ok = true }) end
end

---The files of all runs, by the time of their beginning. Raises where the folder that
---should have them cannot be used: what is in it is not known then.
---@async
---@return string[] paths
function dead_runs.paths()
  local folder, problem = state.folder(ledger.FOLDER)
  if problem then error(problem, 0) end
  local paths = {}
  for _, name in ipairs(folder and fs.list(folder) or {}) do
    local path = folder .. "/" .. name
    if name:find("^%..*%.jsonl$") then
      sweep(path)
    elseif name:find("%.jsonl$") then
      paths[#paths + 1] = path
    end
  end
  return paths
end

return dead_runs
