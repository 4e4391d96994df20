-- The keys of a table in an order that people expect: "a2" before "a10".

local keys = {}

local MOST = 10000 -- keys to sort; a larger table is shown by the first that come

-- Compares runs of digits as numbers, the rest byte by byte.
local function natural_less(a, b)
  local i, j = 1, 1
  while true do
    local a_text, a_digits, a_next = a:match("^(%D*)(%d*)()", i)
    local b_text, b_digits, b_next = b:match("^(%D*)(%d*)()", j)
    if a_text ~= b_text then return a_text < b_text end
    local a_bare, b_bare = a_digits:gsub("^0+", ""), b_digits:gsub("^0+", "")
    if #a_bare ~= #b_bare then return #a_bare < #b_bare end
    if a_bare ~= b_bare then return a_bare < b_bare end
    if a_digits ~= b_digits then return #a_digits < #b_digits end
    i, j = a_next, b_next
    if i > #a or j > #b then return #a - i < #b - j end
  end
end

local RANKS = { number = 1, string = 2, boolean = 3 }

local function less(a, b)
  local a_rank, b_rank = RANKS[type(a)] or 4, RANKS[type(b)] or 4
  if a_rank ~= b_rank then return a_rank < b_rank end
  if a_rank == 1 then return a < b end
  if a_rank == 2 then return natural_less(a, b) end
  if a_rank == 3 then return a and not b end
  return type(a) < type(b)
end

-- How many of the positions from 1 on are filled, as far as anybody will look.
local function list_length(value, most)
  local length = rawlen(value)
  for i = 1, math.min(length, most) do
    if rawget(value, i) == nil then return i - 1 end
  end
  return length
end

---The length of the part that is a list, the other keys in order, and how many of
---those there are. No metamethod runs.
---@param value table
---@param most integer  how many items will be looked at
---@param sort boolean
---@return integer length, any[] others, integer count
function keys.of(value, most, sort)
  local length = list_length(value, most)
  local others, count = {}, 0
  for key in next, value do
    if math.type(key) ~= "integer" or key < 1 or key > length then
      count = count + 1
      if count <= MOST then others[count] = key end
    end
  end
  if sort then table.sort(others, less) end
  return length, others, count
end

return keys
