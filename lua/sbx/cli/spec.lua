-- The description of a command line: finding its mistakes early, and the words
-- under which its options are given.

local nearest = require("sbx.nearest")
local values = require("sbx.cli.values")

local spec = {}

local function set(words)
  local result = {}
  for word in words:gmatch("%S+") do
    result[word] = true
  end
  return result
end

local LEVEL_KEYS = "name summary description example notes options arguments commands run "
local COMMAND_KEYS = set(LEVEL_KEYS .. "group hidden apart")
local ROOT_KEYS = set(LEVEL_KEYS .. "version")
local VALUE_KEYS = "name type of choices default min max metavar help complete "
local OPTION_KEYS = set(VALUE_KEYS .. "short required env secret group hidden also")
local ARGUMENT_KEYS = set(VALUE_KEYS .. "optional many raw")

local KINDS = {
  name = "string", type = "string", of = "string", choices = "table", metavar = "string",
  help = "string", complete = "string", short = "string", required = "boolean", env = "string",
  secret = "boolean", also = "table", apart = "boolean",
  group = "string", hidden = "boolean", optional = "boolean", many = "boolean", raw = "boolean",
  summary = "string", description = "string", notes = "string", version = "string",
  options = "table", arguments = "table", commands = "table", run = "function",
}

local function refuse(where, ...)
  error(where .. ": " .. table.concat({ ... }), 0)
end

local function sorted(names)
  local list = {}
  for name in pairs(names) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

local function check_keys(where, given, known)
  if type(given) ~= "table" then refuse(where, "expected a table, got a ", type(given)) end
  for key, value in pairs(given) do
    local name = tostring(key)
    if not known[key] then
      refuse(where, "unknown key '", name, "'", nearest.hint(name, sorted(known)))
    end
    local kind = KINDS[key]
    if kind and type(value) ~= kind then
      refuse(where, key, ": expected a ", kind, ", got a ", type(value))
    end
  end
end

---The key under which the value of `name` is found: "dry-run" → "dry_run".
---@param name string
---@return string
function spec.key(name)
  return (name:gsub("-", "_"))
end

---"dry_run" → "--dry-run".
---@param name string
---@return string
function spec.long(name)
  return "--" .. name:gsub("_", "-")
end

---How an argument is called in messages and usage lines.
---@param argument table
---@return string
function spec.label(argument)
  return argument.metavar or argument.name:gsub("_", "-"):upper()
end

-- ------------------------------------------------------------------- one item

local function check_type(where, item)
  local kind = item.type or "string"
  local holds_many = kind == "list" or kind == "map"
  if not holds_many and not values.simple[kind] then
    local known = sorted(values.simple)
    table.insert(known, "list")
    table.insert(known, "map")
    refuse(where, "unknown type '", kind, "'; there are ", values.listed(known))
  end
  if item.of and not holds_many then refuse(where, "`of` goes with type list or map only") end
  local element = holds_many and (item.of or "string") or kind
  if holds_many and (not values.simple[element] or element == "flag") then
    refuse(where, "of: no type of a single value: '", element, "'")
  end
  if (element == "choice") ~= (item.choices ~= nil) then
    refuse(where, "type choice and `choices` go together")
  end
  for _, choice in ipairs(item.choices or {}) do
    if type(choice) ~= "string" then refuse(where, "choices: expected strings") end
  end
  if item.choices and #item.choices == 0 then refuse(where, "choices: there are none") end
  return element, holds_many
end

local function check_bounds(where, item, element)
  for _, name in ipairs({ "min", "max" }) do
    local bound = item[name]
    if bound ~= nil then
      if not values.ordered[element] then refuse(where, name, ": a ", element, " has no bounds") end
      if type(values.of_spec(element, bound)) ~= "number" then
        refuse(where, name, ": not a value of type ", element)
      end
    end
  end
end

