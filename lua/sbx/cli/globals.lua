-- The options that stand before or after every command that knows them.

local globals = {}

---@class sbx.cli.Uses  which global options a command knows
---@field client? boolean
---@field output? boolean
---@field local? string  what --local means to it, where that is no server of its own

local CLIENT = {
  { name = "local", type = "flag", group = "Where",
    help = "a sandbox of this machine, without account or network: for `run` and scripts" },
  { name = "context", metavar = "NAME", complete = "context", group = "Where",
    help = "the address and key of this name: see `sbxlua help context`" },
  { name = "url", group = "Where", help = "the address of the API" },
  { name = "key", secret = true, complete = "file", also = { "--api-key" }, group = "Where",
    help = "the file that holds the API key; else PRIME_API_KEY" },
}

local OUTPUT = {
  { name = "output", short = "o", type = "choice", default = "table", group = "Output",
    choices = { "table", "wide", "json", "jsonl", "name" }, metavar = "FORMAT",
    also = { "--json", "--format" },
    help = "what stdout gets" },
  { name = "quiet", short = "q", type = "flag", group = "Output",
    help = "ids only, and nothing but errors on stderr" },
}

-- Word → whether a value follows it; and the group it is of.
local words = {
  ["--local"] = { false, "client" }, ["--no-local"] = { false, "client" },
  ["--context"] = { true, "client" }, ["--url"] = { true, "client" },
  ["--key-file"] = { true, "client" }, ["--key"] = { true, "client" },
  ["--output"] = { true, "output" }, ["-o"] = { true, "output" },
  ["--quiet"] = { false, "output" }, ["-q"] = { false, "output" },
}

---Names of the options, for suggestions.
globals.names = { "--local", "--context", "--url", "--key-file", "--output", "--quiet" }

---What the options of these kinds are.
---@param uses sbx.cli.Uses
---@return sbx.cli.Option[]
function globals.options(uses)
  local list = {}
  if uses.output then table.move(OUTPUT, 1, #OUTPUT, 1, list) end
  if not uses.client then return list end
  local first = #list + 1
  table.move(CLIENT, 1, #CLIENT, first, list)
  if uses["local"] then
    list[first] = { name = "local", type = "flag", group = "Where", help = uses["local"] }
  end
  return list
end

---Whether a word is one of them: how many words it takes, 1 or 2, and "client" or
---"output"; else nil.
---@param word string
---@return integer|nil count, string|nil kind
function globals.match(word)
  local name = word:match("^(%-%-[^=]+)=")
  local known = words[name or word]
  if known then return (known[1] and not name) and 2 or 1, known[2] end
  if word:find("^%-o.") then return 1, "output" end
  return nil
end

return globals
