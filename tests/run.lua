-- Runs tests: sbxlua tests/run.lua [-k PATTERN] [--list] FILE...
--
-- A test file calls test(name, fn) or test(name, { timeout = seconds }, fn).
-- A test fails when it raises, passes its deadline (60 s unless it says
-- otherwise), or leaves something behind: a task, a wait, a handle in the loop,
-- a file descriptor, a child process, a sandbox or a global.
-- skip(reason) inside a test ends it as skipped, where what it needs is missing.
-- -k runs only the tests whose name matches a Lua pattern.

local core = require("sbx.core.task")
local errors = require("sbx.errors")
local task = require("sbx.task")

local DEADLINE = 60 -- seconds for a test that names none
local SETTLE = 2 -- seconds for handles and children to finish closing

local tests = {} -- in the order of the files: { name, timeout, fn }

function test(name, options, fn)
  if fn == nil then
    options, fn = {}, options
  end
  assert(type(name) == "string", "test: the name must be a string")
  assert(type(fn) == "function", "test: the body must be a function")
  tests[#tests + 1] = { name = name, timeout = options.timeout or DEADLINE, fn = fn }
end

local Skip = {}

function skip(reason)
  error(setmetatable({ reason = reason }, Skip), 0)
end

local function read_line(path, pattern)
  local file = io.open(path)
  if not file then return nil end
  local found
  for line in file:lines() do
    found = found or line:match(pattern)
  end
  file:close()
  return found
end

-- The names of all open descriptors. A descriptor has an entry in fdinfo only
-- once it is open, so the look-up does not count itself.
local function open_descriptors()
  local set = {}
  local limit = tonumber(read_line("/proc/self/status", "^FDSize:%s*(%d+)")) or 0
  for fd = 0, limit - 1 do
    local file = io.open("/proc/self/fdinfo/" .. fd)
    if file then
      file:close()
      set[tostring(fd)] = true
    end
  end
  return set
end

-- libuv starts every child from the thread that runs Lua.
local function child_processes()
  local set = {}
  for pid in (read_line("/proc/thread-self/children", ".*") or ""):gmatch("%d+") do
    set[pid] = true
  end
  return set
end

local function copy(source)
  local result = {}
  for key, value in pairs(source) do
    result[key] = value
  end
  return result
end

-- Counts of what lives; sandboxes are those that the run would have to delete.
local function count_live()
  local counts = core.stats()
  local ownership = package.loaded["sbx.sandbox.ownership"]
  counts.sandboxes = ownership and ownership.left() or 0
  return counts
end

local function snapshot()
  return {
    counts = count_live(),
    descriptors = open_descriptors(),
    children = child_processes(),
    globals = copy(_G),
  }
end

local function new_names(before, now)
  local names = {}
  for name, value in pairs(now) do
    if before[name] ~= value then names[#names + 1] = tostring(name) end
  end
  table.sort(names)
  return names
end

-- What `now` has beyond `before`, as lines of text; none when all is clean.
local function leftovers(before, now)
  local lines = {}
  for _, kind in ipairs({ "tasks", "waits", "handles", "sandboxes" }) do
    local more = now.counts[kind] - before.counts[kind]
    if more > 0 then lines[#lines + 1] = ("%d %s left behind"):format(more, kind) end
  end
  for _, kind in ipairs({ "descriptors", "children", "globals" }) do
    local names = new_names(before[kind], now[kind])
    if #names > 0 then
      lines[#lines + 1] = ("%s left behind: %s"):format(kind, table.concat(names, " "))
    end
  end
  return lines
end

-- Collects garbage and lets the loop turn until nothing is left behind or
-- SETTLE has passed. The HTTP client may keep idle connections between tests.
---@async
local function settle(before)
  local http = package.loaded["sbx.core.http"]
  local give_up = task.now() + SETTLE
  local pause = 0.001
  while true do
    if http and http.close_idle then http.close_idle() end
    collectgarbage()
    collectgarbage()
    task.sleep(pause)
    pause = pause * 2
    local lines = leftovers(before, snapshot())
    if #lines == 0 or task.now() > give_up then return lines end
  end
end

-- The error with the traceback that its task noted, down to this runner.
local function describe(err)
  local lines = { tostring(err) }
  for _, other in ipairs(errors.is_error(err) and err.errors or {}) do
    lines[#lines + 1] = "and: " .. tostring(other)
  end
  local noted = task.note_of(err)
  for line in (noted and noted.traceback or ""):gmatch("[^\n]+") do
    if line:find("tests/run.lua", 1, true) then break end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

---@async
local function run_test(one)
  local ok, err = pcall(task.scope, function() task.timeout(one.timeout, one.fn) end)
  if getmetatable(err) == Skip then return true, nil, err.reason end
  return ok, ok or describe(err)
end

---@async
local function run_all(selected)
  -- From its first stream on the loop keeps a spare descriptor.
  for _, stream in ipairs({ require("sbx.core.stream").pair() }) do
    stream:close()
  end
  local passed, failed, skipped = 0, 0, 0
  for _, one in ipairs(selected) do
    local before = snapshot()
    local start = task.now()
    local ok, text, reason = run_test(one)
    local left = settle(before)
    if not ok then table.insert(left, 1, text) end
    local verdict = #left > 0 and "FAIL" or reason and "skip" or "ok  "
    print(("%s %s (%.2f s)"):format(verdict, one.name, task.now() - start))
    for _, line in ipairs(left) do
      print("     " .. line:gsub("\n", "\n     "))
    end
    if reason then print("     " .. reason) end
    if #left > 0 then
      failed = failed + 1
    elseif reason then
      skipped = skipped + 1
    else
      passed = passed + 1
    end
  end
  return passed, failed, skipped
end

local function parse_arguments(argv)
  local options, files, index = { pattern = "" }, {}, 1
  while argv[index] do
    local word = argv[index]
    if word == "-k" then
      index = index + 1
      options.pattern = assert(argv[index], "-k needs a pattern")
    elseif word == "--list" then
      options.list = true
    else
      files[#files + 1] = word
    end
    index = index + 1
  end
  assert(#files > 0, "usage: run.lua [-k PATTERN] [--list] FILE...")
  return options, files
end

local function load_files(files)
  for _, path in ipairs(files) do
    local globals = copy(_G)
    assert(loadfile(path))()
    local names = new_names(globals, _G)
    assert(#names == 0, path .. " makes globals: " .. table.concat(names, " "))
  end
end

---@async
local function main(argv)
  local options, files = parse_arguments(argv)
  io.stdout:setvbuf("line")
  load_files(files)

  local selected = {}
  for _, one in ipairs(tests) do
    if one.name:find(options.pattern) then selected[#selected + 1] = one end
  end
  if options.list then
    for _, one in ipairs(selected) do
      print(one.name)
    end
    return
  end
  local passed, failed, skipped = run_all(selected)
  local summary = ("%d passed, %d failed"):format(passed, failed)
  print(skipped > 0 and ("%s, %d skipped"):format(summary, skipped) or summary)
  if failed > 0 or passed + skipped == 0 then os.exit(1) end
end

main(arg)
