-- Varargs, multiple values, table constructors, closures.

local function show(...) print(select("#", ...), ...) end
local function f(...) return ... end
local function g(...) return select("#", ...), ... end
local function h(...) local a, b = ... return b, a, ... end
show(f())
show(f(nil))
show(f(1, nil, nil))
show((f(1, 2)))
show(g())
show(g(nil, nil))
show(h(1))
show(h(1, 2, 3))
show(f(1, 2), f(3, 4))
show(#{ f(1, 2), f(3, 4) }, #{ f(1, 2), (f(3, 4)) }, #{ f(), f(), f() }, #{ f(1, nil, 3) },
  ({ f(1, 2, 3) })[3], #{ ... })
show(select(2, f("a", "b", "c")))
show(select(-2, "a", "b", "c"))
show(select("#"))
show(select("#", nil))
show(pcall(select, 0, 1))
show(pcall(select, -2, 1))
show(select(5, 1, 2))
show(select("2", "a", "b"))
show(pcall(select, {}))
local function count(...) local n = 0 for _ in pairs({ ... }) do n = n + 1 end return n end
show(count(1, nil, 3), count(), count(nil))
local function tail(n, ...) if n == 0 then return ... end return tail(n - 1, n, ...) end
show(select("#", tail(100)))
show((tail(3)))
show(tail(3))
local function inner(...) local t = { n = select("#", ...), ... } return function()
  return table.unpack(t, 1, t.n) end end
show(inner(1, nil, 3)())
local function rec(...) if select("#", ...) == 0 then return "end" end return (...), rec(select(2,
  ...)) end
show(rec(1, 2, 3))
show(pcall(function(...) return ... end, 1, nil))
show((function(a, b, ...) return ..., a, b end)(1, 2, 3, 4))
show((function(...) return (...) end)(nil, 2))
show((function(...) local a <const>, b = ... return a, b end)(7, 8))
show(table.unpack({ 1, 2, 3 }, 2), "x")
show("x", table.unpack({ 1, 2, 3 }, 2))
show(math.max(f(3, 9, 2)), string.format("%s-%s", f("a", "b")), ("x"):rep(f(3, ".")))
show(f(f(f(1, 2)), f(3)))
local t = { f(1, 2, 3), x = f(4, 5), [10] = f(6, 7), f(8, 9) }
show(t[1], t[2], t[3], t.x, t[10], #t >= 3)
local a, b, c, d = f(1, 2), 10
show(a, b, c, d)
a, b = b, a
show(a, b)
local x, y = f(), f()
show(x, y)
local i = { 1, 2, 3 }
i[1], i[2], i[3] = f("a", "b")
show(i[1], i[2], i[3])
do local p, q <const> = f(5) show(p, q) end
show(pcall(load("return ...", "c"), 1, 2))
show(load("local a, b = ... return b, a")(1, 2))
show(select("#", table.unpack({}, 1, 200)))
show(pcall(table.unpack, {}, 1, 1e7))
show(pcall(string.char, table.unpack({}, 1, 3)))
show(string.char(table.unpack({ 72, 105 })))
show(select("#", string.byte(("x"):rep(200), 1, -1)), pcall(string.byte, ("x"):rep(1e7), 1, -1))
show(pcall(f, table.unpack({}, 1, 240)) == true, (select("#", pcall(f, table.unpack({}, 1,
  240)))))
local big = {}
for n = 1, 200 do big[n] = "return " .. n end
show(load("return " .. ("1,"):rep(240) .. "1") ~= nil, select("#",
  load("return " .. ("1,"):rep(240) .. "1")()))
show(select("#", load("return {" .. ("f,"):rep(300) .. "}, ...")(1, 2)))
show((load("local function v(...) return select('#', ...) end return v("
  .. ("nil,"):rep(200) .. "nil)")()))
show(pcall(load, "return f(" .. ("1,"):rep(300) .. "1)"))
local fns = {}
for n = 1, 3
do local v = n * 10 fns[n] = function(...) v = v + select("#", ...) return v, ... end end
show(fns[1](1, 1), fns[1](), fns[2]("z"), fns[3]())
local function opt(a1, ...) local n = select("#", ...) return a1 or "default",
  n > 0 and ... or "none" end
show(opt())
show(opt(1, 2, 3))
show(opt(nil, nil))
print((...))
print(select("#", ...))
