-- Builds of images: announced, their context sent to an address that is good for that
-- alone, started, and looked at until they have ended. The driver does the building.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local images = require("sbx.server.services.images")
local json = require("sbx.json")
local names = require("sbx.server.services.image_names")
local reply = require("sbx.server.reply")
local sync = require("sbx.sync")
local text = require("sbx.server.text")
local time = require("sbx.core.time")

local builds = {}

local MAX_CONTEXT = 1024 * 1024 * 1024 -- bytes
local UPLOAD_SECONDS = 3600 -- that an address is good for
local KEPT_SECONDS = 86400 -- that an ended build is told of
local MAX_BUILDS, MAX_WAITING = 500, 16
local MAX_SOURCES = 100
local AT_ONCE = 2
local MAX_LOG = 64 * 1024 -- bytes of a build's log that are kept
local ENDED = { COMPLETED = true, FAILED = true, CANCELLED = true }

---@class sbx.server.Build
---@field id string
---@field status string
---@field name string           of the image
---@field tag string
---@field dockerfile string
---@field platform string
---@field source string|nil     another image that it is taken over from
---@field token_hash string|nil of the address for its context
---@field context table|nil     the file with its context
---@field sending boolean       its context is on its way
---@field error_message string|nil
---@field size_bytes integer|nil
---@field log string
---@field created_at number
---@field started_at number|nil
---@field completed_at number|nil

---@class sbx.server.Builds
---@field private list sbx.server.Build[]  the oldest first
---@field private turns sbx.sync.Semaphore
local Builds = {}
Builds.__index = Builds

---@return sbx.server.Builds
function builds.new()
  return setmetatable({ list = {}, turns = sync.semaphore(AT_ONCE, "image builds") }, Builds)
end

-- ------------------------------------------------------------------- those there are

local function drop_context(build)
  local held = build.context
  build.context, build.token_hash = nil, nil
  if held then errors.try(held.close, held) end
end

local function finish(build, status, message)
  if ENDED[build.status] then return end
  build.status, build.completed_at = status, time.wall()
  build.error_message = message and text.valid_utf8(message):sub(1, 2000) or nil
  drop_context(build)
end

