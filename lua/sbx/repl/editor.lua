-- The line editor: keys in, actions out. Nothing here waits or draws; what it shows
-- is the business of `sbx.repl.view`.

local buffer = require("sbx.repl.buffer")
local lexer = require("sbx.repl.lexer")

local editor = {}

local LONG = 64 * 1024 -- bytes beyond which nothing is indented

---@class sbx.repl.Editor
---@field buffer sbx.repl.Buffer
---@field search { query: string, at: integer|nil, failed: boolean }|nil
---@field private indent string   that the newest line got without anybody typing it
---@field private indented boolean  that line has nothing else yet
---@field private back integer  how far back in the history the text is from; 0: it is new
local Editor = {}
Editor.__index = Editor

---@class sbx.repl.EditorOptions
---@field history { count: integer, entry: fun(self, back: integer): string|nil }
---@field is_unfinished fun(text: string): boolean  whether Enter is to begin another line

---@param options sbx.repl.EditorOptions
---@return sbx.repl.Editor
function editor.new(options)
  return setmetatable({
    buffer = buffer.new(), history = options.history,
    is_unfinished = options.is_unfinished, back = 0, draft = nil,
    indent = "", indented = false,
  }, Editor)
end

---Empties it.
function Editor:reset()
  self.buffer:set("")
  self.buffer:forget()
  self.search, self.back, self.draft = nil, 0, nil
end

---Puts another text in place of what is edited.
---@param text string
function Editor:set(text)
  self.buffer:note("other")
  self.buffer:set(text)
end

-- --------------------------------------------------------------------- history

local function show_entry(self, back)
  local text = back == 0 and self.draft or self.history:entry(back)
  if not text then return false end
  if self.back == 0 then self.draft = self.buffer:text() end
  self.back = back
  self.buffer:set(text)
  self.buffer:forget()
  return true
end

local function older(self)
  return show_entry(self, self.back + 1)
end

local function newer(self)
  return self.back > 0 and show_entry(self, self.back - 1)
end

