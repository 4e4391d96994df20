-- The commands of the whole fleet, the newest kept: what ran where, how long it took and
-- how it ended. For people who watch; nothing of it is written down.

local text = require("sbx.server.text")
local time = require("sbx.core.time")

---@class sbx.server.Exec
---@field number integer
---@field changed integer      of all changes to the list, the one that was the last here
---@field sandbox_id string
---@field command string       its beginning
---@field began number         seconds since 1970
---@field seconds number|nil   nil while it runs, as the next two
---@field result "success"|"failure"|"timeout"|"error"|nil
---@field exit_code integer|nil

---@class sbx.server.Execs
---@field changes integer      how many there have been
---@field private list table<integer, sbx.server.Exec>  from `first` to `last`
---@field private first integer
---@field private last integer
---@field private keep integer
---@field private metrics sbx.server.Metrics
local Execs = {}
Execs.__index = Execs

local execs = {}

local KEEP = 2000
local MAX_COMMAND = 400 -- bytes

---@param metrics sbx.server.Metrics
---@param keep? integer  how many to hold (default 2000)
---@return sbx.server.Execs
function execs.new(metrics, keep)
  return setmetatable({
    changes = 0, list = {}, first = 1, last = 0, keep = keep or KEEP, metrics = metrics,
  }, Execs)
end

local function note_change(self, one)
  self.changes = self.changes + 1
  one.changed = self.changes
end

---A command begins. What is returned is to be called once, when it is through: "success",
---"failure" for another exit code than 0, "timeout", or "error" where it could not be
---started or its sandbox went away.
---@param record sbx.server.Sandbox
---@param command string
---@return fun(result: string, exit_code?: integer)
function Execs:began(record, command)
  local shown = text.valid_utf8(#command > MAX_COMMAND
    and text.whole_characters(command:sub(1, MAX_COMMAND)) .. "…" or command)
  self.last = self.last + 1
  local one = {
    number = self.last, sandbox_id = record.id, command = shown, began = time.wall(),
  }
  self.list[self.last] = one
  note_change(self, one)
  if self.last - self.first >= self.keep then
    self.list[self.first] = nil
    self.first = self.first + 1
  end
  local ended = self.metrics:exec_began()
  return function(result, exit_code)
    one.seconds, one.result, one.exit_code = ended(result), result, exit_code
    note_change(self, one)
  end
end

---Those of one sandbox that have begun or ended after change number `after`, oldest first.
---@param sandbox_id string
---@param after integer
---@return sbx.server.Exec[]
function Execs:since(sandbox_id, after)
  local found = {}
  if after >= self.changes then return found end
  for number = self.first, self.last do
    local one = self.list[number]
    if one.changed > after and one.sandbox_id == sandbox_id then found[#found + 1] = one end
  end
  return found
end

return execs
