-- The folders of a tree that are watched: where each is, by the names of those
-- above it, so that one that is renamed takes all below along.

---@class sbx.fs.Watch.Node
---@field wd integer
---@field parent? sbx.fs.Watch.Node  nil for the root
---@field name? string
---@field children table<string, sbx.fs.Watch.Node>
---@field listed? table<string, true>  names that a list told of, and events may again

---@class sbx.fs.Watch.Nodes
---@field root? sbx.fs.Watch.Node
---@field by_wd table<integer, sbx.fs.Watch.Node>
local Nodes = {}
Nodes.__index = Nodes

---Whether the folder is still part of the tree.
---@param node sbx.fs.Watch.Node
---@return boolean
function Nodes:has(node)
  return self.by_wd[node.wd] == node
end

---Adds a folder, or moves one with all below to another place.
---@param node sbx.fs.Watch.Node
---@param parent? sbx.fs.Watch.Node
---@param name? string
function Nodes:attach(node, parent, name)
  self:detach(node)
  node.parent, node.name = parent, name
  self.by_wd[node.wd] = node
  if parent then
    parent.children[name] = node
  else
    self.root = node
  end
end

---Takes a folder from its place.
---@param node sbx.fs.Watch.Node
function Nodes.detach(_, node)
  if node.parent and node.parent.children[node.name] == node then
    node.parent.children[node.name] = nil
  end
end

---Takes a folder and all below out of the tree. Returns their numbers.
---@param top sbx.fs.Watch.Node
---@return integer[]
function Nodes:remove(top)
  self:detach(top)
  local left, numbers = { top }, {}
  while #left > 0 do
    local node = table.remove(left)
    self.by_wd[node.wd] = nil
    numbers[#numbers + 1] = node.wd
    for _, child in pairs(node.children) do
      left[#left + 1] = child
    end
  end
  return numbers
end

local watch_nodes = {}

---The path of `name` in a folder, from the root on.
---@param node sbx.fs.Watch.Node
---@param name string
---@return string
function watch_nodes.below(node, name)
  while node.parent do
    name, node = node.name .. "/" .. name, node.parent
  end
  return name
end

---@return sbx.fs.Watch.Nodes
function watch_nodes.new()
  return setmetatable({ by_wd = {} }, Nodes)
end

return watch_nodes
