-- The pages of the documentation, and what is known of a function: the comment above it
-- in its source, or what its page says.

local docs = require("sbx.docs")
local errors = require("sbx.errors")
local fs = require("sbx.fs")

local help = {}

-- ------------------------------------------------------------------------ pages

-- Where a module's page has another name.
local OTHER = { ["http.websocket"] = "websocket", sbx = "scripts" }

---The page of a module or topic: of "task", "sbx.task" or "task.spawn".
---@param topic string
---@return string|nil text, string|nil problem
function help.find(topic)
  local name = topic:gsub("^sbx%.", "")
  local text = docs.page(OTHER[name] or name) or docs.page((name:gsub("[._ ]", "-")))
  local first = name:match("^([%w_-]+)[.:]")
  text = text or first and docs.page(first)
  if text then return text end
  return docs.page(topic)
end

-- -------------------------------------------------------------------- functions

-- What `check.methods` has put around a method.
local function unwrapped(fn)
  local info = debug.getinfo(fn, "S")
  if info.source ~= "@sbx/check.lua" then return fn end
  local index = 1
  while true do
    local name, value = debug.getupvalue(fn, index)
    if not name then return fn end
    if name == "method" and type(value) == "function" then return value end
    index = index + 1
  end
end

-- The library is in the binary as bytecode: its source is only there where it is
-- read from a folder.
---@async
local function source_of(info)
  local path = info.source:match("^@(.*)$")
  if not path then return nil end
  local root = os.getenv("SBXLUA_LUA") or ""
  if path:sub(1, 4) == "sbx/" then
    if root == "" then return nil end
    local beside = root .. "/" .. path
    return errors.try(fs.read, beside)
      or errors.try(fs.read, (beside:gsub("%.lua$", "/init.lua")))
  end
  return (errors.try(fs.read, path, { max = 1 << 24 }))
end

-- The lines of a module's page that name one of its functions.
local function lines_about(module, name)
  local text = docs.page(module)
  local lines = {}
  for line in (text or ""):gmatch("[^\n]+") do
    if line:find("[.:`]" .. name .. "[%s({`]") then lines[#lines + 1] = line end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

-- The functions that Lua itself brings.
local function in_manual(fn)
  for _, module in ipairs({ "_G", "string", "table", "math", "os", "io", "utf8", "coroutine",
    "debug", "package" }) do
    for name, value in next, package.loaded[module] do
      if rawequal(value, fn) and name ~= "_" then
        name = module == "_G" and name or module .. "." .. name
        return ("%s is Lua's own: https://www.lua.org/manual/5.4/manual.html#pdf-%s")
          :format(name, name)
      end
    end
  end
end

---What is known of a function: its line, and the comment above it in its source.
---@async
---@param fn function
---@param name string  what it is called: "task.spawn"
---@return string|nil
function help.of_function(fn, name)
  fn = unwrapped(fn)
  local info = debug.getinfo(fn, "S")
  -- Some of Lua's functions are the library's, so that they may wait.
  local is_own = info.what == "C" or info.source:find("^@sbx/")
  local manual = is_own and in_manual(fn)
  if manual then return manual end
  if info.what == "C" then return nil end
  local text = source_of(info)
  if not text then
    local module = info.source:match("^@sbx/([%w_]+)")
    return lines_about(module or "", name:match("[%w_]+$") or "")
      or ("%s:%d"):format(info.short_src, info.linedefined)
  end
  local lines = {}
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    lines[#lines + 1] = line
    if #lines == info.linedefined then break end
  end
  local first = #lines
  while first > 1 and lines[first - 1]:find("^%s*%-%-") do
    first = first - 1
  end
  local shown = {}
  for i = first, #lines do
    shown[#shown + 1] = (lines[i]:gsub("^%s*%-%-%-?%s?", ""))
  end
  shown[#shown + 1] = ("(%s:%d)"):format(info.short_src, info.linedefined)
  return table.concat(shown, "\n")
end

return help
