-- What somebody who mistyped a word may have meant.

local nearest = {}

-- How many letters must be put in, left out, changed or swapped with the next
-- one to make `b` of `a`; stops counting beyond `most`.
local function distance(a, b, most)
  if math.abs(#a - #b) > most then return most + 1 end
  local before, previous = {}, {}
  for j = 0, #b do
    previous[j] = j
  end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      local cost = math.min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        cost = math.min(cost, before[j - 2] + 1)
      end
      row[j] = cost
    end
    before, previous = previous, row
  end
  return previous[#b]
end

local LONGEST = 64 -- letters: longer words are not compared

---The one of `known` that is closest to `word`, if it is close at all.
---@param word string
---@param known string[]  the first of several that are equally close wins
---@return string|nil
function nearest.word(word, known)
  if #word > LONGEST then return nil end
  local best
  local least = math.max(1, #word // 3) + 1
  for _, candidate in ipairs(known) do
    local steps = distance(word, candidate, least)
    if steps < least then
      best, least = candidate, steps
    end
  end
  return best
end

---"; did you mean 'x'?", or "" when nothing is close.
---@param word string
---@param known string[]
---@return string
function nearest.hint(word, known)
  local guess = nearest.word(word, known)
  return guess and "; did you mean '" .. guess .. "'?" or ""
end

return nearest
