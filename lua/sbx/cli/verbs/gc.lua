-- The verb `gc`: deletes what runs left behind whose process died before it could.

local boxes = require("sbx.cli.boxes")
local collect = require("sbx.sandbox.collect")
local dead_runs = require("sbx.sandbox.dead_runs")
local errors = require("sbx.errors")
local log = require("sbx.log")
local output = require("sbx.cli.output")
local sandbox = require("sbx.sandbox")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local time = require("sbx.time")

local verb = {}

local RUNS_AT_ONCE = 8
local SHOWN = 20 -- ids in a message

verb.spec = {
  example = { "sbxlua gc", "sbxlua gc --yes --older-than 2h" },
  notes = "A run that ends deletes what it made; one that is killed outright cannot. Every run"
    .. " writes down what it makes, and this command reads that. It never touches a run whose"
    .. " process is alive, nor what was created with keep, such as by `sbxlua create`: `sbxlua rm"
    .. " -l sbxlua-keep` deletes that. Exit status: 0 ok, 1 something"
    .. " could not be deleted, 4 no or wrong key, 5 no such run, 6 the run is alive.",
  options = {
    { name = "yes", short = "y", type = "flag", help = "delete them; else nothing is changed" },
    { name = "run", metavar = "RUN", help = "only of this run, as in the label sbxlua-run=RUN" },
    { name = "older-than", type = "duration", help = "only of runs that began so long ago" },
  },
}

local say -- fun(text, ...): to people

local count = output.count

-- ------------------------------------------------------------------- one run

-- Why a dead run is left alone, or nil.
local function reason_to_skip(run, given, account)
  if run.account ~= account then
    return ("it belongs to another account or API (%s)"):format(log.clean(run.url, 200))
  end
  if run.elsewhere and not given.run then
    return ("it ran on %s, where it may be alive: --run %s deletes what is left of it"):format(
      log.clean(run.elsewhere, 100), log.clean(run.run, 100))
  end
end

-- What became of one file: `run` and `boxes`, which were deleted or would be, `left`;
-- or why it was left alone.
---@async
local function deal_with(path, given, client, account)
  local run, alive, problem = dead_runs.take(path)
  if not run then return { alive = alive, problem = problem } end
  local _ <close> = run
  if given.run and run.run ~= given.run then return {} end
  local skipped = reason_to_skip(run, given, account)
  if skipped then return { run = run, skipped = skipped } end
  if given.older_than and time.wall() - run.at < given.older_than then return {} end
  if not given.yes then
    local found, under_way = collect.look(client, run)
    return { run = run, boxes = found, left = {}, under_way = under_way }
  end
  local result = collect.delete(client, run, function(creates, seconds)
    say("run %s: %s may still be under way; waiting for up to %d s", log.clean(run.run, 100),
      count(creates, "create"), seconds)
  end)
  return { run = run, boxes = result.deleted, left = result.left, err = result.err }
end

local function is_of(path, run)
  return path:match("[^/]*$"):sub(1, #run + 1) == run .. "."
end

---@async
local function deal_with_all(given, client)
  local paths = {}
  for _, path in ipairs(dead_runs.paths()) do
    if not given.run or is_of(path, given.run) then paths[#paths + 1] = path end
  end
  if given.run and #paths == 0 then
    errors.raise({
      kind = "not_found",
      message = ("no run %s has left a ledger on this machine"):format(log.clean(given.run, 100)),
    })
  end
  if #paths > 0 and client.config.api_key == "" then client:list({ page = 1 }) end -- says so
  local account = state.account(client.config)
  return task.map(paths, function(path)
    local ok, result = pcall(deal_with, path, given, client, account)
    if ok then return result end
    if errors.is_error(result) and result.kind == "cancelled" then error(result, 0) end
    return { err = result }
  end, { limit = RUNS_AT_ONCE })
end

-- -------------------------------------------------------------------- output

local function rows_of(results)
  local rows = {}
  for _, result in ipairs(results) do
    for _, box in ipairs(result.boxes or {}) do
      rows[#rows + 1] = { run = result.run.run, box = box }
    end
  end
  return rows
end

-- Not every server says all, and what it says may be anything.
local function string_or(value)
  return type(value) == "string" and value or "?"
end

local columns = {
  { "RUN", "run" }, { "ID", "id" },
  { "NAME", function(row) return string_or(row.name) end },
  { "STATUS", function(row) return string_or(row.status) end },
  { "AGE", function(row) return boxes.age(row.created_at) end },
}

local function shown(rows, deleted)
  local list = {}
  for i, row in ipairs(rows) do
    local box = row.box
    list[i] = {
      run = row.run, id = box.id, name = box.name, status = box.status,
      created_at = box.created_at, deleted = deleted,
    }
  end
  return list
end

-- What was left alone, and why.
local function explain(results)
  local alive = 0
  for _, result in ipairs(results) do
    local run = result.run
    if result.alive then alive = alive + 1 end
    if result.problem then say("left alone: %s", log.clean(result.problem, 300)) end
    local name = run and log.clean(run.run, 100)
    if result.skipped then say("run %s is left alone: %s", name, result.skipped) end
    if result.under_way and result.under_way > 0 then
      say("run %s: %s may still be under way", name, count(result.under_way, "create"))
    end
  end
  if alive > 0 then
    say("%s alive, or in the hands of another gc: left alone",
      alive == 1 and "1 run is" or alive .. " runs are")
  end
  return alive
end

local function summarize(results, rows, given)
  local runs = 0
  for _, result in ipairs(results) do
    if #(result.boxes or {}) > 0 then runs = runs + 1 end
  end
  local what = ("%s of %s"):format(count(#rows, "sandbox"), count(runs, "dead run"))
  if given.yes and #rows > 0 then
    say("deleted %s", what)
  elseif #rows > 0 then
    say("%s; --yes deletes %s", what, #rows == 1 and "it" or "them")
  end
end

-- Raises for what could not be done.
local function conclude(results, alive, given)
  local left, err = {}, nil
  for _, result in ipairs(results) do
    err = err or result.err
    for _, box in ipairs(result.left or {}) do
      left[#left + 1] = log.clean(box.id, 100)
    end
  end
  if #left > 0 then
    local ids = table.concat(left, ", ", 1, math.min(SHOWN, #left))
    if #left > SHOWN then ids = ids .. (" and %d more"):format(#left - SHOWN) end
    errors.raise({
      kind = "api",
      cause = errors.is_error(err) and err or nil,
      message = ("could not delete %s: %s"):format(count(#left, "sandbox"), ids),
    })
  end
  if err then error(err, 0) end
  if given.run and alive > 0 then
    errors.raise({ kind = "conflict", message = ("run %s is alive"):format(given.run) })
  end
end

---@async
---@param given table
---@param out sbx.cli.Output
function verb.run(given, out)
  function say(...) out:note(...) end
  local client <close> = sandbox.client()
  local results = deal_with_all(given, client)
  local rows = rows_of(results)
  out:rows(shown(rows, given.yes), columns)
  local alive = explain(results)
  summarize(results, rows, given)
  conclude(results, alive, given)
  if #rows == 0 then say("nothing is left of dead runs") end
end

return verb
