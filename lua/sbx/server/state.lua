-- What a server remembers across its own end: a folder with a database. The memory of
-- the server is the truth that requests read; this is written through, so that the
-- next server on the folder can go on from there.

local check = require("sbx.check")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local locks = require("sbx.core.lock")
local process = require("sbx.process")
local schema = require("sbx.server.state_schema")
local sqlite = require("sbx.core.sqlite")
local writer = require("sbx.server.state_writer")

---@class sbx.server.State
---@field path string     of the database
---@field folder string
---@field private database sbx.core.Database
---@field private writer sbx.server.state.Writer
---@field private lock sbx.fs.Lock
---@field private events integer  written since they were cut last
local State = {}
State.__index = State

---@class sbx.server.state
local state = {}

local PRIVATE_FOLDER = 448 -- 0700
local PRIVATE_FILE = 384 -- 0600
local MAX_EVENTS = 20000
local EVENTS_BETWEEN_CUTS = 2000

local function or_null(value)
  if value == nil then return sqlite.null end
  return value
end

-- Text for people, which may hold what the database's texts must not.
local function words(text)
  return text and (text:gsub("%z", "\u{FFFD}")) or sqlite.null
end

-- ---------------------------------------------------------------------- opening

local function check_folder(folder)
  fs.mkdir(folder, { parents = true, mode = PRIVATE_FOLDER })
  local mode = fs.stat(folder).mode & 511
  if mode & 63 == 0 then return end -- nobody else
  errors.raise {
    kind = "state", code = "UNSAFE",
    message = ("state %s: its mode is %03o; it must be its owner's alone (chmod 700)"):format(
      folder, mode),
  }
end

local function take_lock(folder)
  local path = folder .. "/lock"
  local lock = locks.try(path)
  if not lock then
    local owner = (errors.try(fs.read, path) or ""):match("%d+")
    errors.raise {
      kind = "state", code = "LOCKED", pid = owner and math.tointeger(tonumber(owner)),
      message = ("state %s: another server is using it%s; stop that one, or give this one a folder"
        .. " of its own (--state DIR, or --no-state)"):format(folder,
        owner and " (process " .. owner .. ")" or ""),
    }
  end
  fs.write(path, process.pid() .. "\n", { mode = PRIVATE_FILE })
  return lock
end

---Opens the state in `folder`, which is made when it is missing. It lives in the
---current scope. Raises kind `state` with a `code`: LOCKED (`pid` has it), DAMAGED,
---NEWER, FOREIGN, UNSAFE (others could read it).
---@async
---@param folder string
---@return sbx.server.State
function state.open(folder)
  check.string(folder, "folder")
  check_folder(folder)
  local lock = take_lock(folder)
  local path = folder .. "/state.db"
  local database
  local ok, failure = pcall(function()
    database = sqlite.open(path)
    schema.prepare(database, path)
  end)
  if not ok then
    if database then database:close() end
    lock:close()
    error(failure, 0)
  end
  return setmetatable({
    path = path, folder = folder, lock = lock, database = database,
    writer = writer.new(database), events = 0,
  }, State)
end

---Writes what is left, closes the file and lets the folder go. Twice is harmless.
---@async
function State:close()
  if not self.lock then return end
  local lock = self.lock
  self.lock = nil
  local ok, failure = pcall(self.writer.close, self.writer)
  self.database:close()
  lock:close()
  if not ok then error(failure, 0) end
end

State.__close = State.close

-- --------------------------------------------------------------------- changing

---Waits until all that was changed so far is on the disk. Raises `unavailable` when
---it cannot be written.
---@async
function State:sync()
  self.writer:sync()
end

---@class sbx.server.state.SandboxRow
---@field id string
---@field status string
---@field created_at number     seconds since 1970, as all times here
---@field updated_at number
---@field started_at? number
---@field terminated_at? number
---@field deadline? number
---@field last_used? number
---@field record table          plain data: the rest

---@param row sbx.server.state.SandboxRow
function State:put_sandbox(row)
  self.writer:put("sandbox " .. row.id, {
    "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET"
      .. " status = excluded.status, updated_at = excluded.updated_at,"
      .. " started_at = excluded.started_at, terminated_at = excluded.terminated_at,"
      .. " deadline = excluded.deadline, last_used = excluded.last_used,"
      .. " record = excluded.record",
    row.id, row.status, row.created_at, row.updated_at, or_null(row.started_at),
    or_null(row.terminated_at), or_null(row.deadline), or_null(row.last_used),
    json.encode(row.record),
  })
end

---@param id string
function State:remove_sandbox(id)
  self.writer:put("sandbox " .. id, { "DELETE FROM sandboxes WHERE id = ?", id })
