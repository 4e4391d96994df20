-- Every metamethod, with results, fallbacks and errors.

local function show(...) print(select("#", ...), ...) end
local function named(v) return type(v) == "table" and (rawget(v,
  "name") or "table") or tostring(v) end
local mt = {}
for _, op in ipairs { "add", "sub", "mul", "div", "mod", "pow", "idiv", "band", "bor", "bxor",
  "shl", "shr", "concat" }
do
  mt["__" .. op] = function(a, b) return op .. "(" .. named(a) .. "," .. named(b) .. ")", "dropped"
    end
end
mt.__unm = function(a, b) return "unm(" .. named(a) .. "," .. named(b) .. ")" end
mt.__bnot = function(a) return "bnot(" .. named(a) .. ")" end
mt.__len = function(a) return "len(" .. named(a) .. ")" end
local a, b = setmetatable({ name = "a" }, mt), setmetatable({ name = "b" }, mt)
show(a + 1, 1 + a, a + b, a - 2.5, a * "x", a / nil, a % {}, a ^ 2, a // true, a & 1, 1 | a,
  a ~ b, a << 1, 1 >> a, a .. "s", "s" .. a, 1 .. a, a .. b .. "c")
show(-a, ~a, #a)
show(({ pcall(function() return a < b end) })[2], ({ pcall(function() return a <= 1 end) })[2])
mt.__lt = function(x, y) return named(x) .. named(y) end
mt.__le = function() return nil end
mt.__eq = function(x, y) show("eq", named(x), named(y)) return 1 end
show(a < b, a > b, a < 1, 1 > a, a <= b, a >= 1, not (a <= b), a == b, a ~= b, a == a, a == 1,
  a ~= "x")
local ci = setmetatable({}, { __index = function(t, k) return k .. "!" end })
show(ci.x, ci[1], rawget(ci, "x"), pcall(function() return ci[{}] end))
local base = { x = 1 }
local mid = setmetatable({ y = 2 }, { __index = base })
local top = setmetatable({}, { __index = mid })
show(top.x, top.y, top.z)
local store = {}
local ni = setmetatable({}, { __newindex = store })
ni.k = 1
show(rawget(ni, "k"), store.k)
local nf = setmetatable({ old = 1 }, { __newindex = function(t, k, v) rawset(t, k, v * 2) end })
nf.new = 5
nf.old = 7
nf.new = 1
show(nf.new, nf.old)
show(pcall(function() local loop = {} setmetatable(loop, { __index = loop }) return loop.x end))
show(pcall(function() local l1, l2 = {}, {} setmetatable(l1, { __index = l2 }) setmetatable(l2,
  { __index = l1 }) return l1.x end))
show(pcall(function() local l = setmetatable({}, {}) getmetatable(l).__newindex = l l.x = 1 end))
local callable = setmetatable({}, { __call = function(self, ...) return select("#", ...), ...
  end })
show(callable(), callable(nil), callable(1, nil, 3))
show(pcall(callable, 9) and 1)
show(select(2, xpcall(callable, print, 1, 2)), table.unpack({ callable(5) }))
show(pcall(setmetatable({}, { __call = 5 })))
show(pcall(setmetatable({}, { __call = callable }), "x"))
for x in callable do show("iter", x) break end
local deep = callable
for _ = 1, 50 do deep = setmetatable({}, { __call = deep }) end
show((pcall(deep)))
show(tostring(setmetatable({}, { __tostring = function() return "T" end, __name = "N" })),
  #setmetatable({}, { __len = function() return 7 end }), -setmetatable({}, { __unm = function()
  return nil end }))
local idx = {}
setmetatable(idx, { __index = function(_, k) error("no field " .. tostring(k), 2) end })
print(pcall(function() return idx.foo end))
print(pcall(function() return ("x").foo.bar end))
print(pcall(function() local v = setmetatable({}, { __index = 5 }) return v.x end))
show(pcall(function() return {} + 1 end))
show(pcall(function() return {} .. "x" end))
show(pcall(function() return "x" + 1 end))
show(pcall(function() return {} < 1 end))
show(pcall(function() return 1 < "x" end))
show(pcall(function() return -{} end))
show(pcall(function() return #5 end))
show(pcall(function() return nil .. "x" end))
show(pcall(function() local up = {} return function() return up.a.b end end))
show(pcall(function() return math.nofunc() end))
show(pcall(function() return ("x"):nomethod() end))
show(pcall(function() local t = {} t.f.g() end))
show(pcall(function() local t = {} t:m() end))
show(pcall(function() return 2 ^ "x" end))
show(pcall(function() return true & 1 end))
show(pcall(function() return 1.5 & 1 end))
show(pcall(function() return "1.5" & 1 end))
string.__add_test = nil
local smt = getmetatable("")
smt.__index = function(s, k) return string[k] or (type(k) == "number" and s:sub(k, k)) or nil end
show(("hello")[2], ("hello"):upper())
smt.__index = string
smt.__call = function(s, ...) return s, ... end
show(("x")(1))
smt.__call = nil
smt.__unm = nil
debug.setmetatable(nil, { __index = function(_, k) return "nil." .. k end })
show((nil).x)
debug.setmetatable(nil, nil)
debug.setmetatable(1, { __index = { double = function(n) return n * 2 end }, __len = function(n)
  return n end, __call = function(n, m) return n * m end })
show((5):double(), #7, (3)(4))
debug.setmetatable(1, nil)
debug.setmetatable(print, { __index = { name = "fn" }, __concat = function(_, v)
  return "fn.." .. tostring(v) end })
show(print.name, print .. 1)
debug.setmetatable(print, nil)
debug.setmetatable(true, { __tostring = function() return "yes!" end })
show(tostring(true))
debug.setmetatable(true, nil)
do local log = {} setmetatable({}, { __gc = function() log[#log + 1] = "first" end })
  local keep = setmetatable({}, { __gc = function() log[#log + 1] = "kept" end }) setmetatable({},
  { __gc = true }) local late = setmetatable({}, {}) getmetatable(late).__gc = function()
  log[#log + 1] = "late" end late = nil collectgarbage() collectgarbage() show(table.concat(log,
  ",")) keep = nil collectgarbage() show(table.concat(log, ","), keep) end
do local order = {} for i = 1, 3 do setmetatable({}, { __gc = function() order[#order + 1] = i
  end }) end collectgarbage() show(table.concat(order, ",")) local back setmetatable({ "v" },
  { __gc = function(o) back = o end }) collectgarbage() show(back[1]) end
print(pcall(setmetatable, {}, {}, 1))
local prot = setmetatable({}, { __metatable = false })
show(getmetatable(prot), pcall(setmetatable, prot, nil))
show(rawequal(a, a), rawlen(a), rawget(a, "name"))
local inherit = {}
for i = 1, 100 do inherit = setmetatable({ ["f" .. i] = i }, { __index = inherit }) end
show(inherit.f1, inherit.f100, inherit.f0)
