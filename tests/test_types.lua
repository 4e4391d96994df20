-- What an editor knows of the library: each function that a script can call says above
-- itself what it takes and gives.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")

local LIBRARY = here .. "../lua/sbx"

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    lines[#lines + 1] = line
  end
  return lines
end

-- The lines of the comment for the editor that ends above line `at`, or nil.
local function comment_above(lines, at)
  local found = {}
  while at > 1 and lines[at - 1]:find("^%s*%-%-%-") do
    at = at - 1
    table.insert(found, 1, (lines[at]:gsub("^%s*%-%-%-", "")))
  end
  return #found > 0 and found or nil
end

-- Whether the function that begins at line `at` gives a value back. What stands in
-- functions inside it is theirs; the layout of the code tells where those end.
local function gives_back(lines, at)
  local margin = lines[at]:match("^%s*")
  if lines[at]:find("%f[%w_]end%)?$") then -- all on one line
    return lines[at]:find("%f[%w_]return%s+[^%s]") ~= nil
      and not lines[at]:find("%f[%w_]return%s+end$")
  end
  local inner
  for i = at + 1, #lines do
    local line = lines[i]:gsub("%-%-.*$", "")
    local indent = line:match("^%s*")
    if indent == margin and line:find("^%s*end") then return false end
    line = line:gsub("function%s*%b().-%f[%w_]end%f[^%w_]", "")
    if inner then
      if indent == inner and line:find("^%s*end") then inner = nil end
    elseif line:find("%f[%w_]function%f[^%w_]") then
      inner = indent
      -- `return function(` gives the function back.
      if line:find("%f[%w_]return%s+%S") then return true end
    else
      local value = line:match("%f[%w_]return%f[^%w_]%s*(.*)$")
      if value and value ~= "" and not value:find("^end%f[^%w_]") then return true end
    end
  end
  return false
end

-- What the comment of a function lacks, as texts.
local function gaps(lines, at, parameters)
  local comment = comment_above(lines, at)
  if not comment then return { "has no comment" } end
  local told, returns, missing = {}, false, {}
  for _, line in ipairs(comment) do
    if line:find("^@type") or line:find("^@private") or line:find("^@overload") then return {} end
    local name = line:match("^@param%s+([%w_.]+)")
    if name then told[name] = true end
    returns = returns or line:find("^@return") ~= nil
  end
  for name in parameters:gmatch("[%w_.]+") do
    if not told[name] and name:sub(1, 1) ~= "_" then
      missing[#missing + 1] = "@param " .. name
    end
    told[name] = nil
  end
  for name in pairs(told) do
    missing[#missing + 1] = name .. " is no parameter"
  end
  if not returns and gives_back(lines, at) then missing[#missing + 1] = "@return" end
  return missing
end

-- ------------------------------------------------------- what scripts can reach

local function public_names()
  local text = fs.read(LIBRARY .. "/init.lua")
  local names = {}
  for name in text:match("local names = (%b{})"):gmatch('"(%w+)"') do
    names[#names + 1] = name
  end
  return names
end

-- What `check.methods` put in front of a method tells of that.
local function unwrapped(fn)
  for i = 1, 10 do
    local name, value = debug.getupvalue(fn, i)
    if name == "method" and type(value) == "function" then return value end
    if not name then return fn end
  end
  return fn
end

-- Path of a file and number of a line → true, for each function written in Lua that
-- stands in a public module, wherever it comes from.
local function reachable()
  local places, seen = {}, {}
  local function visit(value)
    if seen[value] then return end
    seen[value] = true
    for _, item in next, value do
      if type(item) == "table" then visit(item) end
      if type(item) == "function" then
        local info = debug.getinfo(unwrapped(item), "S")
        places[info.source:sub(2) .. ":" .. info.linedefined] = true
      end
    end
  end
  for _, name in ipairs(public_names()) do
    visit(require("sbx." .. name))
  end
  return places
end

-- The tables of a file whose functions scripts can call: the module itself, classes of
-- objects that have a public name, and methods of clients.
local function public_owners(path, text, modules)
  local owners = { methods = path:find("^sbx/sandbox/") ~= nil }
  for class in text:gmatch('\n(%w+)%.__name = "sbx%.') do
    owners[class] = true
  end
  -- Of objects made in C.
  for class in text:gmatch("\nlocal (%u%w*) = core[%w_.]*methods\n") do
    owners[class] = true
  end
  if modules[path] then owners[text:match("\nreturn ([%w_]+)%s*$") or ""] = true end
  return owners
end

-- Metamethods are called by no name.
local function check_file(path, text, owners, places, report)
  local lines = lines_of(text)
  local count = 0
  for at, line in ipairs(lines) do
    local owner, name = line:match("^function ([%w_.]+)[.:]([%w_]+)%(")
    if owner and name:sub(1, 2) ~= "__" and (owners[owner] or places[path .. ":" .. at]) then
      count = count + 1
      -- Parameters may go on over several lines.
      local head = table.concat(lines, " ", at, math.min(at + 8, #lines))
      local missing = gaps(lines, at, head:match("%((.-)%)"))
      if #missing > 0 then
        report[#report + 1] = ("%s:%d: %s.%s: %s"):format(path, at, owner, name,
          table.concat(missing, ", "))
      end
    end
  end
  return count
end

test("types: each function that scripts can call says what it takes and gives", function()
  local modules, places = {}, reachable()
  for _, name in ipairs(public_names()) do
    modules["sbx/" .. name .. ".lua"] = true
    modules["sbx/" .. name .. "/init.lua"] = true
  end
  local report, count = {}, 0
  for _, path in ipairs(fs.glob(LIBRARY .. "/**/*.lua")) do
    local text = fs.read(path)
    path = path:match("/lua/(sbx/.*)$")
    count = count + check_file(path, text, public_owners(path, text, modules), places, report)
  end
  assert(count > 300, "found only " .. count)
  assert(#report == 0, #report .. " gaps:\n" .. table.concat(report, "\n"))
end)

-- Whether an editor can tell what `name` of a module is: a function written out, one taken
-- from a module as it is, or one that a comment describes.
local function is_known(text, name)
  if text:find("\nfunction [%w_]+[.:]" .. name .. "%(") then return true end
  if text:find("\n%-%-%-@field " .. name .. " [^\n]*fun%(") then return true end
  local lines = lines_of(text)
  for at, line in ipairs(lines) do
    local value = line:match("^[%w_]+%." .. name .. " = (.*)$")
      or line:match("^local [%w_]+ = { " .. name .. " = (.*) }$")
      or line:match("^  " .. name .. " = (.*),$")
    if value then
      return comment_above(lines, at) ~= nil or value:find("[%w_)]%.[%w_]+$") ~= nil
    end
  end
  return false
end

test("types: no function of a module is made where no editor sees it", function()
  local report, count = {}, 0
  for _, module in ipairs(public_names()) do
    local path = LIBRARY .. "/" .. module
    path = fs.exists(path .. ".lua") and path .. ".lua" or path .. "/init.lua"
    local text = "\n" .. fs.read(path)
    for name, value in next, require("sbx." .. module) do
      if type(value) == "function" then
        count = count + 1
        if not is_known(text, name) then report[#report + 1] = module .. "." .. name end
      end
    end
  end
  table.sort(report)
  assert(count > 150, "found only " .. count)
  assert(#report == 0, "unknown: " .. table.concat(report, ", "))
end)

test("types: each function of a C module is declared", function()
  local report, count = {}, 0
  for _, path in ipairs(fs.glob(here .. "../lua/types/sbx.core.*.lua")) do
    local name = path:match("(sbx%.core%.%w+)%.lua$")
    local text = fs.read(path)
    for key, value in pairs(require(name)) do
      if type(value) == "function" then
        count = count + 1
        if not text:find("\nfunction [%w_]+[.:]" .. key .. "%(") then
          report[#report + 1] = name .. "." .. key
        end
      end
    end
  end
  assert(count > 100, "found only " .. count)
  assert(#report == 0, "not declared: " .. table.concat(report, ", "))
end)

-- An editor takes the word for who may see the field.
test("types: no field is called private, protected, public or package", function()
  for _, path in ipairs(fs.glob(here .. "../lua/**/*.lua")) do
    for name, rest in fs.read(path):gmatch("%-%-%-@field (p%l+)(%S*)") do
      local word = name == "private" or name == "protected" or name == "public" or name == "package"
      assert(not word or rest == "", path .. ": @field " .. name .. rest)
    end
  end
end)

test("types: what is missing is found", function()
  assert(is_known("\n---Does.\nx.f = made()", "f") and not is_known("\nx.f = made()", "f"))
  assert(is_known("\nx.f = y.f", "f") and not is_known("\nx[name] = y.f", "f"))
  local function found(text)
    local report = {}
    check_file("x.lua", text, { x = true }, {}, report)
    return table.concat(report, "; ")
  end
  assert(found("function x.f() end") == "x.lua:1: x.f: has no comment")
  assert(found("---Does.\nfunction x.f() end") == "")
  assert(found("-- Does.\nfunction x.f() end"):find("has no comment"))
  assert(found("---@param b any\nfunction x:f(a) end"):find("@param a, b is no parameter"))
  assert(found("---Does.\nfunction x.f(...)\n  g(...)\nend"):find("@param ...", 1, true))
  assert(found("---Does.\nfunction x.f()\n  return 1\nend"):find("@return"))
  assert(found("---Does.\nfunction x.f()\n  if a then return end\n  return\nend") == "")
  assert(found("---Does.\nfunction x.f()\n  g(function()\n    return 1\n  end)\nend") == "")
  assert(found("---Does.\nfunction x.f()\n  return function()\n  end\nend"):find("@return"))
  assert(found("function y.f() end") == "")
end)
