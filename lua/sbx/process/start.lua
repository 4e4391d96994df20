-- Starts a child: checks what the caller asks for and hands it to the core.

local check = require("sbx.check")
local core = require("sbx.core.process")

local start = {}

local function check_argv(argv, level)
  if type(argv) ~= "table" or #argv == 0 then
    error("argv: expected a list: the program, then its arguments", level + 1)
  end
  local copy = {}
  for i = 1, #argv do
    local type = type(argv[i])
    if type ~= "string" and type ~= "number" then
      error("argv[" .. i .. "]: expected a string, got a " .. type, level + 1)
    end
    copy[i] = tostring(argv[i])
  end
  return copy
end

-- "NAME=value" strings: ours with `changes` applied, or just `changes`.
local function environment(changes, clear, level)
  if not changes and not clear then return nil end
  local all = clear and {} or core.environ()
  for name, value in pairs(changes or {}) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]") then
      error("env: not a variable's name: " .. tostring(name), level + 1)
    end
    if value ~= false and type(value) ~= "string" and type(value) ~= "number" then
      error("env." .. name .. ": expected a string, or false to leave it out", level + 1)
    end
    all[name] = value or nil
  end
  local list = {}
  for name, value in pairs(all) do
    list[#list + 1] = name .. "=" .. value
  end
  table.sort(list)
  return list
end

-- What `wanted` says of the child's descriptor `fd`, as the core takes it.
local function descriptor(fd, wanted, level)
  if math.type(wanted) == "integer" then
    return { fd = fd, kind = "inherit", from = wanted }
  elseif type(wanted) == "table" and type(wanted.bytes) == "string" then
    return { fd = fd, kind = "bytes", data = wanted.bytes }
  elseif wanted == "pipe" or wanted == "socket" or wanted == "null" or wanted == "inherit" then
    return { fd = fd, kind = wanted }
  end
  error('fd ' .. fd .. ': expected "pipe", "socket", "null", "inherit", a descriptor or '
    .. "{ bytes = }", level + 1)
end

local function stdio_list(opts, level)
  local list = {
    descriptor(0, opts.stdin, level + 1),
    descriptor(1, opts.stdout, level + 1),
    descriptor(2, opts.stderr, level + 1),
  }
  for fd, wanted in pairs(opts.fds or {}) do
    if math.type(fd) ~= "integer" or fd < 3 or fd > 63 then
      error("fds: expected numbers from 3 to 63, got " .. tostring(fd), level + 1)
    end
    list[#list + 1] = descriptor(fd, wanted, level + 1)
  end
  return list
end

local defaults = {
  stdin = "null", stdout = "inherit", stderr = "inherit", fds = check.none,
  env = check.none, clear_env = false, cwd = check.none, uid = check.none,
  gid = check.none, session = true, grace = 5,
}

---Starts a program. Returns the core's object, what to call it, and the options
---with their defaults. `level` is that of error(): 1 names the caller's line.
---@param argv string[]
---@param options table|nil
---@param level integer
---@return sbx.core.process.Process started, string name, table options
function start.child(argv, options, level)
  argv = check_argv(argv, level + 1)
  local opts = check.options(options, defaults, level + 1)
  if type(opts.grace) ~= "number" or not (opts.grace >= 0 and opts.grace <= 3600) then
    error("grace: expected seconds from 0 to 3600", level + 1)
  end
  local started = core.spawn({
    file = argv[1],
    args = argv,
    env = environment(opts.env, opts.clear_env, level + 1),
    cwd = opts.cwd,
    uid = opts.uid,
    gid = opts.gid,
    detached = opts.session,
    stdio = stdio_list(opts, level + 1),
  })
  return started, argv[1]:match("[^/]+$") or argv[1], opts
end

return start
