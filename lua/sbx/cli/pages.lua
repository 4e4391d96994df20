-- The help of the program, its manual page, and docs/commands.md: all made of the list of
-- verbs and of their descriptions, so that none of them can say something else.

local cli = require("sbx.cli")
local globals = require("sbx.cli.globals")
local verbs = require("sbx.cli.verbs")

local pages = {}

local PAGE = 90 -- cells of a line of text in docs/commands.md

local EXIT_STATUS = {
  { "0", "ok" }, { "1", "failure" }, { "2", "wrong usage" }, { "4", "no or wrong key" },
  { "5", "not found" }, { "6", "conflict" }, { "7", "rate, quota or payment" },
  { "8", "unreachable" }, { "124", "deadline" },
  { "125", "`exec` and `run`: sbxlua itself failed" },
  { "128+n", "signal n; 141 where nobody reads stdout any more" },
}

local SCRIPT_OPTIONS = {
  { "--cleanup-timeout S", "seconds that finalizers may take once the script has ended or was "
    .. "interrupted (default 10)" },
  { "--trace FILE", "write a trace of the run, for `sbxlua explain` and for Perfetto" },
  { "--record FILE", "write down the requests of the run and their answers" },
  { "--replay FILE", "answer the requests of the run from such a file, without a network" },
  { "-h, --help", "show this" },
  { "-v, --version", "show the version" },
}

local ABOUT = "Without --local the API is the one of --url or --context, of PRIME_API_BASE_URL, of "
  .. "the current context, or of ~/.prime/config.json, with the key of --key-file, PRIME_API_KEY, "
  .. "the context or that file. What a script created and did not mark `keep` is deleted when it "
  .. "ends."

local USAGES = {
  { "[options] FILE [arguments]", "run a script" },
  { "[options] -e CODE", "run a piece of Lua" },
  { "[options] -", "run what stdin holds" },
  { "[options] COMMAND ...", "one of the commands below" },
}

