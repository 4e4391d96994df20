-- The public modules, loaded when first used: `local sbx = require "sbx"`.

local names = {
  "bundle", "channel", "check", "cli", "encoding", "errors", "fs", "hash", "http", "inspect",
  "json", "limit", "log", "net", "path", "process", "progress", "reader", "retry",
  "sandbox", "signal", "sync", "task", "test", "time", "url",
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
