-- Figures that are counted while things happen, and their text in the exposition
-- format 0.0.4 of Prometheus. To count costs one look-up; to print costs as many lines
-- as there are different labels.

local metrics_text = {}

---One figure, or one for each combination of its labels.
---@class sbx.server.metrics.Family
---@field name string
---@field help string
---@field type "counter"|"gauge"|"histogram"
---@field private labels string[]   their names
---@field private bounds number[]|nil  upper ends of a histogram's buckets
---@field private series table<string, table>  by the text of the labels
local Family = {}
Family.__index = Family

local ESCAPES = { ["\\"] = "\\\\", ["\n"] = "\\n", ['"'] = '\\"' }

-- `name="value",…`, as it stands between the braces.
local function label_text(names, ...)
  local parts = {}
  for index, name in ipairs(names) do
    local value = tostring((select(index, ...)))
    parts[index] = ('%s="%s"'):format(name, value:gsub('[\\\n"]', ESCAPES))
  end
  return table.concat(parts, ",")
end

local function number_text(value)
  if value ~= value then return "NaN" end
  if value == math.huge then return "+Inf" end
  if value == -math.huge then return "-Inf" end
  local whole = math.tointeger(value)
  return whole and tostring(whole) or ("%.12g"):format(value)
end

local function new_series(self, key, ...)
  local one = { labels = label_text(self.labels, ...) }
  if self.bounds then
    one.sum, one.count, one.buckets = 0.0, 0, {}
    for index = 1, #self.bounds do
      one.buckets[index] = 0
    end
  else
    one.value = 0
  end
  self.series[key] = one
  return one
end

-- The series of these labels; what joins them cannot be in two of ours at once.
local function series_of(self, ...)
  local key = #self.labels < 2 and (... or "") or table.concat({ ... }, "\0")
  return self.series[key] or new_series(self, key, ...)
end

---Adds `amount` to the figure with these labels, which begins at 0.
---@param amount number
---@param ... string  values of the labels
function Family:add(amount, ...)
  local one = series_of(self, ...)
  one.value = one.value + amount
end

---@param value number
---@param ... string
function Family:set(value, ...)
  series_of(self, ...).value = value
end

---Counts one more value of a histogram.
---@param value number
---@param ... string
function Family:observe(value, ...)
  local one = series_of(self, ...)
  one.sum = one.sum + value
  one.count = one.count + 1
  for index, bound in ipairs(self.bounds) do
    if value <= bound then
      one.buckets[index] = one.buckets[index] + 1
      return
    end
  end
end

local function write_line(out, name, labels, value)
  if labels ~= "" then labels = "{" .. labels .. "}" end
  out[#out + 1] = name .. labels .. " " .. number_text(value)
end

local function write_histogram(out, self, one)
  local before = one.labels == "" and "" or one.labels .. ","
  local total = 0
  for index, bound in ipairs(self.bounds) do
    total = total + one.buckets[index]
    write_line(out, self.name .. "_bucket", before .. 'le="' .. number_text(bound) .. '"', total)
  end
  write_line(out, self.name .. "_bucket", before .. 'le="+Inf"', one.count)
  write_line(out, self.name .. "_sum", one.labels, one.sum)
  write_line(out, self.name .. "_count", one.labels, one.count)
end

---Appends the lines of this family to `out`.
---@param out string[]
function Family:write(out)
  local keys = {}
  for key in pairs(self.series) do
    keys[#keys + 1] = key
  end
  if #keys == 0 then return end
  table.sort(keys)
  local help = self.help:gsub("[\\\n]", ESCAPES)
  out[#out + 1] = ("# HELP %s %s"):format(self.name, help)
  out[#out + 1] = ("# TYPE %s %s"):format(self.name, self.type)
  for _, key in ipairs(keys) do
    local one = self.series[key]
    if self.bounds then
      write_histogram(out, self, one)
    else
      write_line(out, self.name, one.labels, one.value)
    end
  end
end

---@param type "counter"|"gauge"
---@param name string
---@param help string
---@param labels? string[]  their names; without any it begins at 0
---@return sbx.server.metrics.Family
function metrics_text.family(type, name, help, labels)
  local made = setmetatable({
    name = name, help = help, type = type, labels = labels or {}, series = {},
  }, Family)
  if not labels then made:add(0) end
  return made
end

---@param name string
---@param help string
---@param bounds number[]   upper ends of the buckets, rising
---@param labels? string[]
---@return sbx.server.metrics.Family
function metrics_text.histogram(name, help, bounds, labels)
  local made = setmetatable({
    name = name, help = help, type = "histogram", labels = labels or {}, bounds = bounds,
    series = {},
  }, Family)
  if not labels then series_of(made) end
  return made
end

---The text of all these families, in their order.
---@param families sbx.server.metrics.Family[]
---@return string
function metrics_text.render(families)
  local out = {}
  for _, family in ipairs(families) do
    family:write(out)
  end
  out[#out + 1] = ""
  return table.concat(out, "\n")
end

return metrics_text
