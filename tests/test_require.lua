local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local task = require("sbx.task")

local function fails(text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok and tostring(err):find(text, 1, true), tostring(err))
end

-- Runs `fn(directory)` where `require` also finds the given modules, which are
-- forgotten afterwards. `modules` has name → source.
local function with_modules(modules, fn)
  local directory <close> = fs.tmpdir({ prefix = "require-" })
  local path = package.path
  local _ <close> = setmetatable({}, {
    __close = function()
      package.path = path
      for name in pairs(modules) do
        package.loaded[name] = nil
      end
    end,
  })
  package.path = directory.path .. "/?.lua"
  for name, source in pairs(modules) do
    fs.write(directory.path .. "/" .. name .. ".lua", source)
  end
  return fn(directory.path)
end

test("require: a module may wait while it loads", function()
  with_modules({
    rq_waits = 'local task = require("sbx.task") task.sleep(0.001) return { name = ... }',
  }, function(directory)
    local module, place = require("rq_waits")
    assert(module.name == "rq_waits" and place == directory .. "/rq_waits.lua")
    assert(require("rq_waits") == module and package.loaded.rq_waits == module)
  end)
end)

test("require: modules that need each other in a chain may all wait", function()
  with_modules({
    rq_a = 'require("sbx.task").yield() return 1 + require("rq_b")',
    rq_b = 'require("sbx.task").yield() return 1 + require("rq_c")',
    rq_c = 'require("sbx.task").sleep(0.001) return 1',
  }, function() assert(require("rq_a") == 3) end)
end)

test("require: tasks that need one module at once share a single load", function()
  local loads = 0
  package.preload.rq_shared = function()
    loads = loads + 1
    task.sleep(0.002)
    return {}
  end
  local results = task.map({ 1, 2, 3 }, function() return require("rq_shared") end)
  package.preload.rq_shared, package.loaded.rq_shared = nil, nil
  assert(loads == 1 and results[1] == results[2] and results[2] == results[3])
end)

test("require: when a load fails, each task that waited for it tries anew", function()
  local loads = 0
  package.preload.rq_fails = function()
    loads = loads + 1
    task.yield()
    if loads == 1 then error("not yet", 0) end
    return "loaded"
  end
  local first = task.pspawn(require, "rq_fails")
  local second = task.pspawn(require, "rq_fails")
  local ok, err = first:pjoin()
  assert(not ok and err == "not yet")
  assert(second:join() == "loaded" and loads == 2)
  package.preload.rq_fails, package.loaded.rq_fails = nil, nil
end)

test("require: a load that is cancelled leaves the module to the next task", function()
  local loads = 0
  package.preload.rq_cancelled = function()
    loads = loads + 1
    task.sleep(loads == 1 and 60 or 0)
    return "loaded"
  end
  local first = task.pspawn(require, "rq_cancelled")
  local second = task.pspawn(require, "rq_cancelled")
  task.yield()
  first:cancel()
  assert(second:join() == "loaded" and loads == 2)
  package.preload.rq_cancelled, package.loaded.rq_cancelled = nil, nil
end)

test("require: a task that is cancelled while another loads does no harm", function()
  local gate = task.waiter("the gate")
  package.preload.rq_slow = function() return gate:wait() end
  local first = task.spawn(require, "rq_slow")
  task.yield()
  assert(task.move_on(0.005, require, "rq_slow") == false)
  gate:wake("loaded")
  assert(first:join() == "loaded")
  package.preload.rq_slow, package.loaded.rq_slow = nil, nil
end)

test("require: a module that requires itself is an error, not a hang", function()
  with_modules({
    rq_self = 'return require("rq_self")',
    rq_round = 'return require("rq_trip")',
    rq_trip = 'require("sbx.task").yield() return require("rq_round")',
  }, function()
    fails("module 'rq_self' requires itself", require, "rq_self")
    fails("module 'rq_round' requires itself", require, "rq_round")
    assert(package.loaded.rq_self == nil and package.loaded.rq_trip == nil)
  end)
end)

