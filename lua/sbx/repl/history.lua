-- What was entered before: in memory, and in a file of the state folder that only its
-- owner reads and that several prompts share. Each line of it is one entry, as JSON.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local secret = require("sbx.repl.secret")
local state = require("sbx.sandbox.state")

local history = {}

local MOST = 5000 -- entries that are kept
local LARGE = 2 * MOST -- in the file: then it is cut to as many
local LONGEST = 64 * 1024 -- bytes of an entry in the file
local MOST_FILE = 64 * 1024 * 1024
local PATIENCE = 2 -- seconds for the lock
local MODE = tonumber("600", 8)

---@class sbx.repl.History
---@field count integer
---@field path string|nil  of the file, where there is one
local History = {}
History.__index = History

-- The entries of a file; what is no entry, such as half a line, is left out.
---@async
local function read_entries(path)
  local bytes = errors.try(fs.read, path, { max = MOST_FILE }) or ""
  local entries = {}
  for line in bytes:gmatch("[^\n]+") do
    local ok, text = pcall(json.decode, line)
    if ok and type(text) == "string" then entries[#entries + 1] = text end
  end
  return entries, bytes
end

local function last_of(entries, most)
  local first = math.max(1, #entries - most + 1)
  return table.move(entries, first, #entries, 1, {})
end

local function lines_of(entries)
  local lines = {}
  for i, text in ipairs(entries) do
    lines[i] = json.encode(text) .. "\n"
  end
  return table.concat(lines)
end

-- Others may have added something since: all under the lock.
---@async
local function shorten(path)
  state.locked(path, PATIENCE, function()
    local entries = read_entries(path)
    if #entries <= LARGE then return end
    state.replace(path, lines_of(last_of(entries, MOST)))
  end)
end

---Opens the history. Without a state folder it lasts as long as this object.
---@async
---@param folder? string|false  in place of the state folder's; false for none
---@return sbx.repl.History
function history.open(folder)
  if folder == nil then folder = state.folder("repl") end
  local self = setmetatable({ entries = {}, count = 0, path = nil }, History)
  if not folder then return self end
  self.path = folder .. "/history"
  if fs.exists(self.path) then
    if not state.is_private(self.path) then errors.try(fs.chmod, self.path, MODE) end
    local entries = read_entries(self.path)
    if #entries > LARGE then errors.try(shorten, self.path) end
    self.entries = last_of(entries, MOST)
    self.count = #self.entries
  end
  return self
end

---The entry so many steps back, 1 for the last one; nil beyond the first.
---@param back integer
---@return string|nil
function History:entry(back)
  return self.entries[self.count - back + 1]
end

---Adds an entry to what is in memory, unless it is empty or the last one again.
---Returns whether it is worth saving: those that hold a key, that begin with a
---blank, or that are very long are not.
---@param text string
---@return boolean
function History:add(text)
  if not text:find("%S") or text == self.entries[self.count] then return false end
  table.insert(self.entries, text)
  if #self.entries > MOST + 100 then self.entries = last_of(self.entries, MOST) end
  self.count = #self.entries
  return text:sub(1, 1) ~= " " and #text <= LONGEST and not secret.is_in(text)
end

-- What makes the file end with a line: whoever died in the middle of one does not
-- spoil the next.
---@async
local function line_end(path)
  if not fs.exists(path) then return "" end
  local file <close> = fs.open(path)
  local size = file:size()
  return size > 0 and file:read_at(size - 1, 1) ~= "\n" and "\n" or ""
end

---Appends an entry to the file, as a whole. Failures are not worth a word.
---@async
---@param text string
function History:save(text)
  if not self.path then return end
  errors.try(state.locked, self.path, PATIENCE, function()
    fs.append(self.path, line_end(self.path) .. json.encode(text) .. "\n", { mode = MODE })
  end)
end

return history
