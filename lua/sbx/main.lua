-- The command line: what to run, and the end of it.

local core = require("sbx.core.task")
local program = require("sbx.cli.program")
local stock = require("sbx.stock")

local function usage(message)
  io.stderr:write("sbxlua: ", message, "\nTry 'sbxlua --help'.\n")
  return 2
end

-- ------------------------------------------------------------------ arguments

local own_options = {
  "--help", "--version", "--cleanup-timeout", "--trace", "--record", "--replay",
}

local function hint(word, names)
  return require("sbx.nearest").hint(word, names)
end

local function option_names()
  local globals = require("sbx.cli.globals")
  local names = table.move(globals.names, 1, #globals.names, 1, {})
  return table.move(own_options, 1, #own_options, #names + 1, names)
end

-- Takes a global option at `i`; the index of its last word, or nil when it is none.
local function global_option(todo, argv, i)
  if argv[i]:sub(1, 1) ~= "-" or argv[i] == "-e" then return nil end
  local count, kind = require("sbx.cli.globals").match(argv[i])
  if not count then return nil end
  for j = i, i + count - 1 do
    todo.globals[#todo.globals + 1] = argv[j]
  end
  if argv[i] == "--local" then todo.is_local = true end
  if argv[i] == "--no-local" then todo.is_local = false end
  if kind == "output" then todo.output = todo.output or argv[i] end
  return i + count - 1
end

local AROUND = { ["--trace"] = true, ["--record"] = true, ["--replay"] = true }

-- Takes an option that names a file of the whole run at `i`, as global_option does; or a
-- message.
local function around_option(todo, argv, i)
  local name, value = argv[i]:match("^(%-%-%l+)=(.*)$")
  if not AROUND[name or argv[i]] then return nil end
  local last = i
  if not name then
    name, value, last = argv[i], argv[i + 1], i + 1
  end
  if not value or value == "" then return nil, name .. ": the name of a file is missing" end
  todo.around = todo.around or {}
  todo.around[name] = value
  if todo.around["--record"] and todo.around["--replay"] then
    return nil, "--record and --replay: give one of them"
  end
  return last
end

-- Returns what to do, or nil and a message.
local function parse(argv)
  local todo = { arguments = {}, globals = {} }
  local i = 1
  while argv[i] do
    local word = argv[i]
    local last, problem = global_option(todo, argv, i), nil
    if not last then last, problem = around_option(todo, argv, i) end
    if problem then return nil, problem end
    if last then
      i = last
    elseif word == "--help" or word == "-h" then
      return { help = true }
    elseif word == "--version" or word == "-v" then
      return { version = true }
    elseif word == "--cleanup-timeout" then
      i = i + 1
      todo.cleanup = tonumber(argv[i] or "")
      if not todo.cleanup or not (todo.cleanup >= 0 and todo.cleanup <= 86400) then
        return nil, "--cleanup-timeout: expected seconds from 0 to 86400"
      end
    elseif word == "-e" then
      i = i + 1
      if not argv[i] then return nil, "-e: the code is missing" end
      todo.code = argv[i]
    elseif word:sub(1, 1) == "-" and word ~= "-" and word ~= "--" then
      return nil, "unknown option '" .. word .. "'" .. hint(word, option_names())
    else
      if word == "--" then
        i = i + 1
        word = argv[i]
        todo.is_file = true
      end
      if not todo.code then
        todo.file = word
        i = i + 1
      end
      break
    end
    i = i + 1
  end
  table.move(argv, i, #argv, 1, todo.arguments)
  todo.first = i
  return todo
end

-- A word that is surely a script's name: a command is meant by none of these.
local function looks_like_script(word)
  return word == "-" or word:find("/", 1, true) or word:sub(-4) == ".lua"
end

local function is_file(word)
  local known = require("sbx.errors").try(require("sbx.fs").stat, word)
  return known ~= nil and known.type ~= "directory"
end

-- The verb that is meant, or nil for a script; second, a problem. The name of a verb is
-- that verb even where a file is called so: what lies in a folder must not take its place.
local function find_verb(todo)
  local word = todo.file
  if todo.code or not word or todo.is_file or looks_like_script(word) then return nil end
  local verbs = require("sbx.cli.verbs")
  local entry = verbs.find(word)
  if entry or is_file(word) then return entry end
  return nil, "'" .. word .. "' is neither a script nor a command" .. hint(word, verbs.names())
end

-- ------------------------------------------------------------------- scripts

local function load_chunk(todo)
  if todo.code then return load(todo.code, "=(command line)") end
  return loadfile(todo.file ~= "-" and todo.file or nil)
end

-- The global `arg` as stock Lua has it: the script at 0, what follows it from 1
-- on, the program and its options below.
local function arguments_table(todo, argv)
  local result = {}
  for i = 0, #argv do
    result[i - todo.first + 1] = argv[i]
  end
  result[0] = todo.file or "-e"
  return result
end

-- Modules beside the script are found wherever it is started from.
local function search_beside(file)
  local folder = file and file:match("^(.*/)")
  if not folder then return end
  package.path = folder .. "?.lua;" .. folder .. "?/init.lua;" .. package.path
end

-- Takes notice of what the options say of the server; returns a problem.
local function connect(todo)
  local given = #todo.globals
  if given == 0 or (given == 1 and todo.globals[1] == "--local") then return nil end
  return require("sbx.cli.frame").connect(todo.globals)
end

local function run_script(todo, argv)
  if todo.output then return usage(todo.output .. ": goes with a command, not with a script") end
  local refused = connect(todo)
  if refused then return usage(refused) end
  local chunk, problem = load_chunk(todo)
  if not chunk then
    io.stderr:write("sbxlua: ", problem, "\n")
    return 1
  end
  arg = arguments_table(todo, argv)
  if todo.file ~= "-" then search_beside(todo.file) end
  return program.run(todo.is_local, chunk, table.unpack(todo.arguments))
end

local function run_prompt(todo)
  if todo.output then return usage(todo.output .. ": goes with a command, not with the prompt") end
  local problem = connect(todo)
  if problem then return usage(problem) end
  return require("sbx.repl").run({ is_local = todo.is_local })
end

---Runs the program. Waits. Returns the exit status.
---@async
---@param argv string[]
---@return integer
return function(argv)
  stock.install()
  local todo, problem = parse(argv)
  if not todo then return usage(problem) end
  if todo.help then
    io.stdout:write(require("sbx.cli.pages").help())
    return 0
  end
  if todo.version then todo.file, todo.arguments, todo.globals = "version", {}, {} end
  if todo.cleanup then core.cleanup_seconds(todo.cleanup) end
  local prompts = not todo.file and not todo.code
  if prompts and todo.is_file then return usage("no script: name a file behind '--'") end
  if prompts and not require("sbx.core.host").isatty(0) then
    prompts, todo.file = false, "-"
  end
  local verb
  verb, problem = find_verb(todo)
  if problem then return usage(problem) end
  local function run()
    if prompts then return run_prompt(todo) end
    if verb then return require("sbx.cli.frame").run(verb, todo.globals, todo.arguments) end
    return run_script(todo, argv)
  end
  if not todo.around then return run() end
  return require("sbx.cli.around").run(todo.around, run)
end
