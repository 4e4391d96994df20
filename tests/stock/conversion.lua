-- tostring, tonumber, and the implicit conversions between strings and numbers.

local function show(...) print(select("#", ...), ...) end
for _, s in ipairs { "10", " 10 ", "10x", "0x", "0x1", "0X1F", "1e", "1e+", "1e+5", "1.", ".1",
  ".", "", " ", "- 1", "-1", "--1", "+1", "1 2", "inf", "nan", "0x1p", "0x1p4", "0x.1", "1_000",
  "１", "1\0", "\t\n1\r\f\v", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
  "-9223372036854775809", "0xffffffffffffffffff", "1e308", "1e309", "-0", "-0.0", "00012",
  "0x00a", "1e0x1", "infinity", "1e-400" }
do
  show(("%q"):format(s), tonumber(s), math.type(tonumber(s)))
end
for base = 2, 36, 17
do show(base, tonumber("1010", base), tonumber("z", base), tonumber("-11", base), tonumber(" 11 ",
  base), tonumber("1.0", base), tonumber("", base)) end
show(tonumber("7fffffffffffffff", 16), tonumber("ffffffffffffffff", 16),
  tonumber("10000000000000000", 16), tonumber("zz", 36), tonumber("8", 8))
print(pcall(tonumber))
print(pcall(tonumber, 10, 10))
print(pcall(tonumber, "1", 1))
print(pcall(tonumber, "1", 37))
print(pcall(tonumber, {}, 10))
print(tonumber({}), tonumber(nil), tonumber(true), tonumber(print))
print(pcall(tonumber, "1", "x"), tonumber("1", nil), tonumber(1.5), tonumber("1" .. "0"))
for _, v in ipairs { 0, 1, -1, 1.0, -0.0, 1e15, 1e16, 1e100, 0.1, 2 ^ 53, 2 ^ 63, 1 / 3,
  math.huge, -math.huge, math.maxinteger, math.mininteger, 123456.789e3, 1e-5,
  12345678901234567890 }
do show(tostring(v), v .. "", #tostring(v)) end
show(tostring(nil), tostring(true), tostring("x"), tostring(0 / 0):gsub("-", ""))
show(tostring(print):match("^builtin") or tostring(print):match("^function"),
  tostring({}):match("^table: "), tostring(io.stdout):match("^file %("))
local named = setmetatable({}, { __name = "My.Type" })
show(tostring(named):match("^My.Type: "), pcall(function() return named + 1 end))
show(pcall(function() return #named < named end), pcall(string.rep, named), pcall(ipairs))
show(tostring(setmetatable({}, { __tostring = function() return "custom" end })))
print(pcall(tostring, setmetatable({}, { __tostring = function() return 1 end })))
print(pcall(tostring, setmetatable({}, { __tostring = function() error("inside") end })))
print(pcall(tostring)) show(tostring(setmetatable({}, { __name = 1 })):match("^table: "))
show("10" + 1, "10" + 1.0, "3" * "4", 10 .. 20, 1.5 .. "|", -1 .. "", 2 ^ 53 .. "", "0x10" + 0,
  "1e1" * 1, 1e15 .. "", "5" // "2", "5" / 2, -"3", - "-3.0")
show(#(10 .. ""), ("5"):rep(3), (5 .. ""):rep(2), "5" == 5, "abc" < "abd", 5 .. 5 == "55")
show(string.format("%d", "10"), string.format("%d", 10.0), pcall(string.format, "%d", 10.5),
  pcall(string.format, "%d", "10.5"))
show(("x"):rep("3"), ("x"):rep(3.0), pcall(string.rep, "x", 3.5), pcall(string.rep, "x", "y"))
show(math.floor("3.7"), pcall(math.floor, "x"), pcall(math.max, "10", 9), ("abc"):sub("2", "2"),
  pcall(string.sub, "abc", {}))
local t = { [1] = "int", ["1"] = "str" } t[1.0] = "float" t[2 ^ 53] = "big"
show(t[1], t["1"], t[1.0], t[2 ^ 53 | 0], #t)
print(pcall(function() t[nil] = 1 end))
print(pcall(function() t[0 / 0] = 1 end))
show(t[nil], t[0 / 0])
show(next({ [1.0] = 1 }), math.type(next({ [3.0] = 1 })), rawlen({ 1, 2 }), rawlen("abc"),
  rawequal("a", "a"), rawget({ 5 }, 1), pcall(rawlen, 5))
show(select(-1, 1, 2, 3), select(2, "a", "b", "c"), pcall(select, 0), pcall(select, -5, 1),
  select("#"), select("#", nil, nil))
