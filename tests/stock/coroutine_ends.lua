-- How coroutines end: by errors, by close, by the outermost yield.

local function show(name, ...) print(name, select("#", ...), ...) end

local function fails(v, level) return coroutine.create(function() error(v, level) end) end
for _, v in ipairs { "text", 12, true, { 1 } } do
  local ok, err = coroutine.resume(fails(v))
  show("error", ok, type(err) == "table" and "table" or err)
end
show("nil error", coroutine.resume(coroutine.create(function() error() end)))
show("level 0", coroutine.resume(fails("plain", 0)))
show("level 2", coroutine.resume(fails("two", 2)))
show("runtime", coroutine.resume(coroutine.create(function() return nil + 1 end)))
show("string add", coroutine.resume(coroutine.create(function() return {} .. "x" end)))

local w = coroutine.wrap(function() error("in wrap") end)
show("wrap", pcall(w))
show("wrap again", pcall(w))
show("wrap table", pcall(coroutine.wrap(function() error({}) end)) == false)
show("wrap number", pcall(coroutine.wrap(function() error(7) end)))
show("nested wrap", pcall(coroutine.wrap(function() return coroutine.wrap(function() error("deep")
  end)() end)))
local w2 = coroutine.wrap(function() local x <close> = setmetatable({}, { __close = function(_, e)
  show("closing", e) end }) error("with close") end)
show("wrap close", pcall(w2))

-- coroutine.close in every state.
show("close new", coroutine.close(coroutine.create(print)))
local dead = coroutine.create(function() end) coroutine.resume(dead)
show("close dead", coroutine.close(dead))
local bad = fails("e", 0) coroutine.resume(bad)
show("close failed", coroutine.close(bad))
show("close failed again", coroutine.close(bad), coroutine.status(bad))
show("close running", pcall(coroutine.close, coroutine.running()))
local c
c = coroutine.create(function() return pcall(coroutine.close, c) end)
show("close self", coroutine.resume(c))
local normal
normal = coroutine.create(function() return coroutine.wrap(function()
  return pcall(coroutine.close, normal) end)() end)
show("close normal", coroutine.resume(normal))

local order = {}
local function closing(name, fail) return setmetatable({}, { __close = function(_, e)
  order[#order + 1] = name .. ":" .. tostring(e)
  if fail then error(fail, 0) end
end }) end
local s = coroutine.create(function()
  local a <close> = closing("a")
  local b <close> = closing("b", "b fails")
  local d <close> = closing("d")
  coroutine.yield("suspended")
end)
show("suspend", coroutine.resume(s))
show("close suspended", coroutine.close(s))
show("order", table.concat(order, " "))
show("status", coroutine.status(s), coroutine.resume(s))

-- A close that yields inside coroutine.close cannot.
local y = coroutine.create(function()
  local a <close> = setmetatable({}, { __close = function() coroutine.yield("no") end })
  coroutine.yield(1)
end)
coroutine.resume(y)
show("yield in close", coroutine.close(y))

show("yield outside", pcall(coroutine.yield, 1))
show("resume junk", pcall(coroutine.resume, "x"))
show("close junk", pcall(coroutine.close, {}))
show("running", type(coroutine.running()))
show("yieldable in sort", coroutine.wrap(function()
  local seen
  table.sort({ 2, 1 }, function(a, b) seen = coroutine.isyieldable() return a < b end)
  return seen, coroutine.isyieldable()
end)())

-- Error objects keep their identity, tracebacks the coroutine's frames.
local object = setmetatable({}, { __tostring = function() return "an object" end })
local ok, e = coroutine.resume(coroutine.create(function() error(object) end))
show("object", ok, e == object, tostring(e))
local tb = coroutine.create(function() local function inner() coroutine.yield() end inner() end)
coroutine.resume(tb)
show("traceback", debug.traceback(tb))
show("traceback msg", debug.traceback(tb, "msg"), debug.traceback(tb, nil, 1))
show("traceback of value", debug.traceback({}) ~= nil, debug.traceback(nil) ~= nil)
show("stack overflow", (select(2, coroutine.resume(coroutine.create(function() local function f()
  return 1 + f() end return f() end))):match("stack overflow")))
