-- Gateway tokens in memory: one fetch per sandbox at a time, however many tasks
-- ask, and its result or its failure for all of them.

local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local task = require("sbx.task")
local time = require("sbx.core.time")
local timestamp = require("sbx.sandbox.timestamp")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Token
---@field token string
---@field base string  `{gateway_url}/{user_ns}/{job_id}`
---@field refresh_at number  seconds since 1970 from which it is not used
---@field is_vm boolean|nil

---@class sbx.sandbox.Tokens
---@field private client sbx.sandbox.Client
---@field private entries table<string, sbx.sandbox.Token>
---@field private fetching table<string, table>  id → waiters of the running fetch
local Tokens = {}
Tokens.__index = Tokens

local tokens = {}

local LONGEST_MARGIN = 60 -- seconds before the end at which a token is renewed
local MARGIN_SHARE = 0.1 -- and at most this share of its lifetime

---@param client sbx.sandbox.Client
---@return sbx.sandbox.Tokens
function tokens.new(client)
  return setmetatable({ client = client, entries = {}, fetching = {}, generation = 0 }, Tokens)
end

local function bad_auth(call, what)
  errors.raise({
    kind = "api",
    code = "BAD_ANSWER",
    op = call.op,
    sandbox_id = call.sandbox_id,
    message = ("%s %s: cannot make sense of the token answer: %s"):format(
      call.op, call.sandbox_id, what),
  })
end

-- Validated before it is stored: a malformed entry must not spoil later calls.
local function entry_from(call, answer)
  for _, name in ipairs({ "token", "gateway_url", "user_ns", "job_id", "expires_at" }) do
    local value = failure.field(call, answer, name, "string")
    if value:find("%c") then bad_auth(call, name .. " has control characters") end
  end
  if not answer.gateway_url:find("^[Hh][Tt][Tt][Pp][Ss]?://[^/%s]+%S*$") then
    bad_auth(call, "gateway_url is no http address")
  end
  local expires = timestamp.parse(answer.expires_at)
  if not expires then bad_auth(call, "expires_at is not a time") end
  local now = time.wall()
  local margin = math.min(LONGEST_MARGIN, math.max(0, expires - now) * MARGIN_SHARE)
  return {
    token = answer.token,
    base = ("%s/%s/%s"):format(
      answer.gateway_url:gsub("/+$", ""),
      wire.escape(answer.user_ns),
      wire.escape(answer.job_id)
    ),
    refresh_at = expires - margin,
    is_vm = type(answer.is_vm) == "boolean" and answer.is_vm or nil,
  }
end

---@async
function Tokens:fetch(id, op)
  local call = {
    op = op,
    method = "POST",
    path = wire.sandbox_path(id, "/auth"),
    idempotent = true,
    sandbox_id = id,
  }
  local generation = self.generation
  local entry = entry_from(call, (wire.call(self.client, call)))
  -- What was fetched before a clear must not come back after it.
  if generation == self.generation then self.entries[id] = entry end
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

---A token that is good for use now, fetched when there is none.
---@async
---@param id string
---@param op string  on whose behalf, for messages
---@return sbx.sandbox.Token
function Tokens:get(id, op)
  while true do
    local entry = self.entries[id]
    if entry and time.wall() < entry.refresh_at then return entry end
    local waiters = self.fetching[id]
    if not waiters then return self:lead(id, op) end
    local waiter = task.waiter("gateway token")
    waiters[#waiters + 1] = waiter
    local ok, result = waiter:wait()
    if ok == true then return result end
    if ok == false then error(result, 0) end
  end
end

---Forgets the token that a 401 was about, unless a newer one is there already.
---@param id string
---@param refused sbx.sandbox.Token
function Tokens:reject(id, refused)
  local entry = self.entries[id]
  if entry and entry.token == refused.token then self.entries[id] = nil end
end

---Forgets all about a sandbox that is gone.
---@param id string
function Tokens:evict(id)
  self.entries[id] = nil
end

---Forgets every token. Fetches that are under way are not stored any more.
function Tokens:clear()
  self.entries = {}
  self.fetching = {}
  self.generation = self.generation + 1
end


return tokens
