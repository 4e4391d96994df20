-- Integers and floats: overflow, division, comparison, bits, math.

local function show(...) print(select("#", ...), ...) end
local max, min = math.maxinteger, math.mininteger

show(max + 1 == min, min - 1 == max, max * 2, min * -1, -min, min // -1, min % -1, max // -1)
show(7 // 2, -7 // 2, 7 // -2, -7 // -2, 7 % 3, -7 % 3, 7 % -3, -7 % -3)
show(7.5 // 2, -7.5 // 2, 7.5 % 2, -7.5 % 2, 7.5 % -2, 5 % math.huge, -5 % math.huge,
  5 % -math.huge)
show(1 / 0, -1 / 0, 0 / 0 ~= 0 / 0, 1 // 0.0, -1 // 0.0, 0.0 // 0.0 ~= 0, 1 % 0.0 ~= 1 % 0.0)
print(pcall(function() return 1 // 0 end)) print(pcall(function() return 1 % 0 end))
show(3 / 2, 4 / 2, 2 ^ 2, 2 ^ 63, 2 ^ 0.5, (-8) ^ (1 / 3) ~= (-8) ^ (1 / 3), 0 ^ 0, 10 // 3.0,
  1e308 * 10)
show(1 == 1.0, math.type(1), math.type(1.0), math.type("1"), 1 < 1.5, max < max + 0.0,
  max + 0.0 == 2 ^ 63, max == max + 0.0)
show(min <= -2 ^ 63, min == -2 ^ 63, max >= 2 ^ 63, 2 ^ 53 == 2 ^ 53 + 1,
  (2 ^ 53 | 0) + 1 == 2 ^ 53 + 1)
show("a" < "b", "a" < "B", "" < "a", "a\0b" < "a\0c", "10" < "9", "Z" < "a")
print(pcall(function() return 1 < "2" end))
print(pcall(function() return {} < {} end))
print(pcall(function() return nil <= 1 end))
show(1 << 63, 1 << 64, 1 << -1, -1 >> 1, -1 >> 63, -1 >> 64, 1 << 62 << 1, 2 >> -3, ~0, ~5, 5 & 3,
  5 | 3, 5 ~ 3)
show(3.0 | 0, 2 ^ 53 | 0)
print(pcall(function() return "3" | 0 end))
print(pcall(function() return 1 << "2" end))
print(pcall(function() return 1.5 | 0 end))
print(pcall(function() return "1.5" | 0 end))
print(pcall(function() return 2 ^ 64 | 0 end))
print(pcall(function() return {} | 1 end))
print(pcall(function() return "a" | 1 end))
print(pcall(function() return 1 + {} end))
print(pcall(function() return "abc" + 1 end))
print(pcall(function() local t = {} return t.x.y + 1 end))
print(pcall(function() return 2 ^ {} end))
show(0x7fffffffffffffff, 0xffffffffffffffff, 0x10000000000000000, 9223372036854775807,
  9223372036854775808, -9223372036854775808)
show(0x.8p1, 0x1p-2, 0xA.8, 1e2, .5, 5., 3e-2, 0x1p1023, 1e400, 0xep1)
show(100000000000000, 1e14, 1e15, 1e16, 1e100, 123456789012.5, 0.1, 1 / 3, -0.0, 0.0,
  3.14159265358979, 1e15 + 0.5)
show(2 ^ 31, 2 ^ 53, 2 ^ 63, -2 ^ 63, 1e300 * 1e10, -1e300 * 1e10)
show(5 // 0.3, 5.3 % 0.3 < 0.3, -0.0 == 0.0, 1 / -0.0, 0x7fffffffffffffff + 0.0)

show(math.floor(3.7), math.floor(-3.7), math.ceil(3.2), math.ceil(-3.2), math.floor(2 ^ 70),
  math.ceil(-2 ^ 70), math.floor(5))
show(math.tointeger(3.0), math.tointeger(3.5), math.tointeger("8"), math.tointeger({}),
  math.tointeger(2 ^ 63), math.tointeger("x"))
show(math.fmod(7, 3), math.fmod(-7, 3), math.fmod(7, -3), math.fmod(7.5, 2), math.fmod(min, -1),
  math.fmod(1, math.huge))
print(pcall(math.fmod, 1, 0)) print(pcall(math.fmod, 1, 0.0) == true)
show(math.modf(3.7), math.modf(-3.7), math.modf(5), math.modf(math.huge), math.modf(-math.huge))
show(math.max(1, 2.5, -1), math.min(3, 1, 2), math.max(1), math.max(2, 2.0), math.min(2.0, 2),
  math.abs(min), math.abs(-3.5), math.abs(-0.0))
show(math.ult(1, -1), math.ult(-1, 1), math.sqrt(16), math.exp(0), math.log(8, 2), math.log(100,
  10), math.log(1), math.log(0), math.pi)
show(math.sin(0), math.cos(0), math.tan(0), math.asin(1) * 2 == math.pi, math.atan(1,
  1) * 4 == math.pi, math.atan(0, -1), math.deg(math.pi), math.rad(180) == math.pi)
print(pcall(math.max))
print(pcall(math.floor, "x"))
print(pcall(math.floor, {}))
print(pcall(math.random, 0, -1))
print(pcall(math.random, 1, 2, 3))
math.randomseed(42)
local a, b, c = math.random(1, 100), math.random(), math.random(0)
math.randomseed(42)
show(a == math.random(1, 100), b == math.random(), c == math.random(0), b >= 0 and b < 1)
math.randomseed(123, 456)
show(math.random(1000000), math.random(min, max), math.random(7), math.random())
show(math.random(3, 3), pcall(math.random, 2, 1))
show(#tostring(math.random(min, max)) > 0, math.maxinteger // 1 | 0, math.mininteger, math.huge,
  -math.huge)
show(8 % 3.5, -8 % 3.5, 2 ^ -1074 > 0, 2 ^ -1075, 1e-320 > 0, 4.9e-324)
show(1e15 // 1, 1e15 // 1 | 0, "1e1" + 0, "0x1p4" + 0, math.type("10" + 0), math.type("10" * 1.0),
  "1" // 1, "7" % "4")
