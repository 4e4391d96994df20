-- The report for people: a block for each test that failed, and a closing line.

local human = {}
human.__index = human

local VERDICTS = { passed = "ok  ", failed = "FAIL", skipped = "skip", todo = "todo" }

---@param write fun(text: string)
---@param options { verbose?: boolean, quiet?: boolean, command: fun(one: sbx.test.Test, result: sbx.test.Result): string }
function human.new(write, options)
  return setmetatable({ write = write, options = options }, human)
end

local function indent(text)
  return "     " .. text:gsub("\n", "\n     ") .. "\n"
end

function human:test(one, result)
  local failed = result.verdict == "failed"
  if self.options.quiet or not (failed or self.options.verbose) then return end
  local about = {}
  local place = result.place or (one.line > 0 and one.file .. ":" .. one.line)
  if failed and place then about[1] = place end
  if self.options.verbose then table.insert(about, ("%.2f s"):format(result.seconds)) end
  local title = VERDICTS[result.verdict] .. " " .. one.name
  if #about > 0 then title = ("%s (%s)"):format(title, table.concat(about, ", ")) end
  local lines = { title .. "\n" }
  if result.reason then lines[#lines + 1] = indent(result.reason) end
  for _, text in ipairs(result.failures) do
    lines[#lines + 1] = indent(text)
  end
  if failed and (result.seed or result.runs > 1) then
    local with = result.seed and ("with seed %d"):format(result.seed)
      or ("in run %d"):format(result.runs)
    lines[#lines + 1] = indent(("failed %s; again: %s"):format(with,
      self.options.command(one, result)))
  end
  self.write(table.concat(lines))
end

---@param counts { passed: integer, failed: integer, skipped: integer }
function human:finish(counts)
  local line = ("%d passed, %d failed"):format(counts.passed, counts.failed)
  if counts.skipped > 0 then line = ("%s, %d skipped"):format(line, counts.skipped) end
  self.write(line .. "\n")
end

return human
