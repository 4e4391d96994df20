-- The functions of stock Lua that would stop the loop and are replaced in Lua.
-- Those of `io` that move bytes are replaced in C, before this is loaded.

local core = require("sbx.core.stock")

local stock = {}

-- All of a source that has to be waited for, or nil and a message.
---@async
local function read_source(path)
  local file = io.stdin
  if path then
    local opened, problem = io.open(path)
    if not opened then return nil, "cannot open " .. problem end
    file = opened
  end
  local text, problem = file:read("a")
  if path then file:close() end
  if not text then return nil, "cannot read " .. (path or "stdin") .. ": " .. problem end
  -- What the stock loader skips: a mark of UTF-8, and a first line with `#`.
  return (text:gsub("^\xEF\xBB\xBF", ""):gsub("^#[^\n]*", ""))
end

---@async
local function load_source(path, ...)
  local text, problem = read_source(path)
  if not text then return nil, problem end
  return load(text, path and "@" .. path or "=stdin", ...)
end

---@async
local function run_source(path)
  local chunk, problem = load_source(path)
  if not chunk then error(problem, 0) end
  return chunk()
end

---@async
local function run_debugger()
  while true do
    io.stderr:write("lua_debug> ")
    local line = io.stdin:read("L")
    if not line or line == "cont\n" then return end
    local chunk, problem = load(line, "=(debug command)")
    local ok = false
    if chunk then
      ok, problem = pcall(chunk)
    end
    if not ok then io.stderr:write(tostring(problem), "\n") end
  end
end

---Puts the replacements into the global tables.
function stock.install()
  loadfile = core.instead(loadfile, load_source)
  dofile = core.instead(dofile, run_source)
  debug.debug = run_debugger
  -- Most scripts start no command: the module is loaded by the first that does.
  io.popen, os.execute = core.commands(function(...)
    return require("sbx.stock.command").popen(...)
  end, function(...)
    return require("sbx.stock.command").execute(...)
  end)
end

return stock
