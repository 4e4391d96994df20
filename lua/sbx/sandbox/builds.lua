-- Building images on the server: announced, its context sent to an address that the
-- server names for that, started, and looked at until it has ended. That address lets
-- anyone write there, so it is shown nowhere.

local answers = require("sbx.sandbox.answers")
local build_status = require("sbx.sandbox.build_status")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local fs = require("sbx.fs")
local http = require("sbx.http")
local images = require("sbx.sandbox.images")
local inside = require("sbx.sandbox.inside")
local json = require("sbx.json")
local pack = require("sbx.sandbox.pack")
local request = require("sbx.sandbox.request")
local retry = require("sbx.retry")
local task = require("sbx.task")
local transfers = require("sbx.sandbox.transfers")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

---@class sbx.sandbox.Client
local methods = {}

local SEND_ATTEMPTS = 3

-- ---------------------------------------------------------------------- looking

---@async
---@param build_id string
---@return sbx.sandbox.Build
function methods:get_build(build_id)
  request.blame(answers.check_id, build_id, "build_id")
  answers.not_local(self, "get_build", "image builds", images.not_local)
  return build_status.look(self, build_id, "get_build")
end

local function checked_wait(build_id, given)
  answers.check_id(build_id, "build_id")
  return build_status.options(given)
end

---Waits until a build has ended. Raises `image_build` when it has failed or was
---cancelled, and `timeout`; both have its `build_id`.
---@async
---@param build_id string
---@param options? sbx.sandbox.FollowOptions
---@return sbx.sandbox.Build
function methods:wait_for_build(build_id, options)
  local opts = request.blame(checked_wait, build_id, options)
  answers.not_local(self, "wait_for_build", "image builds", images.not_local)
  return build_status.within(opts.timeout, "wait_for_build", { build_id = build_id }, function()
    return build_status.follow(self, build_id, "wait_for_build", opts.on_progress)
  end)
end

-- --------------------------------------------------------------------- building

