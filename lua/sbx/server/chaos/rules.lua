-- What a chaos file may say, and what it decides for one request. A decision depends on
-- the seed, the class of the request and its number among those of its class; on
-- nothing else, so that what goes on at the same time does not change it.

local check = require("sbx.check")
local dice = require("sbx.server.dice")
local script = require("sbx.server.script")

---@class sbx.server.chaos.Rules
---@field private script sbx.server.Script
---@field private given table
---@field private seed integer
local Rules = {}
Rules.__index = Rules

local rules = {}

---The classes of requests.
rules.CLASSES = {
  create = true, list = true, get = true, delete = true, bulk_delete = true, logs = true,
  auth = true, error_context = true, batch_status = true, egress = true, expose = true,
  exposures = true, unexpose = true, images = true, ssh = true, other = true,
  exec = true, upload = true, download = true, read_file = true, rpc = true,
}

local FAULTS = {
  latency = true, answers = true, lost = true, cut = true, duplicate = true, nth = true,
}
local ANSWER = { p = true, after = true, retry_after = true, body = true, headers = true }
local CUT = { p = true, at = true }
local NTH = { status = true, after = true, retry_after = true, lost = true, cut = true,
  duplicate = true, latency = true }
local SANDBOXES = { image_pull = true, death = true, boot = true }
local DEATH = { p = true, after = true, per_hour = true, reason = true, error_type = true }
local CLOCK = { offset = true, drift = true }

-- Where a connection is cut when nothing else is said: in the head, or soon after.
local CUT_AT = { 0, 600 }
local FIRST_STATUS, LAST_STATUS = 400, 599

-- ------------------------------------------------------------------------ checks

local function check_chance(self, key, value)
  if type(value) == "number" and value >= 0 and value <= 1 then return end
  self.script:fail(key, "expected a probability from 0 to 1")
end

local function check_amount(self, key, value)
  local problem = value ~= nil and dice.problem(value)
  if problem then self.script:fail(key, problem) end
end

local function check_status(self, key, status)
  if math.type(status) == "integer" and status >= FIRST_STATUS and status <= LAST_STATUS then
    return
  end
  self.script:fail(key, "expected a status from 400 to 599")
end

local function check_answers(self, answers)
  if type(answers) ~= "table" then self.script:fail("answers", "expected a table: status → p") end
  local sum = 0
  for status, answer in pairs(answers) do
    check_status(self, status, status)
    if type(answer) == "number" then answer = { p = answer } end
    self.script:check_keys(answer, ANSWER, "an answer")
    check_chance(self, status, answer.p)
    sum = sum + answer.p
  end
  if sum > 1 + 1e-9 then self.script:fail("answers", "their probabilities are above 1 together") end
end

local function check_cut(self, cut)
  if type(cut) == "number" then cut = { p = cut } end
  self.script:check_keys(cut, CUT, "cut")
  check_chance(self, "cut", cut.p)
  check_amount(self, "at", cut.at)
end

local function check_nth(self, nth)
  if type(nth) ~= "table" then self.script:fail("nth", "expected a table: number → fault") end
  for number, fault in pairs(nth) do
    if math.type(number) ~= "integer" or number < 1 then
      self.script:fail("nth", "its keys are the numbers of requests, from 1")
    end
    if math.type(fault) == "integer" then
      check_status(self, number, fault)
    elseif fault ~= "lost" and fault ~= "duplicate" then
      self.script:check_keys(fault, NTH, "a fault of nth")
      if fault.status then check_status(self, "status", fault.status) end
      check_amount(self, "latency", fault.latency)
      if fault.cut ~= nil and math.type(fault.cut) ~= "integer" then
        self.script:fail("cut", "expected a number of bytes")
      end
    end
  end
end

local function check_class(self, name, faults)
  self.script:check_keys(faults, FAULTS, name)
  check_amount(self, "latency", faults.latency)
  if faults.answers ~= nil then check_answers(self, faults.answers) end
  for _, key in ipairs { "lost", "duplicate" } do
    if faults[key] ~= nil then check_chance(self, key, faults[key]) end
  end
  if faults.cut ~= nil then check_cut(self, faults.cut) end
  if faults.nth ~= nil then check_nth(self, faults.nth) end
end

local function check_sandboxes(self, given)
  self.script:check_keys(given, SANDBOXES, "sandboxes")
  if given.image_pull ~= nil then check_chance(self, "image_pull", given.image_pull) end
  check_amount(self, "boot", given.boot)
  if given.death == nil then return end
  self.script:check_keys(given.death, DEATH, "death")
  if given.death.p ~= nil then check_chance(self, "p", given.death.p) end
  check_amount(self, "after", given.death.after)
  check_amount(self, "per_hour", given.death.per_hour)
  if (given.death.after == nil) == (given.death.per_hour == nil) then
    self.script:fail("death", "needs either after or per_hour")
  end
end

