-- A registry of one image, for those who have a login. Loaded with dofile by the tests of
-- the docker driver, whose engine talks to it without TLS, as to all on loopback.

local core = require("sbx.core.server")
local hash = require("sbx.hash")
local json = require("sbx.json")
local task = require("sbx.task")

local registry = {}

local MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

---@class peers.Registry
---@field host string             "127.0.0.1:PORT"
---@field logins string[]         "user:password" of each request; "" without one
---@field echo boolean            refusals repeat what was sent
local Registry = {}
Registry.__index = Registry

local function digest_of(bytes)
  return "sha256:" .. hash.sha256(bytes)
end

local function described(kind, bytes)
  return {
    mediaType = "application/vnd.docker." .. kind, size = #bytes, digest = digest_of(bytes),
  }
end

local function manifest_of(config, layer)
  return json.encode {
    schemaVersion = 2, mediaType = MANIFEST,
    config = described("container.image.v1+json", config),
    layers = { described("image.rootfs.diff.tar.gzip", layer) },
  }
end

local function answer(request, status, kind, bytes)
  local headers = { ["Content-Type"] = kind, ["Docker-Content-Digest"] = digest_of(bytes) }
  headers["Docker-Distribution-Api-Version"] = "registry/2.0"
  if status == 401 then headers["WWW-Authenticate"] = 'Basic realm="test"' end
  request:respond(status, headers, bytes)
end

local function refuse(self, request, status, sent)
  local message = "authentication required"
  if self.echo then message = message .. ", not " .. sent end
  answer(request, status, "application/json", json.encode {
    errors = { { code = "UNAUTHORIZED", message = message } },
  })
end

-- Every path wants a login; of the image, one of those that may have it.
local function handle(self, request)
  local sent = request.headers.authorization or ""
  local login = sent:match("^Basic (.*)$")
  login = login and hash.base64_decode(login) or ""
  self.logins[#self.logins + 1] = login
  if not self.users[login] then return refuse(self, request, 401, sent .. " " .. login) end
  if request.path == "/v2/" then return answer(request, 200, "application/json", "{}") end
  if self.users[login] ~= "all" then return refuse(self, request, 403, sent .. " " .. login) end
  local kind, what = request.path:match("^/v2/team/app/(%a+)/(.+)$")
  if kind == "manifests" and (what == "v1" or what == digest_of(self.manifest)) then
    return answer(request, 200, MANIFEST, self.manifest)
  elseif kind == "blobs" and self.blobs[what] then
    return answer(request, 200, "application/octet-stream", self.blobs[what])
  end
  answer(request, 404, "application/json", '{"errors":[{"code":"NOT_FOUND","message":"none"}]}')
end

---Runs `fn(registry)` with a registry that has HOST/team/app:v1.
---@async
---@param image {config: string, layer: string, users: table<string, "all"|"nothing">}
---@param fn async fun(registry: peers.Registry)
function registry.run(image, fn)
  local listener = core.listen { host = "127.0.0.1", port = 0 }
  local self = setmetatable({
    host = "127.0.0.1:" .. listener.port, logins = {}, users = image.users, echo = false,
    manifest = manifest_of(image.config, image.layer),
    blobs = {
      [digest_of(image.config)] = image.config, [digest_of(image.layer)] = image.layer,
    },
  }, Registry)
  task.scope(function(scope)
    local _ <close> = setmetatable({}, {
      __close = function()
        scope:cancel("done")
        listener:close()
      end,
    })
    scope:daemon(function()
      while true do
        handle(self, listener:accept())
      end
    end)
    fn(self)
  end)
end

return registry
