-- What the tests of the prompt share: a terminal with one on it, and what its screen
-- must show, line by line, after each step.

local fs = require("sbx.fs")
local terminal = dofile("tests/peers/terminal.lua")
local width = require("sbx.cli.width")

local support = {}

local ROWS = 60 -- enough for all that a test shows: rows of the screen are those of the lines

---@class tests.Prompt
---@field terminal tests.Terminal
---@field columns integer
---@field above string[]  what stands above the line that is being typed
local Prompt = {}
Prompt.__index = Prompt

-- A text in pieces of so many cells.
local function wrapped(text, cells)
  local rows = {}
  repeat
    local row = width.prefix(text, cells)
    rows[#rows + 1] = row
    text = text:sub(#row + 1)
  until text == ""
  return rows
end

local function add(list, rows)
  for _, row in ipairs(rows) do
    list[#list + 1] = (row:gsub("%s+$", ""))
  end
end

---Starts a prompt with `files` in its home; `fn(prompt)` is the person.
---@async
---@param options { columns?: integer, rows?: integer, env?: table, words?: string[], files?: table<string, string>, command?: string[], greeting?: boolean }
---@param fn async fun(prompt: tests.Prompt)
function support.with_prompt(options, fn)
  if not terminal.is_there() then skip("python3 has no pyte") end
  local home <close> = fs.tmpdir({ prefix = "repl-" })
  for name, text in pairs(options.files or {}) do
    fs.write(home.path .. "/" .. name, text)
  end
  local env = {
    HOME = home.path, XDG_STATE_HOME = home.path .. "/state", NO_COLOR = "1",
    PRIME_API_KEY = false, PRIME_API_BASE_URL = false,
  }
  for name, value in pairs(options.env or {}) do
    env[name] = value
  end
  local columns = options.columns or 80
  local started <close> = terminal.start(options.words or {}, {
    columns = columns, rows = options.rows or ROWS, env = env, command = options.command,
  })
  local self = setmetatable({
    terminal = started, columns = columns, above = {}, home = home.path,
  }, Prompt)
  if options.greeting ~= false then
    local lines = started:await("to leave.").lines
    while not lines[#lines]:find("leave.", 1, true) do
      table.remove(lines)
    end
    self.above = lines
    self:shows("")
  end
  fn(self)
end

---Adds lines of output to what stands above.
---@param ... string
function Prompt:output(...)
  for _, text in ipairs({ ... }) do
    add(self.above, wrapped(text, self.columns))
  end
end

---Adds an input, line by line, to what stands above.
---@param ... string
function Prompt:entered(...)
  for i, text in ipairs({ ... }) do
    add(self.above, wrapped((i == 1 and "> " or ". ") .. text, self.columns - 1))
  end
end

---Waits until the screen is what stands above and the text that is being typed.
---@async
---@param text string
---@param options? { head?: string, at?: integer }  the prompt, and the cells before the cursor in the last line
function Prompt:shows(text, options)
  options = options or {}
  local head = options.head or "> "
  local other = head == "> " and ". " or (" "):rep(#head)
  local cells = self.columns - 1
  local lines = table.move(self.above, 1, #self.above, 1, {})
  local cursor
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    local at = width.of(head) + (options.at or width.of(line))
    cursor = { at % cells, #lines + at // cells }
    add(lines, wrapped(head .. line, cells))
    head = other
  end
  while lines[#lines] == "" do
    lines[#lines] = nil
  end
  return self.terminal:shows(lines, cursor)
end

---Types keys.
---@param ... string
function Prompt:type(...)
  for _, keys in ipairs({ ... }) do
    self.terminal:type(keys)
  end
end

---Enters an input, and waits until its output stands above an empty line.
---@async
---@param input string
---@param ... string  lines of output
function Prompt:enter(input, ...)
  self:type(input .. "\r")
  self:entered(input)
  self:output(...)
  self:shows("")
end

---Lets a script that waits for `name` go on.
---@async
function Prompt:go(name)
  fs.write(self.home .. "/" .. name, "")
end

---Leaves, and returns the last screen.
---@async
function Prompt:leave()
  self:type("\4")
  return self.terminal:finish()
end

support.keys = {
  left = "\27[D", right = "\27[C", up = "\27[A", down = "\27[B", home = "\27[H",
  ending = "\27[F", delete = "\27[3~", word_left = "\27b", word_right = "\27f",
}

---What a terminal sends for a paste.
---@param text string
---@return string
function support.paste(text)
  return "\27[200~" .. text:gsub("\n", "\r") .. "\27[201~"
end

return support
