-- What a script does to names and fields anywhere in it: a check must know that first.

local facts = {}

local function is_global(node, name)
  return node.tag == "Name" and node.name == name and not node.variable
end

-- `_G.name` or `_ENV.name`.
local function is_globals(node)
  return node.tag == "Name" and (is_global(node, "_G") or node.name == "_ENV")
end

local SKIPPED = {
  variable = true, environment = true, variables = true, parameters = true, declared = true,
}

local function note_target(self, target)
  if target.tag == "Name" then
    if not target.variable then self.defined[target.name] = true end
    return
  end
  if target.tag ~= "Index" then return end
  local base = target.object
  if target.key.tag == "String" then
    self.given[target.key.value] = true
    if is_globals(base) then self.defined[target.key.value] = true end
  elseif is_globals(base) then
    self.globals_unknown = true
  end
  if base.tag == "Name" and base.variable then self.changed[base.variable] = true end
end

local function is_require(node)
  return is_global(node.fn, "require") and node.arguments[1]
    and node.arguments[1].tag == "String"
end

-- Calls that may change a table or set globals.
local function note_call(self, node)
  local first = node.arguments[1]
  if is_require(node) then
    table.insert(self.required, { name = first.value, at = first.at })
  elseif is_global(node.fn, "dofile") or is_global(node.fn, "loadfile") then
    self.globals_unknown = true
  elseif first and is_global(node.fn, "setmetatable") and is_globals(first) then
    self.globals_unknown = true
  elseif first and is_global(node.fn, "rawset") then
    local key = node.arguments[2]
    if is_globals(first) then
      if key and key.tag == "String" then
        self.defined[key.value] = true
      else
        self.globals_unknown = true
      end
    end
    if first.tag == "Name" and first.variable then self.changed[first.variable] = true end
  end
end

local function visit(self, node)
  if node.tag == "Assign" then
    for _, target in ipairs(node.targets) do
      note_target(self, target)
    end
  elseif node.tag == "Function" then
    note_target(self, node.target)
  elseif node.tag == "Call" then
    note_call(self, node)
  end
  for key, child in pairs(node) do
    if type(child) == "table" and not SKIPPED[key] then visit(self, child) end
  end
end

---@class sbx.lint.Facts
---@field defined table<string, boolean>  globals that are set
---@field given table<string, boolean>    names of fields that are set, of whatever
---@field changed table                   variables whose table gets fields later
---@field required { name: string, at: integer, line: integer }[]  modules named by literals
---@field globals_unknown boolean         anything may set globals

---@param tree table
---@return sbx.lint.Facts
function facts.of(tree)
  local self = {
    defined = {}, given = {}, changed = {}, required = {}, globals_unknown = false,
  }
  visit(self, tree.body)
  table.sort(self.required, function(a, b) return a.at < b.at end)
  return self
end

return facts
