-- Headers as the core takes them: a flat list of names and values. Nothing that
-- could end a line early, and begin another one, gets in.

---@class sbx.http.headers
local headers = {}

local NAME_MOST = 256 -- bytes
local VALUE_MOST = 64 * 1024

-- Names that were found good, in lower case: scripts use few, many times.
local known_names, known_count = {}, 0

local function check_name(name, level)
  if type(name) ~= "string" then
    error("headers: expected names, got a " .. type(name), level + 1)
  end
  if #name > NAME_MOST then
    error(("headers: a name is longer than %d bytes"):format(NAME_MOST), level + 1)
  end
  if name:find("[^%w!#$%%&'*+.^_`|~-]") or name == "" then
    error(("headers: %q is not a header name"):format(name), level + 1)
  end
  local lower = name:lower()
  if lower == "content-length" or lower == "transfer-encoding" then
    error("headers: " .. lower .. " follows from the body and cannot be set", level + 1)
  end
  if known_count >= 200 then known_names, known_count = {}, 0 end
  known_names[name], known_count = lower, known_count + 1
  return lower
end

---Appends one header to a list.
---@param list string[]  name, value, name, value, ...
---@param name string    a good one
---@param value string|number
---@param level integer  whose line an error names
function headers.append(list, name, value, level)
  local kind = type(value)
  if kind ~= "string" then
    if kind ~= "number" then
      error("headers: " .. name .. ": expected a string, got a " .. kind, level + 1)
    end
    value = tostring(value)
  end
  if value:find("[%z\1-\8\10-\31\127]") then
    error("headers: " .. name .. ": must not hold control characters", level + 1)
  end
  if #value > VALUE_MOST then
    error(("headers: %s: longer than %d bytes"):format(name, VALUE_MOST), level + 1)
  end
  local count = #list
  list[count + 1], list[count + 2] = name, value
end

---The name in lower case, checked.
---@param name string
---@param level integer
---@return string
function headers.lower(name, level)
  return known_names[name] or check_name(name, level + 1)
end

---Appends the headers of a table to a list.
---@param given table<string, string|number|string[]>
---@param list string[]
---@param level integer
---@return boolean typed  there was a Content-Type
---@return boolean keyed  there was an Idempotency-Key
---@return boolean authorized  there was an Authorization
function headers.flatten(given, list, level)
  local typed, keyed, authorized = false, false, false
  for name, value in pairs(given) do
    local lower = known_names[name] or check_name(name, level + 1)
    typed = typed or lower == "content-type"
    keyed = keyed or lower == "idempotency-key"
    authorized = authorized or lower == "authorization"
    if type(value) == "table" then
      for _, one in ipairs(value) do
        headers.append(list, name, one, level + 1)
      end
    else
      headers.append(list, name, value, level + 1)
    end
  end
  return typed, keyed, authorized
end

---The headers of a list that `keep` says yes to.
---@param list string[]
---@param keep fun(lower: string): boolean
---@return string[]
function headers.filter(list, keep)
  local kept = {}
  for i = 1, #list, 2 do
    if keep(list[i]:lower()) then
      kept[#kept + 1] = list[i]
      kept[#kept + 1] = list[i + 1]
    end
  end
  return kept
end

---The headers of one table over those of another, whatever their case.
---@param under table
---@param over table
---@return table
function headers.merge(under, over)
  local merged, names = {}, {}
  for _, given in ipairs { under, over } do
    for name, value in pairs(given) do
      local lower = tostring(name):lower()
      if names[lower] then merged[names[lower]] = nil end
      names[lower] = name
      merged[name] = value
    end
  end
  return merged
end

return headers
