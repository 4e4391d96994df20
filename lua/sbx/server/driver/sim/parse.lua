-- Turns a shell script into a tree: the grammar of POSIX sh, without aliases. What is
-- broken comes back as nil and words for it.
-- Its words are those of words.lua.

local words = require("sbx.server.driver.sim.words")

local parse = {}

local fail, deeper, push, read_word = words.fail, words.deeper, words.push, words.read

local Parser = {}
Parser.__index = Parser

-- Longer ones first.
local OPERATORS = { "<<-", "&&", "||", ";;", "<<", ">>", "<&", ">&", ">|", "<>", "<", ">", "&", ";",
  "|", "(", ")", "\n" }
local REDIRECTS = { ["<"] = true, [">"] = true, [">>"] = true, ["<&"] = true, [">&"] = true,
  [">|"] = true, ["<>"] = true, ["<<"] = true, ["<<-"] = true }
local CLOSERS = { ["then"] = true, ["else"] = true, ["elif"] = true, ["fi"] = true, ["do"] = true,
  ["done"] = true, ["esac"] = true, ["}"] = true }

local parse_list

-- ------------------------------------------------------------------------ tokens

-- The texts of here-documents begin after the line that names them.
local function read_documents(self)
  for _, redirect in ipairs(self.waiting) do
    local lines = {}
    while true do
      if self.at > #self.text then break end
      local line, after = self.text:match("^([^\n]*)\n?()", self.at)
      self.at = after
      if redirect.op == "<<-" then line = line:gsub("^\t+", "") end
      if line == redirect.ending then break end
      lines[#lines + 1] = line .. "\n"
    end
    local text = table.concat(lines)
    if redirect.literal then
      redirect.document = { { lit = text, quoted = true } }
    else
      local sub = setmetatable({
        text = text, at = 1, depth = self.depth + 1, waiting = {},
      }, Parser)
      redirect.document = {}
      local parts = redirect.document
      while sub.at <= #text do
        for _, part in ipairs(read_word(sub, "", true)) do
          parts[#parts + 1] = part
        end
        local quote = text:sub(sub.at, sub.at)
        if quote ~= "" then
          push(parts, quote, true)
          sub.at = sub.at + 1
        end
      end
    end
  end
  self.waiting = {}
end

local function skip_blanks(self)
  while true do
    local after = self.text:match("^[ \t\r]+()", self.at) or self.text:match("^\\\n()", self.at)
    if not after then break end
    self.at = after
  end
  if self.text:find("^#", self.at) then
    self.at = self.text:find("\n", self.at, true) or #self.text + 1
  end
end

local function plain_text(parts)
  if #parts ~= 1 or not parts[1].lit or parts[1].quoted then return nil end
  return parts[1].lit
end

local function next_token(self)
  skip_blanks(self)
  if self.at > #self.text then return { kind = "end" } end
  local number = self.text:match("^(%d+)[<>]", self.at)
  if number then
    self.at = self.at + #number
    return { kind = "number", number = math.tointeger(tonumber(number)) }
  end
  for _, operator in ipairs(OPERATORS) do
    if self.text:sub(self.at, self.at + #operator - 1) == operator then
      self.at = self.at + #operator
      if operator == "\n" and #self.waiting > 0 then read_documents(self) end
      return { kind = "operator", text = operator }
    end
  end
  local parts = read_word(self, nil)
  return { kind = "word", parts = parts, text = plain_text(parts) }
end

function Parser:peek()
  if not self.token then self.token = next_token(self) end
  return self.token
end

function Parser:take()
  local token = self:peek()
  self.token = nil
  return token
end

local function is(token, kind, text)
  return token.kind == kind and token.text == text
end

local function expect(self, text)
  local token = self:take()
  if token.text ~= text then
    fail(self, ("%s expected, got %s"):format(text, token.text or token.kind))
  end
end

local function skip_lines(self)
  while is(self:peek(), "operator", "\n") do
    self:take()
  end
end

-- ---------------------------------------------------------------------- commands

-- One redirection, or nil.
local function redirect_of(self)
  local token = self:peek()
  local number
  if token.kind == "number" then
    number = self:take().number
    token = self:peek()
  end
  if token.kind ~= "operator" or not REDIRECTS[token.text] then
    if number then fail(self, "unexpected number") end
    return nil
  end
  self:take()
  local target = self:take()
  if target.kind ~= "word" then fail(self, "a redirection without a file") end
  local fd = number or (token.text:sub(1, 1) == "<" and 0 or 1)
  local redirect = { fd = fd, op = token.text, word = target.parts }
  if token.text:sub(1, 2) == "<<" then
    local ending, literal = {}, false
    for i, part in ipairs(target.parts) do
      ending[i] = part.lit or ""
      literal = literal or part.quoted
    end
    redirect.ending, redirect.literal = table.concat(ending), literal
    self.waiting[#self.waiting + 1] = redirect
  end
  return redirect
end

local function redirects_of(self)
  local list = {}
  while true do
    local redirect = redirect_of(self)
    if not redirect then return list end
    list[#list + 1] = redirect
  end
end

-- NAME=value ahead of a command: the name, and the parts of the value.
local function assignment_of(parts)
  local first = parts[1]
  if not first or not first.lit or first.quoted then return nil end
  local name, rest = first.lit:match("^([%a_][%w_]*)=(.*)$")
  if not name then return nil end
  local value = table.move(parts, 2, #parts, 2, { { lit = rest, quoted = false } })
  return { name = name, value = value }
end

local parse_command

local function simple(self)
  local node = { kind = "simple", assigns = {}, words = {}, redirects = {} }
  while true do
    local redirect = redirect_of(self)
    if redirect then
      node.redirects[#node.redirects + 1] = redirect
    else
      local token = self:peek()
      if token.kind ~= "word" then break end
      self:take()
      local assign = #node.words == 0 and assignment_of(token.parts)
      if assign then
        node.assigns[#node.assigns + 1] = assign
      else
        node.words[#node.words + 1] = token.parts
      end
      if #node.words == 1 and token.text and is(self:peek(), "operator", "(") then
        self:take()
        expect(self, ")")
        skip_lines(self)
        return { kind = "function", name = token.text, body = parse_command(self) }
      end
    end
  end
  if #node.words + #node.assigns + #node.redirects == 0 then
    local token = self:peek()
    fail(self, "unexpected " .. (token.text == "\n" and "newline" or token.text or token.kind))
  end
  return node
end

local function if_clause(self)
  local node = { kind = "if", arms = {} }
  repeat
    local condition = parse_list(self, { ["then"] = true })
    expect(self, "then")
    local body = parse_list(self, { ["elif"] = true, ["else"] = true, ["fi"] = true })
    node.arms[#node.arms + 1] = { condition = condition, body = body }
    local word = self:take().text
    if word == "else" then
      node.otherwise = parse_list(self, { ["fi"] = true })
      expect(self, "fi")
      return node
    end
  until word ~= "elif"
  return node
end

local function loop_body(self)
  expect(self, "do")
  local body = parse_list(self, { ["done"] = true })
  expect(self, "done")
  return body
end

local function while_loop(self, inverted)
  local condition = parse_list(self, { ["do"] = true })
  return { kind = "while", condition = condition, inverted = inverted, body = loop_body(self) }
end

local function for_loop(self)
  local node = { kind = "for", name = self:take().text }
  if not node.name or not node.name:find("^[%a_][%w_]*$") then fail(self, "bad for loop") end
  skip_lines(self)
  if self:peek().text == "in" then
    self:take()
    node.words = {}
    while self:peek().kind == "word" do
      node.words[#node.words + 1] = self:take().parts
    end
  end
  while is(self:peek(), "operator", ";") or is(self:peek(), "operator", "\n") do
    self:take()
  end
  node.body = loop_body(self)
  return node
end

local function case_clause(self)
  local subject = self:take()
  if subject.kind ~= "word" then fail(self, "bad case") end
  local node = { kind = "case", word = subject.parts, arms = {} }
  skip_lines(self)
  expect(self, "in")
  skip_lines(self)
  while self:peek().text ~= "esac" do
    if is(self:peek(), "operator", "(") then self:take() end
    local arm = { patterns = {} }
    repeat
      local token = self:take()
      if token.kind ~= "word" then fail(self, "bad case") end
      arm.patterns[#arm.patterns + 1] = token.parts
      local after = self:take().text
      if after ~= "|" and after ~= ")" then fail(self, "bad case") end
    until after == ")"
    arm.body = parse_list(self, { [";;"] = true, ["esac"] = true })
    node.arms[#node.arms + 1] = arm
    if is(self:peek(), "operator", ";;") then self:take() end
    skip_lines(self)
  end
  expect(self, "esac")
  return node
end

local function group(self)
  local body = parse_list(self, { ["}"] = true })
  expect(self, "}")
  return { kind = "group", body = body }
end

local compound = {
  ["if"] = if_clause,
  ["while"] = function(self) return while_loop(self, false) end,
  ["until"] = function(self) return while_loop(self, true) end,
  ["for"] = for_loop,
  ["case"] = case_clause,
  ["{"] = group,
}

function parse_command(self)
  local token = self:peek()
  deeper(self)
  local node
  if is(token, "operator", "(") then
    self:take()
    local body = parse_list(self, { [")"] = true })
    expect(self, ")")
    node = { kind = "subshell", body = body }
  elseif token.kind == "word" and compound[token.text or ""] then
    self:take()
    node = compound[token.text](self)
  else
    node = simple(self)
  end
  self.depth = self.depth - 1
  if node.kind ~= "simple" and node.kind ~= "function" then node.redirects = redirects_of(self) end
  return node
end

local function pipeline(self)
  local inverted = self:peek().text == "!" and self:peek().kind == "word"
  if inverted then self:take() end
  local list = { parse_command(self) }
  while is(self:peek(), "operator", "|") do
    self:take()
    skip_lines(self)
    list[#list + 1] = parse_command(self)
  end
  if #list == 1 and not inverted then return list[1] end
  return { kind = "pipe", list = list, inverted = inverted }
end

local function and_or(self)
  local left = pipeline(self)
  while true do
    local token = self:peek()
    if not (is(token, "operator", "&&") or is(token, "operator", "||")) then return left end
    self:take()
    skip_lines(self)
    left = { kind = token.text == "&&" and "and" or "or", left = left, right = pipeline(self) }
  end
end

-- Commands until a token whose text is a key of `stops`, or the end.
function parse_list(self, stops)
  local items = {}
  while true do
    while is(self:peek(), "operator", "\n") or is(self:peek(), "operator", ";") do
      self:take()
    end
    local token = self:peek()
    if token.kind == "end" then
      if next(stops) then fail(self) end
      break
    end
    local closes = token.kind == "operator" or CLOSERS[token.text or ""]
    if token.text and stops[token.text] and closes then break end
    if token.kind == "operator" and token.text ~= "(" and not REDIRECTS[token.text] then break end
    if CLOSERS[token.text or ""] then fail(self, "unexpected " .. token.text) end
    local item = { node = and_or(self) }
    items[#items + 1] = item
    local after = self:peek()
    if is(after, "operator", "&") then
      self:take()
      item.background = true
    elseif not (is(after, "operator", ";") or is(after, "operator", "\n")) then
      if not (after.kind == "end" or after.text and stops[after.text]) then
        fail(self, "unexpected " .. (after.text or after.kind))
      end
    end
  end
  return { kind = "list", items = items }
end

Parser.list = parse_list

---The tree of a script.
---@param text string
---@return table|nil tree
---@return string|nil problem
function parse.script(text)
  local self = setmetatable({ text = text, at = 1, depth = 0, waiting = {} }, Parser)
  local ok, tree = pcall(function()
    local tree = parse_list(self, {})
    if self:peek().kind ~= "end" then fail(self, "unexpected " .. (self:peek().text or "word")) end
    return tree
  end)
  if ok then return tree end
  if type(tree) ~= "table" or not tree.syntax then error(tree, 0) end
  local _, line = text:sub(1, tree.at):gsub("\n", "")
  return nil, ("line %d: syntax error: %s"):format(line + 1, tree.syntax)
end

return parse
