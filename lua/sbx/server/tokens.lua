-- Gateway tokens: random, short-lived, good for one sandbox. Only their hashes
-- are kept, so that neither a dump nor the time of a look-up gives one away.

local hash = require("sbx.hash")
local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Tokens
---@field private known table<string, {sandbox_id: string, expires: number}>
---@field private lifetime number
---@field private swept number
---@field private of table<string, {first: integer, last: integer, [integer]: string}>  by sandbox
local Tokens = {}
Tokens.__index = Tokens

local tokens = {}

local LIFETIME = 30 * 60
local SWEEP_PAUSE = 60
-- Of one sandbox at once; the oldest go first.
local MAX_PER_SANDBOX = 1000

---@param lifetime? number  seconds that a token is good for (default 1800)
---@return sbx.server.Tokens
function tokens.new(lifetime)
  return setmetatable({ known = {}, of = {}, lifetime = lifetime or LIFETIME, swept = 0 }, Tokens)
end

-- Takes the oldest tokens of a sandbox away: those that are over, and those too many.
local function trim(self, sandbox_id, now)
  local list = self.of[sandbox_id]
  while list.first <= list.last do
    local entry = self.known[list[list.first]]
    if entry and entry.expires > now and list.last - list.first < MAX_PER_SANDBOX then return end
    self.known[list[list.first]] = nil
    list[list.first] = nil
    list.first = list.first + 1
  end
  self.of[sandbox_id] = nil
end

local function sweep(self, now)
  if now < self.swept + SWEEP_PAUSE then return end
  self.swept = now
  for sandbox_id in pairs(self.of) do
    trim(self, sandbox_id, now)
  end
end

---Makes a token for one sandbox. Returns it and the time of its end, ISO 8601.
---@param sandbox_id string
---@return string token
---@return string expires_at
function Tokens:issue(sandbox_id)
  local now = time.wall()
  sweep(self, now)
  local token = "tk_" .. hash.random_hex(32)
  local expires = now + self.lifetime
  local key = hash.sha256(token)
  self.known[key] = { sandbox_id = sandbox_id, expires = expires }
  local list = self.of[sandbox_id] or { first = 1, last = 0 }
  self.of[sandbox_id] = list
  list.last = list.last + 1
  list[list.last] = key
  trim(self, sandbox_id, now)
  return token, text.timestamp(expires) --[[@as string]]
end

---The sandbox that `token` opens, or nil and why it opens none.
---@param token string|nil
---@return string|nil sandbox_id
---@return string|nil problem
function Tokens:sandbox_of(token)
  local entry = token and self.known[hash.sha256(token)]
  if not entry then return nil, "Invalid token" end
  if entry.expires <= time.wall() then return nil, "Token expired" end
  return entry.sandbox_id
end

return tokens
