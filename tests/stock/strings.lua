-- The string library without patterns: sub, rep, format, pack and friends.

local function show(...) print(select("#", ...), ...) end
local s = "hello"
show(s:sub(2), s:sub(2, 3), s:sub(-3), s:sub(-3, -2), s:sub(0), s:sub(10), s:sub(3, 2),
  s:sub(-100, 100), s:sub(math.mininteger, math.maxinteger))
show(s:byte(), s:byte(2, 4))
show(s:byte(10))
show(s:byte(-1), s:byte(0))
show(string.char(), string.char(72, 105, 0):byte(1, -1))
print(pcall(string.char, 256))
print(pcall(string.char, -1))
print(pcall(string.byte))
print(pcall(("x").bad))
show(s:upper(), s:lower(), ("ÄbC"):upper() ~= nil, s:reverse(), (""):reverse(), s:len(), #"\0\0")
show(s:rep(0), s:rep(-1), s:rep(3), s:rep(3, "-"), s:rep(1, "-"), (""):rep(1000000), ("x"):rep(3,
  ""))
print(pcall(string.rep, "x", 1 << 62)) print(pcall(string.rep, "abc", math.maxinteger))
show("a\z
      b", "\x41\65\u{41}\u{7FFFFFFF}" == "AAA\u{7FFFFFFF}", '\'"', "\a\b" == "\7\8", [[
first newline is skipped]], [==[]]]==], "tab\tend")
print(load("return '\\q'"))
print(load("return '\\300'"))
print(load("return '\\xZZ'"))
print(load("return '\\u{110000000}'"))
print(load("return 'open"))
print(load("return [[open"))
print(load("x = 'a\nb'"))

-- format
local f = string.format
show(f("%d %5d %-5d| %05d %+d % d %x %X %#x %o %c", 42, 42, 42, 42, 42, 42, 255, 255, 255, 8, 65))
show(f("%i", -7), f("%u", 7) == "7" or "u", f("%.3d", 5), f("%x", -1), f("%5.1f|%-8.2e|%g|%G",
  3.14159, 1234.5, 1e20, 1e-10))
show(f("%a", 1.0), f("%A", 0.5), f("%.3a", 1 / 3), f("%f", 1e15), f("%.0f", 0.5), f("%.20f", 0.1),
  f("%g", 100000), f("%g", 1e6), f("%#g", 1))
show(f("%s %s %s %s", nil, true, 1.0, "x"), f("%10s|%-10s|%.2s|%5.1s", "ab", "ab", "abc", "xyz"),
  f("%s", setmetatable({}, { __tostring = function() return "obj" end })), f("%%"), f("%s\0x",
  "a"))
show(f("%q", 'a "quoted"\n\0\r\t\\ \1272'), f("%q", 1), f("%q", 1.5), f("%q", math.huge), f("%q",
  -math.huge), f("%q", math.mininteger), f("%q", true), f("%q", nil), f("%q", 0 / 0))
show(f("%5s", "é"), f("%-5s|", ""), f("%.0s", "abc"), f("%d", 3.0), f("%d", "10"), f("%s", 12),
  f("%.14g", 0.1), f("%.17g", 0.1), f("%5.3s|", "abcdef"))
for _, bad in ipairs { "%", "%y", "%d", "%10.123f", "%0123d", "%q %5q", "%#q", "%-+ #0d", "%.d",
  "%5", "%!", "%p%p%p", "%123s", "%.99f", "%.100f" }
do print(bad, pcall(f, bad, 1)) end
print(pcall(f, "%d", 1.5))
print(pcall(f, "%d", "x"))
print(pcall(f, "%s"))
print(pcall(f, "%c", "x"))
print(pcall(f, "%q", {}))
print(pcall(f, "%x", 2 ^ 70))
print(pcall(f))
print(pcall(f, "%.3q", "x"))
print(pcall(f, "%10q", 1))
show(f("%p", nil), f("%p", 1), f("%p", true), f("%p", "short") == f("%p", "short"), f("%p",
  {}):match("^0x") ~= nil, f("%20p", nil))
show(#f("%s", ("x"):rep(1000)), #f("%99d", 1), f("%-99d", 1):sub(1, 3), #f("%99.99f", 1e300))

-- pack
local function hex(x) return (x:gsub(".", function(c) return f("%02x", c:byte()) end)) end
show(hex(string.pack("<i4", 100)), hex(string.pack(">i4", 100)), hex(string.pack("<i4", -2)),
  hex(string.pack("bBhH", -1, 255, -2, 65535)), hex(string.pack("<j", math.mininteger)),
  hex(string.pack("<i3", -5)), hex(string.pack(">I16", 7)))
show(hex(string.pack("z", "ab")), hex(string.pack("s1", "ab")), hex(string.pack("<s2", "ab")),
  hex(string.pack("c5", "ab")), hex(string.pack("<d", 1.5)), hex(string.pack(">f", -2)),
  hex(string.pack("<n", 0.1)), hex(string.pack("x")))
show(hex(string.pack("<!4 b i4", 1, 2)), hex(string.pack("<!8 b Xi8 i8", 1, 2)),
  hex(string.pack("<b!2h", 1, 2)), hex(string.pack("=I2", 1)), string.packsize("<!4 b i4 d"),
  string.packsize("c10 x b"))
show(string.unpack("<i4", "\100\0\0\0"))
show(string.unpack("z", "abc\0def"))
show(string.unpack("s1 b", "\2ab\5"))
show(string.unpack("<i2 >i2", "\1\0\0\1"))
show(string.unpack("<d", string.pack("<d", math.pi)))
show(string.unpack("b", "abc", -1))
show(string.unpack("", "x"))
show(string.unpack("c0", "x"))
show(string.unpack("<I16", ("\1"):rep(1) .. ("\0"):rep(15)))
show(string.unpack("<i7", "\255\255\255\255\255\255\255"))
for _, bad in ipairs { { "i17", 1 }, { "i0", 1 }, { "y", 1 }, { "b", 200 }, { "B", -1 }, { "I1",
  256 }, { "z", "a\0b" }, { "c2", "abc" }, { "s1", ("x"):rep(300) }, { "!3 i4", 1 }, { "X", 1 },
  { "Xz", 1 }, { "i4" }, { "d", "x" }, { "c", "x" }, { "!17", 1 }, { " < > = ! ", 1 } }
do print(bad[1], pcall(string.pack, table.unpack(bad))) end
for _, bad in ipairs { { "i4", "abc" }, { "z", "abc" }, { "s1", "\5ab" }, { "b", "" }, { "b",
  "abc", 5 }, { "b", "abc", 4 }, { "<I9", ("\255"):rep(9) }, { "i4", "abcd", -2 } }
do print(bad[1], pcall(string.unpack, table.unpack(bad))) end
print(pcall(string.packsize, "s"))
print(pcall(string.packsize, "z"))
print(pcall(string.packsize, "c99999999999"))
show(string.dump(function() end):sub(1, 4) == "\27Lua", load(string.dump(function(a) return a + 1
  end))(2), pcall(string.dump, print))
local up = 5
local dumped = load(string.dump(function() return up end))
show((pcall(dumped)))
show(#string.dump(load("return 1"), true) <= #string.dump(load("return 1")))
