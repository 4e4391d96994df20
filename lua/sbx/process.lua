-- Child processes: run one to its end, or start one and talk to it.
--
-- A program is started directly, from a list of arguments; no shell is involved
-- unless you ask for one. Failures are error objects: ENOENT when there is no such
-- program, kind "timeout", and kind "process" where `check` is asked for.

local check = require("sbx.check")
local child = require("sbx.process.child")
local core = require("sbx.core.process")
local run = require("sbx.process.run")

---@class sbx.process
local process = {}

---@class sbx.process.Result
---@field code integer      exit code; 128 + signal when a signal killed it
---@field signal? integer
---@field stdout string
---@field stderr string
---@field truncated boolean  some output beyond `max_output` was dropped

---@class sbx.process.RunOptions
---@field input? string|sbx.Reader|(async fun(): string|nil)|{ read: function }  for its stdin; else empty
---@field timeout? number     seconds
---@field check? boolean      raise kind "process" unless the code is 0
---@field max_output? integer bytes kept of each stream (default 16 MiB)
---@field tee? boolean|(async fun(bytes: string, name: "stdout"|"stderr"))|{ write: function }  gets the output as it comes: true for our own streams
---@field grace? number       seconds between SIGTERM and SIGKILL (default 2)
---@field env? table<string, string|number|false>  changes to ours; false leaves one out
---@field clear_env? boolean  only what `env` says
---@field cwd? string
---@field uid? integer
---@field gid? integer

---Runs a program to its end. An exit code is an answer, not a failure, unless
---`check` is set. When the time is up, or the task is cancelled, the program and
---all that it started are ended: SIGTERM, then SIGKILL after `grace` seconds.
---@async
---@param argv string[]  the program, then its arguments
---@param options? sbx.process.RunOptions
---@return sbx.process.Result
function process.run(argv, options)
  local result = run.to_end(argv, options, 2)
  return result
end

---Runs a line of shell (sh -c) to its end; options and result as for `run`.
---@async
---@param line string
---@param options? sbx.process.RunOptions
---@return sbx.process.Result
function process.shell(line, options)
  local result = run.to_end({ "sh", "-c", check.string(line, "line") }, options, 2)
  return result
end

---Starts a program. Each descriptor is "pipe", "socket" (a socket pair), "null",
---"inherit", one of our descriptors, or `{ bytes = }` for the child to read.
---@param argv string[]  the program, then its arguments
---@param options? table  `stdin` (default "null"), `stdout`, `stderr` ("inherit"),
---  `fds` (3 to 63), `env` (changes to ours; false leaves one out), `clear_env`,
---  `cwd`, `uid`, `gid`, `session` (of its own; default true), `grace` (seconds
---  between SIGTERM and SIGKILL at close; default 5)
---@return sbx.Process
function process.spawn(argv, options)
  local started = child.start(argv, options, 2)
  return started
end

---Where a program would be found: its path in $PATH, or `name` itself where it has
---a slash; nil when there is no such file that we may execute.
---@param name string
---@return string|nil
function process.which(name)
  check.string(name, "name")
  if name == "" or name:find("\0", 1, true) then return nil end
  if name:find("/", 1, true) then return core.executable(name) and name or nil end
  local path = core.environ().PATH or "/usr/local/bin:/bin:/usr/bin"
  for folder in (path .. ":"):gmatch("([^:]*):") do
    local candidate = (folder == "" and "." or folder) .. "/" .. name
    if core.executable(candidate) then return candidate end
  end
  return nil
end

---The id of this process.
---@return integer
function process.pid()
  return core.pid()
end

return process
