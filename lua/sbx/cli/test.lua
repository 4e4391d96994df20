-- The verb `test`: runs the tests of files and folders.

local cli = require("sbx.cli")
local discovery = require("sbx.test.discovery")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local human = require("sbx.test.report_human")
local junit = require("sbx.test.report_junit")
local program = require("sbx.cli.program")
local registry = require("sbx.test.registry")
local runner = require("sbx.test.runner")
local tap = require("sbx.test.report_tap")
local test_core = require("sbx.core.test")

local verb = {}

local USAGE_ERROR = 2
local MOST_SEEDS = 1000000

local description = {
  name = "sbxlua test",
  summary = "Runs tests: those of files, and of test_*.lua, *_test.lua and regress_*.lua"
    .. " in folders (default: tests, else here).",
  example = { "sbxlua test", "sbxlua test -k login --seeds 1..100 tests/test_users.lua" },
  notes = "A test fails when it raises, takes too long, or leaves something behind: a task,"
    .. " a wait, a handle, a descriptor, a child process, a sandbox or a global."
    .. " Exit status: 0 when all passed, 1 when one failed or none was found.",
  options = {
    { name = "match", short = "k", metavar = "PATTERN",
      help = "only tests whose name matches this Lua pattern" },
    { name = "list", type = "flag", help = "show the names and run nothing" },
    { name = "fail-fast", type = "flag", help = "stop at the first failure" },
    { name = "timeout", type = "duration", default = "60s",
      help = "for a test that names none; always real time" },
    { name = "local", type = "flag", help = "use sandboxes on this machine" },
    { name = "seed", type = "integer", metavar = "N", group = "Order",
      help = "run the tasks of each test in the order that N determines" },
    { name = "seeds", metavar = "A..B", group = "Order",
      help = "run each test with every seed from A to B, until it fails" },
    { name = "repeat", type = "integer", min = 1, metavar = "N", group = "Order",
      help = "run each test N times, until it fails" },
    { name = "shuffle", type = "integer", metavar = "N", group = "Order",
      help = "run the tests themselves in the order that N determines" },
    { name = "verbose", short = "v", type = "flag", group = "Report",
      help = "a line for each test" },
    { name = "quiet", short = "q", type = "flag", group = "Report",
      help = "only the closing line" },
    { name = "tap", type = "flag", group = "Report",
      help = "TAP on stdout; what tests print goes to stderr" },
    { name = "junit", metavar = "FILE", group = "Report", help = "write a JUnit report, too" },
  },
  arguments = { { name = "path", many = true, optional = true } },
}

local function complain(text)
  pcall(host.write, 2, "sbxlua test: " .. text .. "\n")
end

-- ------------------------------------------------------------------ arguments

-- Turns "A..B" into two seeds.
local function parse_seeds(text)
  local first, last = text:match("^(%-?%d+)%.%.(%-?%d+)$")
  first, last = math.tointeger(tonumber(first or "")), math.tointeger(tonumber(last or ""))
  if not first or not last or first > last or last - first >= MOST_SEEDS then
    return nil, "--seeds: expected A..B, at most a million of them, got " .. text
  end
  return { first, last }
end

-- What the options say, checked; or nil and the mistake.
local function check_given(given)
  if given.match and not pcall(string.find, "", given.match) then
    return nil, "-k: not a Lua pattern: " .. given.match
  end
  local ways = (given.seed and 1 or 0) + (given.seeds and 1 or 0)
  if ways > 1 or (given.seeds and given["repeat"]) then
    return nil, "--seeds goes with neither --seed nor --repeat"
  end
  local seeds, problem
  if given.seeds then
    seeds, problem = parse_seeds(given.seeds)
    if not seeds then return nil, problem end
  end
  return {
    seed = given.seed, seeds = seeds, times = given["repeat"],
    timeout = given.timeout, fail_fast = given.fail_fast,
  }
end

-- ------------------------------------------------------------------ selection

local function shuffle(list, seed)
  math.randomseed(seed)
  for i = #list, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  math.randomseed()
