-- What all commands have in common: their options, the API that they talk to, how what
-- they say looks, what a failure says, and the exit status.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local globals = require("sbx.cli.globals")
local host = require("sbx.core.host")
local log = require("sbx.log")
local output = require("sbx.cli.output")
local program = require("sbx.cli.program")
local report = require("sbx.cli.report")
local verbs = require("sbx.cli.verbs")

local frame = {}

local USAGE_ERROR = 2
local BOTH = { client = true, output = true }

---The description of the program as far as one verb goes.
---@param entry sbx.cli.VerbEntry
---@return sbx.cli.Spec
function frame.spec(entry)
  local verb = verbs.load(entry)
  local uses = verb.uses or BOTH
  return {
    name = "sbxlua", options = globals.options(uses), commands = { verbs.spec(entry) },
  }
end

-- ------------------------------------------------------------------- failures

-- Whether the words ask for JSON, so that a mistake in them is told in JSON, too.
local function wants_json(words)
  for i, word in ipairs(words) do
    if word == "--" then return nil end
    local value = word:match("^%-%-output=(.*)$") or word:match("^%-o=?(.+)$")
    if word == "-o" or word == "--output" then value = words[i + 1] end
    if value == "json" or value == "jsonl" then return value end
  end
  return nil
end

-- Options of every run, which are not the command's.
local BEFORE = {
  ["--trace"] = "FILE", ["--record"] = "FILE", ["--replay"] = "FILE", ["--cleanup-timeout"] = "S",
}

local function with_place(entry, text)
  local option = text:match("^unknown option '(%-[%a-]+)'")
  if option == "-o" or option == "--output" then
    return ("%s: `%s` has one form of output only"):format(option, entry.name)
  end
  if not BEFORE[option] then return text end
  return ("%s goes before the command: sbxlua %s %s %s …"):format(option, option, BEFORE[option],
    entry.name)
end

local function refuse(entry, words, text, program_name)
  local verb = verbs.load(entry)
  text = verb.mistake and verb.mistake(words, text) or with_place(entry, text)
  local out = output.new({ output = wants_json(words) }, entry.name)
  if out:is_json() then
    out:failure({ kind = "usage", message = text }, USAGE_ERROR)
  else
    pcall(host.write, 2, ("%s: %s\nTry '%s --help'.\n"):format(program_name, text, program_name))
  end
  return USAGE_ERROR
end

-- A misuse of the library that a word of the command line is the cause of is told as
-- such; other strings are mistakes of ours, and get the whole report.
local function as_error(err)
  if errors.is_error(err) then return err end
  if type(err) ~= "string" or err:find("attempt to ", 1, true) then return nil end
  local text = err:match("^sbx/cli/[%w_/]+%.lua:%d+: (.*)$")
  return text and errors.new({ kind = "usage", message = text }) or nil
end

local function passes_through(err)
  if not errors.is_error(err) then return false end
  if err.kind == "cancelled" then return true end
  return err.code == "EPIPE" and err.op == "write"
end

---Tells what failed. Returns the exit status; raises on what is not for here: a
---cancellation, an output that nobody reads, a mistake of this program.
---@param err any
---@param out sbx.cli.Output
---@param status? integer  in place of the one by kind
---@return integer
function frame.tell(err, out, status)
  local known = not passes_through(err) and as_error(err)
  if not known then error(err, 0) end
  status = known.exit_status or status or report.status(known)
  out:failure(known, status)
  return status
end

-- -------------------------------------------------------------------- running

-- Sets what the command line says about the API, for every client of this run.
---@async
local function connect(given)
  local contexts = require("sbx.sandbox.contexts")
  contexts.set_command_line({
    context = given.context, url = given.url, api_key = given.key,
  })
end

---The same for words that stand before a script: `--context`, `--url`, `--key-file`.
---Returns a text when they are wrong.
---@async
---@param words string[]
---@return string|nil problem
function frame.connect(words)
  local given, text, refusal = cli.try_parse(words, {
    name = "sbxlua", options = globals.options({ client = true }),
  })
  if not given then return refusal.status ~= 0 and text or nil end
  connect(given)
end

local function refuse_local(entry)
  errors.raise({
    kind = "usage",
    message = ("a server of --local ends with this command, and its sandboxes with it; start "
      .. "`sbxlua serve` in another terminal and set what it says, then `sbxlua %s` without "
      .. "--local. `sbxlua run --local` and scripts work as they are"):format(entry.name),
  })
end

---@async
local function run_given(entry, verb, run, given)
  local out = output.new(given, entry.name)
  if verb.own_program then
    if not verb.uses or verb.uses.client then connect(given) end
    return run(given, out)
  end
  -- The closing words of a run about its sandboxes are for scripts.
  if (os.getenv("SBXLUA_LOG") or "") == "" then log.set_level("warn") end
  program.quiet = not verb.cleans
  local status
  local ended = program.run(given["local"] and verb.private, function()
    local ok, result = pcall(function()
      local has_own = verb.private or verb.uses and verb.uses["local"]
      if given["local"] and not has_own then refuse_local(entry) end
      connect(given)
      local code = run(given, out)
      -- What nobody gets is a failure of the command, whatever its own status.
      output.flush()
      return code
    end)
    status = ok and (result or 0) or frame.tell(result, out, verb.failure)
  end)
  return ended ~= 0 and ended or status or 0
end

---Runs a verb. Returns the exit status.
---@async
---@param entry sbx.cli.VerbEntry
---@param before string[]  global options that stood before it
---@param words string[]   what stood behind it
---@return integer
function frame.run(entry, before, words)
  local verb = verbs.load(entry)
  local argv = table.move(before, 1, #before, 1, {})
  argv[#argv + 1] = entry.name
  table.move(words, 1, #words, #argv + 1, argv)
  local given, text, refusal = cli.try_parse(argv, frame.spec(entry))
  if given then return run_given(entry, verb, refusal.command.run or verb.run, given) end
  if refusal.status == 0 then
    io.stdout:write(text)
    return 0
  end
  return refuse(entry, argv, text, refusal.program)
end

return frame
