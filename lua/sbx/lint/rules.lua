-- What a check of a script finds, over its tree. Where something is not certain,
-- nothing is said.

local api = require("sbx.lint.api")
local classes = require("sbx.lint.classes")
local host = require("sbx.core.host")
local nearest = require("sbx.nearest")
local shapes = require("sbx.lint.shapes")

local rules = {}

local Visit = {}
Visit.__index = Visit

-- `about`: the global or the field of one, in case the script asks for it elsewhere.
function Visit:report(at, rule, message, about)
  table.insert(self.findings, { at = at, rule = rule, message = message, about = about })
end

local function sorted(...)
  local names = {}
  for _, set in ipairs({ ... }) do
    for name in pairs(set) do
      if type(name) == "string" and not name:find("^__") then names[#names + 1] = name end
    end
  end
  table.sort(names)
  return names
end

-- -------------------------------------------------------------------- globals

local function check_global(self, node, is_tested)
  if node.variable or node.environment or self.globals_unknown then return end
  if is_tested then
    self.asked[node.name] = true
    return
  end
  if node.name == "_ENV" or node.name == "arg" or _G[node.name] ~= nil then return end
  if self.defined[node.name] then return end
  self:report(node.at, "global", ("undefined global '%s'%s"):format(node.name,
    nearest.hint(node.name, sorted(_G, self.defined))), node.name)
end

-- --------------------------------------------------------------------- fields

local function check_stock(self, node, object, is_tested)
  local name = node.key.value
  local about = object.name .. "." .. name
  if is_tested then self.asked[about] = true end
  if is_tested or object.value[name] ~= nil then return end
  self:report(node.key.at, "field", ("unknown field '%s' of %s%s"):format(name, object.name,
    nearest.hint(name, sorted(object.value))), about)
end

-- Whether the module has such a field.
local function module_has(module, name)
  local value = api.value(module)
  if type(value) ~= "table" then return true end
  local ok, field = pcall(function() return value[name] end)
  if not ok or field ~= nil then return true end
  local source = host.file(module) -- which may give it a value later
  if source and source:find("%." .. name .. "%f[^%w_]") then return true end
  local class = api.class_of_module(module)
  local known = class and api.class(class)
  return known ~= nil and (known.is_open or known.fields[name] ~= nil)
end

local function check_module(self, at, name, module)
  if module_has(module, name) then return end
  local value = api.value(module)
  local names = sorted(value)
  if module == "sbx" and api.is_module("sbx." .. name) then return end
  self:report(at, "field", ("unknown field '%s' of %s%s"):format(name, module,
    nearest.hint(name, names)))
end

-- Names of a class as people should know them.
local function class_names(class)
  local known = api.class(class)
  return sorted(known.fields, known.members)
end

-- Whether objects surely have nothing of this name.
local function class_lacks(class, name)
  local known = api.class(class)
  if not known or known.is_open or known.fields[name] or known.members[name] then return false end
  local has = classes.has(class, name)
  -- Of plain data only the comments tell.
  if has == nil then return next(known.members) == nil and next(known.fields) ~= nil end
  return not has
end

local function short(class)
  return (class:gsub("^sbx%.", ""))
end

local function check_member(self, at, name, class, is_call)
  if not class_lacks(class, name) then return end
  local guess = nearest.hint(name, class_names(class))
  -- Objects have fields of their own, and may be given more: only what looks like a
  -- slip of a known one is one.
  if not is_call and (guess == "" or api.mentions(class, name)) then return end
  self:report(at, "field", ("unknown %s '%s' of a %s%s"):format(is_call and "method" or "field",
    name, short(class), guess))
end

local function check_index(self, node, is_tested)
  if node.key.tag ~= "String" then return end
  local object = self.shapes:of(node.object)
  if not object or self.given[node.key.value] then return end
  if object.kind == "stock" then return check_stock(self, node, object, is_tested) end
  if is_tested then return end
  if object.kind == "module" then
    check_module(self, node.key.at, node.key.value, object.name)
  elseif object.kind == "class" then
    check_member(self, node.key.at, node.key.value, object.name, false)
  end
end

-- -------------------------------------------------------------------- options

local allowed_of

-- Adds the keys that a table of this type may have. False: any.
local function add_type(allowed, kind)
  for _, each in ipairs(kind) do
    if each.kind == "other" or each.kind == "array" then return false end
    if each.kind == "shape" then
      for name, inner in pairs(each.fields) do
        allowed[name] = inner
      end
    elseif each.kind == "class" then
      local known = api.class(each.name)
      -- An object is no table of options.
      if not known or known.is_open or next(known.members) or not next(known.fields) then
        return false
      end
      for name, inner in pairs(known.fields) do
        allowed[name] = inner
      end
    end
  end
  return true
end

-- Whether a parameter takes options, of which none may be unknown, and not just any
-- table that has some fields.
local function takes_options(parameter)
  if parameter.name == "options" then return true end
  for _, each in ipairs(parameter.type or {}) do
    if each.kind == "class" and each.name:find("Options$") then return true end
  end
  return false
end

-- The options of a parameter → their types, or nil where any may be.
function allowed_of(kind, told)
  local allowed, is_known = {}, false
  for name in pairs(told or {}) do
    allowed[name], is_known = {}, true
  end
  if kind and #kind > 0 then
    local is_closed = add_type(allowed, kind)
    if not is_closed and not told then return nil end
    is_known = is_known or (is_closed and next(allowed) ~= nil)
  end
  return is_known and allowed or nil
end

-- The table that stands here, or in the variable here that nothing changes.
local function table_of(self, node)
  if node.tag == "Table" then return node end
  local variable = node.tag == "Name" and node.variable
  local declared = variable and variable.declared
  if not declared or variable.assigned or declared.kind ~= "local" then return nil end
  if self.changed[variable] or declared.result then return nil end
  return declared.value and declared.value.tag == "Table" and declared.value or nil
end

local function check_table(self, node, kind, told, what)
  local given = table_of(self, node)
  local allowed = given and allowed_of(kind, told)
  if not allowed then return end
  for _, item in ipairs(given.items) do
    local name = item.key and item.key.tag == "String" and item.key.value
    if name and not allowed[name] then
      local hint = nearest.hint(name, sorted(allowed))
      if hint == "" then hint = "; there are: " .. table.concat(sorted(allowed), ", ") end
      self:report(item.key.at, "option", ("unknown option '%s' of %s%s"):format(name, what, hint))
    elseif name and item.value.tag == "Table" then
      check_table(self, item.value, allowed[name], nil, what .. ", " .. name)
    end
  end
end

local function check_arguments(self, signature, arguments, shift, what)
  if signature.is_special then return end
  for i, argument in ipairs(arguments) do
    local parameter = signature.params[i - shift]
    local told = parameter and signature.options[i - shift]
    if parameter and (told or takes_options(parameter)) then
      check_table(self, argument, parameter.type, told, what)
    end
  end
end

-- ---------------------------------------------------------------------- calls

local LITERALS = { String = true, Number = true, Table = true, True = true, False = true }

-- `box.exec("ls")` for `box:exec("ls")`.
local function check_dot(self, node, fn)
  local target = node.fn
  if target.tag ~= "Index" or not target.is_dot or not fn.signature.is_method then return end
  local object = self.shapes:of(target.object)
  local first = node.arguments[1]
  if not object or object.kind ~= "class" or (first and not LITERALS[first.tag]) then return end
  local name = target.key.value
  self:report(target.key.at, "call", ("%s is a method of a %s: call it with a colon, `:%s(…)`")
    :format(name, short(object.name), name))
end

local function check_call(self, node)
  local fn = self.shapes:of(node.fn)
  if not fn or fn.kind ~= "fn" then return end
  check_dot(self, node, fn)
  check_arguments(self, fn.signature, node.arguments, fn.signature.is_method and 1 or 0, fn.what)
end

local function check_invoke(self, node)
  local object = self.shapes:of(node.object)
  if not object or self.given[node.name] then return end
  local member
  if object.kind == "class" then
    check_member(self, node.name_at, node.name, object.name, true)
    member = shapes.member(object, node.name)
  elseif object.kind == "module" then
    check_module(self, node.name_at, node.name, object.name)
    member = shapes.member(object, node.name)
    if member and member.kind == "fn" and not member.signature.is_method then
      local value = api.value(object.name)
      if type(value) == "table" and type(rawget(value, node.name)) == "function" then
        self:report(node.name_at, "call", ("%s.%s is no method: call it with a dot, `.%s(…)`")
          :format(object.name, node.name, node.name))
      end
      return
    end
  end
  if member and member.kind == "fn" then
    local shift = member.signature.is_method and 0 or -1
    check_arguments(self, member.signature, node.arguments, shift,
      short(object.name) .. ":" .. node.name)
  end
end

-- ---------------------------------------------------------------------- a walk

local SKIPPED = {
  variable = true, environment = true, variables = true, parameters = true, declared = true,
}

-- Operators whose left side may well be nil.
local TESTS = { ["and"] = true, ["or"] = true, ["=="] = true, ["~="] = true }

local walk

local function walk_children(self, node)
  for key, child in pairs(node) do
    if type(child) == "table" and not SKIPPED[key] then walk(self, child) end
  end
end

-- `is_tested`: whether there is such a thing is just what the script asks.
local function walk_tested(self, node)
  if node then walk(self, node, true) end
end

local by_tag = {}

function by_tag.Name(self, node, is_tested)
  check_global(self, node, is_tested)
end

function by_tag.Index(self, node, is_tested)
  check_index(self, node, is_tested)
  walk(self, node.object)
  walk(self, node.key)
end

function by_tag.Call(self, node)
  check_call(self, node)
  local fn = node.fn
  if fn.tag == "Name" and fn.name == "type" and not fn.variable and #node.arguments == 1 then
    return walk_tested(self, node.arguments[1])
  end
  walk_children(self, node)
end

function by_tag.Invoke(self, node)
  check_invoke(self, node)
  walk_children(self, node)
end

-- `table.unpack or unpack`: where a name has gone, or still is.
local function is_old_name(node)
  local left, right = node.left, node.right
  return node.operator == "or" and right.tag == "Name" and left.tag == "Index"
    and left.key.value == right.name
end

function by_tag.Binary(self, node, is_tested)
  local tests = TESTS[node.operator]
  walk(self, node.left, tests)
  walk(self, node.right, (tests and node.operator ~= "or") or is_old_name(node) or is_tested)
end

function by_tag.Unary(self, node)
  walk(self, node.operand, node.operator == "not")
end

function by_tag.Paren(self, node, is_tested)
  walk(self, node.inner, is_tested)
end

function by_tag.While(self, node)
  walk_tested(self, node.condition)
  walk(self, node.body)
end

function by_tag.If(self, node)
  for _, case in ipairs(node.cases) do
    walk_tested(self, case.condition)
    walk(self, case.body)
  end
  if node.otherwise then walk(self, node.otherwise) end
end

-- The targets are set, not read; what stands before their last field is read.
function by_tag.Assign(self, node)
  for _, target in ipairs(node.targets) do
    if target.tag == "Index" then
      walk(self, target.object)
      walk(self, target.key)
    end
  end
  walk(self, node.values)
end

function by_tag.Function(self, node)
  if node.target.tag == "Index" then walk(self, node.target.object) end
  walk(self, node.value)
end

function walk(self, node, is_tested)
  local visit = by_tag[node.tag]
  if visit then return visit(self, node, is_tested) end
  if node.tag then return walk_children(self, node) end
  for _, child in ipairs(node) do
    walk(self, child)
  end
end

---The findings in a script.
---@param tree table  of sbx.lint.parser
---@param facts sbx.lint.Facts
---@return { at: integer, rule: string, message: string }[]
function rules.check(tree, facts)
  local self = setmetatable({
    findings = {}, asked = {},
    defined = facts.defined, given = facts.given, changed = facts.changed,
    globals_unknown = facts.globals_unknown, shapes = shapes.new(facts.defined),
  }, Visit)
  walk(self, tree.body)
  local findings = {}
  for _, found in ipairs(self.findings) do
    -- What the script asks for somewhere it uses where there is one.
    if not (found.about and self.asked[found.about]) then findings[#findings + 1] = found end
  end
  table.sort(findings, function(a, b) return a.at < b.at end)
  return findings
end

return rules
