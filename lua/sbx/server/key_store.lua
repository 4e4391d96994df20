-- The API keys with names, in the database of a server's state: beside a server that runs
-- as well as without one. Only hashes are in there.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local schema = require("sbx.server.state_schema")
local sqlite = require("sbx.core.sqlite")
local time = require("sbx.core.time")

---@class sbx.server.KeyStore
---@field private database sbx.core.Database
local KeyStore = {}
KeyStore.__index = KeyStore

local key_store = {}

local PRIVATE_FOLDER = 448 -- 0700

---Opens the keys of the state in `folder`, which is made when it is missing. Raises kind
---`state` as `sbx.server.state` does, but for LOCKED.
---@async
---@param folder string
---@return sbx.server.KeyStore
function key_store.open(folder)
  fs.mkdir(folder, { parents = true, mode = PRIVATE_FOLDER })
  local path = folder .. "/state.db"
  local database = sqlite.open(path)
  local ok, failure = pcall(schema.prepare, database, path)
  if not ok then
    database:close()
    error(failure, 0)
  end
  return setmetatable({ database = database }, KeyStore)
end

---All keys, oldest first; the server's own have no name.
---@async
---@return {hash: string, name?: string, created_at: number}[]
function KeyStore:list()
  return self.database:run("SELECT * FROM api_keys ORDER BY created_at, rowid")
end

---Makes a key. Raises kind `conflict` when there is one of this name.
---@async
---@param name string  see `sbx.server.keys.check_name`
---@return string key  which is kept nowhere
function KeyStore:add(name)
  local key = "sk_" .. hash.random_hex(32)
  local added = self.database:run("INSERT INTO api_keys SELECT ?, ?, ? WHERE NOT EXISTS"
    .. " (SELECT 1 FROM api_keys WHERE name = ?) RETURNING name",
    hash.sha256(key), name, time.wall(), name)
  if #added == 1 then return key end
  errors.raise { kind = "conflict", message = "there is a key named " .. name .. " already" }
end

---Takes a key away. False when there is none of this name.
---@async
---@param name string
---@return boolean
function KeyStore:remove(name)
  return #self.database:run("DELETE FROM api_keys WHERE name = ? RETURNING name", name) > 0
end

---@async
function KeyStore:close()
  self.database:close()
end

KeyStore.__close = KeyStore.close

return key_store
