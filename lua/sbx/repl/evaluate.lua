-- Inputs as programs: each is a chunk of its own, and the locals of its outermost
-- block stay for those that follow.
--
-- A later chunk that names such a local has it as an upvalue, which is joined with
-- the variable itself: functions made before see what is assigned later.

local core = require("sbx.core.task")
local lexer = require("sbx.repl.lexer")

local evaluate = {}

local MOST = 150 -- locals of one chunk: Lua has room for 200

---@class sbx.repl.Session
---@field variables table<string, { fn: function, index: integer }>  name → whose upvalue it is
---@field closing { name: string, value: any }[]  what `<close>` variables hold, the oldest first
local Session = {}
Session.__index = Session

---@return sbx.repl.Session
function evaluate.new()
  return setmetatable({ variables = {}, closing = {} }, Session)
end

-- ---------------------------------------------------------------------- syntax

local function wants_more(problem, text)
  if not problem:find("near '?<eof>'?$") then return false end
  -- A short string goes on in the next line only behind a backslash.
  local is_short = problem:find(": unfinished string near", 1, true)
  return not is_short or text:find("\\z?%s*$") ~= nil
end

-- `= value`, as stock Lua's prompt has it, is an expression.
local function without_sign(text)
  return (text:gsub("^%s*=", "return ", 1))
end

---Whether `text` is a beginning that more lines may finish.
---@param text string
---@return boolean
function evaluate.is_unfinished(text)
  text = without_sign(text)
  local fn, problem = load(text, "=input", "t")
  if fn then return false end
  local other
  fn, other = load("return " .. text, "=input", "t")
  if fn then return false end
  return wants_more(problem, text) or wants_more(other, text)
end

-- The same text without the attributes: the variables outlive the block.
local function without_attributes(text, locals)
  for i = #locals, 1, -1 do
    local each = locals[i]
    if each.first then
      text = text:sub(1, each.first - 1)
        .. text:sub(each.first, each.last):gsub("[^\n]", " ") .. text:sub(each.last + 1)
    end
  end
  return text
end

local function unique_names(locals)
  local names, seen = {}, {}
  for i = #locals, 1, -1 do -- of two with one name the last one is meant
    local name = locals[i].name
    if not seen[name] and #names < MOST then
      seen[name] = true
      table.insert(names, 1, name)
    end
  end
  return names
end

local function index_of_upvalue(fn, name)
  local index = 1
  while true do
    local found = debug.getupvalue(fn, index)
    if found == nil then return nil end
    if found == name then return index end
    index = index + 1
  end
end

-- What lets an input see the variables of those before, on its first line.
local function head_of(self, names)
  local known = {}
  for name in pairs(names) do
    if self.variables[name] and #known < MOST then known[#known + 1] = name end
  end
  table.sort(known)
  local declared = #known > 0 and "local " .. table.concat(known, ",") .. " " or ""
  return declared .. "return function(...) ", known
end

-- A function that the input calls at its end with one that has its locals.
local CAPTURE = "_sbx_capture_"

local function compile(self, text, chunk_name)
  local locals, returns, names = lexer.locals(text)
  local head, known = head_of(self, names)
  local own = unique_names(locals)
  if #own == 0 and #known == 0 then return load(text, chunk_name, "t") end
  text = without_attributes(text, locals)
  local capture = ""
  if #own > 0 then
    head = "local " .. CAPTURE .. " " .. head
    local list = table.concat(own, ",")
    capture = (" %s(function() return %s end) "):format(CAPTURE, list)
  end
  local at = returns or #text + 1
  local body = text:sub(1, at - 1) .. (returns and "" or "\n") .. capture .. text:sub(at)
  local maker, problem = load(head .. body .. "\nend", chunk_name, "t")
  if not maker then return nil, problem end
  local fn = maker()
  for _, name in ipairs(known) do
    local index = index_of_upvalue(fn, name)
    local from = self.variables[name]
    if index then debug.upvaluejoin(fn, index, from.fn, from.index) end
  end
  return fn, nil, locals, own
