-- The stage of the isolation suite: a server with a sandbox in which things are tried, a
-- neighbour who must not notice, and services of the machine that must not be reached.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local net = require("sbx.core.net")
local process = require("sbx.process")
local task = require("sbx.task")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local server_support = dofile(here .. "server_support.lua")

local support = {}

-- What a sandbox is to run to get out, for any image.
local function compile(folder)
  local compiler = process.run({ "sh", "-c", "command -v musl-gcc || command -v cc" },
    { check = true }).stdout:match("%S+")
  local path = folder .. "/escape"
  local argv = {
    compiler, "-static", "-Os", "-s", "-w", "-o", path, here .. "isolation/escape.c",
    here .. "isolation/attempts.c", "-idirafter", "/usr/include",
  }
  for _, name in ipairs(fs.list("/usr/include")) do
    if name:find("-linux-gnu", 1, true) then
      argv[#argv + 1] = "-idirafter"
      argv[#argv + 1] = "/usr/include/" .. name
    end
  end
  process.run(argv, { check = true, timeout = 60 })
  return path
end

---@class support.Stage
---@field api support.Api
---@field box support.Gateway    where things are tried
---@field other support.Gateway  the neighbour
---@field folder string          of the machine, with the marker in it
---@field marker string
---@field word string            what the marker says
---@field program string         the bytes of `escape`
---@field image string
local Stage = {}
Stage.__index = Stage

---A sandbox with short rations, for those who take all that there is. The same one as
---before, if it has lived through that. Returns its object and its gateway.
---@async
function Stage:bomb()
  local made = self.spare
  local alive = made and select(2, self.api:call("GET", "/sandbox/" .. made.object.id)).status
  if alive ~= "RUNNING" then
    made = {}
    made.object, made.gateway = self.api:running {
      name = "bomb", docker_image = self.image, memory_gb = 0.125, disk_size_gb = 0.1,
      network_access = false,
    }
    made.gateway:upload("/tmp/escape", { data = self.program })
    made.gateway:exec("chmod +x /tmp/escape")
    self.spare = made
  end
  return made.object, made.gateway
end

---Runs a command where things are tried. Returns its result.
---@async
function Stage:run(command)
  local status, result = self.box:exec(command, { env = self.env })
  assert(status == 200, tostring(status) .. " " .. tostring(result.message))
  return result
end

---The same for the neighbour.
---@async
function Stage:beside(command)
  return select(2, self.other:exec(command))
end

---That nothing was written on the machine.
---@async
function Stage:assert_untouched()
  assert(fs.read(self.marker) == self.word .. "\n", "the marker was changed")
  local names = table.concat(fs.list(self.folder), " ")
  assert(names == self.marker:match("[^/]+$"), names)
end

-- A fresh sandbox to try things in, when the last one did not live through it.
local function enter(self)
  local object
  object, self.box = self.api:running {
    name = "inside", docker_image = self.image, network_access = self.network,
  }
  self.object = object
  assert(self.box:upload("/tmp/escape", { data = self.program }) == 200)
  assert(select(2, self.box:exec("chmod +x /tmp/escape")).exit_code == 0)
end

local function prepare_neighbour(self)
  local _
  _, self.other = self.api:running { name = "neighbour", docker_image = self.image }
  self.other:upload("/tmp/escape", { data = self.program })
  local status, result = self.other:exec("chmod +x /tmp/escape; echo neighbour > /tmp/mark\n"
    .. "sleep 4711471 > /dev/null 2>&1 & echo $! > /tmp/sleeper\n"
    .. "/tmp/escape listen " .. self.env.OTHERPORT .. " > /tmp/heard 2>&1 &")
  assert(status == 200 and result.exit_code == 0)
end

-- The neighbour and the server are as they were, and nobody has reached anything.
local function check_unharmed(self, name)
  local status, result = self.other:exec("cat /tmp/mark /tmp/heard; kill -0 $(cat /tmp/sleeper)")
  assert(status == 200 and result.stdout == "neighbourready\n" or result.stdout
    == "neighbour\nready\n", name .. ": the neighbour: " .. tostring(result.stdout))
  assert(result.exit_code == 0, name .. ": the neighbour's process is gone")
  assert(self.api:call("GET", "/sandbox") == 200, name .. ": the server")
  assert(self.reached == 0, name .. ": a service of this machine was reached")
  local _, object = self.api:call("GET", "/sandbox/" .. self.object.id)
  if object.status ~= "RUNNING" then enter(self) end
end

local function try(self, entry)
  if entry.command then
    local result = self:run(entry.command)
    local text = result.stdout .. result.stderr
    assert(result.stdout:find("denied", 1, true), entry.name .. ": was not tried: " .. text)
    assert(not text:find("ESCAPED", 1, true), entry.name .. ": " .. text)
  else
    entry.attempt(self)
  end
  check_unharmed(self, entry.name)
end

---Tries all of a list, and looks after each at what became of the others. Raises
---what was not denied, by name.
---@async
---@param entries {name: string, command?: string, attempt?: async fun(stage: support.Stage)}[]
function Stage:try_all(entries)
  local problems = {}
  for _, entry in ipairs(entries) do
    local ok, failure = pcall(try, self, entry)
    if not ok then problems[#problems + 1] = entry.name .. ": " .. tostring(failure) end
  end
  assert(#problems == 0, table.concat(problems, "\n"))
end

---What `escape` can try, as such a list.
---@async
function Stage:calls()
  local entries = {}
  for name in self:run("$ESCAPE list").stdout:gmatch("%S+") do
    entries[#entries + 1] = { name = name, command = "$ESCAPE " .. name }
  end
  return entries
end

local function count_visitors(self, scope, listener)
  scope:daemon(function()
    while true do
      listener:accept():close()
      self.reached = self.reached + 1
    end
  end)
end

-- Says so when somebody connects to the abstract socket.
local function watch_abstract(self, scope, child)
  assert(child.stdout:read() == "ready\n")
  scope:daemon(function()
    while child.stdout:read() do
      self.reached = self.reached + 1
    end
  end)
end

local function own_addresses()
  local found = {}
  for address in process.run({ "hostname", "-I" }).stdout:gmatch("%d+%.%d+%.%d+%.%d+") do
    found[#found + 1] = address
  end
  found[#found + 1] = "10.0.2.2" -- this machine, as slirp4netns has it
  return table.concat(found, " ")
end

---Runs `fn(stage)` with a driver's sandboxes.
---@async
---@param options {driver: table, image: string, network?: boolean}
---@param fn async fun(stage: support.Stage)
function support.with_stage(options, fn)
  local folder <close> = fs.tmpdir()
  fs.mkdir(folder.path .. "/host")
  fs.chmod(folder.path, 493) -- 0755: the file's place is no obstacle
  fs.chmod(folder.path .. "/host", 511)
  local word = "word-" .. hash.random_hex(8)
  local self = setmetatable({
    folder = folder.path .. "/host", marker = folder.path .. "/host/marker", word = word,
    image = options.image, network = options.network or false, reached = 0,
    program = fs.read(compile(folder.path)),
  }, Stage)
  fs.write(self.marker, word .. "\n", { mode = 420 })
  local abstract = "sbx-isolation-" .. hash.random_hex(6)
  local child <close> = process.spawn({ folder.path .. "/escape", "abstract", abstract },
    { stdout = "pipe", grace = 0 })
  local listener <close> = net.listen("0.0.0.0", 0)
  server_support.with_server(function(api)
    self.api = api
    self.env = {
      MARKER = self.marker, HOSTDIR = self.folder, WORD = word, ESCAPE = "/tmp/escape",
      HOSTPORT = tostring(listener.port), APIPORT = tostring(api.server.port),
      OTHERPORT = "4711", ABSTRACT = abstract, ADDRESSES = own_addresses(),
    }
    task.scope(function(scope)
      count_visitors(self, scope, listener)
      watch_abstract(self, scope, child)
      prepare_neighbour(self)
      enter(self)
      fn(self)
      scope:cancel("tried all")
    end)
  end, { driver = options.driver, notice = function() end })
end

return support
