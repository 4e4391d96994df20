-- The start of a program that `sbxlua bundle` made.

local format = require("sbx.bundle.format")
local program = require("sbx.cli.program")
local stock = require("sbx.stock")

local start = {}

local function refuse(argv, problem)
  io.stderr:write(argv[0] or "sbxlua", ": this program is damaged: ", problem,
    "; copy it anew from where it came from\n")
  return 1
end

-- As for a script in a file, a first line with `#` is not for Lua.
local function load_text(part)
  local text = part.bytes:gsub("^\xEF\xBB\xBF", ""):gsub("^#[^\n]*", "")
  return load(text, "@" .. part.name, "t")
end

local function add_searcher(contents)
  -- Behind the library, ahead of files.
  table.insert(package.searchers, 3, function(name)
    local module = contents.modules[name]
    if not module then return "no module '" .. name .. "' in this program" end
    local loader, problem = load_text(module)
    if not loader then error(problem, 0) end
    return loader, module.name
  end)
end

---The files that go along, or nil in a script that is no bundled program.
---@type table<string, string>|nil
start.files = nil

---Runs the script that goes along. Returns the exit status.
---@async
---@param argv string[]
---@return integer
function start.run(argv)
  stock.install()
  local contents, problem = format.read()
  if not contents then return refuse(argv, problem) end
  start.files = contents.files
  add_searcher(contents)
  local chunk
  chunk, problem = load_text(contents.script)
  if not chunk then return refuse(argv, problem) end
  arg = argv
  local is_local = contents.is_local or (os.getenv("SBXLUA_LOCAL") or "") == "1"
  return program.run(is_local, chunk, table.unpack(argv))
end

return start
