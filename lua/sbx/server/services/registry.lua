-- Registries that images come from: the logins that the server was given in a file, and
-- whether an image can be had. No password ever leaves here but to the driver.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local reply = require("sbx.server.reply")
local task = require("sbx.task")
local text = require("sbx.server.text")

local registry = {}

local MAX_FILE = 1024 * 1024
local MAX_IMAGE = 512
local LOOK_SECONDS = 55 -- clients wait a minute
local HUB = "docker.io" -- of names without a host
local HUB_NAMES = { ["docker.io"] = true, ["index.docker.io"] = true,
  ["registry-1.docker.io"] = true, ["registry.hub.docker.com"] = true }

---@class sbx.server.Login
---@field id string
---@field name string
---@field server string     host of the registry, with its port where there is one
---@field username string
---@field password string
---@field created_at number|nil

---@class sbx.server.Logins
---@field private list sbx.server.Login[]
---@field private changed_at number
local Logins = {}
Logins.__index = Logins

local function bad(path, what)
  errors.raise {
    kind = "usage",
    message = ("%s: %s; expected {\"credentials\": [{\"id\", \"name\", \"server\", \"username\","
      .. " \"password\"}]}"):format(path, what),
  }
end

-- The host in an address of a registry, as people write it.
local function host_of(server)
  local host = server:gsub("^%a+://", ""):match("^[^/]*"):lower()
  return HUB_NAMES[host] and HUB or host
end

local function login_from(path, entry, index, seen)
  if type(entry) ~= "table" then bad(path, ("entry %d is no object"):format(index)) end
  local login = {}
  for _, name in ipairs { "id", "name", "server", "username", "password" } do
    local value = entry[name]
    if name == "name" and value == nil then value = entry.id end
    if type(value) ~= "string" or value == "" or value:find("%c") then
      bad(path, ("entry %d: '%s' is no text"):format(index, name))
    end
    login[name] = value
  end
  if seen[login.id] then bad(path, ("the id '%s' is there twice"):format(login.id)) end
  seen[login.id] = true
  return login
end

---No logins at all.
---@return sbx.server.Logins
function registry.none()
  return setmetatable({ list = {}, changed_at = 0 }, Logins)
end

---Reads the logins in a file that only its owner may read. Raises `usage` for a file that
---others can read, or that holds something else.
---@async
---@param path string
---@return sbx.server.Logins
function registry.load(path)
  local facts = fs.stat(path)
  if facts.mode & 63 ~= 0 then -- group or others
    errors.raise {
      kind = "usage",
      message = ("%s: its mode is %03o; a file with passwords must be readable by its owner only"
        .. " (chmod 600)"):format(path, facts.mode & 511),
    }
  end
  -- What the reader says of broken JSON may quote it.
  local ok, document = pcall(json.decode, fs.read(path, { max = MAX_FILE }))
  if not ok or type(document) ~= "table" then bad(path, "it holds no JSON object") end
  if not text.is_list(document.credentials) then bad(path, "it has no list of credentials") end
  local list, seen = {}, {}
  for index, entry in ipairs(document.credentials) do
    list[index] = login_from(path, entry, index, seen)
  end
  return setmetatable({ list = list, changed_at = facts.mtime }, Logins)
end

---@param id string
---@return sbx.server.Login|nil
function Logins:get(id)
  for _, login in ipairs(self.list) do
    if login.id == id then return login end
  end
  return nil
end

-- The host of the registry that an image's name means.
local function registry_of(image)
  local first = image:match("^([^/]+)/")
  return first and (first:find("[.:]") or first == "localhost") and host_of(first) or HUB
end

local function for_driver(login)
  return { username = login.username, password = login.password, serveraddress = login.server }
end

---The login for the registry that an image's name means, as drivers ask for it: the one
---that is wanted, or the first. One of another registry is never given away.
---@param image string
---@param wanted? string  id
---@return {username: string, password: string, serveraddress: string}|nil
---@return string|nil note  why it is not the one that is wanted
function Logins:find(image, wanted)
  local host, first = registry_of(image), nil
  for _, login in ipairs(self.list) do
    if host_of(login.server) == host then
      if not wanted or login.id == wanted then return for_driver(login) end
      first = first or login
    end
  end
  local note = wanted
    and ("the registry credentials '%s' are not for %s and not sent there"):format(wanted, host)
  return first and for_driver(first), note or nil
end

-- ------------------------------------------------------------------------ handlers

---The logins' names, and nothing secret.
function registry.list(server)
  local list = {}
  for index, login in ipairs(server.logins.list) do
    local at = text.timestamp(server.logins.changed_at)
    list[index] = {
      id = login.id, name = login.name, server = login.server, createdAt = at, updatedAt = at,
      userId = "u-local", teamId = json.null,
    }
  end
  return 200, { credentials = json.array(list) }
end

local function wanted_image(body)
  local image = body.image
  if type(image) ~= "string" or image == "" or #image > MAX_IMAGE or image:find("[%s%c]") then
    reply.invalid("image", "expected the name of an image")
  end
  return image
end

---@async
function registry.check_image(server, request)
  local body = reply.json_body(request)
  local image = wanted_image(body)
  local id = body.registry_credentials_id
  if id == json.null then id = nil end
  if id ~= nil then
    if type(id) ~= "string" or not server.logins:get(id) then
      reply.invalid("registry_credentials_id", "there are no such credentials on this server")
    end
  end
  local driver = server.fleet.driver
  if not driver.look_for_image then
    reply.refuse(501, "this server's driver cannot look for images: create a sandbox of it",
      { error = "unsupported" })
  end
  local ok, in_time, accessible, details =
    pcall(task.move_on, LOOK_SECONDS, driver.look_for_image, driver, image, id)
  if not ok then
    if not errors.is_error(in_time) or in_time.kind == "cancelled" then error(in_time, 0) end
    return 200, { accessible = false, details = text.valid_utf8(in_time.message) }
  elseif not in_time then
    return 200, { accessible = false, details = "its registry did not answer in time" }
  end
  return 200, { accessible = accessible == true, details = text.valid_utf8(details or "") }
end

return registry