end

-- ------------------------------------------------------------------- variables

local function keep(self, holder, names)
  for _, name in ipairs(names) do
    local index = index_of_upvalue(holder, name)
    if index then self.variables[name] = { fn = holder, index = index } end
  end
end

local function value_of(variable)
  local _, value = debug.getupvalue(variable.fn, variable.index)
  return value
end

---The value of a local that an input has left, and whether there is one.
---@param name string
---@return any value, boolean known
function Session:value(name)
  local variable = self.variables[name]
  if not variable then return nil, false end
  return value_of(variable), true
end

---The names of these locals.
---@return string[]
function Session:names()
  local names = {}
  for name in pairs(self.variables) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

local function close_method(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__close") or nil
end

-- `<close>` variables belong to the session, but for scopes, which end with the
-- task that opened them.
local function note_closing(self, locals)
  for _, each in ipairs(locals) do
    local value = each.attribute == "close" and self:value(each.name)
    if value then
      if not close_method(value) then
        error(("variable '%s' got a non-closable value"):format(each.name), 0)
      end
      if debug.getmetatable(value) == core.scope_metatable then
        close_method(value)(value, nil)
      else
        table.insert(self.closing, { name = each.name, value = value })
      end
    end
  end
end

---Ends what `<close>` variables hold, the newest first. Returns the failures.
---@async
---@return { name: string, error: any }[]
function Session:close()
  local failures = {}
  while #self.closing > 0 do
    local each = table.remove(self.closing)
    local ok, err = pcall(close_method(each.value), each.value, nil)
    if not ok then table.insert(failures, { name = each.name, error = err }) end
  end
  return failures
end

-- ---------------------------------------------------------------------- inputs

---@class sbx.repl.Input
---@field fn function
---@field run async fun(...): any  what `fn` returns; its locals stay, also when it fails
---@field salvage fun()  for a message handler: keeps the locals of the running input

-- A variable of its own for a value, as a closure has it.
local function holder_of(name, value)
  local maker = load(("local %s = ... return function() return %s end"):format(name, name))
  return maker and maker(value)
end

-- An input that fails leaves what it had come to: the locals of its frame.
local function salvage(self, fn, own)
  if not own or #own == 0 then return end
  local level = 2
  while true do
    local info = debug.getinfo(level, "f")
    if not info then return end
    if info.func == fn then break end
    level = level + 1
  end
  local wanted = {}
  for _, name in ipairs(own) do
    wanted[name] = true
  end
  local index = 1
  while true do
    local name, value = debug.getlocal(level, index)
    if not name then return end
    local holder = wanted[name] and holder_of(name, value)
    if holder then keep(self, holder, { name }) end
    index = index + 1
  end
end

---Makes a program of an input: an expression, or statements. Nil and a message for
---one that is no Lua.
---@param text string
---@param chunk_name string  "=in[1]"
---@return sbx.repl.Input|nil input, string|nil problem
function Session:compile(text, chunk_name)
  local fn, problem, locals, own
  text = without_sign(text)
  if load("return " .. text, chunk_name, "t") then
    fn = compile(self, "return " .. text, chunk_name)
  end
  if not fn then
    -- First alone: no text may end the function that it is put into.
    fn, problem = load(text, chunk_name, "t")
    if not fn then
      return nil, problem
    end
    fn, problem, locals, own = compile(self, text, chunk_name)
    if not fn then return nil, problem end
  end
  local captures = own and #own > 0 and index_of_upvalue(fn, CAPTURE)
  if captures then
    debug.setupvalue(fn, captures, function(holder)
      keep(self, holder, own)
      note_closing(self, locals)
    end)
  end
  return { fn = fn, run = fn, salvage = function() salvage(self, fn, own) end }
end

return evaluate
