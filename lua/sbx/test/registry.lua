-- The tests of the files that the runner loads, in their order.

local check = require("sbx.check")

local registry = {
  tests = {}, ---@type sbx.test.Test[]
  file = nil, ---@type string|nil  the one that is being loaded
  running = nil, ---@type table|nil  the state of the test that runs
}

---@class sbx.test.Options
---@field timeout? number   seconds of real time (default 60, or what --timeout says)
---@field clock? "real"|"virtual"
---@field seed? integer     runs its tasks in the order that this determines
---@field skip? boolean|string  true or why
---@field only? boolean     while there are such tests, the others do not run

---@class sbx.test.Test: sbx.test.Options
---@field name string
---@field file string
---@field line integer
---@field fn? async fun()
---@field todo? boolean
---@field broken? string    why its file could not be loaded
---@field before (async fun())[]  the outermost group's first
---@field after (async fun())[]

local group ---@type { name: string|nil, before: table, after: table, outer: table|nil }

local function new_group(name, outer)
  return { name = name, before = {}, after = {}, outer = outer }
end

---From here on tests belong to `file`.
---@param file string
function registry.begin(file)
  registry.file = file
  group = new_group(nil, nil)
end

---The tests of a file have their hooks only now: those of its end count too.
function registry.finish()
  for _, one in ipairs(registry.tests) do
    if one.group then
      local chain, at = {}, one.group
      while at do
        table.insert(chain, 1, at)
        at = at.outer
      end
      for _, each in ipairs(chain) do
        table.move(each.before, 1, #each.before, #one.before + 1, one.before)
        table.move(each.after, 1, #each.after, #one.after + 1, one.after)
      end
      one.group = nil
    end
  end
  registry.file = nil
end

-- Raises unless a file is being loaded by the runner.
local function check_loading(what)
  if registry.running then error(what .. ": not inside a test that runs", 4) end
  if not registry.file then error(what .. ': run this file with "sbxlua test FILE"', 4) end
end

local function check_options(options, level)
  local opts = check.options(options, {
    timeout = check.none, clock = "real", seed = check.none, skip = check.none, only = false,
  }, level + 1)
  if opts.timeout ~= nil then check.number(opts.timeout, "timeout", 0, 1e6) end
  if opts.clock ~= "real" and opts.clock ~= "virtual" then
    error('clock: expected "real" or "virtual"', level + 1)
  end
  if opts.seed ~= nil then check.integer(opts.seed, "seed") end
  return opts
end

local function full_name(name)
  local at = group
  while at do
    if at.name then name = at.name .. ": " .. name end
    at = at.outer
  end
  return name
end

local function place_of(level)
  local info = debug.getinfo(level + 1, "l")
  return info and info.currentline or 0
end

local function add(one, level)
  one.file = registry.file
  one.line = place_of(level + 1)
  one.group, one.before, one.after = group, {}, {}
  table.insert(registry.tests, one)
end

---Adds a test; for `test(...)` itself, whose caller's line it takes down.
---@param name string
---@param options sbx.test.Options|nil
---@param fn async fun()
function registry.add(name, options, fn)
  check.string(name, "name", 3)
  check_loading("test")
  check.fn(fn, "test", 3)
  local one = check_options(options, 3)
  one.name, one.fn = full_name(name), fn
  add(one, 3)
end

---@param name string
function registry.add_todo(name)
  check.string(name, "name", 3)
  check_loading("test.todo")
  add({ name = full_name(name), todo = true }, 2)
end

---A file that could not be loaded counts as a test that fails.
---@param file string
---@param problem string
function registry.add_broken(file, problem)
  table.insert(registry.tests, {
    name = file, file = file, line = 0, broken = problem, before = {}, after = {},
  })
end

---Runs `fn`, whose tests and hooks belong to a group.
---@async
function registry.add_group(name, fn)
  check.string(name, "name", 3)
  check.fn(fn, "test.group", 3)
  check_loading("test.group")
  group = new_group(name, group)
  local ok, err = pcall(fn)
  group = group.outer
  if not ok then error(err, 0) end
end

---@param which "before"|"after"
---@param fn async fun()
function registry.add_hook(which, fn)
  check.fn(fn, "test." .. which, 3)
  if which == "after" and registry.running then
    registry.running.scope:defer(fn)
    return
  end
  check_loading("test." .. which)
  table.insert(group[which], fn)
end

return registry
