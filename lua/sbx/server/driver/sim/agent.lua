-- The agent of a simulated sandbox: what `sbx.server.agent` offers, without a sandbox.

local builtins = require("sbx.server.driver.sim.builtins")
local errors = require("sbx.errors")
local fields = require("sbx.server.fields")
local files = require("sbx.server.driver.sim.files")
local pipes = require("sbx.server.driver.sim.pipes")
local process = require("sbx.server.driver.sim.process")
local session = require("sbx.server.driver.sim.session")
local shell = require("sbx.server.driver.sim.shell")
local socket = require("sbx.server.driver.sim.socket")
local task = require("sbx.task")
local tools = require("sbx.server.driver.sim.tools")

---@class sbx.server.sim.Agent : sbx.server.Agent
---@field closed boolean
---@field reason? string
---@field environment table<string, string>
---@field private options table   of `agent.new`
---@field private world? sbx.server.sim.World  made when it is first needed
local Agent = {}
Agent.__index = Agent

local agent = {}

local MAX_OUTPUT = 10 * 1024 * 1024
local MAX_FILES = 256 * 1024 * 1024
local PIECE = 65536
local NO_ENVIRONMENT = {}
local USUAL = { HOME = "/root", PATH = "/usr/local/bin:/usr/bin:/bin" }

---@param options {workdir: string, hostname: string, disk: number, scope: sbx.Scope, answer: (fun(line: string): table|nil), port: (fun(port: integer): function|nil)}
---@return sbx.server.sim.Agent
function agent.new(options)
  return setmetatable({
    closed = false, options = options, environment = NO_ENVIRONMENT,
  }, Agent)
end

local function world_of(self)
  local world = self.world
  if world then return world end
  local options = self.options
  local processes = process.table()
  local made = files.new(options.workdir, math.min(options.disk, MAX_FILES))
  made.live = processes
  world = {
    files = made, processes = processes, builtins = builtins, tools = tools,
    hostname = options.hostname, answer = options.answer,
    spawn = function(fn)
      options.scope:pspawn(fn)
    end,
  }
  self.world = world
  return world
end

local function check_open(self)
  if not self.closed then return end
  errors.raise {
    kind = "not_running", message = "the simulated sandbox has ended: " .. tostring(self.reason),
  }
end

local function folder(world, path, workdir)
  if path == nil or path == "" then path = workdir end
  local full = files.resolve(workdir, path)
  local node = world.files:node(full)
  if not node then fields.refuse("ENOENT", "run a command in " .. path .. ": no such folder") end
  if node.type ~= "directory" then
    fields.refuse("ENOTDIR", "run a command in " .. path .. ": not a folder")
  end
  return full
end

local function check_user(user)
  if user and user ~= "root" and user ~= "0" and user ~= "" then
    fields.refuse("EINVAL", "user: only root exists in this sandbox")
  end
end

local function new_process(world, env)
  local made = world.processes:spawn(nil, env)
  if not made then fields.refuse("EAGAIN", "run a command: too many simulated processes") end
  return made
end

local function environment(self, more)
  return fields.merge(fields.merge(USUAL, self.environment), more or {})
end

---Runs `command` by the simulated shell. See `sbx.server.agent`.
---@async
---@param options sbx.server.ExecOptions
---@return sbx.server.ExecResult
function Agent:exec(options)
  check_open(self)
  check_user(options.user)
  local world = world_of(self)
  local cwd = folder(world, options.cwd, self.options.workdir)
  local env = environment(self, options.env)
  local most = options.max_output or MAX_OUTPUT
  local out, err = pipes.sink(most), pipes.sink(most)
  local main = new_process(world, env)
  local _ <close> = setmetatable({}, { __close = function() main:finish(137, false) end })
  local made = shell.new(world, main, {
    env = env, cwd = cwd, fds = { [0] = pipes.null, out, err },
  })
  local exit_code
  local function run()
    exit_code = made:script(options.command)
  end
  local in_time = true
  if options.timeout then
    in_time = task.move_on(options.timeout, run)
  else
    run()
  end
  if not in_time then world.processes:kill_all(main.root) end
  check_open(self)
  return {
    exit_code = in_time and exit_code or 137,
    stdout = out:text(), stderr = err:text(),
    stdout_truncated = out.truncated, stderr_truncated = err.truncated,
    timed_out = not in_time,
  }
end

---Starts a program; see `sbx.server.driver`.
---@async
---@param options sbx.server.StartOptions
---@return sbx.server.Session
function Agent:start(options)
  check_open(self)
  local world = world_of(self)
  local cwd = folder(world, options.cwd, self.options.workdir)
  local env = environment(self, options.env)
  local main = new_process(world, env)
  local made, fds = session.new(main, options)
  local sh = shell.new(world, main, { env = env, cwd = cwd, fds = fds })
  world.spawn(function()
    sh.status = sh:command(options.argv, fds, env, true)
    main:finish(sh.status, false)
    made:ended(main)
  end)
  return made
end

-- ------------------------------------------------------------------------ files

local WORDS = { ENOENT = "no such file or directory", EISDIR = "is a directory",
  ENOTDIR = "not a directory", ENOSPC = "no space left on device" }

local function refuse(what, path, code)
  fields.refuse(code, ("%s %s: %s"):format(what, path, WORDS[code] or code))
end

---@async
function Agent:put(path, source, options)
  check_open(self)
  local world = world_of(self)
  local full = files.resolve("/", path)
  if world.files:is_folder(full) then refuse("write", path, "EISDIR") end
  local pieces, size = {}, 0
  for bytes in source do
    pieces[#pieces + 1] = bytes
    size = size + #bytes
    if size > MAX_FILES then refuse("write", path, "ENOSPC") end
  end
  check_open(self)
  local ok, code = world.files:make_folders(files.parent(full))
  if not ok then refuse("write", path, code) end
  -- The whole file at once, or the one that was there.
  local node
  node, code = world.files:open(full)
  if not node then refuse("write", path, code) end
  ok, code = world.files:append(node, table.concat(pieces))
  if not ok then refuse("write", path, code) end
  if options and options.mode and options.mode ~= 0 then node.mode = options.mode end
  return size
end

---@async
function Agent:get(path, sink, options)
  check_open(self)
  local bytes, code = world_of(self).files:read(files.resolve("/", path))
  if not bytes then refuse("read", path, code) end
  local offset = options and options.offset or 0
  local length = options and options.length or -1
  if offset < 0 then offset = math.max(0, #bytes + offset) end
  local last = length < 0 and #bytes or math.min(#bytes, offset + length)
  local size = 0
  for at = offset, last - 1, PIECE do
    local piece = bytes:sub(at + 1, math.min(at + PIECE, last))
    size = size + #piece
    sink(piece)
  end
  return size, #bytes
end

---@async
function Agent:stat(path)
  check_open(self)
  local node = world_of(self).files:node(files.resolve("/", path))
  if not node then refuse("look at", path, "ENOENT") end
  return {
    type = node.type, size = node.parts and node.size or 0, mode = node.mode, mtime = node.mtime,
  }
end

---@async
function Agent:dial(port)
  check_open(self)
  local answer = self.options.port(port)
  if answer then return socket.new(answer) end
  errors.raise {
    kind = "connect", code = "ECONNREFUSED",
    message = ("connect to port %d: nobody listens in the simulated sandbox"):format(port),
  }
end

---Ends everything inside. Never waits.
---@param reason? string
function Agent:close(reason)
  if self.closed then return end
  self.closed, self.reason = true, reason or "it was closed"
  if self.world then self.world.processes:kill_all() end
end

Agent.shutdown = Agent.close

return agent
