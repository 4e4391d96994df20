-- What the expressions of a script are, where that is certain: modules of the library,
-- objects of its classes, its functions. Variables are followed that are never
-- assigned again. A shape is one of
--
--   { kind = "module", name = "sbx.task" }
--   { kind = "class", name = "sbx.sandbox.Box" }
--   { kind = "array", of = a shape }
--   { kind = "fn", signature =, what = "task.map" }
--   { kind = "stock", name = "string", value = the table }
--
-- or nil, when nothing is known.

local api = require("sbx.lint.api")

local shapes = {}

local STOCK = {}
for name in ("coroutine debug io math os string table utf8"):gmatch("%a+") do
  STOCK[name] = _G[name]
end

---What a value of this type is, when it is but one thing, or nil besides.
---@param kind table|nil  of sbx.lint.types
---@return table|nil
function shapes.of_type(kind)
  if not kind or #kind ~= 1 then return nil end
  local only = kind[1]
  if only.kind == "class" then
    return api.class(only.name) and { kind = "class", name = only.name } or nil
  elseif only.kind == "array" then
    return { kind = "array", of = shapes.of_type(only.of) }
  end
  return nil
end

---@class sbx.lint.Shapes
---@field assigned table<string, boolean>  globals that the script sets
local Shapes = {}
Shapes.__index = Shapes

---@param assigned table<string, boolean>
---@return sbx.lint.Shapes
function shapes.new(assigned)
  return setmetatable({ assigned = assigned, known = {}, pending = {} }, Shapes)
end

local function is_global(node, name)
  return node.tag == "Name" and node.name == name and not node.variable and not node.environment
end

local by_tag = {}

function by_tag.Paren(self, node)
  return self:of(node.inner)
end

-- `for i, x in ipairs(list)`.
local function loop_shape(self, declared)
  local call = declared.values[1]
  if declared.index ~= 2 or #declared.values ~= 1 or call.tag ~= "Call" then return nil end
  if not is_global(call.fn, "ipairs") or self.assigned.ipairs then return nil end
  local list = call.arguments[1] and self:of(call.arguments[1])
  return list and list.kind == "array" and list.of or nil
end

function by_tag.Name(self, node)
  local variable = node.variable
  if not variable then
    local stock = not self.assigned[node.name] and not node.environment and STOCK[node.name]
    return stock and { kind = "stock", name = node.name, value = stock } or nil
  end
  local declared = variable.declared
  if variable.assigned or not declared or self.pending[variable] then return nil end
  if self.known[variable] ~= nil then return self.known[variable] or nil end
  self.pending[variable] = true
  local shape
  if declared.kind == "in" then
    shape = loop_shape(self, declared)
  elseif declared.kind == "local" and declared.value then
    shape = self:of(declared.value, declared.result)
  end
  self.pending[variable] = nil
  self.known[variable] = shape or false
  return shape
end

local function member_shape(object, name)
  if object.kind == "stock" then return nil end
  if object.kind == "module" then
    if object.name == "sbx" then
      local module = "sbx." .. name
      if api.is_module(module) and api.value("sbx")[name] == api.value(module) then
        return { kind = "module", name = module }
      end
    end
    local signature = api.signature(object.name, name)
    if signature then
      return { kind = "fn", signature = signature, what = object.name .. "." .. name }
    end
    local class = api.class_of_module(object.name)
    local known = class and api.class(class)
    return known and shapes.of_type(known.fields[name])
  end
  if object.kind ~= "class" then return nil end
  local signature = api.method(object.name, name)
  if signature then
    return { kind = "fn", signature = signature, what = object.name .. "." .. name }
  end
  local known = api.class(object.name)
  return known and shapes.of_type(known.fields[name])
end

function by_tag.Index(self, node)
  local object = self:of(node.object)
  if not object then return nil end
  if object.kind == "array" then return node.key.tag == "Number" and object.of or nil end
  return node.key.tag == "String" and member_shape(object, node.key.value) or nil
end

local function result_shape(fn, index)
  if not fn or fn.kind ~= "fn" or fn.signature.is_special then return nil end
  return shapes.of_type(fn.signature.returns[index])
end

function by_tag.Call(self, node, index)
  local first = node.arguments[1]
  if is_global(node.fn, "require") and not self.assigned.require and first
    and first.tag == "String" and index == 1 then
    return api.is_module(first.value) and { kind = "module", name = first.value } or nil
  end
  if is_global(node.fn, "assert") and not self.assigned.assert and first and index == 1 then
    return self:of(first)
  end
  return result_shape(self:of(node.fn), index)
end

function by_tag.Invoke(self, node, index)
  local object = self:of(node.object)
  if not object or (object.kind ~= "class" and object.kind ~= "module") then return nil end
  return result_shape(member_shape(object, node.name), index)
end

---The shape of an expression's value, of a call the `index`th.
---@param node table
---@param index? integer
---@return table|nil
function Shapes:of(node, index)
  local find = by_tag[node.tag]
  if not find then return nil end
  if (index or 1) ~= 1 and node.tag ~= "Call" and node.tag ~= "Invoke" then return nil end
  return find(self, node, index or 1)
end

---The shape of a member of an object or module.
---@param object table  a shape
---@param name string
---@return table|nil
function shapes.member(object, name)
  return member_shape(object, name)
end

return shapes
