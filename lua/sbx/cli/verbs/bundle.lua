-- The verb `bundle`.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local make = require("sbx.bundle.make")
local output = require("sbx.cli.output")

local verb = { uses = {} }

local MODE = 493 -- octal 755

verb.spec = {
  example = {
    "sbxlua bundle fleet.lua -o fleet",
    "sbxlua bundle fleet.lua -o fleet --include templates --include plugins.s3",
  },
  description = "Makes one program of a script: a copy of sbxlua with the script inside, and with "
    .. "the modules that it and they `require` by a name in quotes. The same files make the "
    .. "same bytes.",
  arguments = { { name = "script", type = "file", metavar = "FILE", help = "the script" } },
  options = {
    { name = "output", short = "o", metavar = "PATH", complete = "file",
      help = "the program to write (default: the name of the script without .lua)" },
    { name = "include", type = "list", metavar = "WHAT", complete = "file",
      help = "a file or folder that goes along, or a module that is required by no literal name" },
    { name = "exclude", type = "list", metavar = "MODULE", help = "a module to leave out" },
    { name = "on-local", type = "flag",
      help = "the program runs on sandboxes of its machine, like a script with --local" },
  },
}

---@async
function verb.run(given, out)
  local target = given.output or given.script:match("[^/]*$"):gsub("%.lua$", "")
  local there = errors.try(fs.realpath, target)
  if there and there == fs.realpath(given.script) then
    errors.raise({
      kind = "usage", message = target .. ": is the script itself; name the program with -o",
    })
  end
  local program, contents = make.program(given.script, {
    include = given.include, exclude = given.exclude, is_local = given.on_local,
  })
  fs.write_atomic(target, program, { mode = MODE })
  local count = 0
  for _ in pairs(contents.modules) do
    count = count + 1
  end
  out:note("%s: made, with %s", target, output.count(count, "module"))
end

return verb
