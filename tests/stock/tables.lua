-- The table library, length, next, sort.

local function show(...) print(select("#", ...), ...) end
local function list(t) return table.concat(t, ",") end
local t = { 1, 2, 3 }
table.insert(t, 4) table.insert(t, 1, 0) table.insert(t, #t + 1, 5) show(list(t), #t)
show(table.remove(t), table.remove(t, 1), table.remove(t, 2), list(t), table.remove({}),
  table.remove({}, 0), table.remove({ 1 }, 2))
for _, call in ipairs { { t, 0, 1 }, { t, 10, 1 }, { t }, { t, 1, 2, 3 }, { nil, 1 }, { t, "x",
  1 }, { t, 1.5, 1 } }
do print(pcall(table.insert, table.unpack(call, 1,
  4 - (call[4] and 0 or call[3] and 1 or call[2] and 2 or 3)))) end
print(pcall(table.remove, t, 10))
print(pcall(table.remove, t, -1))
print(pcall(table.remove))
print(pcall(table.insert, t, 2, nil, nil))
show(table.concat({}), table.concat({ 1, "a", 2.5 }, "-"), table.concat({ 1, 2, 3 }, ", ", 2),
  table.concat({ 1, 2, 3 }, ", ", 2, 2), table.concat({ 1, 2, 3 }, "x", 3, 2), table.concat({ "a",
  "b" }, 1))
print(pcall(table.concat, { 1, {}, 3 }))
print(pcall(table.concat, { 1, nil, 3 }, "", 1, 3))
print(pcall(table.concat, { true }))
print(pcall(table.concat, 5))
print(pcall(table.concat, {}, {}))
show(table.unpack({ 1, 2, 3 }))
show(table.unpack({ 1, nil, 3 }, 1, 3))
show(table.unpack({ 1, 2 }, 2))
show(table.unpack({}, 1, 2))
show(table.unpack({ 1, 2, 3 }, -1, 1))
show(table.unpack({}, 5, 4))
print(pcall(table.unpack, {}, 1, 1e8))
print(pcall(table.unpack, {}, math.mininteger, math.maxinteger))
print(pcall(table.unpack))
local p = table.pack(nil, 2, nil) show(p.n, p[1], p[2], table.pack().n)
show(list(table.move({ 1, 2, 3 }, 1, 3, 2)), list(table.move({ 1, 2, 3 }, 2, 3, 1)),
  list(table.move({ 1, 2, 3 }, 1, 3, 1, {})), #table.move({ 1 }, 1, 0, 5), list(table.move({ 1, 2,
  3, 4, 5 }, 1, 3, 3)))
print(pcall(table.move, {}, 1, math.maxinteger, 2))
print(pcall(table.move, {}, math.mininteger, 0, 2))
print(pcall(table.move, {}, 1, 2))
print(pcall(table.move, { 1 }, 1, 1, 1, 5))
local s = { 5, 2, 8, 1, 9, 3 }
table.sort(s)
show(list(s))
table.sort(s, function(a, b) return a > b end)
show(list(s))
local w = { "b", "a", "C", "10", "9" }
table.sort(w)
show(list(w))
print(pcall(table.sort, { 1, "x", 2 }))
print(pcall(table.sort, { {}, {} }))
print(pcall(table.sort, { 3, 2, 1 }, 5))
print(pcall(table.sort, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function() return true end))
print(pcall(table.sort, { 3, 1, 2 }, function() error("in cmp") end))
table.sort({})
table.sort({ 1 }, error)
local big = {}
for i = 1, 1000 do big[i] = (i * 7919) % 1009 end
table.sort(big)
local sorted = true
for i = 2, #big do sorted = sorted and big[i - 1] <= big[i] end
show(sorted)
local proxy = setmetatable({}, { __index = function(_, i) if i <= 3 then return i * 10 end end,
  __len = function() return 3 end, __newindex = function(_, k, v) io.write("set ", k, "=",
  tostring(v), " ") end })
show(table.concat(proxy, ","), table.unpack(proxy))
table.insert(proxy, "x")
show(table.remove(proxy))
table.move(proxy, 1, 2, 5)
print()
table.sort(setmetatable({}, { __len = function() return 2 end, __index = function(_, i)
  return 3 - i end, __newindex = function(_, k, v) io.write(k, "<-", v, " ") end }))
print()
print(pcall(table.insert, setmetatable({}, { __len = function() return "x" end }), 1))
print(pcall(table.unpack, setmetatable({}, { __len = function() return 1.5 end })))
print(pcall(table.sort, setmetatable({}, { __len = function() return math.maxinteger end })))
show(next({}), next({ 10 }), next({ a = 1 }))
show(next({ 10 }, 1))
print(pcall(next, {}, "nokey"))
print(pcall(next))
print(pcall(next, 5))
show(type(pairs({})), select("#", pairs({})), rawequal((pairs({})), next))
local seen = {}
for k, v in pairs({ 1, 2, x = 3, [2.5] = 4 }) do seen[#seen + 1] = tostring(k) .. "=" .. v end
table.sort(seen)
show(list(seen))
for i, v in ipairs({ 1, 2, nil, 4 }) do io.write(i, "=", v, " ") end
print()
for i, v in ipairs(setmetatable({}, { __index = function(_, i) if i < 4 then return i * i end
  end }))
do io.write(i, "=", v, " ") end
print()
for k, v in pairs(setmetatable({}, { __pairs = function(t) return function(_, k) if not k then
  return 1, "p" end end, t, nil end }))
do show(k, v) end
print(pcall(pairs))
print((pcall(pairs, nil)))
print(pcall(ipairs))
print(pcall(function() for k in 5 do end end))
print(pcall(function() for k in nil do end end))
do local t2 = {} for i = 1, 100 do t2[i] = i end for k in pairs(t2) do t2[k] = nil end
  show(next(t2), #t2) end
do local c = { 1, 2, 3, nil } show(#c, #{ 1, 2, nil }, #{ nil }, #{ n = 1 }, #"") end
do local t3 = setmetatable({}, { __mode = "k" }) t3[{}] = 1 collectgarbage() show(next(t3))
  local t4 = setmetatable({}, { __mode = "v" }) t4[1] = {} t4[2] = "s" t4[3] = print
  collectgarbage() show(t4[1], t4[2], t4[3] == print) end
do local keys = {} local e = setmetatable({}, { __mode = "k" }) do local k = {} e[k] = { k } end
  collectgarbage() for k in pairs(e) do keys[#keys + 1] = k end show(#keys) end
show(rawset({}, 1, 2)[1], rawget(setmetatable({}, { __index = { 5 } }), 1), rawequal({}, {}),
  rawlen({ 1 }))
print(pcall(rawset, 5, 1, 1))
print(pcall(rawget, "x", 1))
print(pcall(setmetatable, 1, {}))
print(pcall(setmetatable, {}, 1))
print(pcall(setmetatable, setmetatable({}, { __metatable = "locked" }), {}))
show(getmetatable(setmetatable({}, { __metatable = "locked" })),
  getmetatable("x").__index == string, getmetatable(1), getmetatable(print))
