-- Runs a child to its end: feeds it, gathers what it writes, and judges its end.

local check = require("sbx.check")
local child = require("sbx.process.child")
local errors = require("sbx.errors")
local reader = require("sbx.reader")
local sync = require("sbx.sync")
local task = require("sbx.task")

local MAX_OUTPUT = 16 * 1024 * 1024 -- bytes kept of each stream
local LINGER = 0.1 -- seconds without output after the child's end
local IN_FLIGHT = 1024 * 1024 + 64 * 1024 -- bytes: the largest pipe, and our buffer
local TAIL = 2048 -- bytes of stderr that an error carries

-- --------------------------------------------------------------------- feeding

-- How the child gets its input: as one file in memory, or by a task that writes.
local function input_of(value, level)
  if value == nil then return "null", nil end
  if type(value) == "string" then return { bytes = value }, nil end
  if type(value) == "function" then
    return "pipe", reader.new(function()
      local piece = value()
      if piece ~= nil then check.string(piece, "input: what the function returned") end
      return piece
    end)
  end
  local ok, source = pcall(reader.of, value)
  if not ok then
    error("input: expected a string, a function or what has `read`, got a " .. type(value),
      level + 1)
  end
  return "pipe", source
end

local gone = { EPIPE = true, ECONNRESET = true, EBADF = true }

-- A child that reads no more of its input is no failure.
---@async
local function feed(stream, source)
  for piece in function() return source:some() end do
    local _, err = errors.try(stream.write, stream, piece)
    if err then
      if errors.is_error(err) and gone[err.code] then break end
      error(err, 0)
    end
  end
  stream:close()
end

-- ------------------------------------------------------------------- gathering

---What a stream has given so far.
---@class sbx.process.Gathered
---@field name "stdout"|"stderr"
---@field size integer       bytes kept in the list
---@field truncated boolean  there were more
---@field reading boolean    it waits for output, rather than passing it on
---@field last number        when something came
---@field done boolean       all has come
---@field left integer|nil   once the child has ended: bytes it may have written before

local function gather(name)
  return { name = name, size = 0, truncated = false, reading = false, last = 0, done = false }
end

local function keep(into, piece, max)
  if into.size + #piece > max then
    into.truncated = true
    piece = piece:sub(1, max - into.size)
  end
  into.size = into.size + #piece
  if piece ~= "" then into[#into + 1] = piece end
end

---@async
local function collect(stream, into, max, pass)
  while not into.left or into.left > 0 do
    into.reading = true
    local piece = stream:read()
    into.reading, into.last = false, task.now()
    if not piece then break end
    if into.left then into.left = into.left - #piece end
    keep(into, piece, max)
    if pass then pass(piece, into.name) end
  end
  into.done = true
end

-- After the child's end its output is all that is in the pipes. A descendant that
-- holds them open must not hold us up, nor one that goes on writing.
---@async
local function drain(gathered)
  local ended = task.now()
  for _, into in ipairs(gathered) do
    into.left = IN_FLIGHT
  end
  local pause = 0 -- the ends of the pipes mostly come along with that of the child
  while true do
    local open = false
    for _, into in ipairs(gathered) do
      local quiet = into.reading and task.now() - math.max(into.last, ended) >= LINGER
      open = open or not (into.done or quiet)
    end
    if not open then return end
    task.sleep(pause)
    pause = math.min(pause + 0.0005, 0.02)
  end
end

-- ------------------------------------------------------------------ passing on

-- Returns fn(bytes, name) that hands on what arrives.
local function receiver_of(tee, level)
  if type(tee) == "function" then return tee end
  if tee == true then
    return function(bytes, name)
      io[name]:write(bytes)
      io[name]:flush()
    end
  end
  local kind = type(tee)
  local meta = getmetatable(tee)
  local indexed = kind == "table" or (kind == "userdata" and meta and meta.__index)
  if not indexed or type(tee.write) ~= "function" then
    error("tee: expected true, a function or what has `write`, got a " .. kind, level + 1)
  end
  return function(bytes)
    tee:write(bytes)
  end
end

-- The same for both streams, one piece at a time; or nil.
local function pass_of(tee, level)
  if tee == nil or tee == false then return nil end
  local receive, mutex = receiver_of(tee, level + 1), sync.mutex("tee")
  return function(bytes, name)
    local _ <close> = mutex:lock()
    receive(bytes, name)
  end
end

-- ------------------------------------------------------------------------- run

---@async
local function drive(process, work)
  return task.scope(function(scope)
    if work.source then scope:daemon(feed, process.stdin, work.source) end
    scope:daemon(collect, process.stdout, work.out, work.max, work.pass)
    scope:daemon(collect, process.stderr, work.err, work.max, work.pass)
    local code, signal = process:wait()
    drain({ work.out, work.err })
    return code, signal
  end)
end

local function raise_timeout(process, work, timeout)
  errors.raise({
    kind = "timeout",
    op = "run",
    code = "ETIMEDOUT",
    stderr = table.concat(work.err):sub(-TAIL),
    message = string.format("%s: timed out after %g s", process.name, timeout),
  })
end

local function raise_exit(name, result)
  local tail = result.stderr:sub(-TAIL)
  local how = result.signal and "killed by signal " .. result.signal
    or "exit code " .. result.code
  local last = tail:match("([^\n]+)%s*$")
  errors.raise({
    kind = "process",
    op = "run",
    code = result.signal and "SIGNAL" or "EXIT",
    exit_code = result.code,
    signal = result.signal,
    stderr = tail,
    message = name .. ": " .. how .. (last and ": " .. last or ""),
  })
end

local defaults = {
  input = check.none, timeout = check.none, env = check.none, clear_env = false,
  cwd = check.none, uid = check.none, gid = check.none, check = false,
  max_output = MAX_OUTPUT, grace = 2, tee = check.none,
}

-- What there is to do besides starting the child, and how its stdin is opened.
local function prepare(opts, level)
  local timeout, max = opts.timeout, math.tointeger(opts.max_output)
  if timeout ~= nil and (type(timeout) ~= "number" or not (timeout >= 0 and timeout <= 1e9)) then
    error("timeout: expected seconds from 0 to 1e9", level + 1)
  end
  if not max or max < 0 then error("max_output: expected a number of bytes", level + 1) end
  check.boolean(opts.check, "check", level + 1)
  local stdin, source = input_of(opts.input, level + 1)
  return {
    source = source, max = max, pass = pass_of(opts.tee, level + 1),
    out = gather("stdout"), err = gather("stderr"),
  }, stdin
end

local run = {}

---@async
---@param argv string[]
---@param options table|nil
---@param level integer  as for error()
---@return sbx.process.Result
function run.to_end(argv, options, level)
  local opts = check.options(options, defaults, level + 1)
  local work, stdin = prepare(opts, level + 1)
  local process <close> = child.start(argv, {
    stdin = stdin, stdout = "pipe", stderr = "pipe", grace = opts.grace, env = opts.env,
    clear_env = opts.clear_env, cwd = opts.cwd, uid = opts.uid, gid = opts.gid,
  }, level + 1)

  local ended, code, signal = true
  if opts.timeout then
    ended, code, signal = task.move_on(opts.timeout, drive, process, work)
  else
    code, signal = drive(process, work)
  end
  if not ended then raise_timeout(process, work, opts.timeout) end
  local result = {
    code = code,
    signal = signal,
    stdout = table.concat(work.out),
    stderr = table.concat(work.err),
    truncated = work.out.truncated or work.err.truncated,
  }
  if opts.check and code ~= 0 then raise_exit(process.name, result) end
  return result
end

return run
