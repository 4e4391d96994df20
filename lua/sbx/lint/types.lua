-- The types in comments for editors, as far as a check of scripts needs them.
--
-- A type is a list of what a value may be, each one of
--   { kind = "class", name = "sbx.http.Client" }
--   { kind = "array", of = a type }
--   { kind = "shape", fields = { name = a type } }   `{ name: string }`
--   { kind = "fun", params = { { name =, type = } }, returns = types }
--   { kind = "other" }                               all else, of which nothing is known

local types = {}

-- The length of the type that `text` begins with: spaces belong to it inside
-- brackets, and around `|`, and behind the `:` of a function's result.
local function type_length(text)
  local depth, at = 0, 1
  while at <= #text do
    local character = text:sub(at, at)
    if character:find("[({<%[]") then
      depth = depth + 1
    elseif character:find("[)}>%]]") then
      depth = depth - 1
    elseif depth == 0 and character == "," then
      break
    elseif depth == 0 and character == " " then
      local before, behind = text:sub(1, at - 1), text:sub(at + 1)
      local goes_on = before:find("[|:]$") or behind:find("^|") or before:find("^async$")
        or before:find("|async$")
      if not goes_on then break end
    end
    at = at + 1
  end
  return at - 1
end

-- The parts of `text` between separators that stand outside all brackets.
local function split(text, separator)
  local parts, depth, from = {}, 0, 1
  for at = 1, #text do
    local character = text:sub(at, at)
    if character:find("[({<%[]") then
      depth = depth + 1
    elseif character:find("[)}>%]]") then
      depth = depth - 1
    elseif depth == 0 and character == separator then
      parts[#parts + 1] = text:sub(from, at - 1)
      from = at + 1
    end
  end
  parts[#parts + 1] = text:sub(from)
  return parts
end

local function parse_shape(inside)
  local fields = {}
  for _, part in ipairs(split(inside, ",")) do
    local name, rest = part:match("^%s*([%a_][%w_]*)%??%s*:%s*(.*)$")
    if name then
      fields[name] = types.parse(rest)
    elseif part:find("%S") then
      return { kind = "other" } -- an index type: any field
    end
  end
  return { kind = "shape", fields = fields }
end

local function parse_function(text)
  local inside, rest = text:match("fun%s*(%b())%s*:?%s*(.*)$")
  if not inside then return { kind = "other" } end
  local params = {}
  for _, part in ipairs(split(inside:sub(2, -2), ",")) do
    local name, kind = part:match("^%s*([%w_.]+)%??%s*:%s*(.*)$")
    params[#params + 1] = { name = name or part, type = kind and types.parse(kind) }
  end
  return { kind = "fun", params = params, returns = types.returns(rest) }
end

local function parse_one(text)
  text = text:match("^%s*(.-)%s*$")
  local of = text:match("^(.*)%[%]$")
  if of then return { kind = "array", of = types.parse(of) } end
  local inner = text:match("^%((.*)%)$")
  if inner then return types.parse(inner)[1] or { kind = "other" } end
  local inside = text:match("^{(.*)}$")
  if inside then return parse_shape(inside) end
  if text:find("^sbx[%w_.]*$") then return { kind = "class", name = text } end
  if text == "nil" or text == "string" or text == "number" or text == "integer"
    or text == "boolean" or text == "function" or text:find('^["\']') then
    return nil -- no table
  end
  if text:find("^async%s") or text:find("^fun%s*%(") then return parse_function(text) end
  return { kind = "other" }
end

---The type that `text` begins with.
---@param text string
---@return table type, string rest
function types.parse(text)
  text = text:gsub("^%s+", "")
  local length = type_length(text)
  local list = {}
  for _, part in ipairs(split(text:sub(1, length), "|")) do
    list[#list + 1] = parse_one(part)
  end
  return list, text:sub(length + 1)
end

---The types of `@return`: "A name, B name  words".
---@param text string
---@return table[]
function types.returns(text)
  local list = {}
  for _, part in ipairs(split(text, ",")) do
    list[#list + 1] = types.parse(part)
    if part:find("%S%s%s+%S") then break end -- from here on it is words
  end
  return list
end

---What the comment `lines` (without `---`) says of the function or table below.
---@param lines string[]
---@return { class?: string, parents?: string[], fields: table, params: table, returns: table[], is_open?: boolean }
function types.comment(lines)
  local found = { fields = {}, params = {}, returns = {} }
  for _, line in ipairs(lines) do
    local tag, rest = line:match("^%s*@(%a+)%s*(.*)$")
    if tag == "class" then
      local name, parents = rest:gsub("^%(%a+%)%s*", ""):match("^([%w_.]+)%s*:?%s*([%w_., ]*)")
      found.class, found.parents = name, {}
      for parent in (rest:find(":", 1, true) and parents or ""):gmatch("sbx[%w_.]*") do
        table.insert(found.parents, parent)
      end
    elseif tag == "field" then
      local name, kind = rest:match("^([%a_][%w_]*)%??%s+(.*)$")
      if name then
        found.fields[name] = types.parse(kind)
      else
        found.is_open = true -- `[string] any`
      end
    elseif tag == "param" then
      local name, kind = rest:match("^([%w_.]+)%??%s+(.*)$")
      if name then found.params[name] = types.parse(kind) end
    elseif tag == "return" then
      for _, each in ipairs(types.returns(rest)) do
        table.insert(found.returns, each)
      end
    elseif tag == "overload" then
      found.is_special = true
    end
  end
  return found
end

return types
