-- Where the server keeps its sandboxes: in memory, in the order of creation.
-- Ended ones stay for those who ask later; the oldest go when there are many.

---@class sbx.server.Store
---@field private by_id table<string, sbx.server.Sandbox>
---@field private order sbx.server.Sandbox[]  oldest first
---@field private keep integer
local Store = {}
Store.__index = Store

local store = {}

---@param keep? integer  records to hold before old ended ones are dropped
---@return sbx.server.Store
function store.new(keep)
  return setmetatable({ by_id = {}, order = {}, keep = keep or 20000 }, Store)
end

-- Drops ended records, oldest first, down to nine tenths of the limit.
local function forget(self)
  local surplus = #self.order - self.keep * 9 // 10
  local kept = {}
  for _, sandbox in ipairs(self.order) do
    if surplus > 0 and sandbox:ended() then
      self.by_id[sandbox.id] = nil
      surplus = surplus - 1
    else
      kept[#kept + 1] = sandbox
    end
  end
  self.order = kept
end

---@param sandbox sbx.server.Sandbox
function Store:add(sandbox)
  if #self.order >= self.keep then forget(self) end
  self.by_id[sandbox.id] = sandbox
  self.order[#self.order + 1] = sandbox
end

---@param id any
---@return sbx.server.Sandbox|nil
function Store:get(id)
  return self.by_id[id]
end

---The sandboxes that `accept` says yes to, newest first: those from `first` to
---`last` of them, and how many there are in all.
---@param accept fun(sandbox: sbx.server.Sandbox): boolean
---@param first? integer
---@param last? integer
---@return sbx.server.Sandbox[] found
---@return integer total
function Store:select(accept, first, last)
  first, last = first or 1, last or math.huge
  local found, total = {}, 0
  for index = #self.order, 1, -1 do
    local sandbox = self.order[index]
    if accept(sandbox) then
      total = total + 1
      if total >= first and total <= last then found[#found + 1] = sandbox end
    end
  end
  return found, total
end

return store
