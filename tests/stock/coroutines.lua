-- Coroutines: values, status, wrap, yield across everything that allows it.

local function show(name, ...) print(name, select("#", ...), ...) end

show("type", type(coroutine.create(print)), select("#", coroutine.running()))
show("main", select(2, coroutine.running()), coroutine.isyieldable())

local co = coroutine.create(function(a, b)
  show("in", a, b, coroutine.isyieldable(), select(2, coroutine.running()))
  local c = coroutine.yield(a + b)
  local d, e = coroutine.yield(c * 2, "x")
  show("last", d, e)
  return "done", nil, nil
end)
show("status", coroutine.status(co), coroutine.isyieldable(co))
show("1", coroutine.resume(co, 3, 4))
show("status", coroutine.status(co))
show("2", coroutine.resume(co, 10))
show("3", coroutine.resume(co, nil, false))
show("status", coroutine.status(co))
show("dead", coroutine.resume(co))

-- Status as seen from inside and from another one.
local outer
outer = coroutine.create(function()
  local inner = coroutine.create(function()
    show("outer from inner", coroutine.status(outer))
    show("self resume", coroutine.resume(coroutine.running()))
    show("normal resume", coroutine.resume(outer))
    coroutine.yield("y")
  end)
  show("inner result", coroutine.resume(inner))
  show("inner", coroutine.status(inner), "outer", coroutine.status(outer))
end)
show("outer", coroutine.resume(outer))

-- Wrap as an iterator, a tail call, and after its end.
local gen = coroutine.wrap(function(...) for i = 1, select("#", ...) do coroutine.yield((select(i,
  ...))) end end)
show("gen", gen("a", nil, "c"), gen(), gen(), gen())
show("gone", pcall(gen))
for a, b in coroutine.wrap(function() coroutine.yield(1, 2) coroutine.yield(3) end)
do show("for", a, b) end

-- Yields across pcall, xpcall, metamethods, iterators, sort and gsub.
local function try(name, f)
  local c = coroutine.create(f)
  local ok, a, b = coroutine.resume(c, "in")
  show(name, ok, a, b)
  if coroutine.status(c) == "suspended" then show(name .. " on", coroutine.resume(c, "back")) end
end
try("pcall", function() return pcall(function() return coroutine.yield("y") end) end)
try("xpcall", function() return xpcall(function() error(coroutine.yield("y")) end, function(m)
  return "h:" .. tostring(m) end) end)
local meta = {
  __index = function(_, k) return coroutine.yield("index " .. tostring(k)) end,
  __add = function(a, b) return coroutine.yield("add") end,
  __lt = function() return coroutine.yield("lt") end,
  __le = function() return coroutine.yield("le") end,
  __eq = function() return coroutine.yield("eq") end,
  __concat = function() return coroutine.yield("concat") end,
  __call = function(_, x) return coroutine.yield("call" .. x) end,
  __len = function() return coroutine.yield("len") end,
  __newindex = function(_, k, v) coroutine.yield("newindex" .. k .. v) end,
  __unm = function() return coroutine.yield("unm") end,
  __close = function() coroutine.yield("close") end,
}
local t, u = setmetatable({}, meta), setmetatable({}, meta)
try("index", function() return t.x end)
try("add", function() return t + 1 end)
try("lt", function() return t < u end)
try("le", function() return not (t <= u) end)
try("eq", function() return t == u end)
try("concat", function() return "a" .. t .. "b" end)
try("call", function() return t(5) end)
try("len", function() return #t end)
try("newindex", function() t.k = "v" return "set" end)
try("unm", function() return -t end)
try("close", function() do local c <close> = t end return "closed" end)
try("iterator", function() for a in function() return coroutine.yield("it") end do return a end end)
try("sort", function() table.sort({ 3, 2, 1 }, function() return coroutine.yield() end) end)
try("gsub", function() return ("abc"):gsub(".", coroutine.yield) end)
try("dofile", function() return pcall(coroutine.wrap(function() return coroutine.yield(1) end)) end)
try("load reader", function() return load(function() coroutine.yield() end) end)
try("table.concat", function() return table.concat(setmetatable({}, { __index = coroutine.yield,
  __len = function() return 2 end })) end)
try("tostring", function() return tostring(setmetatable({}, { __tostring = coroutine.yield })) end)
try("select", function() return select("#", coroutine.yield(nil, nil)) end)

-- Deep nesting, and many of them.
local function nest(n) if n == 0 then return coroutine.yield("deep") end
  return coroutine.wrap(function() return nest(n - 1) end)() end
show("nest", nest(20), pcall(nest, 20))
local sum = 0
for i = 1, 2000 do sum = sum + coroutine.wrap(function(x) return coroutine.yield(x) end)(i) end
show("sum", sum)
local ok, err = pcall(function() local function r() return coroutine.wrap(r)() end r() end)
show("overflow", ok, (tostring(err):match("C stack overflow")))
show("args", pcall(coroutine.resume), pcall(coroutine.create, 1))
show("args", pcall(coroutine.wrap), pcall(coroutine.status, 1), pcall(coroutine.isyieldable, 3))
