-- Who may ask: API keys and what each may see. The server's own key is its owner's, who
-- sees everything; a key with a name is that user's, who sees what was made with it. Only
-- hashes are kept, and which of them fits takes the same time to find out whatever is
-- asked.

local hash = require("sbx.hash")

---Who asks.
---@class sbx.server.Caller
---@field name string     of the key; "local" for the server's own
---@field user_id string  as the wire has it
---@field admin boolean   sees what others have made

---@class sbx.server.Keys
---@field private main string   the hash of the server's own key
---@field private named {hash: string, caller: sbx.server.Caller}[]
local Keys = {}
Keys.__index = Keys

local keys = {}

---The owner's name, which no other key can have.
keys.OWNER = "local"

local OWNER = { name = keys.OWNER, user_id = "u-" .. keys.OWNER, admin = true }

---Whether a key can be called so: it becomes a part of user ids and of file names.
---@param name string
---@return boolean ok
---@return string|nil problem
function keys.check_name(name)
  if name == keys.OWNER then return false, "that is the server's own key" end
  if #name <= 40 and name:find("^%l[%l%d-]*$") then return true end
  return false, "expected 1 to 40 of a-z, 0-9 and '-', beginning with a letter"
end

---@param main string  the server's own key
---@return sbx.server.Keys
function keys.new(main)
  return setmetatable({ main = hash.sha256(main), named = {} }, Keys)
end

---Replaces all keys but the server's own. Rows without a name are no keys.
---@param rows {hash: string, name: string|nil}[]
function Keys:replace(rows)
  local named = {}
  for _, row in ipairs(rows) do
    if type(row.name) == "string" then
      named[#named + 1] = {
        hash = row.hash, caller = { name = row.name, user_id = "u-" .. row.name, admin = false },
      }
    end
  end
  self.named = named
end

---Who holds `key`, or nil.
---@param key string|nil
---@return sbx.server.Caller|nil
function Keys:find(key)
  if not key then return nil end
  local given = hash.sha256(key)
  local found = hash.equal(given, self.main) and OWNER or nil
  for _, one in ipairs(self.named) do
    if hash.equal(given, one.hash) then found = found or one.caller end
  end
  return found
end

---Whether somebody here is called so, as the wire has it.
---@param user_id string
---@return boolean
function Keys:is_user(user_id)
  if user_id == OWNER.user_id then return true end
  for _, one in ipairs(self.named) do
    if one.caller.user_id == user_id then return true end
  end
  return false
end

---Makes what is about to be created the caller's. A key of an idempotent request is one
---among those of its caller.
---@param caller sbx.server.Caller
---@param spec sbx.server.Spec  changed
function keys.sign(caller, spec)
  if caller.name == keys.OWNER then return end
  spec.owner = caller.name
  if not spec.idempotency_key then return end
  spec.idempotency_key = hash.sha256(caller.name .. "\0" .. spec.idempotency_key)
end

---Whether `caller` may see a sandbox, and do with it what it likes.
---@param caller sbx.server.Caller
---@param record sbx.server.Sandbox
---@return boolean
function keys.may_use(caller, record)
  return caller.admin or record.spec.owner == caller.name
end

---Whether a sandbox was made with the key of `caller`.
---@param caller sbx.server.Caller
---@param record sbx.server.Sandbox
---@return boolean
function keys.owns(caller, record)
  return (record.spec.owner or keys.OWNER) == caller.name
end

---The user of a sandbox, as the wire has it.
---@param record sbx.server.Sandbox
---@return string
function keys.user_id(record)
  return "u-" .. (record.spec.owner or keys.OWNER)
end

return keys
