-- Fuzzes the line editor and the screen: random keys in random pieces, random output,
-- bars and sizes. A small terminal shows what the bytes come to, which must be the
-- output and, below it, what the editor shows. How it is run: `seeds.lua`.

local seeds = require("tests.fuzz.seeds")
local emulator = dofile("tests/peers/emulator.lua")
local editor = require("sbx.repl.editor")
local evaluate = require("sbx.repl.evaluate")
local keys = require("sbx.repl.keys")
local letters = require("sbx.repl.text")
local view = require("sbx.repl.view")
local width = require("sbx.cli.width")

local pick = seeds.pick

local fuzz = {}

local PIECES = {
  "a", "word ", "local x = ", "function f() ", "end", "(", ")", "'", "\"", "[[", "--", "漢字",
  "é", "e\u{301}", "👩‍👩‍👧", "🇩🇪", "👍🏽", "\u{200d}", "\u{301}", "\u{202e}", "\xff", "\xe6\xbc",
  "\xc2\x9b", ("x"):rep(50), ("漢"):rep(30), "\t", "{ 1, 2 }", ":", ".", "\u{fe0f}", "if x then ",
}
local KEYS = {
  "\r", "\27[A", "\27[B", "\27[C", "\27[D", "\27[H", "\27[F", "\27[3~", "\127", "\1", "\2", "\4",
  "\5", "\6", "\7", "\11", "\14", "\16", "\18", "\20", "\21", "\23", "\25", "\31", "\27b", "\27f",
  "\27d", "\27\127", "\27\r", "\27[1;5D", "\27[1;5C", "\27OA", "\27", "\27\27", "\27[",
  "\27[99;99;99~",
  "\27[<0;1;2M", "\0", "\28",
}

