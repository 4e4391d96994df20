-- Reads Lua 5.4 into a tree, and takes just what the language takes, but for the
-- limits of its virtual machine (registers, depth).
--
-- Each node has `tag` and `at`, its first byte. A name is
-- { tag = "Name", name =, variable = sbx.lint.Variable or nil for a global }.

local expressions = require("sbx.lint.expressions")
local lexer = require("sbx.lint.lexer")
local scope = require("sbx.lint.scope")

local parser = {}

---@class sbx.lint.Reader  where the reading stands
---@field text string
---@field token sbx.lint.Token
---@field ahead? sbx.lint.Token
---@field fn sbx.lint.Function
local Reader = {}
Reader.__index = Reader

function Reader:advance()
  local token = self.token
  self.token = self.ahead or lexer.next(self.text, token.last + 1)
  self.ahead = nil
  return token
end

function Reader:peek()
  self.ahead = self.ahead or lexer.next(self.text, self.token.last + 1)
  return self.ahead
end

local function shown(reader, token)
  if token.kind == "eof" then return "the end" end
  return "'" .. reader.text:sub(token.first, math.min(token.last, token.first + 40)) .. "'"
end

---The next token if it is of this kind.
function Reader:accept(kind)
  if self.token.kind == kind then return self:advance() end
end

---@param kind string
---@param opening? sbx.lint.Token  what it must close
function Reader:expect(kind, opening)
  if self.token.kind == kind then return self:advance() end
  local text = ("expected %s near %s"):format(kind == "name" and "a name" or "'" .. kind .. "'",
    shown(self, self.token))
  if opening then
    local _, breaks = self.text:sub(1, opening.first):gsub("\n", "")
    text = ("%s (to close '%s' at line %d)"):format(text, opening.kind, breaks + 1)
  end
  lexer.fail(self.token.first, text)
end

function Reader:unexpected()
  lexer.fail(self.token.first, "unexpected symbol near " .. shown(self, self.token))
end

local ENDS = { ["end"] = true, ["else"] = true, ["elseif"] = true, ["until"] = true, eof = true }

-- ----------------------------------------------------------------- statements

local statements = {}

-- Counts an assignment to a variable; some allow none.
local function assign(target)
  local variable = target.tag == "Name" and target.variable
  if not variable then return end
  if variable.attribute then
    lexer.fail(target.at, "attempt to assign to const variable '" .. variable.name .. "'")
  end
  variable.assigned = (variable.assigned or 0) + 1
end

