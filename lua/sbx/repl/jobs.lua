-- Inputs as jobs: each is a task with a scope of its own, so that it can be left
-- alone, come back to, and cancelled with all that it has started.

local locals = require("sbx.task.locals")
local scopes = require("sbx.task.scope")
local task = require("sbx.task")
local time = require("sbx.core.time")

local jobs = {}

local JOB = {} -- the name of the job among a task's inherited values
local MOST_ENDED = 20 -- that are remembered

---@class sbx.repl.Job
---@field number integer
---@field text string
---@field state "running"|"tasks"|"done"|"failed"|"cancelled"  "tasks": its own code has ended
---@field began number
---@field ended number|nil
---@field background boolean
---@field reading integer  tasks of it that wait for standard input
---@field task sbx.Task
---@field scope sbx.Scope|nil
---@field cancelled string|nil  why
---@field err any
---@field seconds number|nil  that its own code took
---@field whole boolean|nil  its values are shown with all their fields

---@class sbx.repl.Jobs
---@field foreground sbx.repl.Job|nil
---@field list sbx.repl.Job[]
local Jobs = {}
Jobs.__index = Jobs

---@class sbx.repl.JobEvents
---@field values async fun(job: sbx.repl.Job, values: table)  its own code has ended
---@field ended async fun(job: sbx.repl.Job)  it is over, with all its tasks
---@field busy fun()  a job is in the foreground now
---@field free fun()  none is any more

---@param scope sbx.Scope  of all jobs
---@param events sbx.repl.JobEvents
---@return sbx.repl.Jobs
function jobs.new(scope, events)
  return setmetatable({ scope = scope, events = events, list = {}, count = 0 }, Jobs)
end

---The job that the running task belongs to, or nil.
---@return sbx.repl.Job|nil
function jobs.current()
  return locals.get(JOB)
end

---@param job sbx.repl.Job
---@return boolean
function jobs.is_alive(job)
  return job.ended == nil
end

---Those that have not ended, the oldest first.
---@return sbx.repl.Job[]
function Jobs:alive()
  local alive = {}
  for _, job in ipairs(self.list) do
    if jobs.is_alive(job) then alive[#alive + 1] = job end
  end
  return alive
end

---The job with this number, or the newest that lives.
---@param number integer|nil
---@return sbx.repl.Job|nil
function Jobs:find(number)
  for i = #self.list, 1, -1 do
    local job = self.list[i]
    if number and job.number == number or not number and jobs.is_alive(job) then return job end
  end
end

local function forget_old(self)
  local ended = #self.list - #self:alive()
  local i = 1
  while ended > MOST_ENDED and self.list[i] do
    if jobs.is_alive(self.list[i]) then
      i = i + 1
    else
      table.remove(self.list, i)
      ended = ended - 1
    end
  end
end

local function leave_foreground(self, job)
  if self.foreground ~= job then return end
  self.foreground = nil
  self.events.free()
end

-- The input's own code, in the job's scope.
---@async
local function evaluate(self, job, input)
  local began = time.now()
  local results = table.pack(xpcall(input.run, function(err)
    input.salvage()
    return scopes.keep_traceback(err)
  end))
  job.seconds = time.now() - began
  if not results[1] then error(results[2], 0) end
  job.state = "tasks"
  self.events.values(job, { n = results.n - 1, table.unpack(results, 2, results.n) })
  if not job.followed then leave_foreground(self, job) end
end

---@async
local function body(self, job, input)
  task.scope({ name = "input" }, function(scope)
    job.scope = scope
    if job.cancelled then scope:cancel(job.cancelled) end
    task.checkpoint()
    locals.with({ [JOB] = job }, evaluate, self, job, input)
  end)
end

-- Sees the job to its end; the job itself cannot wait once it is cancelled.
---@async
local function watch(self, job)
  local ok, err = job.task:pjoin()
  job.ended = time.now()
  if job.cancelled then
    job.state = "cancelled"
  elseif ok then
    job.state = "done"
  else
    job.state, job.err = "failed", err
  end
  job.scope = nil
  self.events.ended(job)
  leave_foreground(self, job)
  forget_old(self)
end

---Starts an input in the foreground.
---@param input sbx.repl.Input
---@param text string
---@param number integer
---@return sbx.repl.Job
function Jobs:start(input, text, number)
  local job = {
    number = number, text = text, state = "running", began = time.now(), background = false,
    reading = 0,
  }
  self.count = number
  table.insert(self.list, job)
  self.foreground = job
  self.events.busy()
  job.task = self.scope:pspawn(body, self, job, input)
  job.task.name = "input " .. job.number
  self.scope:pspawn(watch, self, job).name = "job " .. job.number
  return job
end

---Cancels a job and all its tasks. Never waits.
---@param job sbx.repl.Job
---@param reason string
function jobs.cancel(job, reason)
  if not jobs.is_alive(job) then return end
  job.cancelled = job.cancelled or reason
  if job.scope then job.scope:cancel(reason) end
end

---Leaves the job in the foreground to itself.
---@return sbx.repl.Job|nil
function Jobs:to_background()
  local job = self.foreground
  if not job then return nil end
  job.background, job.followed = true, false
  leave_foreground(self, job)
  return job
end

---Makes a job the one in the foreground, until all of it has ended.
---@param job sbx.repl.Job
function Jobs:to_foreground(job)
  job.background, job.followed = false, true
  self.foreground = job
  self.events.busy()
end

return jobs
