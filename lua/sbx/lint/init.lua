-- Finds mistakes in scripts without running them.

local facts = require("sbx.lint.facts")
local parser = require("sbx.lint.parser")
local rules = require("sbx.lint.rules")

---@class sbx.lint
local lint = {}

---@class sbx.lint.Finding
---@field line integer
---@field column integer  in bytes, from 1
---@field rule "syntax"|"global"|"field"|"option"|"call"
---@field message string

-- What the language itself says is what counts; the parser adds the column.
local function syntax_finding(text)
  local chunk, problem = load(text, "=script", "t")
  if chunk then return nil end
  local line, message = problem:match("^script:(%d+): (.*)$")
  line = tonumber(line) or 1
  local column = 1
  local _, _, at = parser.parse(text)
  if at then
    local at_line, at_column = parser.position(text, at)
    if at_line == line then column = at_column end
  end
  return { line = line, column = column, rule = "syntax", message = message or problem }
end

local IGNORED = "%-%-[^\n]*sbxlua:%s*ignore"

-- Lines on which the script says that it means what it does.
local function ignored_lines(text)
  local lines, number = {}, 0
  if not text:find(IGNORED) then return lines end
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    if line:find(IGNORED) then lines[number] = true end
  end
  return lines
end

---The findings in a script, in the order of its lines.
---@param text string
---@param options? { globals?: table<string, boolean> }  names that others define
---@return sbx.lint.Finding[]
function lint.check(text, options)
  text = parser.blank_first_line(text)
  local mistake = syntax_finding(text)
  if mistake then return { mistake } end
  local tree = parser.parse(text)
  if not tree then return {} end -- a limit of the parser, not of the script
  local known = facts.of(tree)
  for name in pairs(options and options.globals or {}) do
    known.defined[name] = true
  end
  local ignored, findings = ignored_lines(text), {}
  for _, found in ipairs(rules.check(tree, known)) do
    local line, column = parser.position(text, found.at)
    if not ignored[line] then
      findings[#findings + 1] = {
        line = line, column = column, rule = found.rule, message = found.message,
      }
    end
  end
  return findings
end

---What a script says of its surroundings: the globals it sets, the modules it names.
---@param text string
---@return sbx.lint.Facts|nil facts, string|nil problem
function lint.facts(text)
  text = parser.blank_first_line(text)
  local tree, problem = parser.parse(text)
  if not tree then return nil, problem end
  local found = facts.of(tree)
  for _, each in ipairs(found.required) do
    each.line = parser.position(text, each.at)
  end
  return found
end

return lint
