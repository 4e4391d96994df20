-- The command line: what to run, and the end of it.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local nearest = require("sbx.nearest")
local program = require("sbx.cli.program")
local stock = require("sbx.stock")

local help = [[
sbxlua --local fleet.lua        run a script on sandboxes of this machine

usage: sbxlua [options] FILE [arguments]    run a script
       sbxlua [options] -e CODE             run a piece of Lua
       sbxlua [options] -                   run what stdin holds
       sbxlua serve [options]               the sandbox API on this machine
       sbxlua test [options] [PATH...]      run tests
       sbxlua gc [--yes]                    delete what killed runs left behind
       sbxlua version | help

options
  --local               use sandboxes on this machine: no account, no network
  --cleanup-timeout S   seconds that finalizers may take once the script has
                        ended or was interrupted (default 10)

Without --local the API is the one of PRIME_API_BASE_URL, with the key of
PRIME_API_KEY or of ~/.prime/config.json. What a script created and did not
mark `keep` is deleted when it ends.

exit status: 0 ok, 1 failure, 2 usage, 4 no or wrong key, 5 not found,
6 conflict, 7 rate, quota or payment, 8 unreachable, 124 deadline, 128+n signal n
]]

local function usage(message)
  io.stderr:write("sbxlua: ", message, "\nTry 'sbxlua --help'.\n")
  return 2
end

-- ------------------------------------------------------------------ arguments

local options = { "--local", "--help", "--version", "--cleanup-timeout" }
local verbs = { gc = "sbx.cli.gc", serve = "sbx.cli.serve", test = "sbx.cli.test" }

local function verb_names()
  local names = { "help", "version" }
  for name in pairs(verbs) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- Returns what to do, or nil and a message.
local function parse(argv)
  local todo = { arguments = {} }
  local i = 1
  while argv[i] do
    local word = argv[i]
    if word == "--local" then
      todo.is_local = true
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
      return nil, "unknown option '" .. word .. "'" .. nearest.hint(word, options)
    else
      if word == "--" then
        i = i + 1
        word = argv[i]
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

local function is_script(word)
  if word == "-" or word:find("/", 1, true) or word:sub(-4) == ".lua" then return true end
  -- A folder can be opened, too, and many a project has one named `test`.
  local known = errors.try(require("sbx.fs").stat, word)
  return known ~= nil and known.type ~= "directory"
end

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

local function run_script(todo, argv)
  local chunk, problem = load_chunk(todo)
  if not chunk then
    io.stderr:write("sbxlua: ", problem, "\n")
    return 1
  end
  arg = arguments_table(todo, argv)
  if todo.file ~= "-" then search_beside(todo.file) end
  return program.run(todo.is_local, chunk, table.unpack(todo.arguments))
end

---Runs the program. Waits. Returns the exit status.
---@async
---@param argv string[]
---@return integer
return function(argv)
  stock.install()
  local todo, problem = parse(argv)
  if not todo then return usage(problem) end
  if todo.help or todo.file == "help" then
    io.stdout:write(help)
    return 0
  end
  if todo.version or todo.file == "version" then
    io.stdout:write("sbxlua ", host.version, " (", _VERSION, ")\n")
    return 0
  end
  if todo.cleanup then core.cleanup_seconds(todo.cleanup) end
  if not todo.file and not todo.code then return usage("no script: name a file, or use -e CODE") end
  if todo.file and not todo.code and not is_script(todo.file) then
    local verb = verbs[todo.file]
    if not verb then
      return usage("'" .. todo.file .. "' is neither a script nor a command"
        .. nearest.hint(todo.file, verb_names()))
    end
    return program.run_command(require(verb).run, todo.arguments)
  end
  return run_script(todo, argv)
end
