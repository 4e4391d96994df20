-- The parser of `sbxlua check` takes just what `load` takes: all Lua of this project,
-- and pieces of it with mistakes made in them.

local fs = require("sbx.fs")
local parser = require("sbx.lint.parser")
local path = require("sbx.path")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local function is_limit(problem) -- of the virtual machine, which the parser has not
  return problem and (problem:find("overflow") or problem:find("registers")) ~= nil
end

local function agree(text, where)
  if text:byte(1) == 27 then return end -- bytecode, for load
  local loaded, problem = load(text, "=source", "t")
  local tree, complaint, at = parser.parse(text)
  if (loaded ~= nil) == (tree ~= nil) or is_limit(problem) then return end
  error(("%s: load says %s, the parser says %s at byte %s of:\n%s"):format(where,
    problem or "yes", complaint or "yes", at, text), 0)
end

local function sources()
  local texts = {}
  for _, folder in ipairs({ "../lua", "../scripts", "../tests" }) do
    for file in fs.walk(path.join(here, folder)) do
      if file:find("%.lua$") then
        texts[#texts + 1] = { parser.blank_first_line(fs.read(file)), file }
      end
    end
  end
  return texts
end

local PIECES = {
  "local ", "x", "=", "1", "end", "do", "::a::", "goto a;", "(", ")", "{", "}", "...", "break",
  "'", '"', "[[", "]]", "--", "\n", "\\", "<const>", "<close>", "function ", "..", "0x", "1e",
  "repeat ", "until ", "if ", "then ", "return ", ";", ",", ":", "~", "//", "for ", "in ", "\\u{",
  "\\z", "\r", "\0", "[=", "local function f()", " goto continue", "::continue::", "0x.p1", "3..2",
}

local function damaged(text)
  local at = math.random(0, #text)
  local how = math.random(4)
  if how == 1 then return text:sub(1, at) .. PIECES[math.random(#PIECES)] .. text:sub(at + 1) end
  if how == 2 then return text:sub(1, at) .. text:sub(at + math.random(1, 8)) end
  if how == 3 then
    local from = math.random(0, #text)
    return text:sub(1, at) .. text:sub(from, from + math.random(20)) .. text:sub(at + 1)
  end
  return text:sub(1, at) .. string.char(math.random(0, 255)) .. text:sub(at + 2)
end

test("parser: takes what load takes: all files of the project, whole and damaged", function()
  local texts = sources()
  assert(#texts > 300)
  for i = 1, #texts, 3 do
    agree(texts[i][1], texts[i][2])
    task.yield()
  end
  for round = 1, 4000 do
    local each = texts[math.random(#texts)]
    local text = each[1]
    local from = text:find("\n", math.random(#text), true) or 1
    local to = text:find("\n", from + math.random(800), true) or #text
    text = text:sub(from, to)
    for _ = 1, math.random(0, 3) do
      text = damaged(text)
    end
    agree(text, each[2])
    if round % 20 == 0 then task.yield() end
  end
end)

local SMALL = {
  -- Numbers and strings.
  "x=0x", "x=0x1p4", "x=0x.8p-1", "x=1e+", "x=3..2", "x=3 ..2", "x=.5", "x=5.", "x=0xep1", "x=1a",
  "x=08", "x=1e5e5", "x='\\300'", "x='\\255'", "x='\\u{7FFFFFFF}'", "x='\\u{80000000}'",
  "x='\\u{}'", "x='\\u{0000000000041}'", "x='\\xZ'", "x='\\q'", "x='a\nb'", "x='a\\\nb'",
  "x='a\\\r\nb'", "x='\\z  \n a'", "x='", "x='\\", "x=[==[ ]] ]==]", "x=[==[", "x=[=", "x=[ [",
  "--[[", "--[==[ ]==]", "--[=x", "x='\0'", "\0", "x=1--", "x=99999999999999999999",
  -- Names, attributes, blocks.
  "local x <const> = 1; x = 2", "local x <close> = nil; x = nil", "local x <foo> = 1",
  "local a <close>, b <close> = 1, 2", "local x <const> = 1; local function f() x = 2 end",
  "local x <const>; function x() end", "break", "while true do break end",
  "repeat break until true", "while true do local function f() break end end",
  "if x then break end", "for i = 1 do end", "for i = 1, 2, 3, 4 do end", "for a.b in c do end",
  "for i in ipairs(x) do goto e; local y; ::e:: end", "return return", "return 1; x = 1",
  "return;", "return 1,",
  "do return end x = 1", "f", "f.x", "f:x", "(f)()", "(f) = 1", "f() = 1",
  "a, b() = 1", "a.b:c().d = 1", "x = function(...) return ... end",
  "x = function() return ... end",
  "function f(a, ..., b) end", "function a.b:c.d() end", "local function a.b() end", "local",
  "x = {1, 2; a = 3, [4] = 5,}", "x = {,}", "x = {a = 1 b = 2}", "f{1}'a'[[b]]", "a.and = 1",
  "goto", "::a:: ::a::", "do ::a:: end ::a::", "::a:: do ::a:: end", "goto a; do ::a:: end",
  "do goto a end ::a::", "goto a; local x; ::a::", "goto a; local x; ::a:: ;",
  "goto a; local x; ::a:: x = 1",
  "repeat goto a; local x; ::a:: until x", "repeat goto a; local x = 1; ::a:: ; until true",
  "goto a; do local x end ::a:: x = 1", "do goto a; local b end ::a:: local c",
  "local function f() goto a end ::a::",
  "::a:: local function f() goto a end",
  "do local x; goto a end local y; ::a:: x = 1", "do local x; goto a end local y; ::a::",
  "goto a; local x; ::a:: ::b::", "goto a; local x; ::a:: ::b:: x = 1", "goto = 1", "::a", "::1::",
  "x = not not -~#1", "x = - - 1", "x = 2^-3", "x = a or or b", "x = a .. b .. c",
  "x = (a)", "x = ()",
  "x = ... ", "local x = ...", "x=a.b.c:d(1)'x'{}", "x = a:b", "x = 'a':upper()",
  "x = ('a'):upper()",
  "x = {}.a", "x = ({}).a", "x ~= 1", "x != 1", "x += 1", "@", "$x", "x = a ? b : c", "x = \xE4",
}

test("parser: takes what load takes: the corners of the language", function()
  for _, text in ipairs(SMALL) do
    agree(text, "corner")
  end
  local names = {}
  for i = 1, 201 do
    names[i] = "v" .. i
  end
  for count = 198, 201 do
    local list = table.concat(names, ",", 1, count)
    agree("local " .. list, "locals")
    agree("local function f(" .. list .. ") end", "parameters")
    agree("local " .. table.concat(names, ",", 1, count - 3) .. " for i = 1, 2 do end", "loop")
    agree("local " .. table.concat(names, ",", 1, count - 4) .. " for i in x do end", "loop")
    agree("local " .. table.concat(names, "; local ", 1, count), "locals")
  end
end)

test("parser: tells where a mistake is", function()
  local text = "local x = 1\r\nlocal y = = 2\n"
  local _, problem, at = parser.parse(text)
  local line, column = parser.position(text, at)
  assert(problem == "unexpected symbol near '='" and line == 2 and column == 11, problem)
  _, problem, at = parser.parse("if x then\n\nf(")
  assert(problem:find("unexpected symbol near the end", 1, true), problem)
  line = parser.position("if x then\n\nf(", at)
  assert(line == 3)
  local position = { parser.position("a\n\rb\n\nc", 7) }
  assert(position[1] == 4 and position[2] == 1, table.concat(position, ":"))
end)

test("parser: a mark of UTF-8 and a first line with # become blanks", function()
  assert(parser.blank_first_line("#!/bin/x\nx=1") == "        \nx=1")
  assert(parser.blank_first_line("\xEF\xBB\xBF#!x\ny") == "      \ny")
  assert(parser.blank_first_line("x = #y") == "x = #y")
  assert(parser.blank_first_line(" #x") == " #x")
end)
