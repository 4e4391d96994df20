-- Completion within a string that is being typed: modules behind `require`, else the
-- files of this machine and the sandboxes at hand.

local errors = require("sbx.errors")
local fs = require("sbx.fs")

local places = {}

local MOST = 2000 -- names of a folder

---The files whose paths begin so; those of hidden names only where asked for.
---@async
---@param prefix string
---@return { text: string, shown: string }[]
function places.files(prefix)
  local folder, name = prefix:match("^(.*/)([^/]*)$")
  folder, name = folder or "", name or prefix
  local path = folder == "" and "." or folder
  if path:sub(1, 2) == "~/" then path = (os.getenv("HOME") or "~") .. path:sub(2) end
  local words = {}
  for _, entry in ipairs(errors.try(fs.list, path) or {}) do
    if #words >= MOST then break end
    local hidden = entry:sub(1, 1) == "." and name:sub(1, 1) ~= "."
    if entry:sub(1, #name) == name and not hidden and not entry:find("%c") then
      local slash = errors.try(fs.is_dir, path .. "/" .. entry) and "/" or ""
      words[#words + 1] = { text = folder .. entry .. slash, shown = entry .. slash }
    end
  end
  return words
end

-- Modules that a folder of package.path holds.
local function add_from_path(found, prefix)
  local part = prefix:match("^(.*)%.[^.]*$")
  local below = part and part:gsub("%.", "/") .. "/" or ""
  for template in package.path:gmatch("[^;]+") do
    local folder, ending = template:match("^(.-)%?(%.lua)$")
    if folder then
      local path = folder .. below
      for _, entry in ipairs(errors.try(fs.list, path == "" and "." or path) or {}) do
        local name = entry:match("^([%w_-]+)" .. ending .. "$")
        if name then found[(part and part .. "." or "") .. name] = true end
      end
    end
  end
end

---@async
local function modules(prefix, env)
  local found = { sbx = true }
  for _, name in ipairs(env.library_names) do
    found["sbx." .. name] = true
  end
  for _, from in ipairs({ package.loaded, package.preload }) do
    for name in next, from do
      -- What is below the library's public modules is its own affair.
      if type(name) == "string" and not name:find("^sbx%.") and name ~= "_G" then
        found[name] = true
      end
    end
  end
  add_from_path(found, prefix)
  local words = {}
  for name in pairs(found) do
    if name:sub(1, #prefix) == prefix then words[#words + 1] = { text = name } end
  end
  table.sort(words, function(a, b) return a.text < b.text end)
  return words
end

-- Files and sandboxes that a quoted text may go on to; what a string would need an
-- escape for is left out.
local function quotable(words, quote)
  local kept = {}
  for _, word in ipairs(words) do
    if not word.text:find("[\\" .. quote .. "]") then kept[#kept + 1] = word end
  end
  return kept
end

---@async
---@param tokens sbx.repl.Token[]  the last one is an open string
---@param env sbx.repl.CompletionEnv
---@return sbx.repl.Completion|nil
function places.at(tokens, env)
  local token = tokens[#tokens]
  if token.quote == "[" then return nil end
  local prefix = token.text:sub(2)
  if prefix:find("\\", 1, true) then return nil end
  local before = tokens[#tokens - 1]
  local caller = before and before.text == "(" and tokens[#tokens - 2] or before
  if caller and caller.text == "require" then
    return { count = #prefix, words = modules(prefix, env), closing = token.quote }
  end
  local words = places.files(prefix)
  for _, id in ipairs(env.sandboxes()) do
    if id:sub(1, #prefix) == prefix then table.insert(words, { text = id }) end
  end
  return { count = #prefix, words = quotable(words, token.quote), closing = token.quote }
end

return places
