-- What names mean while a source is read: functions, blocks, local variables,
-- labels and gotos, with the rules that the language has for them.

local lexer = require("sbx.lint.lexer")

local scope = {}

local MOST_LOCALS, MOST_UPVALUES = 200, 255

---@class sbx.lint.Variable
---@field name string
---@field at integer           where it is declared
---@field attribute? string    "const" or "close"
---@field assigned? integer    how often it is assigned after its declaration
---@field declared? { value: table|nil, index: integer, kind: string }  what it begins as

---@class sbx.lint.Function
local Function = {}
Function.__index = Function

---@param outer sbx.lint.Function|nil
---@param is_vararg boolean
---@return sbx.lint.Function
function scope.open(outer, is_vararg)
  local self = setmetatable({
    outer = outer, is_vararg = is_vararg, active = {}, blocks = {},
    upvalues = {}, upvalue_count = 0,
  }, Function)
  self:enter()
  return self
end

---@param is_loop? boolean
function Function:enter(is_loop)
  table.insert(self.blocks, { is_loop = is_loop, level = #self.active, labels = {}, gotos = {} })
end

function Function:block()
  return self.blocks[#self.blocks]
end

---Ends the innermost block; what it declared is no longer seen.
function Function:leave()
  local block = table.remove(self.blocks)
  for i = #self.active, block.level + 1, -1 do
    self.active[i] = nil
  end
  local around = self:block()
  for _, pending in ipairs(block.gotos) do
    if not around then
      lexer.fail(pending.at, ("no visible label '%s' for goto"):format(pending.name))
    end
    pending.level = math.min(pending.level, block.level)
    table.insert(around.gotos, pending)
  end
end

---@param variable sbx.lint.Variable
function Function:declare(variable)
  if #self.active >= MOST_LOCALS then
    lexer.fail(variable.at, "too many local variables in one function (limit is 200)")
  end
  table.insert(self.active, variable)
end

---The variable that `name` stands for here, or nil for a global.
---@param name string
---@return sbx.lint.Variable|nil
function Function:find(name, at)
  for i = #self.active, 1, -1 do
    if self.active[i].name == name then return self.active[i] end
  end
  local found = self.outer and self.outer:find(name, at)
  if found and not self.upvalues[found] and not found.is_constant then
    self.upvalues[found] = true
    self.upvalue_count = self.upvalue_count + 1
    if self.upvalue_count > MOST_UPVALUES then
      lexer.fail(at, "too many upvalues in one function (limit is 255)")
    end
  end
  return found
end

---A `break` at `at`.
function Function:breaks(at)
  for i = #self.blocks, 1, -1 do
    if self.blocks[i].is_loop then return end
  end
  lexer.fail(at, "break outside a loop")
end

function Function:goes_to(name, at)
  for _, block in ipairs(self.blocks) do
    if block.labels[name] then return end -- backwards
  end
  table.insert(self:block().gotos, { name = name, at = at, level = #self.active })
end

---@param name string
---@param at integer
---@param is_last boolean  nothing but the end of its block follows
function Function:label(name, at, is_last)
  for _, each in ipairs(self.blocks) do
    if each.labels[name] then lexer.fail(at, ("label '%s' is already defined"):format(name)) end
  end
  local block = self:block()
  block.labels[name] = true
  local level = is_last and block.level or #self.active
  local waiting = {}
  for _, pending in ipairs(block.gotos) do
    if pending.name ~= name then
      table.insert(waiting, pending)
    elseif pending.level < level then
      lexer.fail(pending.at, ("goto '%s' jumps into the scope of local '%s'")
        :format(name, self.active[pending.level + 1].name))
    end
  end
  block.gotos = waiting
end

return scope
