-- The names that an input finds beside its own: `sbx`, the modules of the library as
-- globals that are loaded when first used, and `_`.

local names = {}

local PUBLIC = {
  "channel", "check", "cli", "encoding", "errors", "fs", "hash", "http", "inspect", "json",
  "limit", "log", "net", "path", "process", "progress", "reader", "retry", "sandbox", "signal",
  "sync", "task", "test", "time", "url",
}

local public = {}
for _, name in ipairs(PUBLIC) do
  public[name] = true
end

-- Modules become globals by being asked for; what a script sets itself counts.
local function lazily(name)
  return public[name] and require("sbx." .. name) or nil
end

---@class sbx.repl.Names: sbx.repl.CompletionEnv

---Makes them known, until the end of the `<close>` variable. What is returned tells
---completion of them.
---@param lua sbx.repl.Session
---@return sbx.repl.Names
function names.install(lua)
  local before = getmetatable(_G)
  local had = rawget(_G, "sbx")
  if had == nil then rawset(_G, "sbx", require("sbx")) end
  if not before then
    setmetatable(_G, { __index = function(_, name) return lazily(name) end })
  end
  return setmetatable({
    locals = function(name) return lua:value(name) end,
    local_names = function() return lua:names() end,
    lazy = lazily,
    library = require("sbx"),
    library_names = PUBLIC,
    sandboxes = function()
      local ownership = package.loaded["sbx.sandbox.ownership"]
      local ids = {}
      for i, box in ipairs(ownership and ownership.list() or {}) do
        ids[i] = box.id
      end
      return ids
    end,
    command = function() return nil end,
  }, { __close = function()
    rawset(_G, "sbx", had)
    setmetatable(_G, before)
  end })
end

return names
