-- The verb `check`.

local fs = require("sbx.fs")
local lint = require("sbx.lint")
local modules = require("sbx.bundle.modules")

local verb = { uses = { output = true } }

verb.spec = {
  example = { "sbxlua check fleet.lua", "sbxlua check -o json scripts" },
  description = "Looks for mistakes that would show only once the script runs: syntax, names that "
    .. "nobody defines, fields, methods and options that the library does not have. Where "
    .. "something is not certain, nothing is said. Nothing is run and no request sent.",
  arguments = {
    { name = "files", type = "path", many = true, metavar = "FILE",
      help = "scripts, or folders with files that end in .lua" },
  },
  notes = "A line that has the comment `-- sbxlua: ignore` is left alone. The exit status is 1 "
    .. "when something was found.",
}

local columns = {
  { "FILE", "file" }, { "LINE", "line" }, { "COLUMN", "column" }, { "MESSAGE", "message" },
}

-- What `sbxlua test` defines, in files that it takes for tests.
local TEST_GLOBALS = { test = true, skip = true }
local TEST_NAMES = { "^test_", "_test%.lua$", "^regress_" }

local function globals_of(file)
  local name = file:match("[^/]*$")
  local globals = {}
  for _, pattern in ipairs(TEST_NAMES) do
    if name:find(pattern) then
      for each in pairs(TEST_GLOBALS) do
        globals[each] = true
      end
    end
  end
  return globals
end

-- All files meant, in order.
---@async
local function files_of(names)
  local files = {}
  for _, name in ipairs(names) do
    if fs.stat(name).type == "directory" then
      local inside = {}
      for file, entry in fs.walk(name) do
        if file:find("%.lua$") and entry.type ~= "directory" then inside[#inside + 1] = file end
      end
      table.sort(inside)
      table.move(inside, 1, #inside, #files + 1, files)
    else
      files[#files + 1] = name
    end
  end
  return files
end

---@async
local function check_file(file)
  local text = fs.read(file)
  local globals = globals_of(file)
  -- A module that is found beside the script may define globals for it.
  for _, module in ipairs(modules.of_script(file, text).found) do
    local known = lint.facts(module.text)
    for name in pairs(known and known.defined or {}) do
      globals[name] = true
    end
  end
  return lint.check(text, { globals = globals })
end

---@async
function verb.run(given, out)
  local rows = {}
  for _, file in ipairs(files_of(given.files)) do
    for _, found in ipairs(check_file(file)) do
      rows[#rows + 1] = {
        file = file, line = found.line, column = found.column, rule = found.rule,
        message = found.message,
      }
    end
  end
  if out.format == "table" then
    for _, row in ipairs(rows) do
      io.stdout:write(("%s:%d:%d: %s\n"):format(row.file, row.line, row.column, row.message))
    end
  else
    out:rows(rows, columns, "file")
  end
  return #rows > 0 and 1 or 0
end

return verb
