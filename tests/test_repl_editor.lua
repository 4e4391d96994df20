-- The line editor without a terminal: bytes in, text and cursor out.

local complete = require("sbx.repl.complete")
local editor = require("sbx.repl.editor")
local evaluate = require("sbx.repl.evaluate")
local keys = require("sbx.repl.keys")
local letters = require("sbx.repl.text")
local lexer = require("sbx.repl.lexer")
local view = require("sbx.repl.view")

local function new_editor(entries)
  entries = entries or {}
  local history = {
    count = #entries,
    entry = function(self, back) return entries[self.count - back + 1] end,
  }
  return editor.new({ history = history, is_unfinished = evaluate.is_unfinished })
end

-- Types bytes; the actions that they lead to.
local function type_keys(e, bytes)
  local actions, decoder = {}, keys.decoder()
  local found = decoder:feed(bytes)
  for _, key in ipairs(decoder:give_up()) do
    found[#found + 1] = key
  end
  for _, key in ipairs(found) do
    actions[#actions + 1] = e:key(key)
  end
  return table.concat(actions, " ")
end

-- The text with a bar where the cursor is.
local function text_of(e)
  local b = e.buffer
  local lines = table.move(b.lines, 1, #b.lines, 1, {})
  lines[b.row] = lines[b.row]:sub(1, b.at - 1) .. "|" .. lines[b.row]:sub(b.at)
  return table.concat(lines, "\n")
end

local function becomes(bytes, expected, entries)
  local e = new_editor(entries)
  type_keys(e, bytes)
  assert(text_of(e) == expected, ("%q gives %q, not %q"):format(bytes, text_of(e), expected))
end

test("repl editor: keys move and change", function()
  becomes("abc\27[D\27[DX", "aX|bc")
  becomes("abc\1X\5Y", "XabcY|")
  becomes("one two\27bX", "one X|two")
  becomes("one two\1\27fX", "oneX| two")
  becomes("one.two\23", "|")
  becomes("one two three\23\23", "one |")
  becomes("one two\27\127", "one |")
  becomes("one two\1\27d", "| two")
  becomes("abcdef\2\2\2\11", "abc|")
  becomes("abcdef\2\2\2\21", "|def")
  becomes("abc\21\25\25", "abcabc|")
  becomes("a b\23\23\25", "a b|")
  becomes("abc\2\20", "acb|")
  becomes("abc\127\27[D\27[3~", "a|")
  becomes("ab\2\4", "a|")
  becomes("abc\27[1;5DX\27OFY", "XabcY|")
end)

test("repl editor: a letter is what a person takes for one", function()
  for _, letter in ipairs({ "漢", "é", "e\u{301}", "👩‍👩‍👧", "🇩🇪", "👍🏽", "\u{fffd}" }) do
    becomes("a" .. letter .. "b\2\2X", "aX|" .. letter .. "b")
    becomes("a" .. letter .. "\127", "a|")
    becomes("a" .. letter .. "\1\6\6X", "a" .. letter .. "X|")
  end
  becomes("🇩🇪🇫🇷\127", "🇩🇪|")
  becomes("\xff\xfea", "\u{fffd}\u{fffd}a|")
end)

test("repl editor: undo goes back by words and by changes", function()
  becomes("one two\31", "one|")
  becomes("one two\31\31", "|")
  becomes("one\21\31", "one|")
  becomes("\27[200~pasted\27[201~x\31\31", "|")
  becomes("abc\127\127\31", "abc|")
end)

test("repl editor: Enter goes on where an input is unfinished, and indents", function()
  local e = new_editor()
  assert(type_keys(e, "for i = 1, 3 do\rprint(i)\rend\r") == "accept")
  assert(text_of(e) == "for i = 1, 3 do\n  print(i)\nend|", text_of(e))
  for text, unfinished in pairs({
    ["f("] = true, ["x ="] = true, ["1 +"] = true, ["[["] = true, ["--[["] = true,
    ["if x then"] = true, ["return function()"] = true, ["x = 1"] = false, ["1 + 1"] = false,
    ["x x"] = false, ["'abc"] = false, ["'abc\\"] = true, [""] = false,
    ["end"] = false, ["a.b:"] = true,
  }) do
    assert(evaluate.is_unfinished(text) == unfinished, text)
  end
  becomes("if x then\r[[\ra", "if x then\n  [[\na|")
  becomes("x\27\ry", "x\ny|")
end)

test("repl editor: up and down go through lines, then through the history", function()
  local entries = { "first", "for x\n  y\nend" }
  becomes("\27[A", "for x|\n  y\nend", entries)
  becomes("\27[A\27[B\27[B", "for x\n  y\nend|", entries)
  becomes("\27[A\27[A", "first|", entries)
  becomes("draft\27[A\27[A\27[A\14\14", "draft|", entries)
  becomes("a\27\rbcd\27[A", "a|\nbcd")
end)

test("repl editor: reverse search", function()
  local entries = { "print(1)", "local a = 1", "print(2)" }
  becomes("\18print", "|print(2)", entries)
  becomes("\18print\18", "|print(1)", entries)
  becomes("\18print\18\18\5!", "print(1)!|", entries)
  becomes("draft\18pri\7", "draft|", entries)
  becomes("\18locx\127", "|local a = 1", entries)
  becomes("\18a =\27", "local |a = 1", entries)
  local e = new_editor(entries)
  type_keys(e, "\18local")
  assert(type_keys(e, "\r") == "accept" and e.buffer:text() == "local a = 1")
end)

test("repl editor: a paste is text, whatever is in it", function()
  becomes("\27[200~a\r\nb\rc\27[Ad\3\27[201~!", "a\nb\ncd!|")
  local lines = {}
  for i = 1, 10000 do
    lines[i] = "x = " .. i
  end
  local text = table.concat(lines, "\n")
  local e = new_editor()
  type_keys(e, "\27[200~" .. text:gsub("\n", "\r") .. "\27[201~")
  assert(e.buffer:text() == text and #e.buffer.lines == 10000)
  local rows, row, column = view.rows(e, { first = "> ", other = ". " }, 80, 23)
  assert(#rows == 23 and row == 23 and column == #". x = 10000" and rows[23] == ". x = 10000")
  local echo = view.echo(text, { first = "> ", other = ". " }, 80, 20)
  assert(#echo == 20 and echo[1] == "> x = 1" and echo[20] == ". x = 10000")
  assert(echo[19] == ". ... 9981 more lines", echo[19])
end)

-- From a terminal that does not mark pastes: as keys, in whatever pieces.
test("repl editor: a paste without marks keeps its own blanks", function()
  for _, pasted in ipairs({
    "for i = 1, 3 do\n    if i > 1 then\n        f(i)\n    end\n  else",
    "for i = 1, 3 do\n if i > 1 then\n  f(i)\n end",
    "x = {\n      1,\n  { 2,\n  3 },",
  }) do
    local typed = pasted:gsub("\n", "\r")
    becomes(typed, pasted .. "|")
    -- Split behind an Enter, where an indentation has come before the blanks.
    local e = new_editor()
    for piece in typed:gmatch("[^\r]*\r?") do
      type_keys(e, piece)
    end
    assert(text_of(e) == pasted .. "|", text_of(e))
  end
  -- What is flush left, or typed key by key, is indented.
  local e = new_editor()
  for key in ("do\rdo\r f()\rend\rend"):gmatch(".") do
    type_keys(e, key)
  end
  assert(text_of(e) == "do\n  do\n     f()\n  end\n  end|", text_of(e))
  becomes("do\rdo\rf()\rend\r--", "do\n  do\n    f()\n  end\n  --|")
end)

test("repl editor: what cannot be shown stands there as an escape", function()
  for line, shown in pairs({
    ["a\27b"] = "a^[b", ["\xff"] = "\\xff", ["\u{202e}"] = "\\u{202e}", ["\u{9b}"] = "\\u{9b}",
    ["\t"] = "    ", ["\127"] = "^?",
  }) do
    local rows = letters.wrap(line, 79, 0)
    assert(rows[1] == shown, rows[1])
  end
  local rows, row, column = letters.wrap("漢漢漢", 5, 0, 7)
  assert(table.concat(rows, "|") == "漢漢|漢" and row == 2 and column == 0)
  rows, row, column = letters.wrap("abcd", 4, 0, 5)
  assert(table.concat(rows, "|") == "abcd|" and row == 2 and column == 0)
end)

test("repl lexer: locals of the outermost block, blocks, strings", function()
  local text = "local a <const>, b = 1, 2 local function f() local x end "
    .. "if a then local y end return b"
  local found, returns, names = lexer.locals(text)
  assert(#found == 3 and found[1].name == "a" and found[1].attribute == "const")
  assert(found[2].name == "b" and found[3].name == "f" and names.y)
  assert(returns == text:find("return b", 1, true))
  for given, expected in pairs({
    ["function f("] = 2, ["repeat until x"] = 0, ["'do' -- do"] = 0, ["{ [ ("] = 3, ["end end"] = 0,
    ["if a then for x do"] = 2, ["'\\'do' do"] = 1, ["'a\\\ndo"] = 0,
  }) do
    assert(lexer.depth(given) == expected, given .. ": " .. lexer.depth(given))
  end
  assert(select(2, lexer.depth("x = [==[ do ]=] ")) and not select(2, lexer.depth("x = [==[]==]")))
end)

-- ------------------------------------------------------------------- completion

local function completed(before, more)
  local env = {
    locals = function(name)
      if name == "mine" then return { field = 1, method = print }, true end
      return nil, false
    end,
    local_names = function() return { "mine" } end,
    library = require("sbx"), library_names = { "task", "time" },
    globals = { string = string, table = table, touched = setmetatable({}, {
      __index = function() error("it runs") end }), deep = { er = { value = 1 } } },
    sandboxes = function() return { "sbx-1", "sbx-2" } end,
    command = function() return nil end,
  }
  for name, value in pairs(more or {}) do
    env[name] = value
  end
  local found = complete.at(before, env)
  local words = {}
  for i, word in ipairs(found and found.words or {}) do
    words[i] = word.text
  end
  return table.concat(words, " "), found and found.count
end

test("repl completion: names, fields and methods", function()
  for before, expected in pairs({
    ["ta"] = "table task", ["mi"] = "mine", ["x = mi"] = "mine", ["mine."] = "field method",
    ["mine:"] = "method", ["mine.fi"] = "field", ["deep.er.v"] = "value", ["deep.none.v"] = "",
    ["touched.x"] = "", ["('x'):rep"] = "rep", ["string.fo"] = "format", ["fu"] = "function",
    ["sbx.ta"] = "", ["-- ta"] = "", ["1.t"] = "", ["print(ta"] = "table task", ["ta "] = "",
    ["require('string').fo"] = "format",
  }) do
    assert(completed(before) == expected, ("%s: %s"):format(before, completed(before)))
  end
  assert(completed("lib.", { globals = { lib = require("sbx") } }):find("^task time"))
  assert(select(2, completed("deep.er.va")) == 2)
end)

test("repl completion: methods of objects of the library", function()
  local task = require("sbx.task")
  local client = require("sbx.sandbox").client({ api_key = "k", base_url = "http://127.0.0.1:1" })
  local globals = { task = task.current(), client = client, file = io.stdout }
  assert(completed("task:pj", { globals = globals }) == "pjoin")
  assert(completed("client:cre", { globals = globals }) == "create")
  assert(completed("client.base", { globals = globals }) == "base_url")
  assert(completed("file:wri", { globals = globals }) == "write")
end)

test("repl completion: within strings", function()
  local fs = require("sbx.fs")
  local folder <close> = fs.tmpdir({ prefix = "complete-" })
  fs.write(folder.path .. "/one.txt", "")
  fs.write(folder.path .. "/it's", "")
  fs.write(folder.path .. "/.hidden", "")
  fs.mkdir(folder.path .. "/other")
  local path = folder.path
  assert(completed("open('" .. path .. "/o") == path .. "/one.txt " .. path .. "/other/")
  assert(completed("open('" .. path .. "/it") == "")
  assert(completed('open("' .. path .. "/it") == path .. "/it's")
  assert(completed("open('" .. path .. "/.h") == path .. "/.hidden")
  assert(completed("client:get('sbx-") == "sbx-1 sbx-2")
  assert(completed("require 'sbx.t") == "sbx.task sbx.time")
  assert(completed("require('strin") == "string")
  assert(completed("x = [[sbx-") == "" and completed("f('a\\") == "")
end)

test("repl completion: words in columns", function()
  local words = {}
  for i = 1, 7 do
    words[i] = { text = "word" .. i }
  end
  local lines = complete.columns(words, 24, 5)
  assert(table.concat(lines, "|") == "word1  word3  word5|word2  word4|... 2 more",
    table.concat(lines, "|"))
  assert(complete.common({ { text = "abc" }, { text = "abd" } }) == "ab")
  assert(complete.common({ { text = "é1" }, { text = "è1" } }) == "")
end)
