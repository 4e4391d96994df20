-- The verb `doctor`: tries what sandboxes need, of this machine and of the API that the
-- settings name, and says what works, by what, and what to do about the rest.

local errors = require("sbx.errors")
local finding = require("sbx.cli.doctor.finding")
local json = require("sbx.json")
local task = require("sbx.task")

local verb = {
  uses = {
    client = true, output = true, ["local"] = "try only what sandboxes of this machine need",
  },
}

verb.spec = {
  example = { "sbxlua doctor", "sbxlua doctor --cloud -o json", "sbxlua doctor --local" },
  notes = "Two halves: this machine's own sandboxes (--local), and the API that the settings"
    .. " name, with what the client keeps here (--cloud); both unless one is named. The API gets"
    .. " one request, for a list of sandboxes; nothing is created. A key is never shown."
    .. " States: ok; weak: it works, with less than there could be; missing: something cannot"
    .. " be had; skipped: it was not tried, which -o wide shows. Exit status: 0 what was asked"
    .. " for works, 1 it does not. A cloud half that is not set up counts with --cloud only.",
  options = {
    { name = "cloud", type = "flag", help = "try only the API, and what its client needs" },
  },
}

-- --------------------------------------------------------------------- output

-- What was not tried is worth a line where something can be done about it.
local function print_table(findings, is_wide)
  local lines, widths = { { "WHAT", "STATE", "BY WHAT" } }, {}
  for _, found in ipairs(findings) do
    if is_wide or found.state ~= "skipped" or found.todo then
      lines[#lines + 1] = { found.what, found.state, found.by, found.todo }
    end
  end
  for _, line in ipairs(lines) do
    for index = 1, 2 do
      widths[index] = math.max(widths[index] or 0, #line[index])
    end
  end
  local form = ("%%-%ds  %%-%ds  %%s\n"):format(widths[1], widths[2])
  for _, line in ipairs(lines) do
    io.stdout:write(form:format(line[1], line[2], line[3]))
    if line[4] then
      io.stdout:write((" "):rep(widths[1] + widths[2] + 4), "-> ", line[4], "\n")
    end
  end
end

local function shown(findings)
  local list = {}
  for index, found in ipairs(findings) do
    list[index] = {
      what = found.what, part = found.part, state = found.state, by = found.by,
      todo = found.todo or json.null,
    }
  end
  return list
end

-- Nil becomes null: that half was not tried, or is not set up.
local function or_null(value)
  if value == nil then return json.null end
  return value
end

local function print_all(out, findings, can_run, can_reach)
  if out.format == "json" then
    out:one({
      can_run = or_null(can_run), can_reach = or_null(can_reach),
      findings = json.array(shown(findings)),
    }, "")
  elseif out.format == "jsonl" or out.format == "name" then
    out:rows(shown(findings), {}, "what")
  else
    print_table(findings, out.format == "wide")
  end
end

-- --------------------------------------------------------------------- halves

---@async
local function try_machine()
  return require("sbx.cli.doctor.machine").findings()
end

---@async
local function try_cloud(given)
  return require("sbx.cli.doctor.cloud").findings(given.cloud)
end

---@async
function verb.run(given, out)
  local here, there = given["local"], given.cloud
  if not here and not there then
    here, there = true, true
  end
  -- Both at once.
  local halves = task.map({ here and try_machine or false, there and try_cloud or false },
    function(try)
      return try and table.pack(try(given)) or {}
    end)
  local findings, cloud, is_set_up = halves[1][1] or {}, halves[2][1] or {}, halves[2][2]
  local can_run, can_reach
  if here then can_run = finding.works(findings) end
  if there and (is_set_up or given.cloud) then can_reach = finding.works(cloud) end
  local is_broken = there and not finding.works(cloud)
  table.move(cloud, 1, #cloud, #findings + 1, findings)
  print_all(out, findings, can_run, can_reach)
  local problems = {}
  if can_run == false then problems[1] = "sandboxes cannot run on this machine" end
  if is_broken then
    problems[#problems + 1] = "the API of the settings cannot be used"
  end
  if #problems == 0 then return end
  errors.raise { kind = "process", message = table.concat(problems, "; ") }
end

return verb
