-- The command line: what to run, and the end of it.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local report = require("sbx.cli.report")
local task = require("sbx.task")

local help = [[
sbxlua --local fleet.lua        run a script on sandboxes of this machine

usage: sbxlua [options] FILE [arguments]    run a script
       sbxlua [options] -e CODE             run a piece of Lua
       sbxlua [options] -                   run what stdin holds
       sbxlua serve [options]               the sandbox API on this machine
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

local verbs = { serve = "sbx.cli.serve", test = "sbx.cli.test" }

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
      return nil, "unknown option '" .. word .. "'"
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
  local file = io.open(word, "r")
  if file then file:close() end
  return file ~= nil
end

local function load_chunk(todo)
  if todo.code then return load(todo.code, "=(command line)") end
  if todo.file == "-" then return load(io.read("a"), "=stdin") end
  return loadfile(todo.file)
end

-- ------------------------------------------------------------------- one run

-- print that notices a closed or full stdout, which stock print does not.
local function install_print()
  function print(...)
    local parts = table.pack(...)
    for i = 1, parts.n do
      parts[i] = tostring(parts[i])
    end
    host.write(1, table.concat(parts, "\t", 1, parts.n) .. "\n")
  end
end

-- Observes what only the host sees. Runs outside every task.
local function observe(run)
  host.observe(function(event, value)
    if event == "deadlock" then
      run.deadlock = errors.new({
        kind = "deadlock",
        message = "deadlock: every task waits for another one",
        tree = task.tree(),
      })
      return "deadlock"
    end
    local awaited = #task.list() - 1
    local ending = awaited == 0 and ""
      or ("ending %d task%s and "):format(awaited, awaited == 1 and "" or "s")
    io.stderr:write("sbxlua: ", value, ": ", ending, "cleaning up",
      value == "SIGINT" and "; Ctrl-C again stops at once" or "", "\n")
  end)
end

-- os.exit unwinds the script, so that finalizers run.
local function install_exit(run)
  local stock_exit = os.exit
  function os.exit(code, close)
    if not run.root then return stock_exit(code, close) end
    if code == nil or code == true then
      code = 0
    elseif code == false then
      code = 1
    end
    run.exit_status = math.tointeger(code) or 1
    run.root:cancel("os.exit")
    task.sleep(1e9)
  end
end

local function body(todo, run, chunk)
  if todo.is_local then
    local server = require("sbx.local_server").start({})
    run.server = server
    require("sbx.sandbox.config").set_local({ url = server.url, api_key = server.api_key })
  end
  task.scope({ name = "script" }, function(scope)
    run.root = scope
    core.set_root(scope)
    task.checkpoint() -- a signal that came meanwhile
    return chunk(table.unpack(todo.arguments)) -- a tail call: the script is nobody's callee
  end)
end

-- Ends what the run owns: sandboxes, then the private server. Returns failures.
local function clean_up(run)
  run.root = nil
  local failures = {}
  local finish = package.loaded["sbx.run"]
  if finish then
    local ok, result = pcall(task.shield, core.cleanup_seconds(), finish.finish)
    if not ok then
      failures[1] = result
    else
      failures = result or failures
    end
  end
  if run.server then
    local ok, err = pcall(task.shield, core.cleanup_seconds(), run.server.stop)
    if not ok then table.insert(failures, err) end
  end
  return failures
end

local function is_broken_stdout(err)
  return errors.is_error(err) and err.code == "EPIPE" and err.op == "write"
    and tostring(err):find("stdout", 1, true) ~= nil
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
  local run = {}
  install_print()
  install_exit(run)
  observe(run)

  local ok, err = pcall(body, todo, run, chunk)
  local failures = clean_up(run)
  local status = run.exit_status or 0
  local signal = host.signal()
  if run.deadlock then
    ok, err = false, run.deadlock
  end
  if not ok and not (errors.is_error(err) and err.kind == "cancelled" and signal) then
    if is_broken_stdout(err) then
      status = 128 + 13
    else
      report.print(err)
      status = report.status(err)
    end
  end
  for _, failure in ipairs(failures) do
    io.stderr:write("sbxlua: while cleaning up: ", tostring(failure), "\n")
    if status == 0 then status = 1 end
  end
  if signal then return 128 + signal end
  return status
end

---Runs the program. Waits. Returns the exit status.
---@async
---@param argv string[]
---@return integer
return function(argv)
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
    if not verb then return usage("'" .. todo.file .. "' is neither a script nor a command") end
    return require(verb).run(todo.arguments)
  end
  return run_script(todo, argv)
end