test("require: two tasks whose modules need each other end in an error, not a hang", function()
  with_modules({
    rq_left = 'require("sbx.task").yield() return require("rq_right")',
    rq_right = 'require("sbx.task").yield() return require("rq_left")',
  }, function()
    local left, right = task.pspawn(require, "rq_left"), task.pspawn(require, "rq_right")
    local in_time = task.move_on(60, function()
      local ok, err = left:pjoin()
      assert(not ok and err:find("requires itself", 1, true), err)
      ok, err = right:pjoin()
      assert(not ok and err:find("requires itself", 1, true), err)
    end)
    left:cancel()
    right:cancel()
    assert(in_time, "the two wait for each other")
  end)
end)

test("require: the error of a module comes out as it was raised", function()
  local value = {}
  package.preload.rq_error = function() error(value) end
  for _ = 1, 2 do
    local ok, err = pcall(require, "rq_error")
    assert(not ok and err == value and package.loaded.rq_error == nil)
  end
  package.preload.rq_error = nil
  with_modules({ rq_syntax = "return +" }, function(directory)
    fails(directory .. "/rq_syntax.lua:1:", require, "rq_syntax")
  end)
end)

test("require: what is not found is listed, place by place", function()
  local ok, err = pcall(require, "rq_none.such")
  assert(not ok and err:find("module 'rq_none.such' not found:", 1, true))
  assert(err:find("no field package.preload['rq_none.such']", 1, true))
  assert(err:find("no module 'rq_none.such' in the sbxlua library", 1, true))
  assert(err:find("no file '%./rq_none/such%.lua'"), err)
  fails("string expected, got no value", require)
  fails("string expected, got table", require, {})
end)

test("require: results follow the rules of stock Lua", function()
  package.preload.rq_nothing = function() end
  assert(require("rq_nothing") == true and package.loaded.rq_nothing == true)
  package.preload.rq_sets = function(name, extra)
    assert(name == "rq_sets" and extra == ":preload:")
    package.loaded[name] = "set by itself"
  end
  local value, extra = require("rq_sets")
  assert(value == "set by itself" and extra == ":preload:")
  package.preload.rq_false = function() return false end
  assert(require("rq_false") == false)
  package.loaded.rq_given = "given"
  assert(require("rq_given") == "given" and select("#", require("rq_given")) == 1)
  for _, name in ipairs({ "nothing", "sets", "false", "given" }) do
    package.preload["rq_" .. name], package.loaded["rq_" .. name] = nil, nil
  end
end)

test("require: searchers and searchpath are those of stock Lua", function()
  assert(type(package.searchpath) == "function" and type(package.config) == "string")
  table.insert(package.searchers, function(name)
    if name == "rq_found" then return function(...) return { ... } end, "extra" end
  end)
  local found = require("rq_found")
  table.remove(package.searchers)
  package.loaded.rq_found = nil
  assert(found[1] == "rq_found" and found[2] == "extra")
end)

test("require: the library of the binary comes before files of the same name", function()
  with_modules({ sbx = 'error("the wrong one")' }, function()
    local before = package.loaded.sbx
    package.loaded.sbx = nil
    local ok, err = pcall(require, "sbx")
    package.loaded.sbx = before
    assert(ok, err)
  end)
end)

test("require: dofile, loadfile and load run code that waits", function()
  with_modules({
    rq_file = 'local task = require("sbx.task") task.yield() return 1, nil, 3',
  }, function(directory)
    local path = directory .. "/rq_file.lua"
    local results = table.pack(dofile(path))
    assert(results.n == 3 and results[1] == 1 and results[3] == 3)
    assert(select(3, assert(loadfile(path))()) == 3)
    fails("rq_absent.lua", dofile, directory .. "/rq_absent.lua")
  end)
end)

test("require: an error in a module of a script is reported with its place", function()
  local source = 'require("sbx.task").yield() error("broken here")'
  with_modules({ rq_broken = source }, function(directory)
    local code = ('package.path = %q require("rq_broken")'):format(directory .. "/?.lua")
    local result = process.run({ host.executable(), "-e", code })
    assert(result.code == 1 and result.stderr:find("rq_broken.lua:1: broken here", 1, true))
  end)
end)
