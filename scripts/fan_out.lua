-- Runs one command in many sandboxes at once and says whose outputs differ.
--
--   sbxlua --local scripts/fan_out.lua --count 5 'python -V'
--   sbxlua scripts/fan_out.lua -i python:3.11-slim -i python:3.12-slim 'pip list'
--
-- stdout has each output once, below the names of those that gave it; stderr has
-- the progress. The status is 1 if they differ, or if the command failed.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "fan_out",
  summary = "Runs a command in many sandboxes and compares what comes out.",
  example = "sbxlua --local scripts/fan_out.lua --count 5 'python -V'",
  options = {
    { name = "count", short = "n", type = "integer", default = 1, min = 1, max = 1000,
      help = "sandboxes of each image" },
    { name = "image", short = "i", type = "list", help = "what they run (python:3.11-slim)" },
    { name = "limit", type = "integer", default = 32, min = 1, help = "sandboxes at once" },
    { name = "timeout", type = "duration", default = "5m", min = "1s", help = "for the command" },
  },
  arguments = { { name = "line", metavar = "COMMAND", help = "for the shell of each" } },
})

local jobs = {}
for _, image in ipairs(#given.image > 0 and given.image or { "python:3.11-slim" }) do
  for n = 1, given.count do
    table.insert(jobs, { image = image, name = ("%s #%d"):format(image, n) })
  end
end

local client <close> = sandbox.client()
local results, failures = task.map(jobs, function(job)
  local box <close> = client:create({ name = "fan-out", docker_image = job.image })
  box:wait()
  return box:exec(given.line, { timeout = math.ceil(given.timeout) })
end, { limit = given.limit, on_error = "collect", progress = "ran" })

-- Those with the same exit code and output are one group; so are those whose
-- failures are of one kind.
local groups, order = {}, {}
for i, job in ipairs(jobs) do
  local result, err = results[i], failures[i]
  if err and not errors.is_error(err) then error(err, 0) end
  local head = err and err.kind or "exit code " .. result.exit_code
  local text = err and tostring(err) or result.stdout .. result.stderr
  local key = err and head or head .. "\n" .. text
  if not groups[key] then
    groups[key] = { head = head, text = text }
    table.insert(order, groups[key])
  end
  table.insert(groups[key], job.name)
end
table.sort(order, function(a, b) return #a > #b end)

for _, group in ipairs(order) do
  print(("== %d of %d, %s: %s"):format(#group, #jobs, group.head, table.concat(group, ", ")))
  io.stdout:write(group.text, group.text:find("[^\n]$") and "\n" or "")
end
io.stderr:write(#order == 1 and "all the same\n" or #order .. " different outputs\n")
if #order > 1 or order[1].head ~= "exit code 0" then os.exit(1) end
