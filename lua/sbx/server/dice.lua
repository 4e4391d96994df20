-- Randomness that can be had again: numbers that depend on nothing but a name, such as
-- a seed with what it is for. Not for secrets.

local check = require("sbx.check")
local hash = require("sbx.hash")

local dice = {}

-- The generator that is known as SplitMix64.
local STEP = 0x9E3779B97F4A7C15

local function next_bits(state)
  local bits = state
  bits = (bits ~ (bits >> 30)) * 0xBF58476D1CE4E5B9
  bits = (bits ~ (bits >> 27)) * 0x94D049BB133111EB
  return bits ~ (bits >> 31)
end

local function digest(name)
  local bits = hash.sha256(name):sub(1, 16)
  return tonumber(bits:sub(1, 8), 16) << 32 | tonumber(bits:sub(9), 16)
end

---A source of random numbers, called as `math.random`: without arguments a number in
---[0, 1), with one a whole number from 1 to it, with two one from the first to the
---second. What comes depends on `name` alone.
---@param name string
---@return fun(low?: integer, high?: integer): number
function dice.new(name)
  local state = digest(name)
  return function(low, high)
    state = state + STEP
    local bits = next_bits(state)
    if not low then return (bits >> 11) * 2.0 ^ -53 end
    if not high then low, high = 1, low end
    check.integer(low, "low")
    check.integer(high, "high")
    if high < low then check.fail("random: the interval is empty") end
    -- The high bits of 53 are even enough for what is asked for here.
    return low + math.floor((bits >> 11) * 2.0 ^ -53 * (high - low + 1))
  end
end

-- The quantile of the normal distribution, by a sum of twelve: exact enough for delays.
local function normal(random)
  local sum = -6
  for _ = 1, 12 do
    sum = sum + random()
  end
  return sum
end

---A number from what a script of the user gives for one: itself; evenly from
---{least, most}; with a long tail from {p50 =, p99 =}, half of all below the one and
---a hundredth above the other; or what a function gives for `...` and `random`.
---@param given nil|number|table|function
---@param random fun(): number
---@param ... any  what a function gets ahead of `random`
---@return number|nil
function dice.amount(given, random, ...)
  if type(given) == "function" then
    local arguments = table.pack(...)
    arguments[arguments.n + 1] = random
    given = given(table.unpack(arguments, 1, arguments.n + 1))
  end
  if type(given) ~= "table" then return given end
  if given.p50 then
    local spread = math.log((given.p99 or given.p50) / given.p50) / 2.326
    return given.p50 * math.exp(spread * normal(random))
  end
  return given[1] + (given[2] - given[1]) * random()
end

---What is wrong with an amount, or nil.
---@param given any
---@return string|nil
function dice.problem(given)
  local function is_number(value)
    return type(value) == "number" and value == value and value >= 0 and value < 1e9
  end
  if type(given) == "function" or is_number(given) then return nil end
  local words = "expected a number, {least, most}, {p50 =, p99 =} or a function"
  if type(given) ~= "table" then return words end
  if is_number(given.p50) then
    local most = given.p99 == nil and given.p50 or given.p99
    if given.p50 > 0 and is_number(most) and most >= given.p50 then return nil end
    return "p50 must be above 0, and p99 not below it"
  end
  if is_number(given[1]) and is_number(given[2]) and given[1] <= given[2] then return nil end
  return words
end

return dice
