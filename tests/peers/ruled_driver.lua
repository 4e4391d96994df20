-- A driver whose sandboxes are real, but for their network: the rules that they are given
-- are noted, and enforced by nobody. Loaded with dofile by the tests.

local bwrap = require("sbx.server.driver.bwrap")
local errors = require("sbx.errors")

local ruled = {}

local Driver = {}
Driver.__index = Driver

---@param options? { hold?: fun() }  called before each boot; may wait
function ruled.open(options)
  return setmetatable({
    name = "ruled", features = { network_rules = true, images = false },
    inner = bwrap.open(), options = options or {},
    booted = {}, -- by id: the rules at the boot, "open" or "none"
    set = {}, -- by id: the policies since, in their order
  }, Driver)
end

local function note(network, rules)
  if not network then return "none" end
  return rules or "open"
end

function Driver:create(spec)
  self.booted[spec.id] = note(spec.network, spec.network_rules)
  if self.options.hold then self.options.hold() end
  local copy = {}
  for name, value in pairs(spec) do
    copy[name] = value
  end
  copy.network, copy.network_rules = false, nil
  local box = self.inner:create(copy)
  local list = {}
  self.set[spec.id] = list
  return setmetatable({
    set_network = function(_, rules)
      local entry = (rules.allowlist or rules.denylist)[1]
      if entry == "no-such-host.invalid" then
        errors.raise { kind = "io", code = "ENOENT", message = entry .. ": no such host" }
      end
      list[#list + 1] = rules
    end,
  }, { __index = function(_, name)
    local value = box[name]
    if type(value) ~= "function" then return value end
    return function(_, ...) return value(box, ...) end
  end })
end

function Driver:check() return self.inner:check() end

function Driver.look_for_image(_, image) return image ~= "missing", "noted" end

function Driver.close() end

return ruled
