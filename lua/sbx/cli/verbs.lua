-- The list of the program's commands. Names and summaries are here, so that help and a
-- misspelt word need no other file; what a command does is in its module, loaded when it runs.
--
-- A verb's module returns
--
--   { spec = a description for sbx.cli without name and summary,
--     run = async fun(given, out) → exit status or nil,   or in each command of `spec`
--     uses = which global options it knows (sbx.cli.Uses): { client = true, output = true }
--       unless given,
--     own_program = true where `run` calls `program.run` by itself,
--     cleans = true where a signal leaves something to do, which is said then,
--     mistake = fun(words, text) → a better text for a wrong command line, or nil,
--     private = true where `--local` makes sense for it,
--     failure = exit status of what fails in place of those by kind }

local verbs = {}

---@class sbx.cli.VerbEntry
---@field name string
---@field group string
---@field summary string
---@field hidden? boolean

---The headings, in the order in which they are shown.
verbs.groups = { "Sandboxes", "Ports and jobs", "This machine", "Scripts", "More" }

---@type sbx.cli.VerbEntry[]
verbs.list = {
  { name = "run", group = "Sandboxes",
    summary = "Makes a sandbox, runs a command in it, and deletes it." },
  { name = "create", group = "Sandboxes",
    summary = "Makes a sandbox that stays, and prints its id once it can be used." },
  { name = "ls", group = "Sandboxes", summary = "Shows sandboxes, the newest first." },
  { name = "get", group = "Sandboxes", summary = "Shows all about sandboxes." },
  { name = "wait", group = "Sandboxes",
    summary = "Waits until sandboxes can be used, or are gone." },
  { name = "exec", group = "Sandboxes", summary = "Runs a command in a sandbox." },
  { name = "logs", group = "Sandboxes", summary = "Shows what sandboxes have logged." },
  { name = "cp", group = "Sandboxes",
    summary = "Copies files and folders to a sandbox, or from one." },
  { name = "rm", group = "Sandboxes", summary = "Deletes sandboxes." },
  { name = "gc", group = "Sandboxes",
    summary = "Shows the sandboxes that dead runs left behind, and deletes them with --yes." },

  { name = "expose", group = "Ports and jobs",
    summary = "Makes a port of a sandbox reachable, and prints its address." },
  { name = "unexpose", group = "Ports and jobs", summary = "Closes an exposed port again." },
  { name = "ports", group = "Ports and jobs", summary = "Shows the exposed ports." },
  { name = "jobs", group = "Ports and jobs",
    summary = "Commands that go on in a sandbox while nobody looks." },

  { name = "serve", group = "This machine",
    summary = "Serves the sandbox API on this machine." },
  { name = "image", group = "This machine",
    summary = "The images that sandboxes of this machine run on." },
  { name = "doctor", group = "This machine",
    summary = "Tries what sandboxes need, here and at the API, and says what works." },

  { name = "repl", group = "Scripts",
    summary = "Starts a prompt for Lua, as sbxlua alone does on a terminal." },
  { name = "test", group = "Scripts", summary = "Runs tests." },
  { name = "check", group = "Scripts",
    summary = "Finds mistakes in scripts without running them." },
  { name = "bundle", group = "Scripts", summary = "Makes one program of a script." },
  { name = "explain", group = "Scripts", summary = "Shows what a run spent its time on." },

  { name = "api", group = "More", summary = "Sends one request to the API." },
  { name = "context", group = "More", summary = "Names for addresses and keys." },
  { name = "completion", group = "More", summary = "Prints what makes a shell complete commands." },
  { name = "man", group = "More", summary = "Prints the manual page." },
  { name = "help", group = "More", summary = "Tells about a command." },
  { name = "version", group = "More", summary = "Shows the version." },
  { name = "complete", group = "More", hidden = true, summary = "Answers a shell's completion." },
}

local by_name = {}
for _, entry in ipairs(verbs.list) do
  by_name[entry.name] = entry
end

---@param name string
---@return sbx.cli.VerbEntry|nil
function verbs.find(name)
  return by_name[name]
end

---The names that people may type.
---@return string[]
function verbs.names()
  local names = {}
  for _, entry in ipairs(verbs.list) do
    if not entry.hidden then names[#names + 1] = entry.name end
  end
  return names
end

---The module of a verb.
---@param entry sbx.cli.VerbEntry
---@return table
function verbs.load(entry)
  return require("sbx.cli.verbs." .. entry.name)
end

local function copy(source)
  local result = {}
  for key, value in pairs(source) do
    result[key] = value
  end
  return result
end

---What a verb takes, as a command of the program's description.
---@param entry sbx.cli.VerbEntry
---@return sbx.cli.Spec
function verbs.spec(entry)
  local verb = verbs.load(entry)
  local spec = copy(verb.spec)
  spec.name, spec.summary = entry.name, entry.summary
  spec.version, spec.group, spec.hidden = nil, nil, nil
  spec.run = spec.run or verb.run
  return spec
end

return verbs
