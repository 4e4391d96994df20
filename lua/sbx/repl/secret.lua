-- Which inputs are not written to the history: those with a key or a password.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local redact = require("sbx.log.redact")

local secret = {}

local SHORTEST = 8 -- bytes of a value that is looked for

-- Shapes of keys, also of such that are too short to be real: better one line too few.
local SHAPES = {
  "%f[%w]sk%-[%w_-][%w_-][%w_-][%w_-]", "[Bb]earer%s+[%w%-._~+/=]+", "%f[%w]gh[pousr]_%w+",
  "%f[%w]github_pat_%w+", "%f[%w]xox[abprs]%-", "%f[%w]AKIA%w+", "%f[%w]eyJ[%w_-]+%.",
  "%-%-%-%-%-BEGIN [%u ]*PRIVATE KEY",
}

-- A name that sounds secret and a quoted value: api_key = "...", ["token"]: '...'.
local ASSIGNED = "([%w_-]+)[\"'%]]*%s*[=:]%s*%[?[\"'%[]([^\"'%]]+)"

---Whether a text holds what nobody else should see.
---@param text string
---@return boolean
function secret.is_in(text)
  if redact.keys(text) ~= text then return true end
  for _, shape in ipairs(SHAPES) do
    if text:find(shape) then return true end
  end
  for name, value in text:gmatch(ASSIGNED) do
    if #value >= 4 and redact.is_secret_name(name) then return true end
  end
  -- setenv-like calls and tables: "PRIME_API_KEY", "..."
  for name, value in text:gmatch("[\"']([%w_-]+)[\"']%s*,%s*[\"']([^\"']+)[\"']") do
    if #value >= 4 and redact.is_secret_name(name) then return true end
  end
  return false
end

---Makes the values known that the environment holds under names that sound secret,
---and the key of the configuration: they are found wherever they stand.
---@async
function secret.learn()
  for name, value in (errors.try(fs.read, "/proc/self/environ") or ""):gmatch("([^=%z]+)=(%Z*)") do
    if #value >= SHORTEST and redact.is_secret_name(name) then redact.add(value) end
  end
  -- It does so itself with the key that it finds.
  pcall(require("sbx.sandbox.config").load, {})
end

return secret
