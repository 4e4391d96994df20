-- Command lines: typed options, arguments and commands, described by one table.

local check = require("sbx.check")
local help = require("sbx.cli.help")
local host = require("sbx.core.host")
local log = require("sbx.log")
local parse = require("sbx.cli.parse")
local spec = require("sbx.cli.spec")

---@class sbx.cli
local cli = {}

local USAGE_ERROR = 2
local DEFAULT_WIDTH, LEAST_WIDTH, MOST_WIDTH = 80, 40, 100

---@class sbx.cli.Spec
---@field name string
---@field summary? string      one sentence
---@field example? string|string[]  the first thing that --help shows
---@field description? string  paragraphs below the usage lines
---@field notes? string        paragraphs at the very end
---@field version? string      makes --version
---@field options? sbx.cli.Option[]
---@field arguments? sbx.cli.Argument[]
---@field commands? sbx.cli.Spec[]
---@field run? async fun(given: table): ...  what `parse` calls when this was chosen
---@field group? string        of a command: the heading it stands under
---@field hidden? boolean      of a command: works, but is not shown
---@field apart? boolean       of a command: the options of what it is a command of are not its own

---@alias sbx.cli.Type
---| "flag" # --name and --no-name
---| "string"
---| "integer"
---| "number"
---| "duration" # "10m" becomes 600 seconds
---| "size" # "64MiB" becomes bytes
---| "choice" # one of `choices`
---| "path" # a name that must exist
---| "file" # the same, and not a folder
---| "list" # any number of them, of type `of`
---| "map" # any number of KEY=VALUE, the values of type `of`

---@class sbx.cli.Option
---@field name string        "dry-run": --dry-run, found as given.dry_run
---@field type? sbx.cli.Type  default string
---@field of? sbx.cli.Type   of each element of a list or map (default string)
---@field choices? string[]
---@field short? string      one letter or digit
---@field default? any       a value, or for numbers a string as on the command line
---@field min? number|string
---@field max? number|string
---@field required? boolean
---@field env? string        the environment variable that stands in for it
---@field secret? boolean    comes from `env` or from a file (--name-file), never from the command line
---@field metavar? string    what stands for its value in the help
---@field help? string
---@field complete? string   what a shell proposes: "sandbox", "context", "file", "folder", "verb"
---@field group? string      the heading it stands under
---@field hidden? boolean
---@field also? string[]     words that people try in its place, as "--force": only suggested

---@class sbx.cli.Argument
---@field name string
---@field type? sbx.cli.Type  a type of a single value
---@field choices? string[]
---@field default? any       of an optional one
---@field min? number|string
---@field max? number|string
---@field optional? boolean
---@field many? boolean      takes all words that others do not need: a list
---@field raw? boolean       of the last: its words are taken as they are, options or not
---@field metavar? string
---@field help? string
---@field complete? string   what a shell proposes

---Raises a plain error that names the first mistake in `description`.
---@param description sbx.cli.Spec
---@param level? integer  whose line the error names (default: the caller's)
function cli.check(description, level)
  local ok, problem = pcall(spec.check, description)
  if not ok then error(problem, (level or 1) + 1) end
end

local function chain_of(description, path)
  local chain = { description }
  for name in (path or ""):gmatch("%S+") do
    local found
    for _, command in ipairs(chain[#chain].commands or {}) do
      if command.name == name then found = command end
    end
    if not found then error("cli.help: no command '" .. log.clean(name, 100) .. "'", 3) end
    table.insert(chain, found)
  end
  return chain
end

---The text of --help.
---@param description sbx.cli.Spec
---@param options? { command?: string, width?: integer }  `command`: "server start"; `width` in cells (default 80)
---@return string
function cli.help(description, options)
  cli.check(description, 2)
  local opts = check.options(options, { command = check.none, width = DEFAULT_WIDTH })
  return help.text(chain_of(description, opts.command), check.integer(opts.width, "width", 20))
end

local function terminal_width()
  local cells = host.columns(1) or tonumber(os.getenv("COLUMNS") or "") or DEFAULT_WIDTH
  return math.tointeger(math.max(LEAST_WIDTH, math.min(cells, MOST_WIDTH))) or DEFAULT_WIDTH
end

---@class sbx.cli.Refusal
---@field status integer   2 for a mistake, 0 where help or the version was asked for
---@field program string   the program and its commands so far: "launch create"
---@field command table    the description of the last of them

---Reads a command line and does nothing else: the values, or nil, a text and what
---is known about it. The text is one line that names the mistake; where help or the
---version was asked for, it is that. Waits only to look for files.
---@async
---@param argv string[]
---@param description sbx.cli.Spec
---@param environment? table<string, string>  in place of the process's own
---@return table|nil given, string|nil text, sbx.cli.Refusal|nil refusal
function cli.try_parse(argv, description, environment)
  check.table(argv, "argv")
  cli.check(description, 2)
  local getenv = environment and function(name) return environment[name] end or os.getenv
  local ok, given, chain = pcall(parse.read, argv, description, getenv)
  if ok then
    return given, nil, { status = 0, program = help.path(chain), command = chain[#chain] }
  end
  local usage = given
  if getmetatable(usage) ~= parse.Usage then error(usage, 0) end
  local refusal = {
    status = usage.wants and 0 or USAGE_ERROR,
    program = help.path(usage.chain),
    command = usage.chain[#usage.chain],
  }
  if usage.wants == "help" then return nil, help.text(usage.chain, terminal_width()), refusal end
  if usage.wants == "version" then
    return nil, ("%s %s\n"):format(description.name, description.version), refusal
  end
  return nil, usage.message, refusal
end

---Reads a command line. Help, the version and mistakes end the program, with
---status 0 or 2. Calls `run(given)` of what was chosen, if there is one.
---@async
---@param argv string[]  `arg`
---@param description sbx.cli.Spec
---@return table given  value by name
---@return any ...      what `run` returned
function cli.parse(argv, description)
  cli.check(description, 2)
  local given, text, found = cli.try_parse(argv, description)
  if given then
    if found.command.run then return given, found.command.run(given) end
    return given
  end
  if found.status == 0 then
    io.stdout:write(text)
  else
    io.stderr:write(found.program, ": ", text, "\nTry '", found.program, " --help'.\n")
  end
  os.exit(found.status)
end

return cli
