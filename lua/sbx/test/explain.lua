-- Why a test failed, in words for people: what was raised and where, or where its
-- tasks were when its time was over.

local compare = require("sbx.test.compare")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local report = require("sbx.cli.report")
local task = require("sbx.task")

local explain = {}

-- A frame of the runner: below it there is nothing of the test.
local RUNNER = "^%s*sbx/test/runner%.lua:"
-- Frames that say nothing about a test.
local MACHINERY = {
  "^%s*sbx/", "^%s*%[C%]:", "^%s*%(%.%.%.tail calls%.%.%.%)", "^%s*%.%.%.%s*%(skipping",
}

local function is_machinery(line)
  for _, pattern in ipairs(MACHINERY) do
    if line:find(pattern) then return true end
  end
  return false
end

-- The frames of the test's own code, each as "file:line: in ...".
local function frames_of(traceback)
  local frames = {}
  for line in (traceback or ""):gmatch("[^\n]+") do
    if line:find(RUNNER) then break end
    if not is_machinery(line) and line:find("^%s") then frames[#frames + 1] = line:match("%S.*") end
  end
  return frames
end

-- The line of code that a frame or a message begins with, as "file:line: code".
local function source_at(text)
  local path, number = text:match("^([^\n]-%.lua):(%d+):")
  local file = path and io.open(path)
  if not file then return nil end
  local count, found = 0, nil
  for line in file:lines() do
    count = count + 1
    if count == tonumber(number) then found = line:match("^%s*(.-)%s*$") end
  end
  file:close()
  return found and ("%s:%s: %s"):format(path, number, found)
end

local function add_block(lines, text)
  for line in (text .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line
  end
end

local function add_frames(lines, frames, indent)
  local source = frames[1] and source_at(frames[1])
  if source then lines[#lines + 1] = indent .. "at " .. source end
  for at = 2, #frames do
    lines[#lines + 1] = indent .. "   " .. frames[at]
  end
end

-- The report of the command line, whose traceback is shown by what counts in a
-- test, and whose name is not needed.
local function message_of(err)
  local meta = getmetatable(err)
  if type(err) == "table" and not (type(meta) == "table" and meta.__tostring) then
    return "raised a table: " .. compare.show(err)
  end
  local text = report.text(err):gsub("^sbxlua: ", "")
  return (text:gsub("\nstack traceback:.-(\n%S)", "%1", 1):gsub("\nstack traceback:.*", ""))
end

---What an error has to say, and the place "file:line" where it was raised, if
---that is known.
---@param err any
---@return string text, string|nil place
function explain.error(err)
  local lines = {}
  local detail = errors.is_error(err) and err.kind == "assertion"
  add_block(lines, detail and err.message or message_of(err))
  if detail and err.detail then add_block(lines, err.detail) end

  local known = task.note_of(err)
  local frames = frames_of(known and known.traceback)
  local source = source_at(frames[1] or lines[1])
  local place = source and source:match("^(.-:%d+):")
  if source then
    local _, last = lines[1]:find(place .. ": ", 1, true)
    if last == #place + 2 then lines[1] = lines[1]:sub(last + 1) end
  end
  frames[1] = frames[1] or source
  add_frames(lines, frames, "")
  return table.concat(lines, "\n"), place
end

---Where a task was that did not wait.
---@param traceback string
---@return string
function explain.step(traceback)
  local lines = { "a task goes on and on without waiting" }
  add_frames(lines, frames_of(traceback), "   ")
  return table.concat(lines, "\n")
end

---Where the tasks of a test are: what each waits on, and the code that waits.
---Those in `apart`, a set, are not the test's.
---@param apart table<sbx.Task, boolean>
---@return string
function explain.tasks(apart)
  local lines = {}
  local list = core.list()
  for i = #list, 1, -1 do
    local each = list[i]
    if not apart[each] then
      local name = each.name and " (" .. each.name .. ")" or ""
      local state = each.waiting_on and "waits on " .. each.waiting_on or "is " .. each.status
      lines[#lines + 1] = ("task %d%s %s"):format(each.id, name, state)
      add_frames(lines, frames_of(each:trace()), "   ")
    end
  end
  return table.concat(lines, "\n")
end

return explain
