-- What the library offers, learned from the library itself: from its modules' tables,
-- and from the source in the binary with the comments for editors in it. Nothing here
-- is written down a second time.

local host = require("sbx.core.host")
local parser = require("sbx.lint.parser")
local types = require("sbx.lint.types")

local api = {}

---@class sbx.lint.Signature
---@field params { name: string, type: table|nil }[]  without `self`
---@field returns table[]
---@field is_method boolean   declared with a colon
---@field options table<integer, table<string, boolean>>  what `check.options` is told of a parameter

local files = {} -- module name → what `read` found
local class_files -- class name → module names

-- ------------------------------------------------------------------ one source

-- The comments for editors: the line below one → its lines.
local function comments_of(text)
  local found, lines, number = {}, nil, 0
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    local comment = line:match("^%s*%-%-%-(.*)$")
    if comment then
      lines = lines or {}
      lines[#lines + 1] = comment
    elseif lines then
      found[number] = lines
      lines = nil
    end
  end
  return found
end

local function line_starts(text)
  local starts = { 1 }
  for at in text:gmatch("\n()") do
    starts[#starts + 1] = at
  end
  return starts
end

local function line_at(starts, at)
  local low, high = 1, #starts
  while low < high do
    local middle = (low + high + 1) // 2
    if starts[middle] <= at then low = middle else high = middle - 1 end
  end
  return low
end

-- The string keys of a table constructor that has only such keys.
local function keys_of(node)
  if not node or node.tag ~= "Table" then return nil end
  local keys = {}
  for _, item in ipairs(node.items) do
    if not item.key or item.key.tag ~= "String" then return nil end
    keys[item.key.value] = true
  end
  return keys
end

local function is_options_call(node)
  local fn = node.tag == "Call" and node.fn
  return fn and fn.tag == "Index" and fn.key.value == "options" and fn.object.tag == "Name"
    and fn.object.name == "check"
end

local function defaults_of(node)
  if node and node.tag == "Name" then
    local variable = node.variable
    if not variable or variable.assigned or not variable.declared then return nil end
    node = variable.declared.value
  end
  return keys_of(node)
end

local options_of
local member_of_value

-- What a call does with its argument number `i`: the options that it may have.
local function passed_on(source, node, i, depth)
  local fn, shift = node.fn, 0
  local first = node.arguments[1]
  -- `request.blame(checked_options, options)`
  if fn.tag == "Index" and i > 1 and first.tag == "Name" then fn, shift = first, 1 end
  local declared = fn.tag == "Name" and fn.variable and not fn.variable.assigned
    and fn.variable.declared
  local body = declared and declared.kind == "local" and declared.value
  if body and body.tag == "FunctionBody" then
    return depth < 4 and options_of(source, body, depth + 1)[i - shift] or nil
  end
  local member = fn.tag == "Index" and member_of_value(source, fn, depth + 1)
  return member and member.signature and member.signature.options[i] or nil
end

-- Which options the function takes, by parameter, as far as its body says so in
-- one place: itself, or where it hands them on.
function options_of(source, body, depth)
  local by_variable, found = {}, {}
  for i, parameter in ipairs(body.parameters) do
    if not parameter.assigned then by_variable[parameter] = i end
  end
  local function note(index, keys)
    if not keys then return end
    if found[index] == nil then
      found[index] = keys
    else
      local both = {} -- taken apart in two ways: either may be meant
      for _, set in ipairs({ found[index], keys }) do
        for name in pairs(set) do
          both[name] = true
        end
      end
      found[index] = both
    end
  end
  local function visit(node)
    if node.tag == "Call" then
      for i, argument in ipairs(node.arguments) do
        local index = argument.tag == "Name" and by_variable[argument.variable]
        if index and is_options_call(node) then
          note(index, i == 1 and defaults_of(node.arguments[2]))
        elseif index then
          note(index, passed_on(source, node, i, depth))
        end
      end
    end
    for key, child in pairs(node) do
      if type(child) == "table" and key ~= "variable" and key ~= "environment"
        and key ~= "parameters" and key ~= "variables" then
        visit(child)
      end
    end
  end
  visit(body.body)
  return found
end

-- Which options a function takes is found out when it is called: that may lead to
-- other modules.
local Signature = {}

function Signature.__index(self, key)
  if key ~= "options" then return nil end
  local options, body, source = {}, self.body, self.source
  self.options = options -- for functions that call each other
  local offset = self.is_method and 1 or 0
  for index, keys in pairs(options_of(source, body, 0)) do
    options[index - offset] = keys
  end
  return options
end

local function signature_of(source, body, comment, is_method)
  local params, offset = {}, is_method and 1 or 0
  for i = 1 + offset, #body.parameters do
    local name = body.parameters[i].name
    params[i - offset] = { name = name, type = comment and comment.params[name] }
  end
  return setmetatable({
    params = params, is_method = is_method, body = body, source = source,
    returns = comment and comment.returns or {}, is_special = comment and comment.is_special,
  }, Signature)
end

local Source = {}
Source.__index = Source

function Source:comment_above(at)
  local lines = self.comments[line_at(self.starts, at)]
  return lines and types.comment(lines)
end

-- What the variable of a table is called: by its class, or by itself.
function Source:owner(node)
  if node.tag ~= "Name" or not node.variable then return nil end
  return self.owners[node.variable]
end

function Source:declare(owner, name, member)
  local members = self.members[owner]
  if not members[name] then members[name] = member end
end

local visits = {}

function visits.Local(self, node)
  local comment = self:comment_above(node.at)
  for i, variable in ipairs(node.variables) do
    local value = node.values[i]
    local is_class = i == 1 and comment and comment.class
    if is_class or (value and value.tag == "Table") then
      local owner = is_class and comment.class or self.module .. "#" .. variable.name
      self.owners[variable] = owner
      self.members[owner] = self.members[owner] or {}
      for _, item in ipairs(value and value.tag == "Table" and value.items or {}) do
        if item.key and item.key.tag == "String" then
          self:declare(owner, item.key.value, { value = item.value, source = self })
        end
      end
    end
  end
end

function visits.Function(self, node)
  local target = node.target
  local owner = target.tag == "Index" and self:owner(target.object)
  if not owner then return end
  self:declare(owner, target.key.value,
    { signature = signature_of(self, node.value, self:comment_above(node.at), node.is_method) })
end

function visits.Assign(self, node)
  for i, target in ipairs(node.targets) do
    local owner = target.tag == "Index" and target.key.tag == "String" and self:owner(target.object)
    local value = node.values[i]
    if owner and value then
      local comment = self:comment_above(node.at)
      local member = { value = value, source = self }
      if value.tag == "FunctionBody" then
        member = { signature = signature_of(self, value, comment, false) }
      elseif comment and (next(comment.params) or #comment.returns > 0) then
        member.signature =
          { params = {}, options = {}, returns = comment.returns, is_method = false }
      end
      self:declare(owner, target.key.value, member)
    end
  end
end

function visits.Return(self, node)
  local value = node.values[1]
  if value then self.result = self:owner(value) end
end

-- Classes that are described without a table below: those of options.
local function read_classes(self, text)
  local function enter(block)
    local current
    for _, line in ipairs(block) do
      if line:find("^%s*@class") then
        current = { line }
        table.insert(self.blocks, current)
      elseif current then
        current[#current + 1] = line
      end
    end
  end
  for _, block in pairs(comments_of(text)) do
    enter(block)
  end
  for _, block in ipairs(self.blocks) do
    local comment = types.comment(block)
    if comment.class then
      local known = self.classes[comment.class]
        or { fields = {}, parents = comment.parents, has_fields = false }
      for name, kind in pairs(comment.fields) do
        known.fields[name], known.has_fields = kind, true
      end
      known.is_open = known.is_open or comment.is_open
      self.classes[comment.class] = known
    end
  end
end

-- What the source of `module` declares, or nil where there is none.
local function read(module)
  if files[module] ~= nil then return files[module] or nil end
  files[module] = false
  local text = host.file(module)
  local tree = text and parser.parse(text)
  if not tree then return nil end
  local self = setmetatable({
    module = module, comments = comments_of(text), starts = line_starts(text), owners = {},
    members = {}, classes = {}, blocks = {},
  }, Source)
  read_classes(self, text)
  for _, node in ipairs(tree.body) do
    if visits[node.tag] then visits[node.tag](self, node) end
  end
  files[module] = self
  return self
end

-- ------------------------------------------------------------------- questions

---Whether `name` is a module of the library.
---@param name string
---@return boolean
function api.is_module(name)
  return name:find("^sbx%f[.\0]") ~= nil and not name:find("/", 1, true)
    and (package.preload[name] ~= nil or host.file(name) ~= nil)
end

---The table of a module.
---@param name string
---@return any
function api.value(name)
  local ok, value = pcall(require, name)
  return ok and value or nil
end

---Every module of the library that says `---@class name`.
---@param class string
---@return string[]
function api.modules_of(class)
  if not class_files then
    class_files = {}
    for _, module in ipairs(host.files("sbx")) do
      if not module:find("/", 1, true) then
        for name in (host.file(module) or ""):gmatch("%-%-%-%s*@class%s+([%w_.]+)") do
          class_files[name] = class_files[name] or {}
          table.insert(class_files[name], module)
        end
      end
    end
  end
  return class_files[class] or {}
end

---Whether the sources of a class say `word` anywhere.
---@param class string
---@param word string
---@return boolean
function api.mentions(class, word)
  for _, module in ipairs(api.modules_of(class)) do
    local text = host.file(module) or ""
    if text:find("%f[%w_]" .. word .. "%f[^%w_]") then return true end
  end
  return false
end

local known_classes = {} -- name → what is known, or false

local function read_class(name)
  local found
  for _, module in ipairs(api.modules_of(name)) do
    local source = read(module)
    local described = source and source.classes[name]
    if described then
      found = found or { fields = {}, members = {}, is_open = false }
      found.is_open = found.is_open or described.is_open or false
      for key, kind in pairs(described.fields) do
        found.fields[key] = kind
      end
      for key, member in pairs(source.members[name] or {}) do
        found.members[key] = member
      end
      for _, parent in ipairs(described.parents) do
        local above = api.class(parent)
        if not above then return nil end
        found.is_open = found.is_open or above.is_open
        for key, kind in pairs(above.fields) do
          found.fields[key] = found.fields[key] or kind
        end
        for key, member in pairs(above.members) do
          found.members[key] = found.members[key] or member
        end
      end
    end
  end
  return found
end

---What is known of a class: its fields by comments, its functions by the sources.
---@param name string
---@return { fields: table, members: table, is_open: boolean }|nil
function api.class(name)
  if known_classes[name] == nil then
    known_classes[name] = false -- a class that is its own parent has none
    known_classes[name] = read_class(name) or false
  end
  return known_classes[name] or nil
end

local resolve

-- What an expression in a source of the library is, as far as it is plain.
function member_of_value(source, node, depth)
  if depth > 8 then return nil end
  if node.tag == "Name" and node.variable and node.variable.declared then
    local value = node.variable.declared.value
    if value and not node.variable.assigned and node.variable.declared.kind == "local" then
      return member_of_value(source, value, depth + 1)
    end
  elseif node.tag == "Index" and node.key.tag == "String" then
    local base = node.object
    local variable = base.tag == "Name" and base.variable
    local call = variable and not variable.assigned and variable.declared
      and variable.declared.value or base
    if call and call.tag == "Call" and call.fn.tag == "Name" and call.fn.name == "require"
      and call.arguments[1] and call.arguments[1].tag == "String" then
      return resolve(call.arguments[1].value, node.key.value, depth + 1)
    end
    local owner = variable and source.owners[variable]
    if owner then
      local member = source.members[owner][node.key.value]
      return member and (member.signature and member
        or (member.value and member_of_value(source, member.value, depth + 1)))
    end
  end
  return nil
end

function resolve(module, name, depth)
  local source = read(module)
  local member = source and source.result and source.members[source.result][name]
  if not member then return nil end
  if member.signature then return member end
  return member.value and member_of_value(member.source, member.value, depth or 0)
end

-- A field that a comment calls a function.
local function signature_of_type(kind)
  local fn = kind and #kind == 1 and kind[1].kind == "fun" and kind[1]
  if not fn then return nil end
  return { params = fn.params, returns = fn.returns, options = {}, is_method = false }
end

---The class that the comments make of a module.
---@param module string
---@return string|nil
function api.class_of_module(module)
  local source = read(module)
  return source and source.result
end

---How a function of a module is called, where that is known.
---@param module string
---@param name string
---@return sbx.lint.Signature|nil
function api.signature(module, name)
  local member = resolve(module, name, 0)
  if member then return member.signature end
  local class = api.class_of_module(module)
  local known = class and api.class(class)
  return known and signature_of_type(known.fields[name])
end

---How a method of a class is called, where that is known.
---@param class string
---@param name string
---@return sbx.lint.Signature|nil
function api.method(class, name)
  local known = api.class(class)
  local member = known and known.members[name]
  if not member then return nil end
  if member.signature then return member.signature end
  local found = member.value and member_of_value(member.source, member.value, 0)
  return found and found.signature
end

return api
