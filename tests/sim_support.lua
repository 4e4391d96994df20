-- For tests with simulated sandboxes: a server for the length of a test, with rules and
-- chaos given as tables.

local chaos = require("sbx.server.chaos")
local rules = require("sbx.server.driver.sim.rules")
local sandbox = require("sbx.sandbox")
local script = require("sbx.server.script")
local server = require("sbx.server")
local sim = require("sbx.server.driver.sim")

local support = {}

---Runs `fn(running, driver)` against a fresh server. Options: `rules` and `chaos`
---(tables), `seed`, `log` of chaos, and those of `sbx.server.start`.
---@async
function support.with_server(options, fn)
  local given = {}
  for name, value in pairs(options) do
    given[name] = value
  end
  local driver = sim.open {
    rules = given.rules and rules.of(script.of(given.rules)), seed = given.seed,
  }
  local _ <close> = setmetatable({}, { __close = function() driver:close() end })
  local faults <close> = given.chaos and chaos.open {
    rules = given.chaos, seed = given.seed, log = given.log,
  }
  given.rules, given.seed, given.log = nil, nil, nil
  given.chaos = faults
  given.driver, given.api_key = driver, "test-key"
  given.notice = given.notice or function() end
  given.drain = given.drain or 0
  local running <close> = server.start(given)
  return fn(running, driver)
end

---@async
function support.client(running, options)
  local given = { api_key = running.api_key, base_url = running.url }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return sandbox.client(given)
end

---A driver alone.
---@async
function support.with_driver(given, fn)
  local driver = sim.open { rules = rules.of(script.of(given)) }
  local _ <close> = setmetatable({}, { __close = function() driver:close() end })
  return fn(driver, function(more)
    local spec = {
      id = "sbx-1", image = "x", hostname = "box", workdir = "/sandbox-workspace",
      disk_size_gb = 1,
    }
    for name, value in pairs(more or {}) do
      spec[name] = value
    end
    return driver:create(spec)
  end)
end

return support