-- Whether `value` may stand as a default of this simple type.
local function fits(element, item, value)
  value = values.of_spec(element, value)
  if element == "flag" then return type(value) == "boolean" end
  if element == "integer" or element == "size" then return math.type(value) == "integer" end
  if values.ordered[element] then return type(value) == "number" end
  if type(value) ~= "string" then return false end
  if element ~= "choice" then return true end
  return values.convert({ type = "choice", choices = item.choices }, value) ~= nil
end

local function check_default(where, item, element, holds_many)
  local default = item.default
  if default == nil then return end
  if item.secret then refuse(where, "a secret has no default: it would be readable here") end
  if item.required then refuse(where, "what is required has no default") end
  if not (holds_many or item.many) then
    default = { default }
  elseif type(default) ~= "table" then
    refuse(where, "default: expected a table")
  end
  for _, value in pairs(default) do
    if not fits(element, item, value) then
      refuse(where, "default: not a value of type ", element)
    end
  end
end

local function check_item(where, item)
  if not item.name or not item.name:find("^%a[%w_-]*$") then
    refuse(where, "name: expected letters, digits, - and _")
  end
  local element, holds_many = check_type(where, item)
  check_bounds(where, item, element)
  check_default(where, item, element, holds_many)
end

-- ----------------------------------------------------------- what comes with it

local function check_option(parent, number, option)
  check_keys(("%s, option %d"):format(parent, number), option, OPTION_KEYS)
  local where = ("%s, option '%s'"):format(parent, tostring(option.name))
  check_item(where, option)
  if option.short and not option.short:find("^[%w?]$") then
    refuse(where, "short: expected one letter or digit")
  end
  if option.type == "flag" and option.required then refuse(where, "a flag cannot be required") end
  if option.secret and option.type == "flag" then refuse(where, "a flag cannot be secret") end
  if option.secret and option.short then
    refuse(where, "a secret cannot be given on the command line: no `short`")
  end
  for _, word in ipairs(option.also or {}) do
    if type(word) ~= "string" or not word:find("^%-") then
      refuse(where, "also: expected options, such as --force")
    end
  end
end

