-- The utf8 library.

local function show(...) print(select("#", ...), ...) end
local s = "aé€😀"
show(utf8.len(s), #s, utf8.char(97, 233, 8364, 128512) == s, utf8.char(),
  utf8.charpattern == "[\0-\x7F\xC2-\xFD][\x80-\xBF]*")
for p, c in utf8.codes(s) do io.write(p, ":", c, " ") end print()
show(utf8.codepoint(s, 1, -1))
show(utf8.codepoint(s))
show(utf8.codepoint(s, 2))
show(utf8.codepoint("", 1, 0))
show(utf8.offset(s, 3), utf8.offset(s, -1), utf8.offset(s, 0, 3), utf8.offset(s, 5),
  utf8.offset(s, 6), utf8.offset(s, 1, 4))
show(utf8.len("\xff"))
show(utf8.len("ab\x80"))
show(utf8.len("\u{D800}"))
show(utf8.len("\u{D800}", 1, -1, true))
show(utf8.len("\u{7FFFFFFF}", 1, -1, true))
show(utf8.len("abc", 4))
show(utf8.len("abc", 2, 2))
show(utf8.len("", 1))
show(utf8.len("é", 2))
print(pcall(utf8.len, "abc", 5))
print(pcall(utf8.len, "abc", 1, 4))
print(pcall(utf8.codepoint, "abc", 4))
print(pcall(utf8.codepoint, "\xff"))
print(pcall(utf8.char, -1))
print(pcall(utf8.char, 1 << 31))
print(pcall(utf8.offset, "é", 1, 2))
print(pcall(utf8.offset, "abc", 1, 5))
print(pcall(function() for _ in utf8.codes("a\xffb") do end end))
print(pcall(function() for _ in utf8.codes("\xe2\x82") do end end))
print(pcall(utf8.codes))
print(pcall(function() for _ in utf8.codes("\u{200000}") do end end))
for p, c in utf8.codes("\u{200000}x", true) do io.write(p, " ", c, " ") end print()
for c in s:gmatch(utf8.charpattern) do io.write("<", c, ">") end print()
show(#utf8.char(0x7fffffff), utf8.char(0):byte(), "\u{10FFFF}" == utf8.char(0x10FFFF),
  utf8.codepoint("\u{7FFFFFFF}", 1, 1, true))