-- Forgets what is old, and gives up on contexts that never came.
local function sweep(self)
  local now, kept = time.wall(), {}
  for _, build in ipairs(self.list) do
    local is_late = build.token_hash and build.created_at + UPLOAD_SECONDS < now
    if is_late and not build.sending then finish(build, "CANCELLED", "its context never came") end
    local is_old = build.completed_at and build.completed_at + KEPT_SECONDS < now
    if not is_old then kept[#kept + 1] = build end
  end
  while #kept > MAX_BUILDS and ENDED[kept[1].status] do
    table.remove(kept, 1)
  end
  self.list = kept
end

local function add(self, fields)
  sweep(self)
  local waiting = 0
  for _, build in ipairs(self.list) do
    if not ENDED[build.status] then waiting = waiting + 1 end
  end
  if waiting >= MAX_WAITING then
    reply.refuse(429, ("%d builds have not ended yet"):format(waiting), nil,
      { ["Retry-After"] = "10" })
  end
  local build = {
    id = "build-" .. hash.random_hex(8), status = "PENDING", log = "", sending = false,
    created_at = time.wall(),
  }
  for name, value in pairs(fields) do
    build[name] = value
  end
  self.list[#self.list + 1] = build
  return build
end

local function find(self, id)
  for _, build in ipairs(self.list) do
    if build.id == id then return build end
  end
  reply.refuse(404, "Build not found")
end

local function or_null(value)
  if value == nil then return json.null end
  return value
end

local function view(build)
  return {
    id = build.id, buildId = build.id, status = build.status, imageName = build.name,
    imageTag = build.tag, fullImagePath = names.join(build.name, build.tag),
    errorMessage = or_null(build.error_message), visibility = "PRIVATE",
    sizeBytes = or_null(build.size_bytes), logs = text.valid_utf8(build.log),
    createdAt = text.timestamp(build.created_at),
    startedAt = or_null(text.timestamp(build.started_at)),
    completedAt = or_null(text.timestamp(build.completed_at)),
  }
end

local function announced(build)
  return {
    build_id = build.id, buildId = build.id, buildIds = json.array { build.id },
    fullImagePath = names.join(build.name, build.tag), visibility = "PRIVATE",
  }
end

-- ------------------------------------------------------------------------ the work

local function logger(build)
  return function(line)
    build.log = (build.log .. line .. "\n"):sub(-MAX_LOG)
  end
end

---@async
local function work(self, store, build)
  local _ <close> = self.turns:acquire()
  if ENDED[build.status] then return end
  build.status, build.started_at = "BUILDING", time.wall()
  local full = names.join(build.name, build.tag)
  local ok, made = pcall(function()
    if build.source then
      store:pull_image(build.source, logger(build))
      if build.source ~= full then store:tag_image(build.source, full) end
      return {}
    end
    return store:build_image(build.context.path, {
      name = full, dockerfile = build.dockerfile, platform = build.platform,
    }, logger(build))
  end)
  if ok then
    build.size_bytes = made and made.size_bytes
    return finish(build, "COMPLETED")
  end
  local is_cancelled = errors.is_error(made) and made.kind == "cancelled"
  finish(build, is_cancelled and "CANCELLED" or "FAILED",
    errors.is_error(made) and made.message or "internal error")
  if is_cancelled or not errors.is_error(made) then error(made, 0) end
end

local function begin(server, store, build)
  server.fleet.scope:pspawn(work, server.builds, store, build)
end

-- ------------------------------------------------------------------ what is asked for

local function string_in(body, name, default)
  local value = body[name]
  if value == nil or value == json.null then return default end
  if type(value) ~= "string" or value == "" or #value > 1024 or value:find("%c") then
    reply.invalid(name, "expected a text")
  end
  return value
end

local function check_common(body)
  if string_in(body, "visibility", "PRIVATE") ~= "PRIVATE" then
    reply.invalid("visibility", "images of this server are PRIVATE")
  end
  local dockerfile = string_in(body, "dockerfile_path", "Dockerfile")
  if dockerfile:sub(1, 1) == "/" or ("/" .. dockerfile .. "/"):find("/../", 1, true) then
    reply.invalid("dockerfile_path", "expected a path within the context")
  end
  return dockerfile, string_in(body, "platform", "linux/amd64")
end

local function image_name(name, tag)
  if not names.is_name(name) then
    reply.invalid("image_name", "expected a name of lower-case letters, digits and . _ - /")
  elseif not names.is_tag(tag) then
    reply.invalid("image_tag", "expected letters, digits and . _ -")
  end
  return name, tag
end

local IMPORT = "; build the image with a container engine, save it, and take it over: sbxlua image"
  .. " import NAME FILE.tar"

-- Several images to be taken over keep the names that they have.
local function take_over(server, store, body, sources, platform)
  local rows = {}
  for index, source in ipairs(sources) do
    local name, tag = names.split(source)
    if #sources == 1 then
      name, tag = string_in(body, "image_name", name), string_in(body, "image_tag", tag)
    end
    local fine, refusal = pcall(image_name, name, tag)
    if fine then
      local build = add(server.builds, {
        name = name, tag = tag, source = source, platform = platform, dockerfile = "",
      })
      begin(server, store, build)
      rows[index] = {
        sourceImage = source, success = true, buildId = build.id, visibility = "PRIVATE",
        fullImagePath = names.join(name, tag), error = json.null, retryable = false,
      }
      if #sources == 1 then return 200, announced(build) end
    elseif #sources == 1 then
      error(refusal, 0)
    else
      rows[index] = {
        sourceImage = source, success = false, error = refusal.message, retryable = false,
      }
    end
  end
  local failed = {}
  for _, row in ipairs(rows) do
    if not row.success then failed[#failed + 1] = row end
  end
  return 200, { results = json.array(rows), failed = json.array(failed) }
end

local function sources_in(body)
  local given = string_in(body, "source_image")
  if not given then return nil end
  local list = {}
  for source in given:gmatch("[^,]+") do
    list[#list + 1] = source:match("^%s*(.-)%s*$")
  end
  if #list == 0 or #list > MAX_SOURCES then
    reply.invalid("source_image", ("expected 1 to %d names"):format(MAX_SOURCES))
  end
  return list
end

---@async
function builds.order(server, request, _, caller)
  images.require_owner(caller)
  local body = reply.json_body(request)
  local store = images.store(server)
  local sources = sources_in(body)
  local able = sources and store.pull_image or not sources and store.build_image
  if not able then
    reply.refuse(422, ("this server's driver (%s) cannot %s images"):format(
      server.fleet.driver.name, sources and "fetch" or "build") .. IMPORT,
      { error = "unsupported" })
  end
  local dockerfile, platform = check_common(body)
  if sources then return take_over(server, store, body, sources, platform) end
  local name, tag = image_name(body.image_name, string_in(body, "image_tag", "latest"))
  local token = hash.random_hex(32)
  local build = add(server.builds, {
    name = name, tag = tag, dockerfile = dockerfile, platform = platform,
    token_hash = hash.sha256(token),
  })
  local answer = announced(build)
  answer.upload_url = server.url .. "/image-context/" .. token
  answer.expires_in = UPLOAD_SECONDS
  return 200, answer
end

-- ------------------------------------------------------------------------ its context

local function find_by_token(self, token)
  sweep(self)
  local wanted = hash.sha256(token)
  for _, build in ipairs(self.list) do
    if build.token_hash and hash.equal(build.token_hash, wanted) then return build end
  end
  reply.refuse(404, "this address is good for nothing (any more)")
end

local function refuse_size()
  reply.refuse(413, ("the context is larger than %d MiB"):format(MAX_CONTEXT >> 20))
end

---@async
local function receive(request, held)
  local size = 0
  while true do
    local bytes = request:read()
    if not bytes then break end
    size = size + #bytes
    if size > MAX_CONTEXT then refuse_size() end
    held.file:write(bytes)
  end
  held.file:close()
  return size
end

---Takes in a build's context. The address is its token: it is good until all has come, once.
---@async
function builds.upload(server, request, params)
  local build = find_by_token(server.builds, params.token)
  if build.sending then reply.refuse(409, "the context is being sent already") end
  local announced_size = tonumber(request.headers["content-length"] or "0") or 0
  if announced_size > MAX_CONTEXT then refuse_size() end
  build.sending, build.status = true, "UPLOADING"
  local held = fs.tmpfile { prefix = "sbxlua-context-" }
  local ok, size = pcall(receive, request, held)
  build.sending = false
  if not ok then
    errors.try(held.close, held)
    if not ENDED[build.status] then build.status = "PENDING" end
    error(size, 0)
  end
  build.token_hash, build.context = nil, held
  return 200, { success = true, size = size }
end

---@async
function builds.start(server, _, params, caller)
  images.require_owner(caller)
  local build = find(server.builds, params.build_id)
  if build.status == "PENDING" or build.sending then
    reply.refuse(409, "the context was not sent yet")
  elseif build.status == "UPLOADING" then
    build.status = "BUILDING"
    begin(server, images.store(server), build)
  end
  return 200, view(build)
end

function builds.get(server, _, params)
  sweep(server.builds)
  return 200, view(find(server.builds, params.build_id))
end

---Virtual machines run from the same images here: there is nothing to be built.
---@async
function builds.vm(server, _, params, caller)
  images.require_owner(caller)
  local parts = {}
  for index = 1, 8 do
    parts[#parts + 1] = params["part" .. index]
  end
  local name = table.concat(parts, "/")
  for _, facts in ipairs(images.store(server):list_images()) do
    if facts.name == name and facts.tag == params.tag then
      local build = add(server.builds, {
        name = name, tag = params.tag, dockerfile = "", platform = "",
        size_bytes = facts.size_bytes,
        log = "virtual machines of this server run from the image as it is\n",
      })
      build.started_at = build.created_at
      finish(build, "COMPLETED")
      return 200, announced(build)
    end
  end
  reply.refuse(404, "there is no image " .. names.join(name, params.tag))
end

---Removes what is left of contexts.
function Builds:close()
  for _, build in ipairs(self.list) do
    finish(build, "CANCELLED", "the server stopped")
  end
end

return builds
