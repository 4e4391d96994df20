-- The log of what chaos decided: a line of JSON for each request to which something
-- happens. Its order at the end is by class and number, so that it depends on the seed
-- and the requests alone; until then lines come as they are decided.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local log = require("sbx.log")
local task = require("sbx.task")

---@class sbx.server.chaos.Record
---@field private path string
---@field private file sbx.fs.File
---@field private lines string[]   not yet written
---@field private writing boolean
---@field private idle? sbx.core.Waiter
---@field private broken boolean
local Record = {}
Record.__index = Record

local record = {}

local CLOSE_SECONDS = 30

-- What comes of a table: without times, which are never the same twice.
local function encode(entry)
  for name, value in pairs(entry) do
    if math.type(value) == "float" then entry[name] = math.floor(value * 1e4 + 0.5) / 1e4 end
  end
  return json.encode(entry, { sort_keys = true })
end

---Opens the log, empty.
---@async
---@param path string
---@return sbx.server.chaos.Record
function record.open(path)
  return setmetatable({
    path = path, file = fs.open(path, "w"), lines = {}, writing = false, broken = false,
  }, Record)
end

local function write_all(self)
  while #self.lines > 0 do
    local text = table.concat(self.lines, "\n") .. "\n"
    self.lines = {}
    self.file:write(text)
  end
end

local function write(self)
  local ok, failure = pcall(task.shield, CLOSE_SECONDS, write_all, self)
  self.writing = false
  if not ok and not (errors.is_error(failure) and failure.kind == "cancelled") then
    self.broken = true
    log.error("the chaos log cannot be written any more", { error = failure })
  end
  if self.idle then self.idle:wake() end
end

---Adds a line. Never waits.
---@param entry table  `class`, `n` and what happens
function Record:add(entry)
  if self.broken or not self.file then return end
  self.lines[#self.lines + 1] = encode(entry)
  if self.writing then return end
  self.writing = true
  task.pspawn(write, self)
end

-- Brings the lines into their order.
local function sort(self)
  local entries = {}
  for line in fs.read(self.path):gmatch("[^\n]+") do
    entries[#entries + 1] = {
      line = line, class = line:match('"class":"([^"]*)"'), n = tonumber(line:match('"n":(%d+)')),
    }
  end
  table.sort(entries, function(a, b)
    if a.class ~= b.class then return a.class < b.class end
    return a.n < b.n
  end)
  local lines = {}
  for i, entry in ipairs(entries) do
    lines[i] = entry.line .. "\n"
  end
  fs.write_atomic(self.path, table.concat(lines))
end

---Writes what is left, and puts the file into its order.
---@async
function Record:close()
  local file = self.file
  if not file then return end
  task.shield(CLOSE_SECONDS, function()
    if self.writing then
      self.idle = task.waiter("the chaos log to be written")
      self.idle:wait()
    end
    if #self.lines > 0 then write(self) end
    self.file = nil
    file:close()
    sort(self)
  end)
end

Record.__close = Record.close

return record
