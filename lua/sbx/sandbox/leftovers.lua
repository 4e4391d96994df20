-- Finding by its label what a run has made, whoever knows of it.

local ledger = require("sbx.sandbox.ledger")
local listing = require("sbx.sandbox.listing")

local leftovers = {}

-- Whether it is that run's, and its alone: the server's choice is not believed.
local function carries(box, label)
  local found = false
  for _, each in ipairs(box.labels) do
    if each == label then
      found = true
    elseif type(each) == "string" and each:sub(1, #ledger.LABEL) == ledger.LABEL then
      return false
    end
  end
  return found
end

---Whether it carries a label.
---@param box sbx.sandbox.Box
---@param label string
---@return boolean
function leftovers.has_label(box, label)
  for _, each in ipairs(box.labels) do
    if each == label then return true end
  end
  return false
end

---The sandboxes of a run that have not ended.
---@async
---@param client sbx.sandbox.Client
---@param run string
---@param teams table<string, boolean>  for which it made some; "" for the account's own
---@return table<string, sbx.sandbox.Box>  by id
function leftovers.list(client, run, teams)
  local found, label = {}, ledger.label(run)
  for team in pairs(next(teams) and teams or { [""] = true }) do
    local options = {
      labels = { label }, exclude_terminated = true, team_id = team, user_id = "", per_page = 100,
    }
    for box in listing.boxes(client, options, true) do
      if carries(box, label) then found[box.id] = box end
    end
  end
  return found
end

return leftovers
