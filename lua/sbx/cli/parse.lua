-- From the words of a command line to a table of values. Says nothing to anybody
-- and ends nothing; what is wrong is raised as a Usage.

local fs = require("sbx.fs")
local log = require("sbx.log")
local nearest = require("sbx.nearest")
local spec = require("sbx.cli.spec")
local values = require("sbx.cli.values")

local parse = {}

local MOST_SECRET = 65536 -- bytes of a file that holds a secret

---What ends reading early: help that was asked for, or a mistake.
---@class sbx.cli.Usage
---@field message string   one line; nil for help and version
---@field wants? "help"|"version"
---@field chain table[]    the specs of the program and the commands so far
local Usage = {}
parse.Usage = Usage

local quoted = values.quoted

---@class sbx.cli.State
---@field chain table[]
---@field scope table
---@field values table<string, any>
---@field given table<table, boolean>  option → it was on the command line
---@field words string[]               what is left for the arguments
---@field environment fun(name: string): string|nil

local function fail(state, ...)
  error(setmetatable({ message = table.concat({ ... }), chain = state.chain }, Usage), 0)
end

local function ask(state, what)
  error(setmetatable({ wants = what, chain = state.chain }, Usage), 0)
end

local function here(state)
  return state.chain[#state.chain]
end

-- ------------------------------------------------------------------- options

-- Takes `word` as (one more) value of `option`. `label` is where it came from.
local function store(state, option, word, label)
  local key = spec.key(option.name)
  local value, problem, name = values.convert(option, word)
  if value == nil then fail(state, label, ": ", problem) end
  if option.secret then log.redact(word) end
  if option.type == "list" or option.type == "map" then
    if not state.given[option] then state.values[key] = {} end
    local list = state.values[key]
    list[name or #list + 1] = value
  else
    state.values[key] = value
  end
  state.given[option] = true
end

local function read_secret(state, option, path)
  local label = spec.long(option.name) .. "-file"
  local ok, text = pcall(fs.read, path, { max = MOST_SECRET })
  if not ok then
    if type(text) ~= "table" or text.kind == "cancelled" then error(text, 0) end
    fail(state, label, ": ", log.clean(tostring(text)))
  end
  text = text:gsub("\r?\n$", "")
  if text == "" then fail(state, label, ": ", quoted(path), " is empty") end
  store(state, option, text, label)
end

local function unknown_option(state, word, within)
  local place = within and " in " .. quoted(within) or ""
  local meant = state.scope.meant[word]
  local hint = meant and "; did you mean " .. quoted(meant) .. "?"
    or nearest.hint(word, state.scope.longs)
  fail(state, "unknown option ", quoted(word), place, hint)
end

-- The value of an option that stands apart from it. A word that is itself an
-- option was not meant to be one.
local function following(state, argv, index, label)
  local word = argv[index + 1]
  local name = word and (word:match("^(%-%-[^=]+)=") or word)
  if word and word ~= "--" and not state.scope.words[name] then return word end
  if not word then fail(state, label, ": its value is missing") end
  fail(state, label, ": its value is missing before ", quoted(word),
    label:sub(1, 2) == "--" and ("; write %s=%s if that is meant"):format(label, word) or "")
end

local function refuse_secret(state, option)
  local long = spec.long(option.name)
  local ways = option.env and { "set " .. option.env } or {}
  table.insert(ways, "give " .. long .. "-file FILE")
  fail(state, long, ": a secret on the command line can be read by everybody on this machine; ",
    table.concat(ways, " or "))
end

-- A word with two dashes; returns the index of the last word it took.
local function long_option(state, argv, index)
  local word = argv[index]
  local name, value = word:match("^(%-%-[^=]+)=(.*)$")
  name = name or word
  local meaning = state.scope.words[name]
  if not meaning then unknown_option(state, name) end
  local option = meaning.option
  if not option or option.type == "flag" then
    if value then fail(state, name, ": takes no value") end
    if not option then ask(state, meaning.help and "help" or "version") end
    state.values[spec.key(option.name)] = not meaning.negative
    state.given[option] = true
    return index
  end
  if option.secret and not meaning.from_file then refuse_secret(state, option) end
  if not value then
    value = following(state, argv, index, name)
    index = index + 1
  end
  if meaning.from_file then
    read_secret(state, option, value)
  else
    store(state, option, value, name)
  end
  return index
end

-- A word with one dash: flags in one, the last with its value perhaps.
local function short_options(state, argv, index)
  local word = argv[index]
  local at = 2
  while at <= #word do
    local name = "-" .. word:sub(at, at)
    local meaning = state.scope.words[name]
    if not meaning then
      unknown_option(state, at == 2 and word:match("^[^=]*") or name, at > 2 and word)
    end
    local option = meaning.option
    if not option then ask(state, "help") end
    if option.type ~= "flag" then
      if at < #word then
        store(state, option, word:sub(at + 1), name)
        return index
      end
      store(state, option, following(state, argv, index, name), name)
      return index + 1
    end
    state.values[spec.key(option.name)] = true
    state.given[option] = true
    at = at + 1
  end
  return index
end

-- ------------------------------------------------------- commands and arguments

local function find_command(commands, name)
  for _, command in ipairs(commands) do
    if command.name == name then return command end
  end
  return nil
end

local function names_of(commands)
  local names = {}
  for _, command in ipairs(commands) do
    if not command.hidden then names[#names + 1] = command.name end
  end
  return names
end

-- Options that stood before a command which they do not go with.
local function refuse_others(state, command)
  for _, option in ipairs(state.scope.options) do
    if state.given[option] then
      fail(state, spec.long(option.name), ": does not go with ", quoted(command.name))
    end
  end
end

local function enter_command(state, command)
  if command.apart then refuse_others(state, command) end
  state.chain = table.move(state.chain, 1, #state.chain, 1, {})
  table.insert(state.chain, command)
  state.scope = spec.enter(state.scope, command)
  local path = state.values.command
  state.values.command = path and path .. " " .. command.name or command.name
end

-- `help create` is `create --help`.
local function ask_for_command(state, argv, index)
  for i = index, #argv do
    local command = find_command(here(state).commands or {}, argv[i])
    if not command then
      local names = names_of(here(state).commands or {})
      fail(state, "no help on ", quoted(argv[i]), nearest.hint(argv[i], names))
    end
    enter_command(state, command)
  end
  ask(state, "help")
end

-- A word that is no option; returns whether all words after it are its like.
local function plain_word(state, argv, index)
  local word = argv[index]
  local spec_here = here(state)
  local commands = spec_here.commands
  if commands and #state.words == 0 then
    local command = find_command(commands, word)
    if command then
      enter_command(state, command)
      return false
    end
    if word == "help" then ask_for_command(state, argv, index + 1) end
    if not spec_here.arguments then
      fail(state, "unknown command ", quoted(word), nearest.hint(word, names_of(commands)))
    end
  end
  table.insert(state.words, word)
  local arguments = spec_here.arguments or {}
  local last = arguments[#arguments]
  return last ~= nil and last.raw == true and #state.words >= #arguments
end

local function store_argument(state, argument, word)
  local value, problem = values.convert(argument, word)
  if value == nil then fail(state, spec.label(argument), ": ", problem) end
  return value
end

-- How many of the words each argument from `index` on needs at least.
local function needed(arguments, index)
  local count = 0
  for i = index, #arguments do
    if not arguments[i].optional then count = count + 1 end
  end
  return count
end

-- What `count` words are too few for, of the arguments from `index` on: words go to those
-- that take one each before they go to the one that takes many.
local function first_missing(arguments, index, count)
  local many
  if count == 0 then return arguments[index] end
  for i = index, #arguments do
    local argument = arguments[i]
    if argument.many and not argument.optional then
      many = argument
    elseif not argument.optional then
      if count == 0 then return argument end
      count = count - 1
    end
  end
  return many or arguments[index]
end

local function fill_arguments(state)
  local arguments = here(state).arguments or {}
  local words, at = state.words, 1
  for i, argument in ipairs(arguments) do
    local key = spec.key(argument.name)
    local free = #words - at + 1 - needed(arguments, i + 1)
    if free <= 0 and not argument.optional then
      fail(state, spec.label(first_missing(arguments, i, #words - at + 1)), " is missing")
    elseif argument.many and free > 0 then
      local list = {}
      for j = 1, free do
        list[j] = store_argument(state, argument, words[at + j - 1])
      end
      state.values[key], at = list, at + free
    elseif free > 0 then
      state.values[key], at = store_argument(state, argument, words[at]), at + 1
    end
  end
  if words[at] then fail(state, "unexpected argument ", quoted(words[at])) end
end

-- ------------------------------------------------------------ what was not given

-- Files are looked for also when their names are defaults.
local function check_default(state, item, label)
  if item.type ~= "path" and item.type ~= "file" then return end
  for _, path in ipairs(type(item.default) == "table" and item.default or { item.default }) do
    local value, problem = values.convert(item, path)
    if value == nil then fail(state, label, ": ", problem) end
  end
end

local function copy_default(state, item, label)
  check_default(state, item, label)
  local default, kind = item.default, item.type or "string"
  if kind == "list" or kind == "map" then kind = item.of or "string" end
  if type(default) ~= "table" then return values.of_spec(kind, default) end
  local copy = {}
  for key, value in pairs(default) do
    copy[key] = values.of_spec(kind, value)
  end
  return copy
end

-- Lists and maps stand in the environment with commas between their parts.
local function from_environment(state, option, text)
  local label = "environment variable " .. option.env
  if option.type ~= "list" and option.type ~= "map" then
    store(state, option, text, label)
    return
  end
  for part in text:gmatch("[^,]+") do
    store(state, option, part, label)
  end
end

local function missing(state, option)
  local long = spec.long(option.name)
  local text = option.secret and long .. "-file" or long
  fail(state, text, " is missing", option.env and "; or set " .. option.env or "")
end

local function fill_options(state)
  for _, option in ipairs(state.scope.options) do
    local key = spec.key(option.name)
    local text = not state.given[option] and option.env and state.environment(option.env)
    if text and text ~= "" then from_environment(state, option, text) end
    if not state.given[option] then
      if option.required then missing(state, option) end
      state.values[key] = copy_default(state, option, spec.long(option.name))
      if state.values[key] == nil and option.type == "flag" then state.values[key] = false end
      if state.values[key] == nil and (option.type == "list" or option.type == "map") then
        state.values[key] = {}
      end
    end
  end
end

local function fill_argument_defaults(state)
  for _, argument in ipairs(here(state).arguments or {}) do
    local key = spec.key(argument.name)
    if state.values[key] == nil then
      state.values[key] = copy_default(state, argument, spec.label(argument))
      if state.values[key] == nil and argument.many then state.values[key] = {} end
    end
  end
end

local function require_command(state)
  local level = here(state)
  if not level.commands or level.arguments or level.run then return end
  fail(state, "a command is missing: ", values.listed(names_of(level.commands)))
end

-- -------------------------------------------------------------------- reading

-- "-3" is a number where no option is called 3.
local function is_option(state, word)
  if word:sub(1, 1) ~= "-" or word == "-" then return false end
  return not word:find("^%-%.?%d") or state.scope.words[word:sub(1, 2)] ~= nil
end

local function read_words(state, argv)
  local index, plain = 1, false
  while index <= #argv do
    local word = argv[index]
    if plain then
      table.insert(state.words, word)
    elseif word == "--" then
      plain = true
    elseif not is_option(state, word) then
      plain = plain_word(state, argv, index)
    elseif word:sub(1, 2) == "--" then
      index = long_option(state, argv, index)
    else
      index = short_options(state, argv, index)
    end
    index = index + 1
  end
end

---Reads `argv` by `root`, which has been checked. Raises a Usage.
---@async
---@param argv string[]
---@param root table
---@param environment fun(name: string): string|nil
---@return table values, table[] chain
function parse.read(argv, root, environment)
  local state = {
    chain = { root }, scope = spec.scope(root), values = {}, given = {}, words = {},
    environment = environment,
  }
  read_words(state, argv)
  if #state.words == 0 then require_command(state) end
  fill_arguments(state)
  fill_options(state)
  fill_argument_defaults(state)
  return state.values, state.chain
end

return parse
