-- A shell in a sandbox, on the terminal that this runs in.
--
--   sbxlua --local scripts/shell.lua                    in a new one, deleted in the end
--   sbxlua scripts/shell.lua --sandbox ID               in one that runs
--   sbxlua scripts/shell.lua --sandbox ID --tag train -- python -i train.py
--
-- In a virtual machine it is a live process with a terminal of its own; with --tag it
-- outlives this script, and the same line finds it again. In a container it is SSH.
-- Where there is no SSH either, each line runs as a command of its own.
-- The status is 1 if the shell or the program ended with another code than 0.

local channel = require("sbx.channel")
local cli = require("sbx.cli")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local log = require("sbx.log")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local signal = require("sbx.signal")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "shell",
  summary = "Opens a shell, or another program, in a sandbox.",
  example = {
    "sbxlua --local scripts/shell.lua",
    "sbxlua scripts/shell.lua --sandbox ID --tag train -- python -i train.py",
  },
  options = {
    { name = "sandbox", short = "s", metavar = "ID",
      help = "one that runs already (default: a new one, deleted in the end)" },
    { name = "tag", short = "t",
      help = "a name for the program, which runs on; what has it already is found again" },
    { name = "list", type = "flag", help = "only show what runs there (virtual machines)" },
    { name = "image", default = "python:3.11-slim", help = "of a new sandbox" },
    { name = "vm", type = "flag", help = "a new one is a virtual machine" },
  },
  arguments = {
    { name = "words", metavar = "PROGRAM", optional = true, many = true, raw = true,
      help = "what to run there (default: bash -l)" },
  },
})
local words = #given.words > 0 and given.words or { "bash", "-l" }
local on_terminal = host.isatty(0) and host.isatty(1)

---@async
local function stty(...)
  local child <close> = process.spawn({ "stty", ... }, {
    stdin = "inherit", stdout = "pipe", stderr = "null", session = false,
  })
  local text = child.stdout:read()
  child:wait()
  return (text or ""):match("[^\n]*")
end

---@async
local function size()
  local rows, cols = (on_terminal and stty("size") or ""):match("^([1-9]%d*) ([1-9]%d*)$")
  return tonumber(cols or 80), tonumber(rows or 24)
end

-- ---------------------------------------------------------- virtual machines

-- Keys go one by one into a queue, and from there all at once: a request for each
-- would make a slow paste.
---@async
local function send_keys(p)
  local keys <close> = channel.new(4096)
  task.daemon(function()
    for key in function() return io.stdin:read(1) end do
      keys:send(key)
    end
    keys:send("\4")
  end)
  for _, first in keys:items() do
    local bytes = { first }
    while #bytes < 4096 do
      local case, open, key = task.select({ keys, 0 })
      if case == 2 or not open then break end
      bytes[#bytes + 1] = key
    end
    -- What has ended meanwhile takes no more keys.
    if not errors.try(function() p:write(table.concat(bytes)) return true end) then return end
  end
end

---@async
local function follow_size(p)
  local changes <close> = signal.listen("WINCH")
  for _ in changes:each() do
    if not errors.try(function() p:resize(size()) return true end) then return end
  end
end

---@async
local function open(box)
  if given.tag then
    local p, err = errors.try(box.attach_process, box, given.tag, { pty = true })
    if p then return p end
    if not (errors.is_error(err) and err.code == "not_found") then error(err, 0) end
  end
  local cols, rows = size()
  return box:open_process(words, { pty = { cols = cols, rows = rows }, tag = given.tag })
end

---@async
local function talk(box)
  local p <close> = open(box)
  io.stderr:write("process ", p.pid, ", tag ", p.tag or given.tag, "\n")
  local scope <close> = task.open_scope()
  if given.tag then scope:defer(function() p:detach() end) end
  if on_terminal then
    local before = stty("-g")
    scope:defer(function() stty(before) end)
    stty("raw", "-echo")
    p:resize(size()) -- of one that was found, too
    scope:daemon(follow_size, p)
  end
  scope:daemon(send_keys, p)
  for bytes in function() return p:read("pty") end do
    io.stdout:write(bytes)
    io.stdout:flush()
  end
  return p:wait().exit_code
end

---@async
local function list(box)
  for _, found in ipairs(box:list_processes()) do
    -- Whoever is in there has named it: nothing that would drive our terminal.
    print(found.pid, log.clean(found.tag or ""), log.clean(table.concat(found.argv, " ")))
  end
  return 0
end

-- --------------------------------------------------------------- containers

---@async
local function log_in(box)
  local session <close> = box:open_ssh_session()
  local key = session:new_key()
  -- The key needs a moment to arrive inside.
  task.timeout(60, function()
    while process.run(session:argv(key, { "true" })).code ~= 0 do
      task.sleep(1)
    end
  end)
  local argv = session:argv(key, #given.words > 0 and words or nil)
  table.insert(argv, 2, on_terminal and "-t" or "-T")
  local child <close> = process.spawn(argv, { stdin = "inherit", session = false })
  return (child:wait())
end

-- Each line is a command. What lasts from one to the next is the folder.
---@async
local function run_lines(box)
  io.stderr:write("no SSH here: each line runs by itself, the end of input ends it\n")
  local mark = hash.random_hex(8)
  local folder, code = nil, 0
  while true do
    if on_terminal then io.stderr:write(folder or "", "$ ") end
    local line = io.read()
    if not line then return code end
    local result = box:exec('eval "$LINE"\n code=$?; printf %s "$MARK"; pwd; exit "$code"', {
      env = { LINE = line, MARK = mark }, working_dir = folder, deadline = 3600,
    })
    local text, now = result.stdout:match("^(.*)" .. mark .. "(/[^\n]*)\n$")
    folder, code = now or folder, result.exit_code
    io.stdout:write(text or result.stdout)
    io.stdout:flush()
    io.stderr:write(result.stderr)
  end
end

---@async
local function in_container(box)
  local ok, code = pcall(log_in, box)
  if ok then return code end
  local err = code
  local without = errors.is_error(err) and (err:is("unsupported") or err.status == 404)
  if not without or #given.words > 0 then error(err, 0) end
  return run_lines(box)
end

local client <close> = sandbox.client()
local box <close> = given.sandbox and client:get(given.sandbox) or client:create({
  name = "shell", docker_image = given.image, vm = given.vm or nil,
})
box:wait()
local code
if given.list then
  code = list(box)
else
  code = (box.vm and talk or in_container)(box)
end
if code ~= 0 then os.exit(1) end