-- Reads the statements of a block into a list; the caller opens and closes it.
function Reader:statements()
  local list = {}
  while not ENDS[self.token.kind] do
    local kind = self.token.kind
    local node = self:statement()
    if node then list[#list + 1] = node end
    if kind == "return" then break end
  end
  return list
end

function Reader:body(is_loop)
  self.fn:enter(is_loop)
  local list = self:statements()
  self.fn:leave()
  return list
end

statements[";"] = function(self)
  self:advance()
end

statements["do"] = function(self)
  local opening = self:advance()
  local body = self:body()
  self:expect("end", opening)
  return { tag = "Do", at = opening.first, body = body }
end

statements["while"] = function(self)
  local opening = self:advance()
  local condition = self:expression()
  self:expect("do")
  local body = self:body(true)
  self:expect("end", opening)
  return { tag = "While", at = opening.first, condition = condition, body = body }
end

-- The condition sees what the body declares.
statements["repeat"] = function(self)
  local opening = self:advance()
  self.fn:enter(true)
  self.fn:enter()
  local body = self:statements()
  self:expect("until", opening)
  local condition = self:expression()
  self.fn:leave()
  self.fn:leave()
  return { tag = "Repeat", at = opening.first, condition = condition, body = body }
end

statements["if"] = function(self)
  local opening = self.token
  local node = { tag = "If", at = opening.first, cases = {} }
  repeat
    self:advance()
    local condition = self:expression()
    self:expect("then")
    table.insert(node.cases, { condition = condition, body = self:body() })
  until self.token.kind ~= "elseif"
  if self:accept("else") then node.otherwise = self:body() end
  self:expect("end", opening)
  return node
end

-- The language keeps some variables of its own beside those of a loop.
local function declare_hidden(self, count, at)
  for _ = 1, count do
    self.fn:declare({ name = "(for state)", at = at })
  end
end

function Reader:loop_body(opening, names, kind, values)
  self:expect("do")
  self.fn:enter(true)
  declare_hidden(self, kind == "for" and 3 or 4, opening.first)
  self.fn:enter()
  local variables = {}
  for i, name in ipairs(names) do
    variables[i] = {
      name = name.value, at = name.first, declared = { kind = kind, index = i, values = values },
    }
    self.fn:declare(variables[i])
  end
  local body = self:statements()
  self.fn:leave()
  self.fn:leave()
  self:expect("end", opening)
  return variables, body
end

statements["for"] = function(self)
  local opening = self:advance()
  local names = { self:expect("name") }
  if self:accept("=") then
    local values = { self:expression() }
    self:expect(",")
    values[2] = self:expression()
    if self:accept(",") then values[3] = self:expression() end
    local variables, body = self:loop_body(opening, names, "for", values)
    return {
      tag = "NumericFor", at = opening.first, variables = variables, values = values, body = body,
    }
  end
  while self:accept(",") do
    names[#names + 1] = self:expect("name")
  end
  self:expect("in")
  local values = self:expression_list()
  local variables, body = self:loop_body(opening, names, "in", values)
  return {
    tag = "GenericFor", at = opening.first, variables = variables, values = values, body = body,
  }
end

statements["function"] = function(self)
  local opening = self:advance()
  local name = self:expect("name")
  local target = self:name_node(name)
  local is_method = false
  while self.token.kind == "." or self.token.kind == ":" do
    is_method = self:advance().kind == ":"
    local key = self:expect("name")
    target = {
      tag = "Index", at = target.at, object = target, is_dot = true,
      key = { tag = "String", at = key.first, value = key.value },
    }
    if is_method then break end
  end
  local value = self:function_body(opening, is_method)
  if target.tag == "Name" then assign(target) end
  return {
    tag = "Function", at = opening.first, target = target, is_method = is_method, value = value,
  }
end

local function local_function(self, opening)
  self:advance()
  local name = self:expect("name")
  local variable = { name = name.value, at = name.first, declared = { kind = "local", index = 1 } }
  self.fn:declare(variable)
  local value = self:function_body(opening, false)
  variable.declared.value = value
  return { tag = "LocalFunction", at = opening.first, variable = variable, value = value }
end

local ATTRIBUTES = { const = true, close = true }

local function declared_names(self)
  local variables, closes = {}, false
  repeat
    local name = self:expect("name")
    local variable = { name = name.value, at = name.first }
    if self:accept("<") then
      local attribute = self:expect("name")
      self:expect(">")
      if not ATTRIBUTES[attribute.value] then
        lexer.fail(attribute.first, "unknown attribute '" .. attribute.value .. "'")
      end
      variable.attribute = attribute.value
      if attribute.value == "close" then
        if closes then
          lexer.fail(attribute.first, "multiple to-be-closed variables in local list")
        end
        closes = true
      end
    end
    variables[#variables + 1] = variable
    if #self.fn.active + #variables > 200 then
      lexer.fail(name.first, "too many local variables in one function (limit is 200)")
    end
  until not self:accept(",")
  return variables
end

local CONSTANTS = { Number = true, String = true, True = true, False = true, Nil = true }

statements["local"] = function(self)
  local opening = self:advance()
  if self.token.kind == "function" then return local_function(self, opening) end
  local variables = declared_names(self)
  local values = self:accept("=") and self:expression_list() or {}
  local last = values[#values]
  for i, variable in ipairs(variables) do
    variable.declared = { kind = "local", index = i, value = values[i] }
    if i > #values and last and (last.tag == "Call" or last.tag == "Invoke") then
      variable.declared.value, variable.declared.result = last, i - #values + 1
    end
  end
  local only = variables[#variables]
  -- A constant of the compiler takes no variable at run time.
  if only.attribute == "const" and #variables == #values and CONSTANTS[last.tag] then
    only.is_constant = true
  end
  for _, variable in ipairs(variables) do
    self.fn:declare(variable)
  end
  return { tag = "Local", at = opening.first, variables = variables, values = values }
end

statements["return"] = function(self)
  local opening = self:advance()
  local values = {}
  if not ENDS[self.token.kind] and self.token.kind ~= ";" then values = self:expression_list() end
  self:accept(";")
  if not ENDS[self.token.kind] then
    lexer.fail(self.token.first, "expected the end of the block near " .. shown(self, self.token))
  end
  return { tag = "Return", at = opening.first, values = values }
end

statements["break"] = function(self)
  local token = self:advance()
  self.fn:breaks(token.first)
  return { tag = "Break", at = token.first }
end

statements["goto"] = function(self)
  local token = self:advance()
  self.fn:goes_to(self:expect("name").value, token.first)
  return { tag = "Goto", at = token.first }
end

-- What follows a label and does nothing is read first, other labels too: then it is
-- known whether anything follows.
statements["::"] = function(self)
  self:advance()
  local name = self:expect("name")
  self:expect("::")
  while self.token.kind == ";" or self.token.kind == "::" do
    self:statement()
  end
  local is_last = ENDS[self.token.kind] and self.token.kind ~= "until"
  self.fn:label(name.value, name.first, is_last)
  return { tag = "Label", at = name.first }
end

local function expression_statement(self)
  local first = self:suffixed()
  if self.token.kind ~= "=" and self.token.kind ~= "," then
    if first.tag ~= "Call" and first.tag ~= "Invoke" then self:unexpected() end
    return { tag = "CallStatement", at = first.at, call = first }
  end
  local targets = { first }
  repeat
    local tag = targets[#targets].tag
    if tag ~= "Name" and tag ~= "Index" then self:unexpected() end
    local goes_on = self:accept(",")
    if goes_on then targets[#targets + 1] = self:suffixed() end
  until not goes_on
  self:expect("=")
  local values = self:expression_list()
  for _, target in ipairs(targets) do
    assign(target)
  end
  return { tag = "Assign", at = first.at, targets = targets, values = values }
end

function Reader:statement()
  return (statements[self.token.kind] or expression_statement)(self)
end

expressions.add_to(Reader)

-- -------------------------------------------------------------------- a source

---Line and column, both from 1, of byte `at`.
---@param text string
---@param at integer
---@return integer line, integer column
function parser.position(text, at)
  local line, from = 1, 1
  while true do
    local stop = text:find("[\r\n]", from)
    if not stop or stop >= at then return line, at - from + 1 end
    local one, other = text:byte(stop, stop + 1)
    from = stop + (((other == 10 or other == 13) and other ~= one) and 2 or 1)
    if from > at then return line, at - stop + 1 end
    line = line + 1
  end
end

---The tree of a source, or nil, a message and the byte that it is about. A mark of
---UTF-8 and a first line with `#` are skipped only by `parser.blank_first_line`.
---@param text string
---@return table|nil tree, string|nil problem, integer|nil at
function parser.parse(text)
  local reader = setmetatable({ text = text, token = { last = 0 } }, Reader)
  local ok, result = pcall(function()
    reader:advance()
    reader.fn = scope.open(nil, true)
    local body = reader:statements()
    if reader.token.kind ~= "eof" then reader:expect("eof") end
    reader.fn:leave()
    return { tag = "Chunk", at = 1, body = body, is_vararg = true }
  end)
  if ok then return result end
  if type(result) ~= "table" or not result.lint then error(result, 0) end
  return nil, result.message, result.at
end

---What stands in a file as `load` takes it: the mark of UTF-8 and a first line with
---`#`, which are for others, become blanks, so that all else keeps its place.
---@param text string
---@return string
function parser.blank_first_line(text)
  text = text:gsub("^\xEF\xBB\xBF", "   ")
  return (text:gsub("^(%s?%s?%s?)(#[^\r\n]*)", function(mark, line)
    if #mark ~= 0 and #mark ~= 3 then return nil end
    return mark .. (" "):rep(#line)
  end, 1))
end

return parser