-- Up and down move among lines first, then in the history.
local function up(self)
  local b = self.buffer
  if b.row > 1 then
    b:go(b:vertical(-1))
  elseif older(self) then
    b:go(1, #b.lines[1] + 1)
  end
end

local function down(self)
  local b = self.buffer
  if b.row < #b.lines then
    b:go(b:vertical(1))
  else
    newer(self)
  end
end

-- --------------------------------------------------------------- reverse search

local function find(self, from)
  local search = self.search
  for back = from, self.history.count do
    local text = self.history:entry(back)
    local at = text and text:find(search.query, 1, true)
    if at then
      search.at, search.failed = back, false
      self.buffer:set(text)
      -- The cursor stands where it was found.
      local _, rows = text:sub(1, at):gsub("\n", "")
      local line = text:sub(1, at):match("[^\n]*$")
      self.buffer:go(rows + 1, math.max(#line, 1))
      return
    end
  end
  search.failed = true
end

local function begin_search(self)
  if self.back == 0 then self.draft = self.buffer:text() end
  self.search = { query = "", at = nil, failed = false, before = self.buffer:text() }
end

-- What a key does while a search goes on; nothing where it ends the search and does
-- what it always does.
local function search_key(self, key)
  local search = self.search
  if key.text or key.paste then
    search.query = search.query .. (key.text or key.paste:gsub("\n.*", ""))
    find(self, search.at or 1)
    return true
  end
  if key.name == "ctrl-r" then
    if search.query == "" then search.query = self.last_query or "" end
    if search.query ~= "" then find(self, (search.at or 0) + 1) end
    return true
  elseif key.name == "backspace" then
    search.query = search.query:gsub("[^\x80-\xbf][\x80-\xbf]*$", "")
    if search.query ~= "" then find(self, 1) end
    return true
  elseif key.name == "ctrl-g" then
    self.search = nil
    self.buffer:set(search.before)
    return true
  end
  self.last_query = search.query
  self.back = search.at or self.back
  self.search = nil
  return key.name == "escape"
end

-- ---------------------------------------------------------------------- changes

-- Steps of one kind are undone together.
local function remove(self, kind, row, at, keeps)
  local b = self.buffer
  if row == b.row and at == b.at then return end
  local backwards = row < b.row or (row == b.row and at < b.at)
  local goes_on = keeps and b.last_kind == "cut"
  b:note(kind)
  local taken = b:remove_to(row, at)
  if keeps then
    if not goes_on then b.cut = "" end
    b.cut = backwards and taken .. b.cut or b.cut .. taken
    b.last_kind = "cut"
  end
end

local function insert(self, text, kind)
  -- A new word is a new step.
  if text:find("^%s") then self.buffer.last_kind = nil end
  self.buffer:note(kind)
  self.buffer:insert(text)
  self.buffer.last_kind = kind
end

-- The indentation that the text before a line asks for; nil inside a string.
local function indent_of(text)
  if #text > LONG then return "" end
  local depth, inside = lexer.depth(text)
  return not inside and ("  "):rep(depth) or nil
end

-- `end` and its like stand as far left as what they close.
local function outdent(self)
  local b = self.buffer
  local line = b.lines[b.row]
  local blanks, rest = line:match("^([ \t]*)(.*)$")
  local word = rest:match("^%a+") or rest:match("^[%)%]}]")
  local closes = word == "end" or word == "until" or word == "else" or word == "elseif"
    or word == "}" or word == ")" or word == "]"
  if not closes or b.row == 1 then return end
  local before = table.concat(b.lines, "\n", 1, b.row - 1)
  local wanted = indent_of(before)
  wanted = wanted and wanted:sub(3)
  -- What somebody has typed or pasted stays.
  if not wanted or blanks ~= self.indent or #blanks ~= #wanted + 2 then return end
  b.lines[b.row] = wanted .. rest
  b.at = math.max(1, b.at - (#blanks - #wanted))
end

local function is_blank(key)
  return key.name == "tab" or key.text ~= nil and key.text:find("^ ") ~= nil
end

-- A line that comes at once with its blanks is no typing but a paste, from a terminal
-- that does not mark it.
local function new_line(self, key)
  self.buffer:note("other")
  outdent(self)
  local has_own = key.next and is_blank(key.next)
  local indent = not has_own and indent_of(self.buffer:before()) or ""
  self.buffer:insert("\n" .. indent)
  self.indent, self.indented = indent, indent ~= ""
end

-- The same where the paste came in pieces, and the blanks in another one than the line's
-- beginning.
local function drop_indent(self, key)
  local was_indented = self.indented
  self.indented = false
  local has_more = key.next or key.text and #key.text > 1
  if was_indented and is_blank(key) and has_more then
    self.buffer:remove_to(self.buffer:line_start())
    self.indent = ""
  end
end

local function enter(self, key)
  local text = self.buffer:text()
  if self.is_unfinished(text) then
    new_line(self, key)
    return nil
  end
  outdent(self)
  return "accept"
end

local function transpose(self)
  local b = self.buffer
  local line = b.lines[b.row]
  if b.at > #line and b.at > 1 then b:go(b:left()) end
  if b.at == 1 or b.at > #line then return end
  local _, first = b:left()
  local _, last = b:right()
  local a, c = line:sub(first, b.at - 1), line:sub(b.at, last - 1)
  b:note("other")
  b.lines[b.row] = line:sub(1, first - 1) .. c .. a .. line:sub(last)
  b.at = last
end

-- ------------------------------------------------------------------------- keys

local function mover(method)
  return function(self)
    local b = self.buffer
    b:go(b[method](b))
  end
end

local function remover(method, kind, keeps)
  return function(self)
    local b = self.buffer
    local row, at = b[method](b)
    remove(self, kind, row, at, keeps)
  end
end

local function to_line_end(self)
  local b = self.buffer
  local row, at = b:line_end()
  if row == b.row and at == b.at then row, at = b:right() end
  remove(self, "cut", row, at, true)
end

local function end_or_delete(self)
  if self.buffer:is_empty() then return "end" end
  local b = self.buffer
  remove(self, "delete", b:right())
end

local actions = {
  left = mover("left"), ["ctrl-b"] = mover("left"),
  right = mover("right"), ["ctrl-f"] = mover("right"),
  home = mover("line_start"), ["ctrl-a"] = mover("line_start"),
  ["end"] = mover("line_end"), ["ctrl-e"] = mover("line_end"),
  ["alt-b"] = mover("word_left"), ["ctrl-left"] = mover("word_left"),
  ["alt-left"] = mover("word_left"),
  ["alt-f"] = mover("word_right"), ["ctrl-right"] = mover("word_right"),
  ["alt-right"] = mover("word_right"),
  backspace = remover("left", "backspace"), delete = remover("right", "delete"),
  ["ctrl-d"] = end_or_delete,
  ["ctrl-w"] = remover("blank_left", "cut", true),
  ["alt-backspace"] = remover("word_left", "cut", true),
  ["alt-d"] = remover("word_right", "cut", true),
  ["ctrl-u"] = remover("line_start", "cut", true), ["ctrl-k"] = to_line_end,
  ["ctrl-y"] = function(self) insert(self, self.buffer.cut, "other") end,
  ["ctrl-t"] = transpose,
  ["ctrl-_"] = function(self) self.buffer:go_back() end,
  up = up, down = down,
  ["ctrl-p"] = function(self) older(self) end, ["ctrl-n"] = function(self) newer(self) end,
  ["ctrl-r"] = begin_search,
  enter = enter, ["alt-enter"] = new_line,
  tab = function() return "complete" end,
  ["ctrl-l"] = function() return "clear" end,
  ["ctrl-c"] = function() return "interrupt" end,
  ["ctrl-z"] = function() return "suspend" end,
}

---Takes a key. Returns what is to be done beyond the text, if anything: "accept",
---"complete", "interrupt", "end", "suspend" or "clear".
---@param key { name?: string, text?: string, paste?: string, next?: table }  `next`: the one that came at once with it
---@return string|nil
function Editor:key(key)
  if self.search and search_key(self, key) then return nil end
  drop_indent(self, key)
  if key.paste then
    self.buffer:note("other")
    self.buffer:insert(key.paste)
  elseif key.text then
    for word in key.text:gmatch("%s*%S*") do
      if word ~= "" then insert(self, word, "insert") end
    end
  else
    local action = actions[key.name]
    return action and action(self, key)
  end
end

---Puts `text` in place of the `count` bytes before the cursor.
---@param count integer
---@param text string
function Editor:complete(count, text)
  local b = self.buffer
  b:note("other")
  if count > 0 then b:remove_to(b.row, b.at - count) end
  b:insert(text)
end

return editor
