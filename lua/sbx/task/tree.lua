-- The live tasks as a tree of lines, for reports.

local core = require("sbx.core.task")
local host = require("sbx.core.host")

local tree = {}

---@return string
function tree.text()
  local children, roots = {}, {}
  local list = core.list()
  for i = #list, 1, -1 do
    local each = list[i]
    local parent = each.parent
    if parent then
      children[parent] = children[parent] or {}
      table.insert(children[parent], each)
    else
      roots[#roots + 1] = each
    end
  end
  local lines = {}
  local function add(each, depth)
    local text = string.rep("  ", depth) .. "task " .. each.id
    if each.name then text = text .. " (" .. each.name .. ")" end
    text = text .. " " .. each.status
    if each.waiting_on then text = text .. " on " .. each.waiting_on end
    local place = host.place(each)
    if place then text = text .. " at " .. place end
    if each.site ~= "" then text = text .. ", spawned at " .. each.site end
    lines[#lines + 1] = string.format("%s, %.1f s old", text, each.age)
    for _, child in ipairs(children[each] or {}) do
      add(child, depth + 1)
    end
  end
  for _, each in ipairs(roots) do
    add(each, 0)
  end
  return table.concat(lines, "\n")
end

return tree