---@class sbx.sandbox.BuildOptions: sbx.sandbox.FollowOptions
---@field name string  of the image
---@field tag? string  (default "latest")
---@field context? string  a folder, or a tar archive, packed or not
---@field exclude? string[]  patterns of what in a folder is left out
---@field dockerfile? string  its path in the context (default "Dockerfile")
---@field source_image? string  in place of a context: an image to take over
---@field platform? string  (default "linux/amd64")
---@field team_id? string  (default: the client's)
---@field visibility? "PRIVATE"|"PUBLIC"
---@field owner_scope? string
---@field wait? boolean  until it has ended (default true)

local function checked_build(given)
  local options = build_status.options(check.table(given, "options"), {
    name = check.none, tag = "latest", context = check.none, exclude = check.none,
    dockerfile = "Dockerfile", source_image = check.none, platform = "linux/amd64",
    team_id = check.none, visibility = check.none, owner_scope = check.none, wait = true,
  })
  check.boolean(options.wait, "wait")
  for _, name in ipairs({ "name", "tag", "dockerfile", "platform" }) do
    if check.string(options[name], name) == "" then error(name .. ": is empty", 0) end
  end
  for _, name in ipairs({ "context", "source_image", "team_id", "owner_scope" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  if (options.context == nil) == (options.source_image == nil) then
    error("context, source_image: give one of them", 0)
  end
  if options.context == "" then error("context: is empty", 0) end
  if options.source_image then transfers.check_source(options.source_image, "source_image") end
  if options.visibility ~= nil then images.visibility(options.visibility, "visibility") end
  options.filter = inside.filter(check.table(options.exclude or {}, "exclude"))
  return options
end

-- A file with the context, and what to remove after use.
---@async
local function archive_of(opts)
  local facts = fs.stat(opts.context)
  if facts.type == "file" then return { path = opts.context, close = function() end } end
  if facts.type ~= "directory" then
    errors.raise({
      kind = "io", code = "EINVAL", op = "build_image",
      message = ("build_image %s: is neither a folder nor a file"):format(
        failure.clean(opts.context, nil, 300)),
    })
  end
  local held = fs.tmpfile({ prefix = "sbxlua-context-" })
  local ok, err = pcall(function()
    local archive <close> = pack(opts.context, { filter = opts.filter, skip_unsafe = false })
    for bytes in function() return archive:next() end do
      held.file:write(bytes)
    end
  end)
  if ok then return held end
  task.shield(30, errors.try, held.close, held)
  error(err, 0)
end

local function upload_address(client, call, address)
  if not address then answers.refuse(call, "'upload_url' is missing") end
  local scheme = address:match("^([Hh][Tt][Tt][Pp][Ss]?)://[^/%s@]+/[^%s@]*$")
  if not scheme then answers.refuse(call, "'upload_url' is no http address") end
  -- What is told over TLS is not to be sent in clear.
  local api_is_safe = client.config.base_url:lower():find("^https:")
  if api_is_safe and scheme:lower() ~= "https" then
    answers.refuse(call, "'upload_url' is no https address")
  end
  return address
end

-- The build that was announced, still to be done, and the address for its context.
local function announced(client, call, answer, opts)
  if opts.source_image then
    local one = transfers.single(call, answer)
    if one then return one end
  end
  local found = build_status.announced(call, answer)
  if not opts.context then return found end
  local address = answers.read(call, answer, { upload_url = "string?" }).upload_url
  return found, upload_address(client, call, address)
end

---@async
local function announce(client, opts)
  local call = {
    op = "build_image",
    method = "POST",
    path = "/images/build",
    confidential = true,
    body = {
      image_name = opts.name,
      image_tag = opts.tag,
      dockerfile_path = opts.context and opts.dockerfile or nil,
      source_image = opts.source_image,
      platform = opts.platform,
      team_id = images.team(client, opts.team_id),
      visibility = opts.visibility,
      owner_scope = opts.owner_scope,
    },
  }
  return announced(client, call, (wire.call(client, call)), opts)
end

---@async
local function put(client, address, path, opts)
  local call = {
    op = "build_image", method = "PUT", url = url.redact(address), gateway = true,
    secrets = { address, address:match("%?(.*)$") },
  }
  for value in address:gmatch("[?&][^=&]*=([^&]*)") do
    call.secrets[#call.secrets + 1] = value
  end
  local ok, response = pcall(http.request, "PUT", address, {
    headers = { ["content-type"] = "application/octet-stream" },
    body_path = path,
    timeout = opts.timeout,
    connect_timeout = wire.connect_timeout,
    max_body = 65536,
    follow = 0,
    proxy = client.config.proxy,
    group = "sandbox gateway",
  })
  if ok and response.status >= 200 and response.status < 300 then return end
  local err = response
  if ok then
    err = failure.from_status(call, response)
  elseif errors.is_error(err) and err.kind ~= "cancelled" then
    err = failure.from_transport(call, err)
    err.cause = nil -- it has the address
  end
  error(err, 0)
end

---@async
local function start(client, build_id)
  wire.call(client, {
    op = "build_image",
    method = "POST",
    path = ("/images/build/%s/start"):format(url.escape(build_id)),
    body = { context_uploaded = true },
  })
end

---@async
local function build(client, opts, state)
  local function tell(status)
    if opts.on_progress then opts.on_progress(status) end
  end
  local found
  if opts.context then
    tell("PACKING")
    local archive = archive_of(opts)
    local _ <close> = setmetatable({}, {
      __close = function() task.shield(30, errors.try, archive.close, archive) end,
    })
    local address
    found, address = announce(client, opts)
    state.build_id = found.build_id
    tell("UPLOADING")
    retry.call(function() put(client, address, archive.path, opts) end, {
      attempts = SEND_ATTEMPTS,
    })
    start(client, state.build_id)
  else
    found = announce(client, opts)
    state.build_id = found.build_id
  end
  if not opts.wait then return found end
  return build_status.finish(client, found, "build_image", opts.on_progress)
end

-- What went wrong once there was a build is told with its id.
---@async
local function with_id(state, fn)
  local ok, result = pcall(fn)
  if ok then return result end
  if errors.is_error(result) and result.build_id == nil then result.build_id = state.build_id end
  error(result, 0)
end

---Builds an image of a folder or an archive with a Dockerfile, or takes one over from
---another registry, and waits for it. Raises `image_build` when the build fails, `timeout`,
---and what the API and the local files raise; once there is a build the error has its
---`build_id`. A task that is cancelled leaves the build to the server.
---@async
---@param options sbx.sandbox.BuildOptions
---@return sbx.sandbox.Build
function methods:build_image(options)
  local opts = request.blame(checked_build, options)
  answers.not_local(self, "build_image", "image builds", images.not_local)
  local state = {}
  return with_id(state, function()
    return build_status.within(opts.timeout, "build_image", state, function()
      return build(self, opts, state)
    end)
  end)
end

-- ------------------------------------------------------------- virtual machines

---@class sbx.sandbox.BuildVmOptions: sbx.sandbox.FollowOptions
---@field team_id? string  (default: the client's)
---@field owner_scope? string
---@field wait? boolean  until it has ended (default true)

-- The slashes of a name stay; what is between them is escaped.
local function name_path(name)
  local parts = {}
  for part in (check.string(name, "name") .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then error("name: not the name of an image", 0) end
    parts[#parts + 1] = url.escape(part)
  end
  return table.concat(parts, "/")
end

local function checked_vm(name, tag, given)
  local options = build_status.options(given, {
    team_id = check.none, owner_scope = check.none, wait = true,
  })
  check.boolean(options.wait, "wait")
  for _, key in ipairs({ "team_id", "owner_scope" }) do
    if options[key] ~= nil then check.string(options[key], key) end
  end
  answers.check_id(tag, "tag")
  options.path = ("/images/%s/%s/vm-build"):format(name_path(name), url.escape(tag))
  return options
end

---Makes an image usable by virtual machines, and waits for it; see `build_image`.
---@async
---@param name string  may have slashes
---@param tag string
---@param options? sbx.sandbox.BuildVmOptions
---@return sbx.sandbox.Build
function methods:build_vm_image(name, tag, options)
  local opts = request.blame(checked_vm, name, tag, options)
  answers.not_local(self, "build_vm_image", "image builds", images.not_local)
  local call = {
    op = "build_vm_image",
    method = "POST",
    path = opts.path,
    body = json.object({
      teamId = images.team(self, opts.team_id), ownerScope = opts.owner_scope,
    }),
  }
  local answer = wire.call(self, call)
  local found = build_status.announced(call, answer)
  if not opts.wait then return found end
  return build_status.within(opts.timeout, call.op, found, function()
    return build_status.finish(self, found, call.op, opts.on_progress)
  end)
end

return { methods = methods }
