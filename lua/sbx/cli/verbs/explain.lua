-- The verb `explain`.

local explain = require("sbx.trace.explain")
local json = require("sbx.json")
local output = require("sbx.cli.output")
local read = require("sbx.trace.read")
local time = require("sbx.time")

local verb = { uses = { output = true } }

verb.spec = {
  example = {
    "sbxlua --trace run.json script.lua && sbxlua explain run.json",
    "sbxlua explain run.json -o json",
  },
  arguments = { { name = "file", complete = "file", help = "what --trace has written" } },
  options = {
    { name = "steps", short = "n", type = "integer", default = 15, min = 1,
      help = "so many of the longest steps of the critical path" },
  },
}

local function number(name)
  return function(row)
    local value = row[name]
    if not value then return nil end
    return value < 10 and ("%.3f s"):format(value) or ("%.1f s"):format(value)
  end
end

local STEPS = {
  { "AT", number("at") }, { "TAKES", number("seconds") },
  { "SHARE", function(row) return ("%.0f %%"):format(row.share) end },
  { "TASK", "task" }, { "WHAT", "what" }, { "SPAWNED AT", "site", wide = true },
}
local PHASES = {
  { "PHASE", function(row) return row.of .. " " .. row.phase end }, { "COUNT", "count" },
  { "P50", number("p50") }, { "P95", number("p95") }, { "P99", number("p99") },
  { "MAX", number("max") },
}
local RETRIES = {
  { "CAUSE", "cause" }, { "RETRIES", "count" }, { "PAUSED", number("paused") },
  { "OF", function(row)
    local names = {}
    for name in pairs(row.ops) do
      names[#names + 1] = name
    end
    table.sort(names)
    return table.concat(names, ", ")
  end },
}
local SLOWEST = { { "PHASE", "phase" }, { "TAKES", number("seconds") } }

-- The longest steps, in the order in which they happened.
local function longest(path, most, total)
  local order = {}
  for i, row in ipairs(path) do
    row.share = total > 0 and 100 * row.seconds / total or 0
    order[i] = i
  end
  table.sort(order, function(a, b)
    if path[a].seconds ~= path[b].seconds then return path[a].seconds > path[b].seconds end
    return a < b
  end)
  local chosen = table.move(order, 1, math.min(most, #order), 1, {})
  table.sort(chosen)
  for i, place in ipairs(chosen) do
    chosen[i] = path[place]
  end
  return chosen
end

local function shown(columns, wide)
  local list = {}
  for _, column in ipairs(columns) do
    if wide or not column.wide then list[#list + 1] = column end
  end
  return list
end

local function section(title, rows, columns, wide)
  if #rows == 0 then return "" end
  return ("\n%s\n%s"):format(title, output.table(rows, shown(columns, wide)))
end

local function text_of(found, most, wide)
  local parts = {
    ("%.3f s: %s, %s (%d failed), %s%s\n"):format(found.seconds,
      output.count(found.tasks, "task"), output.count(found.requests, "request"),
      found.failed_requests, output.count(found.sandboxes, "sandbox"),
      found.whole and "" or "; its end is missing: the program was killed"),
  }
  local path = longest(found.critical_path, most, found.seconds)
  local left = #found.critical_path - #path
  parts[#parts + 1] = section(
    "Critical path" .. (left > 0 and (" (the longest %d of %d steps)"):format(#path,
      #found.critical_path) or ""), path, STEPS, wide)
  parts[#parts + 1] = section("Phases", found.phases, PHASES)
  parts[#parts + 1] = section("Retries", found.retries, RETRIES)
  local slow = found.slowest_sandbox
  if slow then
    parts[#parts + 1] = section(("Slowest sandbox: %s, %.3f s until it was of use"):format(
      slow.id, slow.seconds), slow.phases, SLOWEST)
  end
  return table.concat(parts)
end

---@async
function verb.run(given, out)
  local found = explain.of(read(given.file))
  if not out:is_json() then
    if out.format == "name" then
      local slow = found.slowest_sandbox
      if slow then io.stdout:write(slow.id, "\n") end
      return
    end
    io.stdout:write(text_of(found, given.steps, out.format == "wide"))
    return
  end
  found.start = time.iso(found.start)
  for _, name in ipairs({ "critical_path", "phases", "retries" }) do
    found[name] = json.array(found[name])
  end
  found.slowest_sandbox = found.slowest_sandbox or json.null
  out:one(found, "")
end

return verb
