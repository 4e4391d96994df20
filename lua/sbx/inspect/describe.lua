-- From a value to a tree of what is to be shown. Nothing here runs a metamethod
-- but __tostring, and that under protection; nothing is read but raw.
--
-- A node is a leaf { text =, style = }, or a table { head =, items =, more = } whose
-- items are { label =, node = }. One that is shown again elsewhere is marked `shared`,
-- and stands there as a leaf { target = node }.

local brief = require("sbx.inspect.brief")
local errors = require("sbx.errors")
local json = require("sbx.json")
local keys = require("sbx.inspect.keys")
local quote = require("sbx.inspect.quote")
local redact = require("sbx.log.redact")

local describe = {}

local MOST_TEXT = 1000 -- bytes of a string
local MOST_NAME = 100 -- bytes of a key, and of what a __tostring says
local ITEMS_IN_ALL = 100 -- times max_items

local function leaf(text, style)
  return { text = text, style = style }
end

local function named(text)
  return quote.harmless((quote.beginning(text, MOST_NAME)))
end

local function in_brackets(text)
  return leaf("<" .. text .. ">", "special")
end

-- ------------------------------------------------------------------- functions

-- What the loaded modules call a C function: "string.format".
local function name_of_builtin(fn)
  for module, contents in next, package.loaded do
    if type(module) == "string" and type(contents) == "table" then
      for name, value in next, contents do
        -- The prompt has its last value as `_`.
        if rawequal(value, fn) and type(name) == "string" and name ~= "_" then
          return module == "_G" and name or module .. "." .. name
        end
      end
    end
  end
  return "builtin"
end

local function describe_function(fn)
  local info = debug.getinfo(fn, "Su")
  if info.what == "C" then return in_brackets("function " .. named(name_of_builtin(fn))) end
  local parameters = {}
  for i = 1, info.nparams do
    parameters[i] = debug.getlocal(fn, i)
  end
  if info.isvararg then parameters[#parameters + 1] = "..." end
  return in_brackets(("function(%s) %s:%d"):format(table.concat(parameters, ", "),
    named(info.short_src), info.linedefined))
end

-- --------------------------------------------------------------------- objects

local function meta_of(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and meta or nil
end

local function name_of(meta)
  local name = meta and rawget(meta, "__name")
  return type(name) == "string" and named(name) or nil
end

-- Objects that are data: their fields say more than their __tostring.
local BY_FIELDS = {
  ["sbx.error"] = true, ["sbx.sandbox.Box"] = true, ["sbx.http.Response"] = true,
}

-- What the value's own __tostring says, if it has one and that works.
local function own_text(value, meta)
  if not meta or rawget(meta, "__tostring") == nil then return nil end
  local ok, text = pcall(tostring, value)
  if not ok then return nil end
  return redact.text(text)
end

local function describe_opaque(value)
  local meta = meta_of(value)
  local text = own_text(value, meta)
  if text then return in_brackets(named(text)) end
  if value == json.null then return leaf("null", "literal") end
  return in_brackets(name_of(meta) or type(value))
end

local function describe_thread(thread)
  return in_brackets("coroutine " .. coroutine.status(thread))
end

-- ---------------------------------------------------------------------- values

local describe_value

local function describe_string(text, state)
  if not state.reveal then text = redact.keys(text) end
  local quoted, left_out = quote.string(text, MOST_TEXT)
  local node = leaf(quoted, "string")
  if left_out > 0 then node.more = ("… %d more bytes"):format(left_out) end
  return node
end

local function label_of(key)
  if type(key) == "string" then
    if quote.is_name(key) then return key end
    local quoted, left_out = quote.string(redact.keys(key), MOST_NAME)
    return "[" .. quoted .. (left_out > 0 and "…" or "") .. "]"
  end
  if type(key) == "number" then return "[" .. quote.number(key) .. "]" end
  if type(key) == "boolean" then return "[" .. tostring(key) .. "]" end
  if type(key) == "function" then return "[" .. describe_function(key).text .. "]" end
  if type(key) == "thread" then return "[" .. describe_thread(key).text .. "]" end
  return "[" .. describe_opaque(key).text .. "]"
end

-- "key" alone is too ordinary a name to hide what it holds.
local function hides(key, value, state)
  if state.reveal or type(key) ~= "string" or key:lower() == "key" then return false end
  return type(value) ~= "function" and redact.hides(key, value)
end

local function add_item(node, state, depth, label, key, value)
  state.budget = state.budget - 1
  local child
  if hides(key, value, state) then
    child = leaf(redact.HIDDEN, "special")
  else
    child = describe_value(value, state, depth + 1)
  end
  table.insert(node.items, { label = label, node = child })
end

local function count_text(count)
  return ("%d item%s"):format(count, count == 1 and "" or "s")
end

local function describe_table(value, state, depth, head)
  local known = state.seen[value]
  if known then
    known.shared = true
    return { target = known, style = "more" }
  end
  local length, others, count = keys.of(value, state.max_items, state.sort)
  local total = length + count
  if total == 0 then return leaf(head .. "{}", "plain") end
  if depth >= state.depth or state.budget <= 0 then
    return leaf(head .. "{… " .. count_text(total) .. "}", "more")
  end
  local node = { head = head, items = {} }
  state.seen[value] = node
  for i = 1, math.min(length, state.max_items) do
    if state.budget <= 0 then break end
    add_item(node, state, depth, nil, i, rawget(value, i))
  end
  for _, key in ipairs(others) do
    if #node.items >= state.max_items or state.budget <= 0 then break end
    add_item(node, state, depth, label_of(key), key, rawget(value, key))
  end
  if total > #node.items then node.more = ("… %d more"):format(total - #node.items) end
  return node
end

local function is_plain(meta)
  return meta == nil or meta == debug.getmetatable(json.array())
    or meta == debug.getmetatable(json.object())
end

local function describe_object(value, state, depth)
  local meta = meta_of(value)
  if is_plain(meta) then return describe_table(value, state, depth, "") end
  local name = name_of(meta)
  local line = state.brief and brief.line(name, value)
  if line then return in_brackets(line) end
  if not BY_FIELDS[name] and not errors.is_error(value) then
    local text = own_text(value, meta)
    if text then return in_brackets(named(text)) end
  end
  return describe_table(value, state, depth, name and name .. " " or "")
end

function describe_value(value, state, depth)
  local kind = type(value)
  if kind == "string" then return describe_string(value, state) end
  if kind == "number" then return leaf(quote.number(value), "number") end
  if kind == "nil" or kind == "boolean" then return leaf(tostring(value), "literal") end
  if kind == "table" then return describe_object(value, state, depth) end
  if kind == "function" then return describe_function(value) end
  if kind == "thread" then return describe_thread(value) end
  return describe_opaque(value)
end

---The tree of `value`.
---@param value any
---@param options sbx.inspect.Options  each of them but width and colour
---@return table node
function describe.value(value, options)
  local state = {
    depth = options.depth, max_items = options.max_items, sort = options.sort,
    reveal = options.reveal, brief = options.brief,
    budget = options.max_items * ITEMS_IN_ALL, seen = {},
  }
  return describe_value(value, state, 0)
end

return describe
