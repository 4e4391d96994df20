-- What the words of a shell script stand for: parameters, substitutions, arithmetic,
-- splitting into fields, and names of files.

local expand = {}

local MAX_VALUE = 16 * 1024 * 1024

-- ---------------------------------------------------------------------- patterns

local CLASSES = { digit = "%d", alpha = "%a", alnum = "%w", space = "%s", upper = "%u",
  lower = "%l", punct = "%p", xdigit = "%x" }

-- The Lua class for what stands between brackets from `at` on, and what comes after.
local function bracket(glob, at)
  local from = at + 1
  local negated = glob:find("^[!^]", from) ~= nil
  if negated then from = from + 1 end
  local last = glob:find("]", from + 1, true)
  while last and glob:sub(from, last):find("%[:%a+:$") do
    last = glob:find("]", last + 1, true)
  end
  if not last then return nil end
  local body = glob:sub(from, last - 1)
  body = body:gsub("%[:(%a+):%]", function(name) return "\1" .. (CLASSES[name] or "") end)
  body = body:gsub("[%%%]%[^]", "%%%0"):gsub("\1%%%%", "%%")
  return (negated and "[^" or "[") .. body .. "]", last + 1
end

---A Lua pattern, without anchors, for a shell's. `escaped` holds the positions of
---characters that stand for themselves.
---@param glob string
---@param escaped? table<integer, boolean>
---@param any? string  what "*" becomes (default ".*")
---@return string
local function to_lua(glob, escaped, any)
  local out, at = {}, 1
  while at <= #glob do
    local char = glob:sub(at, at)
    local literal = escaped and escaped[at]
    local class, after
    if char == "[" and not literal then class, after = bracket(glob, at) end
    if class then
      out[#out + 1] = class
      at = after
    else
      if char == "*" and not literal then
        out[#out + 1] = any or ".*"
      elseif char == "?" and not literal then
        out[#out + 1] = "."
      else
        out[#out + 1] = (char:gsub("%W", "%%%0"))
      end
      at = at + 1
    end
  end
  return table.concat(out)
end

---Whether `text` fits a pattern, given as `expand.pattern` gives it.
---@param text string
---@param pattern string
---@return boolean
function expand.matches(text, pattern)
  -- One that is too much for Lua fits nothing.
  local ok, found = pcall(string.find, text, "^" .. pattern .. "$")
  return ok and found ~= nil
end

local function strip(value, pattern, op)
  local prefix = op:sub(1, 1) == "#"
  local longest = #op == 2
  local from, to, step = 0, #value, 1
  if prefix == longest then from, to, step = #value, 0, -1 end
  for cut = from, to, step do
    local piece = prefix and value:sub(1, cut) or value:sub(cut + 1)
    if expand.matches(piece, pattern) then
      return prefix and value:sub(cut + 1) or value:sub(1, cut)
    end
  end
  return value
end

-- -------------------------------------------------------------------- arithmetic

local LEVELS = {
  { "||" }, { "&&" }, { "|" }, { "^" }, { "&" }, { "==", "!=" }, { "<=", ">=", "<", ">" },
  { "<<", ">>" }, { "+", "-" }, { "*", "/", "%" },
}
local function truth(value)
  return value and 1 or 0
end
local OPERATIONS = {
  ["||"] = function(a, b) return truth(a ~= 0 or b ~= 0) end,
  ["&&"] = function(a, b) return truth(a ~= 0 and b ~= 0) end,
  ["|"] = function(a, b) return a | b end, ["^"] = function(a, b) return a ~ b end,
  ["&"] = function(a, b) return a & b end,
  ["=="] = function(a, b) return truth(a == b) end,
  ["!="] = function(a, b) return truth(a ~= b) end,
  ["<="] = function(a, b) return truth(a <= b) end,
  [">="] = function(a, b) return truth(a >= b) end,
  ["<"] = function(a, b) return truth(a < b) end, [">"] = function(a, b) return truth(a > b) end,
  ["<<"] = function(a, b) return a << b end, [">>"] = function(a, b) return a >> b end,
  ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
  ["*"] = function(a, b) return a * b end,
  ["/"] = function(a, b)
    local whole = math.abs(a) // math.abs(b)
    return (a < 0) ~= (b < 0) and -whole or whole
  end,
  ["%"] = function(a, b) return math.fmod(a, b) end,
}

-- The value of an expression, or nil and what is wrong.
local function calculate(text, lookup)
  local at, depth = 1, 0
  local binary

  local function fail(words)
    error({ arithmetic = words or "syntax error" }, 0)
  end
  local function skip(what)
    local after = text:match("^%s*()", at)
    if text:sub(after, after + #what - 1) ~= what then return false end
    at = after + #what
    return true
  end
  local function primary()
    depth = depth + 1
    if depth > 100 then fail("nested too deeply") end
    local value
    if skip("(") then
      value = binary(1)
      if not skip(")") then fail() end
    elseif skip("!") then
      value = truth(primary() == 0)
    elseif skip("-") then
      value = -primary()
    elseif skip("+") then
      value = primary()
    elseif skip("~") then
      value = ~primary()
    else
      local digits, after = text:match("^%s*(0[xX]%x+)()", at)
      if not digits then digits, after = text:match("^%s*(%d+)()", at) end
      if digits then
        local octal = digits:find("^0%d")
        value = math.tointeger(tonumber(digits, octal and 8 or nil)) or 0
      else
        digits, after = text:match("^%s*([%a_][%w_]*)()", at)
        if not digits then fail() end
        value = math.tointeger(tonumber(lookup(digits) or "")) or 0
      end
      at = after
    end
    depth = depth - 1
    return value
  end
  function binary(level)
    if not LEVELS[level] then return primary() end
    local left = binary(level + 1)
    while true do
      local found
      for _, operator in ipairs(LEVELS[level]) do
        local after = text:match("^%s*()", at)
        local following = text:sub(after + #operator, after + #operator)
        local longer = #operator == 1 and operator:find("[|&<>]") and following == operator
        if not found and not longer and skip(operator) then found = operator end
      end
      if not found then return left end
      local right = binary(level + 1)
      if (found == "/" or found == "%") and right == 0 then fail("division by zero") end
      left = OPERATIONS[found](left, right)
    end
  end

  local ok, value = pcall(function()
    local value = binary(1)
    if skip("?") then
      local yes = binary(1)
      if not skip(":") then fail() end
      local no = binary(1)
      value = value ~= 0 and yes or no
    end
    if text:find("%S", at) then fail() end
    return value
  end)
  if ok then return value end
  if type(value) == "table" and value.arithmetic then return nil, value.arithmetic end
  error(value, 0)
end

-- -------------------------------------------------------------------- parameters

local function special(sh, name)
  if name == "#" then return tostring(#sh.arguments) end
  if name == "?" then return tostring(sh.status) end
  if name == "$" then return tostring(sh.pid) end
  if name == "!" then return sh.last_background and tostring(sh.last_background) or nil end
  if name == "-" then return "" end
  if name == "0" then return sh.name end
  if name == "@" or name == "*" then
    return #sh.arguments > 0 and table.concat(sh.arguments, " ") or nil
  end
  return sh.arguments[tonumber(name)]
end

local function value_of(sh, name)
  if name:find("^[%a_]") then return sh.variables[name] end
  return special(sh, name)
end

local text_of

-- A pattern made of a word: what is quoted in it stands for itself.
---@async
function expand.pattern(sh, parts)
  local out = {}
  for _, part in ipairs(parts) do
    local text = part.lit or text_of(sh, { part })
    if part.quoted then
      out[#out + 1] = (text:gsub("%W", "%%%0"))
    else
      out[#out + 1] = to_lua(text)
    end
  end
  return table.concat(out)
end

---@async
local function parameter(sh, part)
  local value = value_of(sh, part.param)
  local op = part.op
  if not op then
    if value == nil and sh.strict and not part.param:find("[@*]") then
      sh:fail(part.param .. ": parameter not set")
    end
    return value or ""
  end
  if op == "length" then return tostring(utf8.len(value or "") or #(value or "")) end
  if op:find("[#%%]") then return strip(value or "", expand.pattern(sh, part.arg), op) end
  local missing = value == nil or (op:sub(1, 1) == ":" and value == "")
  local kind = op:sub(-1)
  if kind == "+" then return missing and "" or text_of(sh, part.arg) end
  if not missing then return value end
  local other = text_of(sh, part.arg)
  if kind == "=" then sh.variables[part.param] = other end
  if kind == "?" then
    sh:fail(("%s: %s"):format(part.param, other ~= "" and other or "parameter not set"))
  end
  return other
end

---@async
local function part_text(sh, part)
  if part.lit then return part.lit end
  if part.param then return parameter(sh, part) end
  if part.command then return sh:substitute(part.command) end
  local value, problem = calculate(text_of(sh, part.arith), function(name)
    return sh.variables[name]
  end)
  if not value then
    sh:fail("arithmetic: " .. problem)
    return ""
  end
  return tostring(value)
end

---@async
function text_of(sh, parts)
  local out, size = {}, 0
  for i, part in ipairs(parts) do
    local text = part_text(sh, part)
    if i == 1 and part.lit and not part.quoted and text:find("^~%f[/\0]") then
      text = (sh.variables.HOME or "/root") .. text:sub(2)
    end
    out[i] = text
    size = size + #text
    if size > MAX_VALUE then
      sh:fail("a value is too long")
      return ""
    end
  end
  return table.concat(out)
end

---The text of a word that is one field, such as the value of an assignment.
---@async
---@param sh sbx.server.sim.Shell
---@param parts table[]
---@return string
function expand.text(sh, parts)
  return text_of(sh, parts)
end

-- ------------------------------------------------------------------------ fields

-- A field under construction: its text, and which of its characters are quoted.
local function new_field()
  return { text = "", escaped = {}, globs = false, there = false }
end

local function add(field, text, quoted)
  field.there = true
  if quoted then
    for i = #field.text + 1, #field.text + #text do
      field.escaped[i] = true
    end
  elseif text:find("[*?%[]") then
    field.globs = true
  end
  field.text = field.text .. text
end

-- The names of files that a field stands for, or nil.
local function glob(sh, field)
  local resolved = field.text:sub(1, 1) == "/" and { "" } or { sh.cwd == "/" and "" or sh.cwd }
  local shown = { field.text:sub(1, 1) == "/" and "/" or "" }
  local at = 1
  for segment, from in field.text:gmatch("([^/]+)()") do
    from = from - #segment
    local escaped = {}
    for i = 1, #segment do
      escaped[i] = field.escaped[from + i - 1]
    end
    local pattern = to_lua(segment, escaped)
    local next_resolved, next_shown = {}, {}
    for i, folder in ipairs(resolved) do
      for _, name in ipairs(sh.files:list(folder == "" and "/" or folder) or {}) do
        local hidden = name:sub(1, 1) == "." and segment:sub(1, 1) ~= "."
        if not hidden and expand.matches(name, pattern) then
          next_resolved[#next_resolved + 1] = folder .. "/" .. name
          next_shown[#next_shown + 1] = shown[i] .. (at > 1 and "/" or "") .. name
        end
      end
      -- What /proc does not list may be there all the same.
      if #next_resolved == 0 and not segment:find("[*?%[]")
        and sh.files:node(folder .. "/" .. segment) then
        next_resolved[#next_resolved + 1] = folder .. "/" .. segment
        next_shown[#next_shown + 1] = shown[i] .. (at > 1 and "/" or "") .. segment
      end
    end
    resolved, shown, at = next_resolved, next_shown, at + 1
  end
  return #shown > 0 and shown or nil
end

local function finish(sh, field, fields)
  if not field.there then return end
  local names = field.globs and glob(sh, field)
  if not names then
    fields[#fields + 1] = field.text
    return
  end
  table.move(names, 1, #names, #fields + 1, fields)
end

-- Takes a text apart at blanks. The last field stays open.
local function split(sh, text, field, fields)
  local separators = sh.variables.IFS or " \t\n"
  if separators == "" then
    add(field, text, false)
    return field
  end
  local set = "[" .. separators:gsub("%W", "%%%0") .. "]"
  local at = 1
  while at <= #text do
    local first, last = text:find(set .. "+", at)
    if not first then
      add(field, text:sub(at), false)
      break
    end
    if first > at then add(field, text:sub(at, first - 1), false) end
    finish(sh, field, fields)
    field = new_field()
    at = last + 1
  end
  return field
end

---The fields that words stand for.
---@async
---@param sh sbx.server.sim.Shell
---@param words table[][]
---@return string[]
function expand.fields(sh, words)
  local fields = {}
  for _, parts in ipairs(words) do
    local field = new_field()
    for i, part in ipairs(parts) do
      if part.param == "@" and not part.op and part.quoted then
        for index, argument in ipairs(sh.arguments) do
          if index > 1 then
            finish(sh, field, fields)
            field = new_field()
          end
          add(field, argument, true)
        end
      else
        local text = part_text(sh, part)
        if i == 1 and part.lit and not part.quoted and text:find("^~%f[/\0]") then
          text = (sh.variables.HOME or "/root") .. text:sub(2)
        end
        if part.quoted or part.lit then
          -- The empty piece that opens "$@" is no field of its own.
          local opens = part.lit == "" and part.quoted and parts[i + 1]
            and parts[i + 1].param == "@"
          if not opens then add(field, text, part.quoted) end
        else
          field = split(sh, text, field, fields)
        end
      end
    end
    finish(sh, field, fields)
  end
  return fields
end

return expand
