-- The first Lua code that runs: makes `require` able to wait, finds the library
-- inside the binary, and returns the program's start.
--
-- Stock `require` is a C function that cannot be suspended. This one behaves the
-- same, and two tasks that need one module at once share a single load of it.

local find = ...

local package = package
local loaded = package.loaded -- what the C side knows as the loaded modules
local loading = {} -- module name → { task =, waiters = {} }
local awaiting = {} -- task → the entry of the module whose load it waits for

local function search(name)
  local searchers = package.searchers
  if type(searchers) ~= "table" then error("'package.searchers' must be a table", 3) end
  local notes = {}
  local i = 1
  while rawget(searchers, i) ~= nil do
    -- By a C function: the stock searchers say where they were called.
    local ok, loader, extra = pcall(searchers[i], name)
    if not ok then error(loader, 0) end
    if type(loader) == "function" then return loader, extra end
    if type(loader) == "string" then notes[#notes + 1] = "\n\t" .. loader end
    i = i + 1
  end
  error("module '" .. name .. "' not found:" .. table.concat(notes), 3)
end

local function load_module(name, loader, extra)
  local value = loader(name, extra)
  if value ~= nil then
    loaded[name] = value
  elseif loaded[name] == nil then
    loaded[name] = true
  end
end

-- Suspends until the task that loads `name` is through. Raises where that task
-- waits, perhaps by way of others, for a module that this one is loading.
local function await_load(entry, name, core)
  local current = core.current()
  local at = entry
  while at do
    if at.task == current then error("module '" .. name .. "' requires itself", 3) end
    at = awaiting[at.task]
  end
  local waiter = require("sbx.core.waiter").new("the loading of module " .. name)
  table.insert(entry.waiters, waiter)
  awaiting[current] = entry
  local ok, problem = pcall(waiter.wait, waiter)
  awaiting[current] = nil
  if not ok then error(problem, 0) end
end

local function check_name(...)
  local name = ...
  if type(name) == "string" then return name end
  if type(name) == "number" then return tostring(name) end
  local got = select("#", ...) == 0 and "no value" or type(name)
  error("bad argument #1 to 'require' (string expected, got " .. got .. ")", 3)
end

function require(...)
  local name = check_name(...)
  local core = loaded["sbx.core.task"]
  while not loaded[name] do
    local entry = loading[name]
    if entry then
      await_load(entry, name, core)
    else
      local loader, extra = search(name)
      entry = { task = core.current(), waiters = {} }
      loading[name] = entry
      local ok, problem = pcall(load_module, name, loader, extra)
      loading[name] = nil
      for _, waiter in ipairs(entry.waiters) do
        waiter:wake()
      end
      if not ok then error(problem, 0) end
      return loaded[name], extra
    end
  end
  return loaded[name]
end

-- After the preloaded modules, ahead of any file: the library is this binary's.
table.insert(package.searchers, 2, function(name)
  local loader, chunk = find(name)
  if not loader then return "no module '" .. name .. "' in the sbxlua library" end
  return loader, chunk
end)

require("sbx.errors")
return function(argv)
  if require("sbx.core.bundle").is_here() then return require("sbx.bundle.start").run(argv) end
  return require("sbx.main")(argv)
end
