-- A terminal for tests: see terminal.py.

local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local reader = require("sbx.reader")

local LONGEST = 60 -- seconds for anything to appear

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local terminal = {}

local python -- one that has pyte, which interprets the screen

---Whether a terminal can be had here.
---@async
---@return boolean
function terminal.is_there()
  for _, name in ipairs({ "python3", "/usr/bin/python3" }) do
    local ok, result = pcall(process.run, { name, "-c", "import pyte" })
    if ok and result.code == 0 then
      python = name
      return true
    end
  end
  return false
end

---@class tests.Terminal
local Terminal = {}
Terminal.__index = Terminal

---Starts sbxlua on a terminal.
---@async
---@param words string[]  of its command line
---@param options { columns?: integer, rows?: integer, env?: table, command?: string[] }  `command`: in place of sbxlua
---@return tests.Terminal
function terminal.start(words, options)
  -- No word about a busy machine among the lines that are compared.
  local env = {
    TERM = "xterm", CI = false, NO_COLOR = false, SBXLUA_LOG = false, SBXLUA_SLOW_STEP = "0",
  }
  for name, value in pairs(options.env or {}) do
    env[name] = value
  end
  local argv = { python, here .. "terminal.py", tostring(options.columns or 80),
    tostring(options.rows or 24) }
  local command = options.command or { host.executable() }
  table.move(command, 1, #command, #argv + 1, argv)
  table.move(words, 1, #words, #argv + 1, argv)
  local child = process.spawn(argv, { stdin = "pipe", stdout = "pipe", env = env })
  local answers = reader.new(function() return child.stdout:read() end, { max_line = 1 << 24 })
  return setmetatable({ child = child, answers = answers }, Terminal)
end

function Terminal:order(order)
  self.child.stdin:write(json.encode(order) .. "\n")
end

---@async
local function answer(self)
  local line = assert(self.answers:line(), "the terminal is gone")
  return json.decode(line)
end

---Waits until `text` is there, and returns the screen.
---@async
function Terminal:await(text)
  self:order({ ["until"] = text, seconds = LONGEST })
  local screen = answer(self)
  local all = table.concat(screen.lines, "\n")
  assert(all:find(text, 1, true), ("no %q on the screen:\n%s"):format(text, all))
  return screen
end

---Waits until the screen, with what scrolled off it, is these lines, and the cursor
---stands at that place. Raises with what it is instead.
---@async
---@param lines string[]
---@param cursor? integer[]  column and row, from 0
function Terminal:shows(lines, cursor)
  self:order({ shows = lines, cursor = cursor, seconds = LONGEST })
  local screen = answer(self)
  if screen.same then return screen end
  error(("the screen is not\n%s\nwith the cursor at %s, but\n%s\nwith the cursor at %s"):format(
    table.concat(lines, "\n"), cursor and table.concat(cursor, ", ") or "any place",
    table.concat(screen.lines, "\n"), table.concat(screen.cursor, ", ")), 2)
end

function Terminal:resize(columns, rows)
  self:order({ resize = { columns, rows } })
end

function Terminal:type(text)
  self:order({ type = text })
end

---Waits for the program's end: the last screen, with `status` and `bytes`.
---@async
function Terminal:finish()
  self:order({ ["end"] = true, seconds = LONGEST })
  return answer(self)
end

Terminal.__close = function(self)
  self.child:close()
end

return terminal
