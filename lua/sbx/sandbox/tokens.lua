-- Gateway tokens: one fetch per sandbox at a time, however many tasks ask, and its
-- result or its failure for all of them. token_store.lua keeps them on disk.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local profile = require("sbx.sandbox.profile")
local task = require("sbx.task")
local time = require("sbx.time")
local token_store = require("sbx.sandbox.token_store")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Token
---@field token string
---@field base string  `{gateway_url}/{user_ns}/{job_id}`
---@field refresh_at number  seconds since 1970 from which it is not used
---@field is_vm boolean|nil

---@class sbx.sandbox.Tokens
---@field private client sbx.sandbox.Client
---@field private store sbx.sandbox.TokenStore
---@field private entries table<string, sbx.sandbox.Token>
---@field private fetching table<string, table>  id → waiters of the running fetch
---@field private refused table<string, string>  id → the token that a 401 was about
---@field private generation integer  counts the clears
local Tokens = {}
Tokens.__index = Tokens

local tokens = {}

local LONGEST_MARGIN = 60 -- seconds before the end at which a token is renewed
local MARGIN_SHARE = 0.1 -- and at most this share of its lifetime
local MAX_FIELD = 16 * 1024 -- bytes of a token, and of what makes its address

-- Forgets what is in memory. Fetches that are under way are not stored any more.
local function forget_all(self)
  self.entries, self.fetching, self.refused = {}, {}, {}
  self.generation = self.generation + 1
end

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Tokens
function tokens.new(client)
  local self = setmetatable({
    client = client, entries = {}, fetching = {}, refused = {}, generation = 0,
  }, Tokens)
  self.store = token_store.new(client.config, function() forget_all(self) end)
  return self
end

-- Seconds since 1970. ISO 8601 as servers write it: a blank for the T, no colon in
-- the offset, no zone at all for UTC.
local function parse_time(text)
  text = text:gsub("^(%d+%-%d+%-%d+) ", "%1T"):gsub("([+-]%d%d)(%d%d)$", "%1:%2")
  if not text:find("[Zz]$") and not text:find("T.*[+-]") then text = text .. "Z" end
  return errors.try(time.parse_iso, text)
end

-- Validated before it is stored: a malformed entry must not spoil later calls.
local function entry_from(call, answer)
  local function refuse(what)
    error(failure.bad_answer(call, nil, what), 0)
  end
  for _, name in ipairs({ "token", "gateway_url", "user_ns", "job_id", "expires_at" }) do
    local value = failure.field(call, answer, name, "string")
    if value:find("%c") then refuse(name .. " has control characters") end
    if #value > MAX_FIELD then refuse(name .. " is far too long") end
  end
  if answer.token == "" then refuse("the token is empty") end
  local parts = errors.try(url.parse, answer.gateway_url)
  local is_web = parts and (parts.scheme == "http" or parts.scheme == "https") and parts.host
  -- It stands in messages, so that there must be no secret in it.
  if not is_web or parts.user or parts.password or parts.query or parts.fragment then
    refuse("gateway_url is no plain http address")
  end
  local expires = parse_time(answer.expires_at)
  if not expires then refuse("expires_at is not a time") end
  local margin = math.min(LONGEST_MARGIN, math.max(0, expires - time.wall()) * MARGIN_SHARE)
  return {
    token = answer.token,
    base = ("%s/%s/%s"):format(
      answer.gateway_url:gsub("/+$", ""), url.escape(answer.user_ns), url.escape(answer.job_id)),
    refresh_at = expires - margin,
    is_vm = token_store.boolean(answer.is_vm),
  }
end

-- What is known of a sandbox stays known when its token is renewed.
local function keep(self, id, entry)
  local old = self.entries[id]
  if entry.is_vm == nil and old then entry.is_vm = old.is_vm end
  if entry.is_vm == nil then entry.is_vm = profile.known(self.client, id) end
  self.entries[id] = entry
  self.refused[id] = nil
  if time.wall() < entry.refresh_at then self.store:put(id, entry) end
end

---@async
function Tokens:fetch(id, op)
  local call = {
    op = op,
    method = "POST",
    path = wire.sandbox_path(id, "/auth"),
    idempotent = true,
    sandbox_id = id,
    confidential = true,
  }
  local generation = self.generation
  local ok, answer = pcall(wire.call, self.client, call)
  if not ok then
    local missing = errors.is_error(answer) and answer.status == 404
    error(missing and failure.gone(call, answer) or answer, 0)
  end
  local entry = entry_from(call, answer)
  -- What was fetched before a clear must not come back after it.
  if generation == self.generation then keep(self, id, entry) end
  return entry
end

local function settle(waiters, ...)
  for _, waiter in ipairs(waiters) do
    waiter:wake(...)
  end
end

local function is_cancelled(err)
  return errors.is_error(err) and err.kind == "cancelled"
end

---@async
function Tokens:lead(id, op)
  local waiters = {}
  self.fetching[id] = waiters
  local ok, result = pcall(self.fetch, self, id, op)
  if self.fetching[id] == waiters then self.fetching[id] = nil end
  -- The others were not cancelled with us: one of them fetches instead.
  if not ok and is_cancelled(result) then
    settle(waiters, "again")
  else
    settle(waiters, ok, result)
  end
  if not ok then error(result, 0) end
  return result
end

-- A token that is there and good for use now.
---@async
local function find(self, id)
  self.store:look()
  local entry = self.entries[id]
  if entry and time.wall() < entry.refresh_at then
    self.store:nudge()
    return entry
  end
  local found = self.store:find(id)
  if not found or found.token == self.refused[id] then return nil end
  self.entries[id] = found
  return found
end

---A token that is good for use now, fetched when there is none. Raises what the API
---answers; `not_running` for a sandbox that it does not know.
---@async
---@param id string
---@param op string  on whose behalf, for messages
---@return sbx.sandbox.Token
function Tokens:get(id, op)
  while true do
    local entry = find(self, id)
    if entry then return entry end
    local waiters = self.fetching[id]
    if not waiters then return self:lead(id, op) end
    local waiter = task.waiter("gateway token")
    waiters[#waiters + 1] = waiter
    local ok, result = waiter:wait()
    if ok == true then return result end
    if ok == false then error(result, 0) end
  end
end

---Notes whether a sandbox is a virtual machine, which never changes.
---@param id string
---@param is_vm boolean
function Tokens:learn_vm(id, is_vm)
  local entry = self.entries[id]
  if not entry or entry.is_vm == is_vm then return end
  entry.is_vm = is_vm
  self.store:put(id, entry)
end

---Forgets the token that a 401 was about, unless a newer one is there already.
---@param id string
---@param refused sbx.sandbox.Token
function Tokens:reject(id, refused)
  self.refused[id] = refused.token -- the one on disk may be the same
  local entry = self.entries[id]
  if entry and entry.token == refused.token then entry.refresh_at = 0 end
end

---Forgets all about a sandbox that is gone.
---@param id string
function Tokens:evict(id)
  self.entries[id], self.refused[id] = nil, nil
  self.store:drop(id)
end

---Forgets every token, also those on disk, of which other processes take notice.
---Fetches that are under way are not stored any more.
---@async
function Tokens:clear()
  forget_all(self)
  self.store:clear()
end

---Writes down what is worth it, and forgets what is in memory.
---@async
function Tokens:close()
  self.store:flush()
  forget_all(self)
end

return tokens
