-- The report for programs, line by line: the Test Anything Protocol. It is of
-- version 13, which every reader knows; those of version 14 read it alike.

local printable = require("sbx.test.printable")

local tap = {}
tap.__index = tap

---@param write fun(text: string)
function tap.new(write)
  write("TAP version 13\n")
  return setmetatable({ write = write, count = 0 }, tap)
end

-- One line, in which # begins no directive.
local function escape(text)
  return (printable(text):gsub("%s+", " "):gsub("[\\#]", "\\%0"))
end

-- A text of several lines as a literal block of YAML.
local function block(name, text)
  text = printable(text):gsub("^%s+", ""):gsub("\r", "\\x0d"):gsub("\n", "\n    ")
  return ("  %s: |\n    %s\n"):format(name, text)
end

local function diagnosis(one, result)
  local lines = { "  ---\n", block("message", table.concat(result.failures, "\n")) }
  local place = result.place or (one.line > 0 and one.file .. ":" .. one.line) or one.file
  lines[#lines + 1] = block("at", place)
  if result.seed then lines[#lines + 1] = ("  seed: %d\n"):format(result.seed) end
  lines[#lines + 1] = "  ...\n"
  return table.concat(lines)
end

function tap:test(one, result)
  self.count = self.count + 1
  local good = result.verdict == "passed" or result.verdict == "skipped"
  local line = ("%s %d - %s"):format(good and "ok" or "not ok", self.count, escape(one.name))
  if result.verdict == "skipped" then line = line .. " # SKIP " .. escape(result.reason) end
  if result.verdict == "todo" then line = line .. " # TODO " .. escape(result.reason) end
  self.write(line .. "\n" .. (result.verdict == "failed" and diagnosis(one, result) or ""))
end

---@param _ table
---@param problem? string  why the run ended before its time
function tap:finish(_, problem)
  if problem then
    self.write("Bail out! " .. escape(problem) .. "\n")
  else
    self.write(("1..%d\n"):format(self.count))
  end
end

return tap
