-- What a shell proposes for the word that is being typed: made of the same descriptions
-- that the command line is read by.

local globals = require("sbx.cli.globals")
local spec = require("sbx.cli.spec")
local verbs = require("sbx.cli.verbs")

local complete = {}

---@class sbx.cli.Proposal
---@field word string
---@field help? string

---@class sbx.cli.Answer
---@field words sbx.cli.Proposal[]
---@field files? "file"|"folder"   names of files will do, too

---@class sbx.cli.CompletionSource
---@field sandboxes async fun(): sbx.cli.Proposal[]
---@field contexts async fun(): sbx.cli.Proposal[]

local function first_sentence(text)
  return text and (text:match("^(.-)[;.] ") or text:gsub("%.$", "")) or nil
end

local function add(answer, word, help, typed)
  if word:sub(1, #typed) == typed then
    answer.words[#answer.words + 1] = { word = word, help = first_sentence(help) }
  end
end

-- ------------------------------------------------------------------ what is there

-- "-w" and "--workdir" → the option; flags too.
local function known_options(list)
  local known = {}
  for _, option in ipairs(list) do
    local long = spec.long(option.name)
    if option.secret then long = long .. "-file" end
    known[long] = option
    if option.type == "flag" then known["--no-" .. long:sub(3)] = option end
    if option.short then known["-" .. option.short] = option end
  end
  return known
end

-- The values of an option or argument.
---@async
local function values_of(item, typed, source, answer)
  local kind = item.complete
  if item.choices then
    for _, choice in ipairs(item.choices) do
      add(answer, choice, nil, typed)
    end
  elseif kind == "sandbox" or kind == "context" then
    local list = kind == "sandbox" and source.sandboxes() or source.contexts()
    for _, one in ipairs(list) do
      add(answer, one.word, one.help, typed)
    end
  elseif kind == "verb" then
    for _, entry in ipairs(verbs.list) do
      if not entry.hidden then add(answer, entry.name, entry.summary, typed) end
    end
  elseif kind == "copy" then
    -- A file here, or SANDBOX: and a path there.
    answer.files = "file"
    if not typed:find("[/:]") then
      for _, one in ipairs(source.sandboxes()) do
        add(answer, one.word .. ":", one.help, typed)
      end
    end
  elseif kind == "file" or kind == "folder" or item.type == "file" or item.type == "path" then
    answer.files = kind == "folder" and "folder" or "file"
  end
end

-- ------------------------------------------------------------------ where we are

-- Reads the words before the one that is typed: which level of commands they lead to, how
-- many arguments there were, and the option that waits for its value.
local function read(words, first, level, options)
  local state = { level = level, options = options, arguments = 0, plain = false }
  local i = first
  while words[i] do
    local word = words[i]
    local known = known_options(state.options)
    state.waiting = nil
    if state.plain then
      state.arguments = state.arguments + 1
    elseif word == "--" then
      state.plain = true
    elseif word:sub(1, 1) == "-" and word ~= "-" then
      local option = known[word]
      if option and option.type ~= "flag" then
        if words[i + 1] then i = i + 1 else state.waiting = option end
      end
    else
      local command
      for _, one in ipairs(state.level.commands or {}) do
        if one.name == word and state.arguments == 0 then command = one end
      end
      if command then
        state.level = command
        local before = command.apart and {} or state.options
        state.options = table.move(command.options or {}, 1, #(command.options or {}),
          #before + 1, table.move(before, 1, #before, 1, {}))
      else
        state.arguments = state.arguments + 1
        local list = state.level.arguments or {}
        local last = list[#list]
        state.plain = last ~= nil and last.raw == true and state.arguments >= #list
      end
    end
    i = i + 1
  end
  return state
end

-- The argument at a place; the last one may take all that are left.
local function argument_at(level, place)
  local list = level.arguments or {}
  if list[place] then return list[place] end
  local last = list[#list]
  return last and last.many and last or nil
end

local function propose_options(answer, options, typed)
  local rows = {}
  for word, option in pairs(known_options(options)) do
    if not option.hidden and word:sub(1, 2) == "--" and not word:find("^%-%-no%-") then
      rows[#rows + 1] = { word, option.help }
    end
  end
  rows[#rows + 1] = { "--help", "show this" }
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  for _, row in ipairs(rows) do
    add(answer, row[1], row[2], typed)
  end
end

-- Options of the whole run that name a file.
local FILE_OPTIONS = {
  ["--trace"] = "write a trace of the run", ["--record"] = "write down its requests",
  ["--replay"] = "answer its requests from a file",
}

-- The verb's place among the words, over global options; nil and the option that waits.
local function find_verb(words)
  local i = 1
  while words[i] do
    local count = globals.match(words[i])
    if not count then
      if words[i]:sub(1, 1) ~= "-" then return i end
      if words[i] == "--cleanup-timeout" or words[i] == "-e" then count = 2 end
      if FILE_OPTIONS[words[i]] then
        if not words[i + 1] then return nil, { complete = "file" } end
        count = 2
      end
    end
    if (count or 1) == 2 and not words[i + 1] then
      local all = known_options(globals.options({ client = true, output = true }))
      return nil, all[words[i]]
    end
    i = i + (count or 1)
  end
  return nil
end

---@async
local function of_verb(answer, words, at, typed, source)
  local entry = verbs.find(words[at])
  if not entry then -- a script and its arguments
    answer.files = "file"
    return
  end
  local verb = verbs.load(entry)
  local level = verbs.spec(entry)
  local options = globals.options(verb.uses or { client = true, output = true })
  table.move(level.options or {}, 1, #(level.options or {}), #options + 1, options)
  local state = read(words, at + 1, level, options)
  if state.waiting then return values_of(state.waiting, typed, source, answer) end
  local name, value = typed:match("^(%-%-[%w-]+)=(.*)$")
  if name and not state.plain then
    local option = known_options(state.options)[name]
    if not option then return end
    values_of(option, value, source, answer)
    for _, one in ipairs(answer.words) do
      one.word = name .. "=" .. one.word
    end
    return
  end
  if typed:sub(1, 1) == "-" and not state.plain then
    return propose_options(answer, state.options, typed)
  end
  if state.level.commands and state.arguments == 0 then
    for _, command in ipairs(state.level.commands) do
      add(answer, command.name, command.summary, typed)
    end
  end
  local argument = argument_at(state.level, state.arguments + 1)
  if argument then values_of(argument, typed, source, answer) end
end

---What can stand in the place of `typed`.
---@async
---@param words string[]  those before it, without the program's name
---@param typed string
---@param source sbx.cli.CompletionSource
---@return sbx.cli.Answer
function complete.answer(words, typed, source)
  local answer = { words = {} }
  local at, waiting = find_verb(words)
  if at then
    of_verb(answer, words, at, typed, source)
  elseif waiting then
    values_of(waiting, typed, source, answer)
  elseif typed:sub(1, 1) == "-" then
    propose_options(answer, globals.options({ client = true, output = true }), typed)
    add(answer, "--version", "show the version", typed)
    add(answer, "--cleanup-timeout", "seconds for finalizers", typed)
    for _, name in ipairs({ "--trace", "--record", "--replay" }) do
      add(answer, name, FILE_OPTIONS[name], typed)
    end
  else
    values_of({ complete = "verb" }, typed, source, answer)
    answer.files = "file" -- a script
  end
  return answer
end

return complete