local function check_arguments(where, arguments)
  local many, optional
  for i, argument in ipairs(arguments) do
    local here = ("%s, argument %d"):format(where, i)
    check_keys(here, argument, ARGUMENT_KEYS)
    here = ("%s, argument '%s'"):format(where, tostring(argument.name))
    check_item(here, argument)
    local kind = argument.type
    if kind == "flag" or kind == "list" or kind == "map" then
      refuse(here, "type ", kind, " is for options", kind == "list" and "; say many = true" or "")
    end
    if argument.raw and not argument.many then refuse(here, "raw goes with many = true") end
    if argument.raw and (optional or many or i < #arguments) then
      refuse(here, "a raw argument is the last one, and all before it are needed")
    end
    if argument.default ~= nil and not argument.optional then
      refuse(here, "a default goes with optional = true")
    end
    if argument.many and many then refuse(here, "only one argument can be many") end
    if optional and not argument.optional and not argument.many then
      refuse(here, "what is needed comes before what is optional")
    end
    many, optional = many or argument.many, optional or argument.optional
  end
end

-- ------------------------------------------------------------- words and names

-- Enters `word` into the scope; a word stands for one thing.
local function enter(scope, where, word, meaning)
  local other = scope.words[word]
  if other then
    local owner = other.option and "option '" .. other.option.name .. "'" or "cli itself"
    refuse(where, word, " is taken by ", owner)
  end
  scope.words[word] = meaning
  if word:sub(1, 2) == "--" then table.insert(scope.longs, word) end
end

local function enter_option(scope, where, option)
  where = where .. ", option '" .. option.name .. "'"
  local long = spec.long(option.name)
  enter(scope, where, long, { option = option })
  if option.type == "flag" then
    enter(scope, where, "--no-" .. long:sub(3), { option = option, negative = true })
  end
  if option.secret then
    enter(scope, where, long .. "-file", { option = option, from_file = true })
  end
  if option.short then enter(scope, where, "-" .. option.short, { option = option }) end
  for _, word in ipairs(option.also or {}) do
    scope.meant[word] = option.secret and long .. "-file" or long
  end
  table.insert(scope.options, option)
end

local function new_scope(root)
  local scope = { words = {}, longs = {}, options = {}, meant = {} }
  enter(scope, "cli", "--help", { help = true })
  if root.version then enter(scope, "cli", "--version", { version = true }) end
  return scope
end

---What the words of a command line mean before any command of `root` is read.
---@param root table
---@return table scope  `words`: word → { option=, negative=, from_file= } or { help=, version= };
--- `longs`: those with two dashes, in order; `options`: in order; `meant`: word of others →
--- the option here
function spec.scope(root)
  local scope = new_scope(root)
  spec.extend(scope, root, "cli")
  return scope
end

---The words from `command` on: its options beside those that there were, or in their place.
---@param scope table  changed where its options stay
---@param command table
---@return table scope
function spec.enter(scope, command)
  if command.apart then return spec.scope(command) end
  spec.extend(scope, command)
  return scope
end

---Adds the options of `command`, which takes part from here on.
---@param scope table
---@param command table
---@param where? string  for messages
function spec.extend(scope, command, where)
  if scope.words["-h"] and scope.words["-h"].help then scope.words["-h"] = nil end
  for _, option in ipairs(command.options or {}) do
    enter_option(scope, where or "cli", option)
  end
  -- -h is help where nothing else is.
  scope.words["-h"] = scope.words["-h"] or { help = true }
end

local function copy_scope(scope)
  local copy = { words = {}, longs = {}, options = {}, meant = {} }
  for word, meaning in pairs(scope.words) do
    copy.words[word] = meaning
  end
  return copy
end

local function check_keys_of_values(where, scope_keys, command)
  for _, list in ipairs({ command.options or {}, command.arguments or {} }) do
    for _, item in ipairs(list) do
      local key = spec.key(item.name)
      if scope_keys[key] or key == "command" then
        refuse(where, "two values would be called '", key, "'")
      end
      scope_keys[key] = true
    end
  end
end

local function copy(source)
  local result = {}
  for key, value in pairs(source) do
    result[key] = value
  end
  return result
end

local function check_example(where, example)
  if example == nil or type(example) == "string" then return end
  for _, line in ipairs(type(example) == "table" and example or { false }) do
    if type(line) ~= "string" then refuse(where, "example: expected a string or a list of them") end
  end
end

local check_command

local function check_level(where, command, scope, keys)
  check_example(where, command.example)
  for i, option in ipairs(command.options or {}) do
    check_option(where, i, option)
  end
  check_arguments(where, command.arguments or {})
  spec.extend(scope, command, where)
  check_keys_of_values(where, keys, command)
  local names = {}
  for i, child in ipairs(command.commands or {}) do
    check_command(where, i, child, scope, keys)
    if names[child.name] then refuse(where, "two commands are called '", child.name, "'") end
    names[child.name] = true
  end
end

function check_command(where, number, command, scope, keys)
  check_keys(("%s, command %d"):format(where, number), command, COMMAND_KEYS)
  local here = ("%s, command '%s'"):format(where, tostring(command.name))
  if not command.name or not command.name:find("^%w[%w_-]*$") then
    refuse(here, "name: expected letters, digits, - and _")
  end
  if command.apart then return check_level(here, command, new_scope({}), {}) end
  check_level(here, command, copy_scope(scope), copy(keys))
end

---Raises the first mistake in `root` as a plain string.
---@param root table
function spec.check(root)
  check_keys("cli", root, ROOT_KEYS)
  if not root.name then refuse("cli", "name: the program's name is missing") end
  check_level("cli", root, new_scope(root), {})
end

return spec