local function paste(random)
  local lines = {}
  for i = 1, random(1, 6) do
    lines[i] = pick(random, PIECES) .. pick(random, PIECES)
  end
  if random(1, 50) == 1 then lines[#lines + 1] = ("line\n"):rep(10000) end
  return "\27[200~" .. table.concat(lines, pick(random, { "\r", "\n", "\r\n" })) .. "\27[201~"
end

local function typed(random)
  local how = random(1, 10)
  if how <= 5 then return pick(random, PIECES) end
  if how <= 9 then return pick(random, KEYS) end
  return paste(random)
end

local function new_history()
  local entries = { "print(1)", "for i = 1, 3 do\n  print(i)\nend", "漢字 = 'é'", "\255" }
  return {
    count = #entries,
    entry = function(self, back) return entries[self.count - back + 1] end,
    add = function(self, text)
      table.insert(entries, text)
      self.count = #entries
    end,
  }
end

-- The bytes as keys, in random pieces. What is incomplete in the end is given up.
local function feed(random, decoder, bytes)
  local found, at = {}, 1
  while at <= #bytes do
    local last = at + random(0, 12)
    for _, key in ipairs(decoder:feed(bytes:sub(at, last))) do
      found[#found + 1] = key
    end
    at = last + 1
  end
  return found
end

-- What is typed, whatever the pieces are: runs of letters are one text.
local function summary(found)
  local parts, last = {}, nil
  for _, key in ipairs(found) do
    if key.text and last == "text" then
      parts[#parts] = parts[#parts] .. key.text
    else
      parts[#parts + 1] = key.text and key.text or key.name and "<" .. key.name .. ">"
        or "[" .. key.paste .. "]"
    end
    last = key.text and "text" or "other"
  end
  return table.concat(parts, "|")
end

local function check_editor(e)
  local b = e.buffer
  assert(#b.lines >= 1 and b.row >= 1 and b.row <= #b.lines, "a row that is not there")
  local line = b.lines[b.row]
  assert(b.at >= 1 and b.at <= #line + 1, "a place beyond the line")
  for _, each in ipairs(#b.lines < 100 and b.lines or {}) do
    assert(not each:find("\n", 1, true), "a line feed within a line")
  end
end

local function check_view(e, prompt, columns, most)
  local rows, row, column = view.rows(e, prompt, columns, most)
  assert(#rows >= 1 and #rows <= most, ("%d rows where %d fit"):format(#rows, most))
  assert(row >= 1 and row <= #rows and column >= 0 and column < columns,
    ("the cursor is at %d, %d"):format(row, column))
  for _, text in ipairs(rows) do
    assert(not text:find("%c"), ("a control character: %q"):format(text))
    assert(width.of(text) < columns, ("too wide: %q"):format(text))
  end
  return rows, row, column
end

---One editor, random keys, and every view of it.
---@param seed integer
function fuzz.editor(seed)
  local random = seeds.generator(seed)
  local history = new_history()
  local e = editor.new({ history = history, is_unfinished = evaluate.is_unfinished })
  local prompt = { first = "> ", other = ". " }
  local decoder = keys.decoder()
  for _ = 1, random(1, 60) do
    local bytes = typed(random)
    local found = feed(random, decoder, bytes)
    if random(1, 4) == 1 then
      for _, key in ipairs(decoder:give_up()) do
        found[#found + 1] = key
      end
    end
    for _, key in ipairs(found) do
      local action = e:key(key)
      check_editor(e)
      if action == "accept" then
        history:add(e.buffer:text())
        e:reset()
      end
    end
    check_view(e, prompt, random(1, 6) == 1 and random(3, 8) or random(20, 100), random(1, 12))
    for row, line in ipairs(#e.buffer.lines < 50 and e.buffer.lines or {}) do
      -- Letters from the front and from the back are the same.
      local at = #line + 1
      while at > 1 do
        local before = letters.previous(line, at)
        assert(before < at and letters.next(line, before) == at,
          ("letters of line %d: %q"):format(row, line))
        at = before
      end
    end
  end
end

---The same bytes in any pieces are the same keys.
---@param seed integer
function fuzz.pieces(seed)
  local random = seeds.generator(seed)
  local parts = {}
  for i = 1, random(1, 30) do
    parts[i] = typed(random)
  end
  local bytes = table.concat(parts)
  if random(1, 3) == 1 then bytes = seeds.damage(random, bytes) end
  local whole = summary(keys.decoder():feed(bytes))
  local pieces = summary(feed(random, keys.decoder(), bytes))
  assert(whole == pieces, ("%q\n%s\n%s"):format(bytes, whole, pieces))
end

-- ----------------------------------------------------------------------- screen

-- The drawing module on a terminal of its own, with what C gives it.
local function new_screen(columns, rows)
  local shown = emulator.new(columns, rows)
  local tail, owner = "", nil
  local core = {
    own = function(fn) owner = fn end,
    every = function() end, soon = function() end,
    tail = function() return tail end,
    break_line = function() tail = "" end,
    draw = function(bytes)
      shown:write(bytes)
      return true
    end,
  }
  local names = { "sbx.core.screen", "sbx.progress.screen", "sbx.core.host" }
  local before = {}
  for _, name in ipairs(names) do
    before[name], package.loaded[name] = package.loaded[name], nil
  end
  package.loaded["sbx.core.screen"] = core
  package.loaded["sbx.core.host"] = setmetatable({
    columns = function() return shown.columns, shown.rows end,
  }, { __index = before["sbx.core.host"] })
  local screen = require("sbx.progress.screen")
  for _, name in ipairs(names) do
    package.loaded[name] = before[name]
  end
  screen.watch()
  local function write(text)
    owner("output", 1)
    shown:write(text)
    tail = (tail .. text):match("[^\n]*$")
  end
  return screen, shown, write
end

-- The rows of a text as a terminal shows it on its own, blank ones too.
local function alone(columns, text)
  local other = emulator.new(columns, 10000)
  other:write(text)
  local rows, row, column = other:text()
  for i = #rows + 1, column > 0 and row or row - 1 do
    rows[i] = ""
  end
  return rows
end

---Output, an editor as a footer, and nothing else: the screen must be the output with
---the editor's rows below it.
---@param seed integer
function fuzz.screen(seed)
  local random = seeds.generator(seed)
  local columns, height = random(20, 80), random(6, 30)
  local screen, shown, write = new_screen(columns, height)
  local e = editor.new({ history = new_history(), is_unfinished = evaluate.is_unfinished })
  local prompt = { first = "> ", other = ". " }
  local rows, row, column
  local function footer(cells, most)
    rows, row, column = check_view(e, prompt, cells, most)
    return rows, row, column
  end
  screen.set_footer(footer)
  local output = ""
  for step = 1, random(5, 80) do
    local how = random(1, 10)
    if how <= 3 then
      local text = random(1, 3) == 1 and ("part%d "):format(step) or ("line %d\n"):format(step)
      if random(1, 6) == 1 then text = ("long "):rep(random(1, 60)) .. "\n" end
      -- A wrapped line that is unfinished is not found again.
      if #output:match("[^\n]*$") + #text >= columns then text = text .. "\n" end
      write(text)
      output = output .. text
    elseif how <= 8 then
      for _, key in ipairs(keys.decoder():feed(typed(random))) do
        if key.paste and #key.paste > 1000 then key.paste = key.paste:sub(1, 1000) end
        if e:key(key) == "accept" then
          local lines = view.echo(e.buffer:text(), prompt, columns, 20)
          screen.leave(lines)
          -- An unfinished line of output ends where an input is left below it.
          if output ~= "" and output:sub(-1) ~= "\n" then output = output .. "\n" end
          output = output .. table.concat(lines, "\n") .. "\n"
          e:reset()
        end
      end
    elseif how == 9 then
      screen.hide()
      screen.show()
    end
    if random(1, 3) > 1 then
      screen.draw()
      local text, at, right = shown:text()
      local wanted = alone(columns, output)
      -- Rows that scrolled off are compared, too: no byte of the output may be lost.
      local above = #wanted
      for _, each in ipairs(rows) do
        wanted[#wanted + 1] = (each:gsub("%s+$", ""))
      end
      while wanted[#wanted] == "" do
        wanted[#wanted] = nil
      end
      for i = 1, math.max(#text, #wanted) do
        assert(text[i] == wanted[i], ("step %d, row %d of %d, %d wide: %q in place of %q")
          :format(step, i, #text, columns, tostring(text[i]), tostring(wanted[i])))
      end
      assert(at == above + row and right == column,
        ("the cursor is at %d, %d, not %d, %d"):format(at, right, above + row, column))
    end
  end
  screen.set_footer(nil)
end

---@param seed integer
function fuzz.run(seed)
  fuzz.editor(seed)
  fuzz.pieces(seed)
  fuzz.screen(seed)
end

seeds.main("fuzz_repl", fuzz.run)

return fuzz