end

-- The tests to run, in order; a file that cannot be loaded is never left out.
local function select_tests(given)
  local selected, only = {}, {}
  for _, one in ipairs(registry.tests) do
    if one.broken or one.name:find(given.match or "") then
      selected[#selected + 1] = one
      if one.broken or one.only then only[#only + 1] = one end
      only.any = only.any or one.only
    end
  end
  if only.any then
    complain(("%d tests are left out, because others have `only`"):format(#selected - #only))
    selected = only
  end
  if given.shuffle then shuffle(selected, given.shuffle) end
  return selected
end

local function quote(word)
  if word:find("^[%w_./:=@%%+-]+$") then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- The command line that runs one test as it ran when it failed.
local function command_of(given)
  return function(one, result)
    local words = { "sbxlua", "test" }
    if given["local"] then words[#words + 1] = "--local" end
    if result.seed then table.move({ "--seed", tostring(result.seed) }, 1, 2, #words + 1, words) end
    if not result.seed and result.runs > 1 then
      table.move({ "--repeat", tostring(given["repeat"]) }, 1, 2, #words + 1, words)
    end
    local name = one.name:gsub("%p", "%%%0")
    table.move({ "-k", quote("^" .. name .. "$"), quote(one.file) }, 1, 3, #words + 1, words)
    return table.concat(words, " ")
  end
end

-- ------------------------------------------------------------------ reporting

local function writer(file)
  return function(text)
    local ok, problem = file:write(text)
    if ok then ok, problem = file:flush() end
    if not ok then errors.raise { kind = "io", message = "write the report: " .. problem } end
  end
end

local function to_stdout(text)
  host.write(1, text)
  io.stdout:flush()
end

local function reporters_of(given)
  local options = { verbose = given.verbose, quiet = given.quiet, command = command_of(given) }
  local first
  if given.tap then
    first = tap.new(writer(test_core.divert_stdout()))
  else
    first = human.new(to_stdout, options)
  end
  return { first, given.junit and junit.new() or nil }
end

-- ------------------------------------------------------------------------ run

local function list(tests)
  local status = #tests > 0 and 0 or 1
  for _, one in ipairs(tests) do
    if one.broken then
      complain(one.file .. ": " .. one.broken)
      status = 1
    else
      to_stdout(one.name .. "\n")
    end
  end
  return status
end

---@async
local function run_files(given, options)
  local files, problem = errors.try(discovery.files, given.path or {})
  if not files then
    complain(tostring(problem))
    return USAGE_ERROR
  end
  discovery.load(files)
  local tests = select_tests(given)
  if given.list then return list(tests) end
  local reporters = reporters_of(given)
  local counts = runner.run(tests, options, reporters)
  local signal = host.signal()
  reporters[1]:finish(counts, signal and "interrupted" or #tests == 0 and "no tests were found")
  if reporters[2] then fs.write(given.junit, reporters[2]:text()) end
  if #tests == 0 then complain("no tests were found") end
  return (counts.failed > 0 or #tests == 0) and 1 or 0
end

---@async
local function run_checked(given)
  local options, problem = check_given(given)
  if not options then
    complain(problem)
    return USAGE_ERROR
  end
  local status
  local ended = program.run(given["local"], function()
    runner.prepare()
    status = run_files(given, options)
  end)
  return ended ~= 0 and ended or status
end

---What it takes, for `sbx.cli`.
verb.description = description

---Runs what a command line asks for. Returns the exit status.
---@async
---@param given table  as `sbx.cli` reads it
---@return integer
verb.run_given = run_checked

---Reads a command line and runs it. Returns the exit status.
---@async
---@param arguments string[]  what follows the verb
---@return integer
function verb.run(arguments)
  local given, text, refusal = cli.try_parse(arguments, description)
  if given then return run_checked(given) end
  if refusal.status == 0 then
    io.stdout:write(text)
  else
    complain(text .. "\nTry 'sbxlua test --help'.")
  end
  return refusal.status
end

return verb