end

---Says that secrets were taken out of a sandbox's row.
function State:forget_secrets()
  self.writer:forget_secrets()
end

---@class sbx.server.state.ExposureRow
---@field id string
---@field sandbox_id string
---@field port integer
---@field outer_port integer
---@field name? string
---@field protocol string
---@field created_at number

---@param row sbx.server.state.ExposureRow
function State:put_exposure(row)
  self.writer:put("exposure " .. row.id, {
    "INSERT OR REPLACE INTO exposures VALUES (?, ?, ?, ?, ?, ?, ?)",
    row.id, row.sandbox_id, row.port, row.outer_port, words(row.name), row.protocol,
    row.created_at,
  })
end

---@param id string
function State:remove_exposure(id)
  self.writer:put("exposure " .. id, { "DELETE FROM exposures WHERE id = ?", id })
end

---Remembers what an idempotency key has made.
---@param key string
---@param entry {fingerprint: string, id: string, at: number}
function State:put_idempotency(key, entry)
  self.writer:put("key " .. key, {
    "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?)",
    key, entry.fingerprint, entry.id, entry.at,
  })
end

---@param key string
function State:remove_idempotency(key)
  self.writer:put("key " .. key, { "DELETE FROM idempotency WHERE key = ?", key })
end

---Remembers an API key by its hash.
---@param hash string
---@param name string|nil
---@param created_at number
function State:put_api_key(hash, name, created_at)
  self.writer:put("api key " .. hash, {
    "INSERT OR IGNORE INTO api_keys VALUES (?, ?, ?)", hash, or_null(name), created_at,
  })
end

---@param hash string
function State:remove_api_key(hash)
  self.writer:put("api key " .. hash, { "DELETE FROM api_keys WHERE hash = ?", hash })
end

---@class sbx.server.Event
---@field at number            seconds since 1970
---@field kind string          "created", "running", "ended", …
---@field sandbox_id? string
---@field detail? string

---Adds to the timeline, of which the last 20,000 are kept.
---@param event sbx.server.Event
function State:add_event(event)
  self.writer:append {
    "INSERT INTO events(at, kind, sandbox_id, detail) VALUES (?, ?, ?, ?)",
    event.at, event.kind, or_null(event.sandbox_id), words(event.detail),
  }
  self.events = self.events + 1
  if self.events < EVENTS_BETWEEN_CUTS then return end
  self.events = 0
  self.writer:append {
    "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", MAX_EVENTS,
  }
end

-- ---------------------------------------------------------------------- loading

local function decode_records(self, rows)
  for _, row in ipairs(rows) do
    local ok, record = pcall(json.decode, row.record)
    if not ok or type(record) ~= "table" or type(record.spec) ~= "table" then
      schema.damaged(self.path, "the record of " .. tostring(row.id) .. " cannot be read")
    end
    row.record = record
  end
  return rows
end

---@class sbx.server.state.Loaded
---@field sandboxes sbx.server.state.SandboxRow[]  oldest first
---@field exposures sbx.server.state.ExposureRow[]
---@field idempotency {key: string, fingerprint: string, sandbox_id: string, at: number}[]  oldest first
---@field api_keys {hash: string, name?: string, created_at: number}[]
---@field events sbx.server.Event[]  the newest, oldest first

---All that is known; to be asked before anything is changed. Raises kind `state` when
---the database is damaged.
---@async
---@param max_events? integer  (default 2000)
---@return sbx.server.state.Loaded
function State:load(max_events)
  local results = self.database:transaction {
    { "SELECT * FROM sandboxes ORDER BY created_at, rowid" },
    { "SELECT * FROM exposures ORDER BY created_at" },
    { "SELECT * FROM idempotency ORDER BY at" },
    { "SELECT * FROM api_keys ORDER BY created_at" },
    { "SELECT at, kind, sandbox_id, detail FROM (SELECT * FROM events ORDER BY number DESC"
      .. " LIMIT ?) ORDER BY number", max_events or 2000 },
  }
  return {
    sandboxes = decode_records(self, results[1]),
    exposures = results[2],
    idempotency = results[3],
    api_keys = results[4],
    events = results[5],
  }
end

-- ------------------------------------------------------------------------- none

local function nothing() end

local function nothing_known()
  return { sandboxes = {}, exposures = {}, idempotency = {}, api_keys = {}, events = {} }
end

---A state that remembers nothing, for servers that end with their owner.
---@return sbx.server.State
function state.none()
  local none = {}
  for name, value in pairs(State) do
    if type(value) == "function" then none[name] = nothing end
  end
  none.load = nothing_known
  return none
end

return state
