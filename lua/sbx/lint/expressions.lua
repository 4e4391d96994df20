-- The part of the parser that reads expressions.

local lexer = require("sbx.lint.lexer")
local scope = require("sbx.lint.scope")

local expressions = {}

-- How tightly the two sides of an operator hold; the right less where it groups
-- from the right.
local BINARY = {
  ["+"] = { 10, 10 }, ["-"] = { 10, 10 }, ["*"] = { 11, 11 }, ["%"] = { 11, 11 },
  ["^"] = { 14, 13 }, ["/"] = { 11, 11 }, ["//"] = { 11, 11 },
  ["&"] = { 6, 6 }, ["|"] = { 4, 4 }, ["~"] = { 5, 5 }, ["<<"] = { 7, 7 }, [">>"] = { 7, 7 },
  [".."] = { 9, 8 },
  ["=="] = { 3, 3 }, ["<"] = { 3, 3 }, ["<="] = { 3, 3 },
  ["~="] = { 3, 3 }, [">"] = { 3, 3 }, [">="] = { 3, 3 },
  ["and"] = { 2, 2 }, ["or"] = { 1, 1 },
}
local UNARY = { ["not"] = true, ["-"] = true, ["~"] = true, ["#"] = true }
local UNARY_PRIORITY = 12

local SIMPLE = {
  ["nil"] = "Nil", ["true"] = "True", ["false"] = "False", number = "Number", string = "String",
}

local reading = {}

function reading:name_node(token)
  return {
    tag = "Name", at = token.first, name = token.value,
    variable = self.fn:find(token.value, token.first),
    -- A global is a field of what `_ENV` is here.
    environment = self.fn:find("_ENV", token.first),
  }
end

function reading:expression_list()
  local list = { self:expression() }
  while self:accept(",") do
    list[#list + 1] = self:expression()
  end
  return list
end

local function table_item(self)
  local at = self.token.first
  if self.token.kind == "[" then
    local opening = self:advance()
    local key = self:expression()
    self:expect("]", opening)
    self:expect("=")
    return { key = key, value = self:expression(), at = at }
  end
  if self.token.kind == "name" and self:peek().kind == "=" then
    local name = self:advance()
    self:advance()
    local key = { tag = "String", at = name.first, value = name.value }
    return { key = key, value = self:expression(), at = at }
  end
  return { value = self:expression(), at = at }
end

function reading:table_node()
  local opening = self:expect("{")
  local node = { tag = "Table", at = opening.first, items = {} }
  while self.token.kind ~= "}" do
    table.insert(node.items, table_item(self))
    if not self:accept(",") and not self:accept(";") then break end
  end
  self:expect("}", opening)
  return node
end

---Reads the parameters and the body of a function, whose first word is `opening`.
function reading:function_body(opening, is_method)
  local fn = scope.open(self.fn, false)
  local node = { tag = "FunctionBody", at = opening.first, parameters = {} }
  self.fn = fn
  if is_method then
    table.insert(node.parameters, { name = "self", at = opening.first })
    fn:declare(node.parameters[1])
  end
  self:expect("(")
  if self.token.kind ~= ")" then
    repeat
      if self:accept("...") then
        fn.is_vararg = true
        break
      end
      local name = self:expect("name")
      local parameter = {
        name = name.value, at = name.first,
        declared = { kind = "parameter", index = #node.parameters + 1, value = nil },
      }
      table.insert(node.parameters, parameter)
      fn:declare(parameter)
    until not self:accept(",")
  end
  self:expect(")")
  node.is_vararg = fn.is_vararg
  node.body = self:statements()
  self:expect("end", opening)
  fn:leave()
  self.fn = fn.outer
  return node
end

local function primary(self)
  if self.token.kind == "name" then return self:name_node(self:advance()) end
  if self.token.kind == "(" then
    local opening = self:advance()
    local inner = self:expression()
    self:expect(")", opening)
    return { tag = "Paren", at = opening.first, inner = inner }
  end
  self:unexpected()
end

local function arguments(self)
  local kind = self.token.kind
  if kind == "string" then
    local token = self:advance()
    return { { tag = "String", at = token.first, value = token.value } }
  end
  if kind == "{" then return { self:table_node() } end
  if kind ~= "(" then self:unexpected() end
  local opening = self:advance()
  local list = self.token.kind == ")" and {} or self:expression_list()
  self:expect(")", opening)
  return list
end

---A name or an expression in parentheses, with all fields and calls behind it.
function reading:suffixed()
  local node = primary(self)
  while true do
    local kind = self.token.kind
    if kind == "." then
      self:advance()
      local key = self:expect("name")
      node = {
        tag = "Index", at = node.at, object = node, is_dot = true,
        key = { tag = "String", at = key.first, value = key.value },
      }
    elseif kind == "[" then
      local opening = self:advance()
      local key = self:expression()
      self:expect("]", opening)
      node = { tag = "Index", at = node.at, object = node, key = key }
    elseif kind == ":" then
      self:advance()
      local name = self:expect("name")
      node = {
        tag = "Invoke", at = node.at, object = node, name = name.value, name_at = name.first,
        arguments = arguments(self),
      }
    elseif kind == "(" or kind == "string" or kind == "{" then
      node = { tag = "Call", at = node.at, fn = node, arguments = arguments(self) }
    else
      return node
    end
  end
end

local function simple(self)
  local token = self.token
  if SIMPLE[token.kind] then
    self:advance()
    return { tag = SIMPLE[token.kind], at = token.first, value = token.value }
  end
  if token.kind == "..." then
    if not self.fn.is_vararg then
      lexer.fail(token.first, "cannot use '...' outside a vararg function")
    end
    self:advance()
    return { tag = "Vararg", at = token.first }
  end
  if token.kind == "{" then return self:table_node() end
  if token.kind == "function" then
    self:advance()
    return self:function_body(token, false)
  end
  return self:suffixed()
end

---@param limit? integer  operators that hold no tighter than this are left
function reading:expression(limit)
  local token = self.token
  local left
  if UNARY[token.kind] then
    self:advance()
    left = {
      tag = "Unary", at = token.first, operator = token.kind,
      operand = self:expression(UNARY_PRIORITY),
    }
  else
    left = simple(self)
  end
  while true do
    local operator = self.token.kind
    local priority = BINARY[operator]
    if not priority or priority[1] <= (limit or 0) then return left end
    self:advance()
    left = {
      tag = "Binary", at = left.at, operator = operator, left = left,
      right = self:expression(priority[2]),
    }
  end
end

---Gives the methods of this part to the reader.
---@param class table
function expressions.add_to(class)
  for name, method in pairs(reading) do
    class[name] = method
  end
end

return expressions
