-- The public modules, loaded when first used: `local sbx = require "sbx"`.

local names = {
  "check", "errors", "fs", "hash", "http", "json", "log", "net", "process",
  "sandbox", "task",
}

local sbx = { try = require("sbx.errors").try }

local public = {}
for _, name in ipairs(names) do
  public[name] = true
end

return setmetatable(sbx, {
  __index = function(self, name)
    if not public[name] then return nil end
    local module = require("sbx." .. name)
    rawset(self, name, module)
    return module
  end,
})
