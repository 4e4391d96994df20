-- What the scripted API (api.lua) answers beside sandboxes: network policies, SSH
-- sessions, registries and images.

local json = require("sbx.json")

local routes = {
  { "GET", "^/api/v1/sandbox/([^/]+)/egress%-policy$", "get_egress" },
  { "PUT", "^/api/v1/sandbox/([^/]+)/egress%-policy$", "put_egress" },
  { "POST", "^/api/v1/sandbox/([^/]+)/ssh%-session$", "open_ssh" },
  { "DELETE", "^/api/v1/sandbox/([^/]+)/ssh%-session/", "close_ssh" },
  { "GET", "^/api/v1/template/registry%-credentials$", "credentials" },
  { "POST", "^/api/v1/template/check%-docker%-image$", "check_image" },
  { "GET", "^/api/v1/images$", "images" },
  { "PATCH", "^/api/v1/images$", "update_images" },
  { "POST", "^/api/v1/images/build$", "build" },
  { "POST", "^/api/v1/images/build/([^/]+)/start$", "start_build" },
  { "GET", "^/api/v1/images/build/([^/]+)$", "get_build" },
  { "POST", "^/api/v1/images/(.+)/vm%-build$", "build_vm" },
  { "PUT", "^/store/([^/]+)$", "store" },
  { "POST", "^/gw/ns/([^/]+)/authorize$", "authorize" },
}

local usual = {}

-- A policy is applied at the second look at it.
local function egress(server, id)
  local known = server.egress[id]
  if not known then
    known = {
      policy = { allowlist = json.null, denylist = json.array({}) }, generation = 1, applied = 1,
    }
    server.egress[id] = known
  end
  return known, {
    policy = known.policy, generation = known.generation, applied_generation = known.applied,
    applied = known.applied == known.generation,
  }
end

function usual.get_egress(server, call)
  local known = egress(server, call.id)
  known.looks = (known.looks or 1) + 1
  if known.looks >= 2 then known.applied = known.generation end
  return 200, select(2, egress(server, call.id))
end

function usual.put_egress(server, call)
  local known = egress(server, call.id)
  known.policy, known.generation, known.looks = call.body, known.generation + 1, 0
  return 202, select(2, egress(server, call.id))
end

function usual.open_ssh(server, call)
  return 200, {
    session_id = "ssh-1", exposure_id = "exp-9", sandbox_id = call.id, host = "127.0.0.1",
    port = 2222, external_endpoint = "127.0.0.1:2222", expires_at = "2026-03-02T09:20:00Z",
    ttl_seconds = call.body.ttl_seconds or 900, gateway_url = server.gateway_url, user_ns = "ns",
    job_id = call.id, token = "ssh-token-4712",
  }
end

function usual.close_ssh() return 200, { success = true } end

function usual.authorize() return 200, { success = true } end

function usual.credentials()
  return 200, { credentials = json.array({
    {
      id = "cred-1", name = "mine", server = "registry.example",
      createdAt = "2026-03-02T09:00:00Z",
    },
  }) }
end

function usual.check_image() return 200, { accessible = true, details = "found" } end

function usual.images(server, call)
  local offset, limit = tonumber(call.query.offset[1]), tonumber(call.query.limit[1])
  local data = {}
  for i = offset + 1, math.min(offset + limit, server.image_count or 0) do
    data[#data + 1] = { id = "img-" .. i, imageName = "app", imageTag = "v" .. i,
      status = "COMPLETED", sizeBytes = i }
  end
  return 200, { data = json.array(data), totalCount = server.image_count or 0,
    offset = offset, limit = limit }
end

function usual.update_images(_, call)
  local results = {}
  for i, update in ipairs(call.body.updates) do
    results[i] = { source = update.source, success = true, before = json.null, after = update.set,
      error = json.null }
  end
  return 200, { success = true, dryRun = call.body.dryRun, results = json.array(results) }
end

function usual.build(server)
  return 200, { build_id = "build-1", expires_in = 600,
    upload_url = server.url .. "/store/one?X-Signature=secret-signature-4713" }
end

function usual.store(server, call)
  server.files[call.id] = call.bytes
  return 200, ""
end

function usual.start_build() return 200, {} end

function usual.get_build(_, call)
  local status = ({ "PENDING", "BUILDING" })[call.n] or "COMPLETED"
  return 200, { id = call.id, status = status, fullImagePath = "registry.example/app:v1" }
end

function usual.build_vm() return 200, { buildId = "build-vm" } end

return { routes = routes, usual = usual }
