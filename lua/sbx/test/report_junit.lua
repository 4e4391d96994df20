-- The report for build servers: a JUnit XML file, written when all is over.

local printable = require("sbx.test.printable")

local junit = {}
junit.__index = junit

function junit.new()
  return setmetatable({ suites = {}, by_file = {} }, junit)
end

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

local function escape(text)
  return (printable(text):gsub('[&<>"]', entities))
end

-- In an attribute a parser would turn line feeds into spaces.
local function attribute(text)
  return (escape(text):gsub("\n", "&#10;"):gsub("\r", "&#13;"):gsub("\t", "&#9;"))
end

local function content(text)
  return (escape(text):gsub("\r", "&#13;"))
end

function junit:test(one, result)
  local suite = self.by_file[one.file]
  if not suite then
    suite = { name = one.file, cases = {}, tests = 0, failures = 0, skipped = 0, seconds = 0 }
    self.by_file[one.file] = suite
    table.insert(self.suites, suite)
  end
  local verdict = result.verdict
  suite.tests = suite.tests + 1
  suite.seconds = suite.seconds + result.seconds
  local inner = ""
  if verdict == "failed" then
    suite.failures = suite.failures + 1
    local text = table.concat(result.failures, "\n")
    inner = ('<failure message="%s">%s</failure>')
      :format(attribute(text:match("^[^\n]*")), content(text))
  elseif verdict ~= "passed" then
    suite.skipped = suite.skipped + 1
    inner = ('<skipped message="%s"/>'):format(attribute(result.reason))
  end
  table.insert(suite.cases, ('    <testcase name="%s" classname="%s" time="%.3f">%s</testcase>\n')
    :format(attribute(one.name), attribute(one.file), result.seconds, inner))
end

---The whole document.
---@return string
function junit:text()
  local all = { tests = 0, failures = 0, skipped = 0, seconds = 0 }
  local body = {}
  for _, suite in ipairs(self.suites) do
    for name in pairs(all) do
      all[name] = all[name] + suite[name]
    end
    body[#body + 1] = ('  <testsuite name="%s" tests="%d" failures="%d" errors="0" '
      .. 'skipped="%d" time="%.3f">\n%s  </testsuite>\n'):format(attribute(suite.name),
      suite.tests, suite.failures, suite.skipped, suite.seconds, table.concat(suite.cases))
  end
  return ('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites tests="%d" failures="%d" '
    .. 'errors="0" skipped="%d" time="%.3f">\n%s</testsuites>\n'):format(all.tests,
    all.failures, all.skipped, all.seconds, table.concat(body))
end

return junit
