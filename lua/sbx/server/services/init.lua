-- What there is around sandboxes: background jobs of many of them, registries, images and
-- their builds, SSH. For `sbx.server.routes`.

local builds = require("sbx.server.services.builds")
local images = require("sbx.server.services.images")
local jobs = require("sbx.server.services.jobs")
local missing = require("sbx.server.services.missing")
local registry = require("sbx.server.services.registry")
local sessions = require("sbx.server.ssh")
local ssh = require("sbx.server.services.ssh")

local services = {}

---On the control plane: method, pattern, handler, the class of its limit.
services.control = {
  { "POST", "/sandbox/background-jobs/status:batchGet", jobs.batch_status }, -- counts itself
  { "POST", "/sandbox/{id}/ssh-session", ssh.open, "ssh" },
  { "DELETE", "/sandbox/{id}/ssh-session/{session_id}", ssh.close, "ssh" },
  { "GET", "/template/registry-credentials", registry.list, "registry" },
  { "POST", "/template/check-docker-image", registry.check_image, "registry" },
  { "GET", "/images", images.list, "images" },
  { "PATCH", "/images", images.update, "images" },
  { "POST", "/images/build", builds.order, "images" },
  { "POST", "/images/build/{build_id}/start", builds.start, "images" },
  { "GET", "/images/build/{build_id}", builds.get, "images" },
}

for _, route in ipairs(missing.control) do
  table.insert(services.control, route)
end

-- The slashes of a name stay: a pattern for each number of them.
local name = ""
for index = 1, 8 do
  name = name .. "/{part" .. index .. "}"
  table.insert(services.control,
    { "POST", "/images" .. name .. "/{tag}/vm-build", builds.vm, "images" })
end

---On the gateway.
services.gateway = {
  { "POST", "/authorize", ssh.authorize },
}

---By themselves: whoever knows the address may use it.
services.open = {
  { "PUT", "/image-context/{token}", builds.upload },
}

---Adds what handlers find on the server.
---@param server sbx.server.Server
---@param options sbx.server.Options
function services.equip(server, options)
  server.builds = builds.new()
  server.logins = options.logins or registry.none()
  server.ssh = sessions.new {
    scope = function() return server.scope end,
    folder = options.state and options.state.folder,
    host = options.expose_host,
    name = options.host_names[1],
  }
end

return services
