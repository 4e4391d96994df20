-- What sandboxes of `serve --driver docker` would have here. Nothing is started for it.

local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local fence = require("sbx.server.driver.docker.fence")
local finding = require("sbx.cli.doctor.finding")

local engine = {}

---Asks the container engine, where there is one, and tells how far networks are enforced.
---@async
---@return sbx.cli.Finding
function engine.try()
  local path = engines.socket_path()
  local found = engines.open(path)
  local headers, failure = errors.try(found.ping, found)
  if not headers then
    return finding.skipped("no engine: " .. finding.line(failure))
  end
  local name = found.podman and "Podman " .. found.podman or "Docker, API " .. found.version
  local problem = found.podman and fence.PODMAN or fence.obstacle()
  if not problem then
    return finding.ok(name .. "; without a network none; with one only public addresses, of an"
      .. " engine on this machine")
  end
  return finding.weak(name .. "; without a network none; with one all but neighbours: "
    .. finding.line(problem), "for other networks to be fenced off: serve as root, beside a Docker"
    .. " engine, with nsenter and ip; or use the bwrap driver")
end

return engine
