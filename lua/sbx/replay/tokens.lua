-- Random names that a script makes up (an idempotency key, the name of a temporary file)
-- differ from run to run. In a recording they are ⟦r1⟧, ⟦r2⟧ …; a replay finds out which of
-- its own names stands for which, and puts these into the answers.

local tokens = {}

local OPEN, CLOSE = "⟦r", "⟧"
local MARK = OPEN .. "(%d+)" .. CLOSE
local BLANK = "⟦⟧"
local RUN = "%f[%w]%x%x%x%x%x%x%x%x+%f[%W]"

-- Calls `fn` with each number of 8 hexadecimal digits or more.
local function each(text, fn)
  return (text:gsub(RUN, fn))
end

---@class sbx.replay.Tokens  for a recording
---@field private theirs table<string, boolean>  seen in an answer first
---@field private ours table<string, string>
---@field private count integer
local Tokens = {}
Tokens.__index = Tokens

---@return sbx.replay.Tokens
function tokens.new()
  return setmetatable({ theirs = {}, ours = {}, count = 0 }, Tokens)
end

---What a request says, with marks for the names that the script has made up.
---@param text string
---@return string
function Tokens:sent(text)
  return each(text, function(token)
    if self.theirs[token] then return nil end
    if not self.ours[token] then
      self.count = self.count + 1
      self.ours[token] = OPEN .. self.count .. CLOSE
    end
    return self.ours[token]
  end)
end

---What an answer says, with the same marks; what it tells first is the server's own.
---@param text string
---@return string
function Tokens:told(text)
  return each(text, function(token)
    if self.ours[token] then return self.ours[token] end
    self.theirs[token] = true
    return nil
  end)
end

---@class sbx.replay.Bindings  for a replay
---@field private theirs table<string, boolean>
---@field private values table<string, string>   number of a mark → what it is in this run
---@field private numbers table<string, string>  the other way round
local Bindings = {}
Bindings.__index = Bindings

---@return sbx.replay.Bindings
function tokens.bindings()
  return setmetatable({ theirs = {}, values = {}, numbers = {} }, Bindings)
end

---Learns what servers have told in the recording.
---@param text string
function Bindings:learn(text)
  each(text, function(token)
    self.theirs[token] = true
    return nil
  end)
end

---A recorded text as a frame without its marks, and these in their order.
---@param text string
---@return string frame, string[] numbers
function tokens.frame(text)
  local numbers = {}
  local frame = text:gsub(MARK, function(number)
    numbers[#numbers + 1] = number
    return BLANK
  end)
  return frame, numbers
end

---The same for what is sent now: the frame, and the names in their order.
---@param text string
---@return string frame, string[] values
function Bindings:frame(text)
  local values = {}
  local frame = each(text, function(token)
    if self.theirs[token] then return nil end
    values[#values + 1] = token
    return BLANK
  end)
  return frame, values
end

---Whether names that are sent now can be those of the recording.
---@param numbers string[]
---@param values string[]
---@return boolean
function Bindings:agree(numbers, values)
  if #numbers ~= #values then return false end
  local new_values, new_numbers = {}, {}
  for i, number in ipairs(numbers) do
    local value = values[i]
    local bound = self.values[number] or new_values[number]
    local back = self.numbers[value] or new_numbers[value]
    if bound and bound ~= value or back and back ~= number then return false end
    new_values[number], new_numbers[value] = value, number
  end
  return true
end

---From now on they are.
---@param numbers string[]
---@param values string[]
function Bindings:bind(numbers, values)
  for i, number in ipairs(numbers) do
    self.values[number], self.numbers[values[i]] = values[i], number
  end
end

---A recorded answer, with the names of this run.
---@param text string
---@return string
function Bindings:fill(text)
  if not text:find(OPEN, 1, true) then return text end
  return (text:gsub(MARK, function(number)
    return self.values[number] or ("%08x"):format(tonumber(number))
  end))
end

return tokens
