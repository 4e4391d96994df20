-- goto, loops, blocks, assignment order, method calls, numeric for at its edges.

local function show(...) print(select("#", ...), ...) end

for i = 1, 3 do
  for j = 1, 3 do
    if j == 2 then goto continue end
    io.write(i, ":", j, " ")
    ::continue::
  end
end
print()
do local i = 1 ::a:: if i <= 3 then io.write(i, " ") i = i + 1 goto a end print() end
do
  local fns = {}
  do local i = 1 ::again:: local x = i fns[i] = function() x = x + 1 return x end i = i + 1
    if i <= 3 then goto again end end
  show(fns[1](), fns[1](), fns[2](), fns[3]())
end
print(load("goto nowhere"))
print(load("do ::x:: end goto x"))
print(load("goto f; local a; ::f:: print(a)"))
print(load("::a:: ::a::"))
print(load("break"))
print(load("repeat if x then goto cont end; local xuxu = 10; ::cont:: until xuxu < x"))
print(load("do goto l1 end; local a = 23; ::l1::;") ~= nil)

local function count(a, b, c)
  local n, first, last = 0
  for i = a, b, c or 1 do n = n + 1 first = first or i last = i if n > 5 then break end end
  show(n, first, last, math.type(first))
end
local max, min = math.maxinteger, math.mininteger
count(1, 3) count(3, 1) count(3, 1, -1) count(1, 3, 2) count(1, 0)
count(max - 1, max)
count(min, min + 2)
count(min + 1, min, -1)
count(max, max, max)
count(max - 2, math.huge)
count(1, math.huge)
count(1, -math.huge)
count(-1, -math.huge, -1)
count(1.0, 2)
count(1, 2.5)
count(0.1, 0.35, 0.1)
count(1, 3.9999)
count(min, max, max)
count(max, min, min)
count(1, 0/0)
count(min, min, -1)
count(3, 2.9)
for _, args in ipairs { { 1, 2, 0 }, { 1.0, 2, 0 }, { "1", 2, 1 }, { 1, {}, 1 }, { 1, 2, "x" },
  { nil, 1, 1 } }
do
  print(pcall(function() for i = args[1], args[2], args[3] do break end end))
end
do local t = {} for i = 1, 3 do t[i] = function() i = i + 10 return i end end show(t[1](), t[1](),
  t[2](), t[3]()) end
do local n = 0 for i = 3, 1, -1 do n = n * 10 + i i = 0 end show(n) end

local i, t = 1, {}
i, t[i] = i + 1, 20
show(i, t[1], t[2])
local a, b, c = (function() return 1, 2, 3 end)()
show(a, b, c, ((function() return 1, 2, 3 end)()))
show((function() return 1, 2 end)(), (function() return 1, 2 end)())
local x, y, z = 1
show(x, y, z)
show(({ (function() return 1, 2 end)(), (function() return 1, 2 end)() })[3], #{ nil, nil, 3 },
  #{ n = 1 })

local o = { v = 1 } function o:add(n) self.v = self.v + n return self end
show(o:add(2):add(3).v, o.add(o, 1).v)
print(pcall(function() o:missing() end))
print(pcall(function() local n n.x = 1 end))
print(pcall(function() o.a.b.c = 1 end))
print(pcall(function() return #nil end))
print(pcall(function() undefinedglobal() end))
print(pcall(function() ("x").y.z = 1 end))
print(pcall(function() local u <const> = nil; return u.x end))
show(1 and nil, false or nil, nil and 1, not nil, 1 or error("no"), false == nil)
show(2 ^ 3 ^ 2, -2 ^ 2, not 1 == 2, 1 .. 2 == "12", 2 * 3 % 4, 7 // 2 * 2, 1 << 2 + 1,
  5 & 3 | 8 ~ 1, "a" < "b" == true)
show(#"abc" + 1, -"2", "10" + 5, "0x10" * 1, " 5 " + 0, 10 .. "")
while true do if i then break end end
repeat local done = true until done
if nil then elseif false then else show("else") end
do return show("return in a block") end