-- All verbs of a group that people may type.
local function shown(group)
  local list = {}
  for _, entry in ipairs(verbs.list) do
    if entry.group == group and not entry.hidden then list[#list + 1] = entry end
  end
  return list
end

-- ------------------------------------------------------------------- --help

local function left_of(option)
  local long = option.secret and "--" .. option.name .. "-file FILE" or "--" .. option.name
  if option.type ~= "flag" and not option.secret then
    long = long .. " " .. (option.metavar or option.name:upper())
  end
  return (option.short and "-" .. option.short .. ", " or "") .. long
end

local function entry_lines(lines, left, cells, text)
  local width = require("sbx.cli.width")
  local wrapped = width.wrap(text, 78 - cells - 4)
  lines[#lines + 1] = ("  %s  %s"):format(width.pad(left, cells), wrapped[1])
  for i = 2, #wrapped do
    lines[#lines + 1] = (" "):rep(cells + 4) .. wrapped[i]
  end
end

---What `sbxlua --help` shows. Loads no verb.
---@return string
function pages.help()
  local width = require("sbx.cli.width")
  local lines = {
    "sbxlua --local fleet.lua                      run a script on sandboxes of this machine",
    "sbxlua run --local python:3.11 -- python -V   run a command in one", "",
  }
  for i, usage in ipairs(USAGES) do
    lines[#lines + 1] = ("%s sbxlua %-28s %s"):format(i == 1 and "usage:" or "      ", usage[1],
      usage[2])
  end
  for _, group in ipairs(verbs.groups) do
    lines[#lines + 1] = ""
    lines[#lines + 1] = group
    for _, entry in ipairs(shown(group)) do
      entry_lines(lines, entry.name, 10, entry.summary)
    end
  end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "options"
  for _, option in ipairs(globals.options({ client = true, output = true })) do
    entry_lines(lines, left_of(option), 21, option.help)
  end
  for _, option in ipairs(SCRIPT_OPTIONS) do
    entry_lines(lines, option[1], 21, option[2])
  end
  lines[#lines + 1] = ""
  table.move(width.wrap(ABOUT, 78), 1, 99, #lines + 1, lines)
  lines[#lines + 1] = ""
  local statuses = {}
  for i, status in ipairs(EXIT_STATUS) do
    statuses[i] = status[1] .. " " .. status[2]
  end
  local text = width.wrap("exit status: " .. table.concat(statuses, ", "), 78)
  table.move(text, 1, #text, #lines + 1, lines)
  lines[#lines + 1] = ""
  lines[#lines + 1] = "'sbxlua help COMMAND' tells more of a command."
  return table.concat(lines, "\n") .. "\n"
end

-- ------------------------------------------------------- descriptions, flattened

-- A verb and, below it, its commands: { path, spec } each.
local function flatten(path, spec, list)
  list[#list + 1] = { path = path, spec = spec }
  for _, command in ipairs(spec.commands or {}) do
    flatten(path .. " " .. command.name, command, list)
  end
  return list
end

local function usage_of(path, spec)
  local root = { name = "x", commands = {} }
  local at = root
  for name in path:gmatch("%S+") do
    local level = { name = name, commands = {} }
    at.commands[1] = level
    at = level
  end
  for key, value in pairs(spec) do
    at[key] = value
  end
  at.commands = spec.commands
  local text = cli.help(root, { command = path, width = 100 })
  local first = text:match("usage: x ([^\n]*\n[^\n]*)")
  local line, more = first:match("^([^\n]*)\n(.*)$")
  if more:find("^%s+x ") then line = line .. "\n" .. more:gsub("^%s+x ", "") end
  return line
end

-- The words and the explanation of an option, as the help has them.
local function option_rows(spec)
  local rows = {}
  local text = cli.help({ name = "x", options = spec.options, arguments = spec.arguments },
    { width = 4000 })
  local section
  for line in text:gmatch("[^\n]+") do
    local left, right = line:match("^  +(%S.-)  +(.*)$")
    if not line:find("^ ") then
      section = line
    elseif not section:find("^usage") then
      left = left or line:match("^%s*(.-)%s*$")
      if not left:find("--help", 1, true) then
        rows[#rows + 1] = { left = left, right = right or "", argument = section == "arguments" }
      end
    elseif line == "" then
      section = nil
    end
  end
  return rows
end

local function examples(spec)
  local list = spec.example or {}
  return type(list) == "table" and list or { list }
end

-- ---------------------------------------------------------------- the manual page

local function roff(text)
  text = text:gsub("\\", "\\e"):gsub("%-", "\\-")
  return (text:gsub("\n([.'])", "\n\\&%1"):gsub("^([.'])", "\\&%1"))
end

local function roff_list(lines, left, right)
  lines[#lines + 1] = ".TP"
  lines[#lines + 1] = ".B " .. roff(left)
  lines[#lines + 1] = roff(right ~= "" and right or " ")
end

local function roff_verb(lines, part)
  local spec = part.spec
  lines[#lines + 1] = ".SS " .. roff("sbxlua " .. part.path)
  if spec.summary then lines[#lines + 1] = roff(spec.summary) end
  for usage in usage_of(part.path, spec):gmatch("[^\n]+") do
    lines[#lines + 1] = ".PP"
    lines[#lines + 1] = ".B " .. roff("sbxlua " .. usage)
  end
  if spec.description then
    lines[#lines + 1] = ".PP"
    lines[#lines + 1] = roff(spec.description)
  end
  for _, row in ipairs(option_rows(spec)) do
    roff_list(lines, row.left, row.right)
  end
  if spec.notes then
    lines[#lines + 1] = ".PP"
    lines[#lines + 1] = roff(spec.notes)
  end
  if #examples(spec) > 0 then
    lines[#lines + 1] = ".PP"
    lines[#lines + 1] = ".nf"
    for _, example in ipairs(examples(spec)) do
      lines[#lines + 1] = roff("    " .. example:gsub("\n$", ""):gsub("\n", "\n    "))
    end
    lines[#lines + 1] = ".fi"
  end
end

-- Everything about every verb, in the order of the list.
local function all_parts()
  local parts = {}
  for _, group in ipairs(verbs.groups) do
    for _, entry in ipairs(shown(group)) do
      for _, part in ipairs(flatten(entry.name, verbs.spec(entry), {})) do
        part.group = group
        parts[#parts + 1] = part
      end
    end
  end
  return parts
end

---The manual page, for man(1).
---@param version string
---@return string
function pages.man(version)
  local lines = {
    ('.TH SBXLUA 1 "" "sbxlua %s" "User Commands"'):format(version),
    ".SH NAME", "sbxlua \\- scripts and commands for sandboxes", ".SH SYNOPSIS",
  }
  for i, usage in ipairs(USAGES) do
    if i > 1 then lines[#lines + 1] = ".br" end
    lines[#lines + 1] = ".B sbxlua"
    lines[#lines + 1] = roff(usage[1])
  end
  lines[#lines + 1] = ".SH DESCRIPTION"
  lines[#lines + 1] = roff(ABOUT)
  lines[#lines + 1] = ".SH OPTIONS"
  for _, option in ipairs(globals.options({ client = true, output = true })) do
    roff_list(lines, left_of(option), option.help)
  end
  for _, option in ipairs(SCRIPT_OPTIONS) do
    roff_list(lines, option[1], option[2])
  end
  lines[#lines + 1] = ".SH COMMANDS"
  for _, part in ipairs(all_parts()) do
    roff_verb(lines, part)
  end
  lines[#lines + 1] = ".SH EXIT STATUS"
  for _, status in ipairs(EXIT_STATUS) do
    roff_list(lines, status[1], status[2])
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ------------------------------------------------------------- docs/commands.md

local INTRO = [[
# Commands

What `sbxlua COMMAND` does. This page is made by `sbxlua man --markdown` from the same
tables as `--help`, the manual page and the completion of shells.

    $ export PRIME_API_KEY=...            # or start `sbxlua serve` and set what it says
    $ id=$(sbxlua create python:3.11-slim)
    $ sbxlua exec $id -- python -c 'print(6 * 7)'
    42
    $ sbxlua rm $id

Other programs use them the same way; `arg[-1]` is this one:

```lua run
local json = require("sbx.json")
local process = require("sbx.process")

local words = { "run", "--local", "debian", "--", "sh", "-c", "echo hi; exit 3" }
local ran = process.run({ arg[-1], table.unpack(words) })
print(ran.code, (ran.stdout:gsub("\n", "")))

local failed = process.run({ arg[-1], "ls", "--older-than", "soon", "-o", "json" })
print(failed.code, json.decode(failed.stderr).error.kind)
```
```text
3	hi
2	usage
```

stdout carries data only; whatever is for people goes to stderr. Where a sandbox is
expected, its id, its name, or a beginning of its id that no other has will do. Times are
`250ms`, `30s`, `10m`, `2h`; `--` ends the options; nothing is asked unless stdin and stderr
are terminals.

With `-o json` a list is an array of objects and a single thing an object, each with
`"v": 1`; `-o jsonl` gives an object a line. Fields are only ever added. Times are RFC 3339 in
UTC. A failure is one object on stderr then, with `error` and `exit_status`. Colours are for
terminals only, and for none with `NO_COLOR`, `CI` or `TERM=dumb`.

A command line is seen by everybody on the machine, so keys are not taken from it: they come
from `--key-file`, the environment, a [context](#sbxlua-context) or `~/.prime/config.json`.

The name of a command is that command even where a file is called so: `./ls` is the file.
]]

local function cell(text)
  return (text:gsub("|", "\\|"):gsub("<", "&lt;"))
end

local function paragraph(lines, text)
  local wrapped = require("sbx.cli.width").wrap(text, PAGE)
  table.move(wrapped, 1, #wrapped, #lines + 1, lines)
end

local function markdown_rows(lines, rows)
  if #rows == 0 then return end
  lines[#lines + 1] = "| | |"
  lines[#lines + 1] = "| --- | --- |"
  for _, row in ipairs(rows) do
    lines[#lines + 1] = ("| `%s` | %s |"):format(row.left:gsub("|", "\\|"), cell(row.right))
  end
  lines[#lines + 1] = ""
end

local function markdown_verb(lines, part)
  local spec = part.spec
  local depth = part.path:find(" ") and "###" or "##"
  lines[#lines + 1] = ("%s sbxlua %s"):format(depth, part.path)
  lines[#lines + 1] = ""
  if spec.summary then
    lines[#lines + 1] = spec.summary
    lines[#lines + 1] = ""
  end
  for usage in usage_of(part.path, spec):gmatch("[^\n]+") do
    lines[#lines + 1] = "    sbxlua " .. usage
  end
  lines[#lines + 1] = ""
  if spec.description then
    paragraph(lines, spec.description)
    lines[#lines + 1] = ""
  end
  markdown_rows(lines, option_rows(spec))
  if spec.notes then
    paragraph(lines, spec.notes)
    lines[#lines + 1] = ""
  end
  for _, example in ipairs(examples(spec)) do
    lines[#lines + 1] = "    $ " .. example:gsub("\n$", ""):gsub("\n", "\n    ")
  end
  if #examples(spec) > 0 then lines[#lines + 1] = "" end
end

---docs/commands.md.
---@return string
function pages.markdown()
  local lines = { INTRO }
  lines[#lines + 1] = "## Options of every command"
  lines[#lines + 1] = ""
  local rows = {}
  for _, option in ipairs(globals.options({ client = true, output = true })) do
    rows[#rows + 1] = { left = left_of(option), right = option.help }
  end
  markdown_rows(lines, rows)
  paragraph(lines, "They stand before or behind the command; but for the first two also before a"
    .. " script.")
  lines[#lines + 1] = ""
  lines[#lines + 1] = "## Exit status"
  lines[#lines + 1] = ""
  rows = {}
  for _, status in ipairs(EXIT_STATUS) do
    rows[#rows + 1] = { left = status[1], right = status[2] }
  end
  markdown_rows(lines, rows)
  paragraph(lines, "`exec` and `run` end with the status of their command, 0 to 255; with 124"
    .. " when its deadline has come, and 125 when sbxlua itself failed.")
  lines[#lines + 1] = ""
  for _, part in ipairs(all_parts()) do
    markdown_verb(lines, part)
  end
  return (table.concat(lines, "\n"):gsub("\n+$", "\n"))
end

return pages
