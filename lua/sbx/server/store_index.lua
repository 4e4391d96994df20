-- Which sandboxes have a label, an owner or a team, by their statuses, so that a page of a
-- list costs what it returns, however many there are. A question for several of them at
-- once costs as much as the rarest has.

local keys = require("sbx.server.keys")
local ordered = require("sbx.server.ordered")

---@class sbx.server.Index
---@field private facets table<string, table<string, sbx.server.Ordered>>  facet → status → records
local Index = {}
Index.__index = Index

local index = {}

-- What a list can be asked for; "" is what all have.
local EVERY = ""
-- In place of a status.
local ANY, ACTIVE = "any", "active"

---@class sbx.server.Query  what all of them must have
---@field labels? string[]
---@field user? string      id
---@field team? string
---@field status? string
---@field active? boolean   has not ended
---@field accept? fun(sandbox: sbx.server.Sandbox): boolean  asked of each that has the rest

---@return sbx.server.Index
function index.new()
  return setmetatable({ facets = {} }, Index)
end

local function list_facets(labels, user, team)
  local list, seen = {}, {}
  for _, label in ipairs(labels) do
    local facet = "label " .. label
    if not seen[facet] then list[#list + 1] = facet end
    seen[facet] = true
  end
  if user then list[#list + 1] = "user " .. user end
  if team then list[#list + 1] = "team " .. team end
  return list
end

local function facets_of(sandbox)
  local list = list_facets(sandbox.spec.labels, keys.user_id(sandbox), sandbox.spec.team_id)
  list[#list + 1] = EVERY
  return list
end

local function put(self, facet, status, sandbox)
  local by_status = self.facets[facet]
  if not by_status then
    by_status = {}
    self.facets[facet] = by_status
  end
  local set = by_status[status]
  if not set then
    set = ordered.new()
    by_status[status] = set
  end
  set:add(sandbox)
end

local function take(self, facet, status, sandbox)
  local by_status = self.facets[facet]
  local set = by_status and by_status[status]
  if not set then return end
  set:remove(sandbox)
  if set.size > 0 then return end
  by_status[status] = nil
  if next(by_status) == nil then self.facets[facet] = nil end
end

---Takes up a sandbox, whose `number` is its place in the order of creation.
---@param sandbox sbx.server.Sandbox
function Index:add(sandbox)
  sandbox.facets = facets_of(sandbox)
  for _, facet in ipairs(sandbox.facets) do
    put(self, facet, ANY, sandbox)
    put(self, facet, sandbox.status, sandbox)
    if not sandbox:ended() then put(self, facet, ACTIVE, sandbox) end
  end
end

---@param sandbox sbx.server.Sandbox
function Index:remove(sandbox)
  for _, facet in ipairs(sandbox.facets) do
    take(self, facet, ANY, sandbox)
    take(self, facet, sandbox.status, sandbox)
    take(self, facet, ACTIVE, sandbox)
  end
end

---Told when a sandbox has another status than `before`.
---@param sandbox sbx.server.Sandbox
---@param before string
function Index:moved(sandbox, before)
  for _, facet in ipairs(sandbox.facets) do
    take(self, facet, before, sandbox)
    put(self, facet, sandbox.status, sandbox)
    if sandbox:ended() then take(self, facet, ACTIVE, sandbox) end
  end
end

-- The smallest of the sets in which all must be that are meant, nil when there are none;
-- and whether all in it are meant, as far as sets tell.
local function smallest_set(self, query)
  local facets = list_facets(query.labels or {}, query.user, query.team)
  if #facets == 0 then facets[1] = EVERY end
  local status = query.status or query.active and ACTIVE or ANY
  -- A status like any other word that nobody has.
  if query.status == ANY or query.status == ACTIVE then return nil, false end
  local best
  for _, facet in ipairs(facets) do
    local set = (self.facets[facet] or {})[status]
    if not set then return nil, false end
    if not best or set.size < best.size then best = set end
  end
  return best, #facets == 1 and not (query.status and query.active)
end

-- Whether a sandbox of the right status is meant.
local function fits(sandbox, query)
  if query.active and sandbox:ended() then return false end
  if query.user and keys.user_id(sandbox) ~= query.user then return false end
  if query.team and sandbox.spec.team_id ~= query.team then return false end
  if query.labels and not sandbox:has_labels(query.labels) then return false end
  return not query.accept or query.accept(sandbox)
end

---The sandboxes that a query means, newest first: those from `first` to `last` of them,
---and how many there are in all.
---@param query sbx.server.Query
---@param first integer
---@param last integer|number
---@return sbx.server.Sandbox[] found
---@return integer total
function Index:list(query, first, last)
  local set, is_exact = smallest_set(self, query)
  if not set then return {}, 0 end
  if is_exact and not query.accept then return set:page(first, last), set.size end
  local found, total = {}, 0
  set:each(function(sandbox)
    if not fits(sandbox, query) then return end
    total = total + 1
    if total >= first and total <= last then found[#found + 1] = sandbox end
  end)
  return found, total
end

return index