local function check_clock(self, given)
  self.script:check_keys(given, CLOCK, "clock")
  for name, value in pairs(given) do
    if type(value) ~= "number" then self.script:fail(name, "expected a number of seconds") end
  end
end

---@param loaded sbx.server.Script
---@param seed integer
---@return sbx.server.chaos.Rules
function rules.of(loaded, seed)
  local self = setmetatable({
    script = loaded, given = loaded.value, seed = check.integer(seed, "seed"),
  }, Rules)
  local known = { all = true, sandboxes = true, clock = true }
  for name in pairs(rules.CLASSES) do
    known[name] = true
  end
  loaded:check_keys(self.given, known, "chaos")
  for name, value in pairs(self.given) do
    if name == "sandboxes" then
      check_sandboxes(self, value)
    elseif name == "clock" then
      check_clock(self, value)
    else
      check_class(self, name, value)
    end
  end
  return self
end

---@async
---@param path string
---@param seed integer
---@return sbx.server.chaos.Rules
function rules.load(path, seed)
  return rules.of(script.load(path), seed)
end

-- --------------------------------------------------------------------- decisions

---What happens to one request; of the last five at most one but `duplicate` is set.
---@class sbx.server.chaos.Plan
---@field latency? number    seconds before it is served
---@field status? integer    answered in place of what it asks for
---@field after? boolean     that answer comes when it has been served all the same
---@field retry_after? number
---@field body? string
---@field headers? table<string, string>
---@field lost? boolean      it is served, and not answered
---@field cut? integer       bytes of the answer that arrive
---@field duplicate? boolean  it is served twice

-- The answer that falls on `draw`, in the order of the statuses.
local function pick(answers, draw)
  local statuses = {}
  for status in pairs(answers) do
    statuses[#statuses + 1] = status
  end
  table.sort(statuses)
  for _, status in ipairs(statuses) do
    local answer = answers[status]
    if type(answer) == "number" then answer = { p = answer } end
    if draw < answer.p then return status, answer end
    draw = draw - answer.p
  end
  return nil
end

local function plan_nth(fault, random)
  if math.type(fault) == "integer" then return { status = fault } end
  if type(fault) == "string" then return { [fault] = true } end
  local plan = {}
  for name, value in pairs(fault) do
    plan[name] = value
  end
  plan.latency = dice.amount(fault.latency, random)
  return plan
end

---What happens to request `n` of a class.
---@param class string
---@param n integer  from 1
---@return sbx.server.chaos.Plan
function Rules:request(class, n)
  local random = dice.new(("chaos %d %s %d"):format(self.seed, class, n))
  local own, all = self.given[class] or {}, self.given.all or {}
  local function fault(name)
    if own[name] ~= nil then return own[name] end
    return all[name]
  end
  -- Drawn whether they are needed or not: what is said of one leaves the others alone.
  local draw = {}
  for index = 1, 4 do
    draw[index] = random()
  end
  local nth = own.nth and own.nth[n]
  if nth then return plan_nth(nth, random) end

  local plan = {}
  local latency = dice.amount(fault("latency"), random)
  if latency and latency > 0 then plan.latency = latency end
  plan.duplicate = draw[1] < (fault("duplicate") or 0) or nil
  local status, answer = pick(fault("answers") or {}, draw[2])
  local cut = fault("cut") or 0
  if type(cut) == "number" then cut = { p = cut } end
  if status then
    plan.status, plan.after, plan.retry_after = status, answer.after, answer.retry_after
    plan.body, plan.headers = answer.body, answer.headers
  elseif draw[3] < (fault("lost") or 0) then
    plan.lost = true
  elseif draw[4] < cut.p then
    plan.cut = math.floor(dice.amount(cut.at or CUT_AT, random) or 0)
  end
  return plan
end

---What happens to the `n`th sandbox that is booted.
---@param n integer
---@return {boot?: number, image_pull?: boolean, death?: number, reason?: string, error_type?: string}
function Rules:sandbox(n)
  local given = self.given.sandboxes
  if not given then return {} end
  local random = dice.new(("chaos %d sandbox %d"):format(self.seed, n))
  local pull, dies, when = random(), random(), random()
  local plan = { boot = dice.amount(given.boot, random) }
  plan.image_pull = pull < (given.image_pull or 0) or nil
  local death = given.death
  if not death or dies >= (death.p or 1) then return plan end
  if death.after then
    plan.death = dice.amount(death.after, random)
  else
    local rate = dice.amount(death.per_hour, random)
    if rate and rate > 0 then plan.death = -math.log(1 - when) / rate * 3600 end
  end
  plan.reason, plan.error_type = death.reason, death.error_type
  return plan
end

---How far the server's clock is off, in seconds.
---@param elapsed number  seconds since the server began
---@return number
function Rules:skew(elapsed)
  local clock = self.given.clock
  if not clock then return 0 end
  return (clock.offset or 0) + (clock.drift or 0) * elapsed
end

return rules
