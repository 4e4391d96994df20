-- Which create made which sandbox, for those who ask again with the same idempotency
-- key. Kept for a day; where there are too many, the oldest go.

local errors = require("sbx.errors")
local time = require("sbx.core.time")

---@class sbx.server.fleet.Keys
---@field private made table<string, {fingerprint: string, id: string, at: number}>
---@field private order string[]  keys, oldest first, from `first` to `last`
---@field private first integer
---@field private last integer
---@field private state sbx.server.State
local Keys = {}
Keys.__index = Keys

local keys = {}

local WINDOW = 24 * 3600
local MAX_KEYS = 100000

---@param state sbx.server.State
---@return sbx.server.fleet.Keys
function keys.new(state)
  return setmetatable({ made = {}, order = {}, first = 1, last = 0, state = state }, Keys)
end

---Drops those that are over their time.
function Keys:expire()
  local oldest = time.wall() - WINDOW
  while self.first <= self.last do
    local key = self.order[self.first]
    local entry = self.made[key]
    -- A key that was let go, and used again since, stands further on too.
    local is_current = entry and entry.place == self.first
    if is_current and entry.at >= oldest and self.last - self.first < MAX_KEYS then return end
    self.order[self.first] = nil
    self.first = self.first + 1
    if is_current then
      self.made[key] = nil
      self.state:remove_idempotency(key)
    end
  end
end

local function add(self, key, entry)
  self.last = self.last + 1
  self.order[self.last] = key
  entry.place = self.last
  self.made[key] = entry
end

---The id of the sandbox that `key` made, or nil. Raises `conflict` when it was used
---for something else.
---@param key string
---@param fingerprint string  of what is asked for
---@return string|nil
function Keys:find(key, fingerprint)
  self:expire()
  local entry = self.made[key]
  if not entry then return nil end
  if entry.fingerprint == fingerprint then return entry.id end
  errors.raise {
    kind = "conflict",
    message = "idempotency_key was used before for a different sandbox",
  }
end

---@param key string
---@param fingerprint string
---@param id string  of the sandbox
function Keys:remember(key, fingerprint, id)
  local entry = { fingerprint = fingerprint, id = id, at = time.wall() }
  add(self, key, entry)
  self.state:put_idempotency(key, entry)
end

---Lets a key be used again: it has made nothing after all.
---@param key string
function Keys:forget(key)
  self.made[key] = nil
  self.state:remove_idempotency(key)
end

---Takes up those of an earlier server, oldest first.
---@param rows {key: string, fingerprint: string, sandbox_id: string, at: number}[]
function Keys:restore(rows)
  for _, row in ipairs(rows) do
    add(self, row.key, { fingerprint = row.fingerprint, id = row.sandbox_id, at = row.at })
  end
  self:expire()
end

return keys
