-- Registries that images come from: the account's credentials for them, and whether an
-- image can be had.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local json = require("sbx.json")
local request = require("sbx.sandbox.request")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local CHECK_SECONDS = 60 -- the server asks a registry meanwhile

---@class sbx.sandbox.RegistryCredentials  without the password, which the API never tells
---@field id string  for `registry_credentials_id`
---@field name string
---@field server string
---@field created_at string|nil
---@field updated_at string|nil
---@field user_id string|nil
---@field team_id string|nil

local shape = {
  id = "string", name = "string", server = "string", createdAt = "string?",
  updatedAt = "string?", userId = "string?", teamId = "string?",
}

---@async
---@return sbx.sandbox.RegistryCredentials[]
function methods:list_registry_credentials()
  local call = {
    op = "list_registry_credentials",
    method = "GET",
    path = "/template/registry-credentials",
    confidential = true,
  }
  answers.not_local(self, call.op, "registry credentials",
    "it runs images of this machine, and its own /usr in place of others")
  local answer = wire.call(self, call)
  if answer.credentials == nil or answer.credentials == json.null then return {} end
  return answers.list(call, answer, "credentials", shape)
end

local function checked(image, given)
  local options = check.options(given, { registry_credentials_id = check.none }, -1)
  if check.string(image, "image") == "" then error("image: is empty", 0) end
  if options.registry_credentials_id ~= nil then
    check.string(options.registry_credentials_id, "registry_credentials_id")
  end
  return options
end

---Whether sandboxes could be made of an image, and what the server says to that.
---@async
---@param image string  such as "python:3.11-slim"
---@param options? { registry_credentials_id?: string }
---@return boolean accessible, string details
function methods:check_docker_image(image, options)
  local opts = request.blame(checked, image, options)
  local call = {
    op = "check_docker_image",
    method = "POST",
    path = "/template/check-docker-image",
    body = { image = image, registry_credentials_id = opts.registry_credentials_id },
    idempotent = true,
    timeout = CHECK_SECONDS,
  }
  answers.not_local(self, call.op, "a check of images", "create a sandbox of it")
  local found = answers.read(call, (wire.call(self, call)), {
    accessible = "boolean", details = "string?",
  })
  return found.accessible, found.details or ""
end

return { methods = methods }
