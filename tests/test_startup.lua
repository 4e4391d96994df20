-- A start loads only what every run needs; tests/bench/startup.lua says what it costs.

local host = require("sbx.core.host")
local process = require("sbx.process")

-- The modules of the library that a run of `code` has loaded once it is asked.
local function loaded_by(code)
  local text = process.run({
    host.executable(), "-e",
    code .. " for name in pairs(package.loaded) do print(name) end",
  }, { check = true }).stdout
  local names = {}
  for name in text:gmatch("[^\n]+") do
    if name:find("^sbx%.") and not name:find("^sbx%.core%.") then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

test("start: an empty script loads a dozen small modules and nothing of the library", function()
  local names = loaded_by("")
  local text = table.concat(names, " ")
  assert(#names <= 12, text)
  for _, module in ipairs({ "sbx.http", "sbx.task", "sbx.sandbox", "sbx.docs" }) do
    assert(not (" " .. text .. " "):find(" " .. module .. " ", 1, true), module)
  end
end)

test("start: compiled modules keep their names and lines", function()
  local code = [[
    local loader = require("sbx.check").options
    local info = debug.getinfo(loader, "S")
    print(info.source, info.linedefined > 1, (debug.getlocal(loader, 1)))
    local _, problem = pcall(require("sbx.errors").new, 5)
    print(problem)
  ]]
  local text = process.run({ host.executable(), "-e", code }, { check = true }).stdout
  assert(text:find("^@sbx/check.lua\ttrue\tgiven\n"), text)
  assert(not text:find("%?:"), text) -- what stripped bytecode gives as a place
end)
