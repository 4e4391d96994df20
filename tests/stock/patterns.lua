-- find, match, gmatch and gsub.

local function show(...) print(select("#", ...), ...) end
show(("hello world"):find("o w"))
show(("hello"):find("l", 1, true))
show(("hello"):find(""))
show(("hello"):find("", 10))
show(("hello"):find("", 6))
show(("hello"):find("xyz"))
show(("a.b"):find(".", 2, true))
show(("abc"):find("b", -1))
show(("abc"):find("b", -2))
show((""):find(""))
show(("abc"):find("[b-]"))
show(("key = value"):match("^(%w+)%s*=%s*(%w+)$"))
show(("  trim "):match("^%s*(.-)%s*$"))
show(("2024-01-02"):match("(%d+)-(%d+)-(%d+)"))
show(("abc"):match("()b()"))
show(("abc"):match(".-"))
show(("abc"):match("x*"))
show(("[[x]]"):match("%[%[(.*)%]%]"))
show(("f(a(b)c)d"):match("%b()"))
show(("THE (quick) fox"):find("%((%a+)%)"))
show(("hello world from Lua"):gsub("(%w+) (%w+)", "%2 %1"))
show(("abc"):gsub("", "-"))
show(("abc"):gsub(".", { a = "1", b = 2, c = false }))
show(("abc"):gsub("%w", function(c) if c ~= "b" then return c:upper() end end))
show(("hello"):gsub("l", "L", 1))
show(("hello"):gsub("l", "L", 0))
show(("abc"):gsub("b", "%%"))
show(("abc"):gsub("b", "%0%0"))
show(("a b c"):gsub("%s", ""))
show(("abc"):gsub("^a", "x"))
show(("aaa"):gsub("^a", "x"))
show(("x"):rep(5):gsub("x", "%0y", 3))
show(("one;two;;four"):gsub(";;", ";nil;"))
show(("$name is $age"):gsub("%$(%w+)", { name = "Bo", age = 7 }))
show(("äöü"):gsub("[\128-\255]+", "?"))
show(("a\0b"):gsub("%z", "0"))
show(("a\0b"):find("\0"))
show(("THE (quick) fox"):gsub("%f[%a]%a+", string.lower))
show(("[test]"):gsub("[%[%]]", ""))
show(("a-b-c"):gsub("[a%-]", "x"))
show(("]"):find("[]]"))
show(("^"):find("[%^]"))
show(("^x"):find("[x^]"))
for k, v in ("a=1, b=2, c=3"):gmatch("(%w+)=(%w+)") do io.write(k, v, " ") end print()
for w in ("one two  three"):gmatch("%a+") do io.write("<", w, ">") end print()
for a in ("abc"):gmatch("") do io.write("[", a, "]") end print()
for p in ("aXbX"):gmatch("()X") do io.write(p, " ") end print()
for w in ("hello"):gmatch("l", 4) do io.write("4", w) end
for w in ("hello"):gmatch("l", -2) do io.write("-2", w) end
for w in ("hello"):gmatch("^h") do io.write("anchor", w) end
print()
show(("abc"):gmatch("b")())
show(("%d"):rep(2):format(1, 2))
show(("x = 1 -- c"):match("^(.-)%s*%-%-"))
show(("aXb"):match("%u"), ("a1"):match("%D"), ("\t"):match("%c") == "\t", ("!"):match("%p"),
  ("é"):match("%a"), ("f"):match("%x"), ("g"):match("%x"), ("_"):match("%w"), (" "):match("%g"))
show(("aaaab"):match("a-b"), ("aaaab"):match("a?b"), ("aaaab"):match("^a+"),
  ("ab"):match("(a)(b)(c?)"), ("abab"):match("(ab)%1"), ("abcd"):match("(a)(b)%2"),
  ("\"x'y\""):match("([\"'])(.-)%1"))
for _, bad in ipairs { "[a", "[^", "%", "(", ")", "(()", "%b", "%bx", "%f", "%1", "(%1)", "[a-%",
  "a**", "%f[", "(.", "[]", "[%" }
do print(bad, pcall(string.find, "abc", bad)) end
for _, bad in ipairs { "%2", "%", "%x", "x%" }
do print(bad, pcall(string.gsub, "abc", "(a)", bad)) end
print(pcall(string.gsub, "abc", "a", 1))
print(pcall(string.gsub, "abc", "a"))
print(pcall(string.gsub, "abc", "a", true))
print(pcall(string.gsub, "abc", "a", function() return {} end))
print(pcall(string.gsub, "abc", "a", { a = {} }))
print(pcall(string.gsub, "abc", "a", function() error("cb") end))
print(pcall(string.gmatch))
print(pcall(string.find, "a"))
print(pcall(string.rep))
print(pcall(string.match, "x", ("("):rep(40)))
show(pcall(string.find, ("a"):rep(3000), ".-b"))
show(("x"):rep(20):match(("x?"):rep(20) .. ("x"):rep(20)) == ("x"):rep(20))
print(pcall(string.find, ("("):rep(100), ("%("):rep(100)))
print(select("#", ("a"):rep(32):match(("(a)"):rep(32))))
print(pcall(string.match, ("a"):rep(33), ("(a)"):rep(33)))
print(pcall(string.find, ("a"):rep(250000), ("a?"):rep(250000)) )
show(("abc"):find("b", math.mininteger), ("abc"):find("b", math.maxinteger), ("abc"):sub(2.0),
  pcall(string.sub, "abc", 1.5))
show(("x"):gsub("x", "%1"), ("abc"):gsub("(b)()", "%2%1"), ("abc"):gsub("%w", "%0%0", 2),
  ("abc def"):gsub("%f[%w]%w+", "<%0>"), ("\r\n"):gsub("\r\n", "\n"))
show(string.gsub("hello", "", ""), string.gsub("", "", "x"), string.gsub("", "^", "x"),
  string.gsub("abc", "$", "!"), string.gsub("a$c", "%$", "S"), ("a$"):match("a$$"))
