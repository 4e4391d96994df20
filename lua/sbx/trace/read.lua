-- Reads a trace that `sbxlua --trace` has written: tasks with their waits, requests, phases
-- of sandboxes, what was tried again.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")

local VERSION = 1
local MOST_WHOLE = 256 * 1024 * 1024 -- bytes of a file that is not written line by line
local BEGINNING = '{"displayTimeUnit"'

---@class sbx.trace.Task
---@field id integer
---@field parent integer
---@field site string
---@field name string
---@field began number   microseconds
---@field ended? number
---@field result? string
---@field waits sbx.trace.Wait[]  in their order

---@class sbx.trace.Wait
---@field began number
---@field ended number
---@field name string
---@field by integer     the task that ended it, 0 for none
---@field at number      when it was over, before the task went on

---@class sbx.trace.Request
---@field name string
---@field task integer
---@field began number
---@field ended? number
---@field args table     as it ended

---@class sbx.trace.Sandbox
---@field id string
---@field began number
---@field ended? number
---@field status? string
---@field deleted? boolean
---@field phases { name: string, began: number, ended: number, unfinished?: boolean }[]

---@class sbx.trace.Data
---@field version string
---@field start number       seconds since 1970
---@field ended number       microseconds: the last moment of it
---@field whole boolean      false: the program was killed
---@field tasks table<integer, sbx.trace.Task>
---@field requests sbx.trace.Request[]
---@field sandboxes sbx.trace.Sandbox[]
---@field retries { task: integer, op: string, cause: string, pause: number, at: number }[]

local function refuse(path, why)
  errors.raise({
    kind = "usage", op = "explain", code = "BAD_TRACE",
    message = ("%s: %s; `sbxlua --trace FILE script.lua` writes one"):format(path, why),
  })
end

local on = {}

local function sandbox_of(data, event)
  local found = data.tracks[event.tid]
  if not found then
    found = { id = event.args and event.args.sandbox or "?", began = event.ts, phases = {} }
    data.tracks[event.tid] = found
    table.insert(data.sandboxes, found)
  end
  return found
end

function on.B(data, event)
  if event.pid == 3 then
    sandbox_of(data, event)
    return
  end
  data.tasks[event.tid] = {
    id = event.tid, parent = event.args.parent or 0, site = event.args.site or "", name = "",
    began = event.ts, waits = {},
  }
end

function on.E(data, event)
  if event.pid == 3 then
    local sandbox = sandbox_of(data, event)
    sandbox.ended, sandbox.status = event.ts, event.args.status
    sandbox.deleted = event.args.deleted
    return
  end
  local task = data.tasks[event.tid]
  if not task then return end
  task.ended, task.name, task.result = event.ts, event.args.name or "", event.args.result
end

function on.X(data, event)
  local ended = event.ts + event.dur
  if event.pid == 3 then
    table.insert(sandbox_of(data, event).phases, {
      name = event.name, began = event.ts, ended = ended, unfinished = event.args.unfinished,
    })
    return
  end
  local task = data.tasks[event.tid]
  if not task then return end
  table.insert(task.waits, {
    began = event.ts, ended = ended, name = event.name, by = event.args.by or 0,
    at = event.args.at or ended,
  })
end

function on.b(data, event)
  local request = {
    name = event.name, task = event.args.task or 0, began = event.ts, args = {},
  }
  data.open[event.id] = request
  table.insert(data.requests, request)
end

function on.e(data, event)
  local request = data.open[event.id]
  if not request then return end
  request.ended, request.args = event.ts, event.args or {}
  data.open[event.id] = nil
end

function on.i(data, event)
  if event.cat ~= "retry" then return end
  table.insert(data.retries, {
    task = event.tid, op = event.args.op, cause = event.args.cause,
    pause = (event.args.pause_ms or 0) / 1000, at = event.ts,
  })
end

local NUMBERS = { B = { "ts", "tid" }, E = { "ts", "tid" }, X = { "ts", "dur", "tid" },
  b = { "ts" }, e = { "ts" }, i = { "ts", "tid" } }

local function take(data, event, path)
  if type(event) ~= "table" then refuse(path, "not a trace: one of its events is no object") end
  local handle = on[event.ph]
  if not handle then return end
  for _, name in ipairs(NUMBERS[event.ph]) do
    if type(event[name]) ~= "number" then
      refuse(path, ("not a trace of sbxlua: an event '%s' has no %s"):format(event.ph, name))
    end
  end
  if type(event.args) ~= "table" then event.args = {} end
  event.name = type(event.name) == "string" and event.name or "?"
  data.ended = math.max(data.ended, event.ts + (event.dur or 0))
  handle(data, event)
end

local function new_data(path, about)
  if type(about) ~= "table" or type(about.sbxlua) ~= "string" then
    refuse(path, "not a trace of sbxlua")
  end
  if about.v ~= VERSION then
    refuse(path, ("a trace of version %s, and this program reads version %d"):format(
      tostring(about.v), VERSION))
  end
  return {
    version = about.sbxlua, start = tonumber(about.start) or 0, ended = 0, whole = false,
    tasks = {}, requests = {}, sandboxes = {}, retries = {}, open = {}, tracks = {},
  }
end

-- As it was written: an event a line, so that it need not be in memory at once.
---@async
local function read_lines(path)
  local data
  local lines <close> = fs.lines(path)
  for line in lines do
    if not data then
      local ok, head = pcall(json.decode, (line:gsub(",%s*$", "}")))
      data = new_data(path, ok and type(head) == "table" and head.otherData or nil)
    elseif line:find("^{") then
      local ok, event = pcall(json.decode, (line:gsub(",$", "")))
      if not ok then return data end -- cut off within a line
      take(data, event, path)
    elseif line:find("^%]}") then
      data.whole = true
    end
  end
  return data
end

-- Another program may have written it anew.
---@async
local function read_whole(path)
  local text = fs.read(path, { max = MOST_WHOLE })
  if text == "" then refuse(path, "the file is empty") end
  local ok, document = pcall(json.decode, text)
  if not ok then refuse(path, "not a trace: it is no JSON") end
  if type(document) ~= "table" or type(document.traceEvents) ~= "table" then
    refuse(path, "not a trace: it has no traceEvents")
  end
  local data = new_data(path, document.otherData)
  for _, event in ipairs(document.traceEvents) do
    take(data, event, path)
  end
  data.whole = true
  return data
end

---Reads a trace. Raises kind `usage` for what is none, `io` where it cannot be read.
---@async
---@param path string
---@return sbx.trace.Data
return function(path)
  local head
  do
    local file <close> = fs.open(path)
    head = file:read(#BEGINNING) or ""
  end
  if head == BEGINNING then return read_lines(path) end
  return read_whole(path)
end
