-- The modules that a script needs, found without running it: what `require` is given
-- as a literal, in the script and in the modules found.

local lint = require("sbx.lint")
local host = require("sbx.core.host")

local modules = {}

---@class sbx.bundle.Module
---@field name string  as `require` says it
---@field path string  where it was found
---@field text string

---@class sbx.bundle.Missing
---@field name string
---@field file string    who requires it
---@field line integer
---@field problem string

local STOCK = {}
for name in ("_G coroutine debug io math os package string table utf8"):gmatch("%S+") do
  STOCK[name] = true
end

-- Whether the program has it anyway.
local function is_built_in(name)
  if STOCK[name] then return true end
  return name:find("^sbx%f[.\0]") ~= nil
    and (package.preload[name] ~= nil or host.file(name) ~= nil)
end

-- Where `require` looks in a run of the script: beside it first.
local function search_path(script)
  local folder = script:match("^(.*/)") or "./"
  return folder .. "?.lua;" .. folder .. "?/init.lua;" .. package.path
end

local function read(path)
  local file, problem = io.open(path, "rb")
  if not file then return nil, problem end
  local text = file:read("a")
  file:close()
  return text
end

-- The module, or nil and why not.
local function find(name, path)
  if name:find("\0", 1, true) then return nil, "no name of a module" end
  local found, problem = package.searchpath(name, path)
  if not found then
    local library = package.searchpath(name, package.cpath)
    if library then return nil, library .. " is a shared library, which cannot go along" end
    return nil, "not found:" .. problem:gsub("^\n?", "\n")
  end
  local text
  text, problem = read(found)
  if not text then return nil, problem end
  return { name = name, path = found, text = text }
end

---What a script and the modules it requires by literals need, in the order in which
---they are met.
---@async
---@param script string  its path
---@param text string
---@param also? string[]  modules that are wanted besides
---@param without? table<string, boolean>  modules that are not to be followed
---@return { found: sbx.bundle.Module[], missing: sbx.bundle.Missing[] }
function modules.of_script(script, text, also, without)
  local path, seen = search_path(script), {}
  local result = { found = {}, missing = {} }
  local visit

  local function want(name, file, line)
    if seen[name] or is_built_in(name) or (without and without[name]) then return end
    seen[name] = true
    local module, problem = find(name, path)
    if not module then
      table.insert(result.missing, { name = name, file = file, line = line, problem = problem })
      return
    end
    table.insert(result.found, module)
    visit(module.path, module.text)
  end

  function visit(file, source)
    local facts = lint.facts(source)
    for _, each in ipairs(facts and facts.required or {}) do
      want(each.name, file, each.line)
    end
  end

  visit(script, text)
  for _, name in ipairs(also or {}) do
    want(name, "--include", 0)
  end
  return result
end

return modules
