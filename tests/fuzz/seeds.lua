-- What the fuzzers in Lua share: numbers that a seed determines, damage to bytes,
-- and the loop over seeds until the time is over.
--
--   sbxlua tests/fuzz/fuzz_NAME.lua [SECONDS] [SEED]
--
-- A failure names its seed; `fuzz.run(seed)` plays it again.

local task = require("sbx.task")
local time = require("sbx.core.time")

local seeds = {}

---A generator of its own for each seed, so that a run can be had again.
---@param seed integer
---@return fun(low: integer, high: integer): integer  both ends included
function seeds.generator(seed)
  local state = seed * 2 + 1
  return function(low, high)
    state = state * 6364136223846793005 + 1442695040888963407
    local value = (state >> 33) ~ (state >> 50)
    return low + value % (high - low + 1)
  end
end

---One of `list`.
---@generic T
---@param random fun(low: integer, high: integer): integer
---@param list T[]
---@return T
function seeds.pick(random, list)
  return list[random(1, #list)]
end

---Cuts, changes or repeats bytes.
---@param random fun(low: integer, high: integer): integer
---@param bytes string
---@return string
function seeds.damage(random, bytes)
  local at = random(1, math.max(1, #bytes))
  local how = random(1, 4)
  if how == 1 then return bytes:sub(1, at) end
  if how == 2 then
    return bytes:sub(1, at - 1) .. string.char(random(0, 255)) .. bytes:sub(at + 1)
  end
  if how == 3 then return bytes:sub(1, at) .. bytes:sub(at) end
  return ("\255"):rep(random(1, 10)) .. bytes
end

local LONGEST = 30 -- seconds for one seed

---Runs seeds from `first` on until `count` are done or `seconds` are over. Returns
---how many. Raises with the seed in the text.
---@async
---@param run async fun(seed: integer)
---@param first integer
---@param count integer
---@param seconds number
---@return integer
function seeds.run_many(run, first, count, seconds)
  local stop = time.now() + seconds
  for seed = first, first + count - 1 do
    if time.now() >= stop then return seed - first end
    local ok, failure = pcall(task.timeout, LONGEST, run, seed)
    if not ok then error(("seed %d: %s"):format(seed, tostring(failure)), 0) end
  end
  return count
end

---What a fuzzer does that is the program itself, as `./dev fuzz` runs it.
---@async
---@param name string  of its file, without ".lua"
---@param run async fun(seed: integer)
function seeds.main(name, run)
  if not (arg and arg[0] and arg[0]:find(name .. ".lua", 1, true)) then return end
  local seconds, first = tonumber(arg[1]) or 60, math.tointeger(tonumber(arg[2])) or os.time()
  collectgarbage()
  local before = collectgarbage("count")
  local done = seeds.run_many(run, first, math.maxinteger // 2, seconds)
  collectgarbage()
  print(("%s: %d seeds from %d, none failed; heap %.0f to %.0f KiB"):format(
    name, done, first, before, collectgarbage("count")))
end

return seeds
