-- The tables of the server's state, and whether a file is one of ours that we can
-- read. What is not is left as it is and named: never repaired, never removed.

local errors = require("sbx.errors")

local schema = {}

-- In the head of the file; tells our databases from those of other programs.
local APPLICATION_ID = 0x53425853 -- "SBXS"

-- The version of the tables below. Another one comes with a step in `steps`.
schema.VERSION = 1

local tables = {
  [[CREATE TABLE sandboxes(
    id TEXT NOT NULL PRIMARY KEY, status TEXT NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL, terminated_at REAL,
    deadline REAL,          -- seconds since 1970, once it runs
    last_used REAL,         -- the same, a few seconds behind
    record TEXT NOT NULL    -- the rest, as JSON
  )]],
  [[CREATE TABLE exposures(
    id TEXT NOT NULL PRIMARY KEY, sandbox_id TEXT NOT NULL, port INTEGER NOT NULL,
    outer_port INTEGER NOT NULL, name TEXT, protocol TEXT NOT NULL, created_at REAL NOT NULL
  )]],
  [[CREATE TABLE idempotency(
    key TEXT NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL, sandbox_id TEXT NOT NULL,
    at REAL NOT NULL
  )]],
  [[CREATE TABLE api_keys(
    hash TEXT NOT NULL PRIMARY KEY, -- SHA-256 of the key, which is nowhere here
    name TEXT, created_at REAL NOT NULL
  )]],
  [[CREATE TABLE events(
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
    sandbox_id TEXT, detail TEXT
  )]],
}

local function refuse(code, path, problem)
  errors.raise { kind = "state", code = code, message = ("state %s: %s"):format(path, problem) }
end

local function damaged(path, what)
  refuse("DAMAGED", path, ("the database is damaged (%s); nothing in it was changed. Put a copy"
    .. " back, or move it away to begin with no sandboxes"):format(what))
end

schema.damaged = damaged

local DAMAGE = { SQLITE_NOTADB = true, SQLITE_CORRUPT = true, SQLITE_FORMAT = true }

-- Runs `fn`; when SQLite finds the file damaged the error says so.
local function looking(path, fn)
  local ok, result = pcall(fn)
  if ok then return result end
  if errors.is_error(result) and DAMAGE[result.code] then damaged(path, result.message) end
  error(result, 0)
end

local function pragma(database, name)
  local row = database:run("PRAGMA " .. name)[1]
  return row and select(2, next(row))
end

local function make(database)
  local statements = {}
  for index, text in ipairs(tables) do
    statements[index] = { text }
  end
  statements[#statements + 1] = { "PRAGMA application_id = " .. APPLICATION_ID }
  statements[#statements + 1] = { "PRAGMA user_version = " .. schema.VERSION }
  database:transaction(statements)
end

local function check_version(database, path)
  local version = pragma(database, "user_version")
  if version > schema.VERSION then
    refuse("NEWER", path, ("it was written by a newer sbxlua (its format is %d, this one knows %d);"
      .. " use that, or another folder"):format(version, schema.VERSION))
  elseif version < 1 then
    damaged(path, "it has no version")
  end
end

---Makes the tables in an empty database; otherwise checks that it is a whole one of
---ours. Raises kind `state`: DAMAGED, NEWER or FOREIGN.
---@async
---@param database sbx.core.Database
---@param path string  for messages
function schema.prepare(database, path)
  local count = looking(path, function()
    return database:run("SELECT count(*) AS n FROM sqlite_schema")[1].n
  end)
  if count > 0 then
    if pragma(database, "application_id") ~= APPLICATION_ID then
      refuse("FOREIGN", path, "it is another program's database; use another folder")
    end
    check_version(database, path)
    local found = looking(path, function()
      return pragma(database, "quick_check(1)")
    end)
    if found ~= "ok" then damaged(path, tostring(found)) end
  end
  -- What secrets leave behind is overwritten, in the file and in its log.
  database:run("PRAGMA secure_delete = ON")
  database:run("PRAGMA journal_mode = WAL")
  database:run("PRAGMA synchronous = FULL")
  database:run("PRAGMA journal_size_limit = 4194304")
  if count == 0 then make(database) end
end

return schema
