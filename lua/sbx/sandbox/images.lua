-- The account's images: listing them, and changing names, owners and visibility.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local json = require("sbx.json")
local request = require("sbx.sandbox.request")
local wire = require("sbx.sandbox.wire")

local images = {}

---@class sbx.sandbox.Client
local methods = {}

local MAX_PAGES = 10000 -- a server that always has more must not trap us
local MAX_UPDATES = 1000

-- What the private server of --local has instead.
images.not_local = "it runs images of this machine, and its own /usr in place of others"

---@class sbx.sandbox.Image
---@field id string
---@field artifact_type string|nil  CONTAINER_IMAGE, VM_SANDBOX
---@field image_name string|nil
---@field image_tag string|nil
---@field status string|nil  PENDING, UPLOADING, BUILDING, COMPLETED, FAILED, CANCELLED
---@field full_image_path string|nil  for `docker_image` of create
---@field error_message string|nil
---@field size_bytes integer|nil
---@field visibility string|nil  PRIVATE, PUBLIC
---@field created_at string|nil
---@field started_at string|nil
---@field completed_at string|nil
---@field pushed_at string|nil
---@field team_id string|nil
---@field owner_type string|nil  personal, team, platform
---@field display_ref string|nil

local shape = {
  id = "string", artifactType = "string?", imageName = "string?", imageTag = "string?",
  status = "string?", fullImagePath = "string?", errorMessage = "string?",
  sizeBytes = "integer?", visibility = "string?", createdAt = "string?", startedAt = "string?",
  completedAt = "string?", pushedAt = "string?", teamId = "string?", ownerType = "string?",
  displayRef = "string?",
}

-- ---------------------------------------------------------------------- listing

---@class sbx.sandbox.ListImagesOptions
---@field search? string
---@field team_id? string  (default: the client's)
---@field platform? boolean  those of the platform in place of one's own (default false)
---@field offset? integer  images to leave out at the beginning (default 0)
---@field limit? integer  images in a page, 1 to 250 (default 100)

---@class sbx.sandbox.ImagePage: sbx.sandbox.Image[]
---@field total integer|nil  names with tags; each may have a row for every kind of artifact
---@field has_next boolean
---@field next_offset integer  where the next page begins

local function checked_list(given)
  local options = check.options(given, {
    search = check.none, team_id = check.none, platform = false, offset = 0, limit = 100,
  }, -1)
  for _, name in ipairs({ "search", "team_id" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  check.boolean(options.platform, "platform")
  options.offset = check.integer(options.offset, "offset", 0)
  options.limit = check.integer(options.limit, "limit", 1, 250)
  if options.platform and options.team_id then
    error("team_id: images of the platform belong to no team", 0)
  end
  return options
end

---The team that a call is for: nil for one's own account.
---@param client sbx.sandbox.Client
---@param given string|nil  as the caller has it
---@return string|nil
function images.team(client, given)
  local team = given or client.config.team_id()
  return team ~= "" and team or nil
end

---@async
local function page(client, options, offset)
  local call = {
    op = "list_images",
    method = "GET",
    path = "/images" .. wire.query({
      { "offset", offset },
      { "limit", options.limit },
      { "teamId", not options.platform and images.team(client, options.team_id) or nil },
      { "ownerScope", options.platform and "platform" or nil },
      { "search", options.search },
    }),
  }
  answers.not_local(client, call.op, "a list of images", images.not_local)
  local answer = wire.call(client, call)
  local found = answers.list(call, answer, "data", shape)
  local facts = answers.read(call, answer, { totalCount = "integer?", limit = "integer?" })
  -- A server may have a limit of its own. It counts images, of which one can have several
  -- rows: a page is never longer than its limit, however many rows it has.
  local limit = math.min(options.limit, math.max(1, facts.limit or options.limit))
  found.total = facts.total_count
  found.next_offset = offset + math.min(#found, limit)
  -- Without a total a full page may be the last one: the next one is empty then.
  if found.total then
    found.has_next = #found > 0 and found.next_offset < found.total
  else
    found.has_next = #found >= limit
  end
  return found
end

---One page of images, with `total`, where the server tells it, `has_next` and
---`next_offset`.
---@async
---@param options? sbx.sandbox.ListImagesOptions
---@return sbx.sandbox.ImagePage
function methods:list_images(options)
  local opts = request.blame(checked_list, options)
  return page(self, opts, opts.offset)
end

---An iterator over all images, read page by page: `for image in client:each_image() do`.
---Each comes once, also when images are made meanwhile.
---@param options? sbx.sandbox.ListImagesOptions
---@return async fun(): sbx.sandbox.Image|nil
function methods:each_image(options)
  local opts = request.blame(checked_list, options)
  local current, at, reads, offset, seen = { has_next = true }, 0, 0, opts.offset, {}
  return function()
    while true do
      at = at + 1
      local item = current[at]
      if item and not seen[item.id] then
        seen[item.id] = true
        return item
      elseif not item then
        if not current.has_next or reads == MAX_PAGES then return nil end
        current, at, reads = page(self, opts, offset), 0, reads + 1
        offset = current.next_offset
      end
    end
  end
end

-- --------------------------------------------------------------------- changing

---@alias sbx.sandbox.ImageOwner "personal"|"platform"|{ team_id: string }

---@class sbx.sandbox.ImageUpdate
---@field source string|{ owner: sbx.sandbox.ImageOwner, name: string, tag: string }  which image: its reference, or its parts
---@field set { name?: string, tag?: string, owner?: sbx.sandbox.ImageOwner, visibility?: "PRIVATE"|"PUBLIC" }

---@class sbx.sandbox.ImageChange
---@field success boolean
---@field source any  as the server names it
---@field before table|nil
---@field after table|nil
---@field error { code: string|nil, message: string|nil }|nil

local function owner_of(value, name)
  if value == "personal" or value == "platform" then return { type = value } end
  local team = type(value) == "table" and value.team_id
  if type(team) ~= "string" or team == "" then
    error(name .. ': expected "personal", "platform" or { team_id = … }', 0)
  end
  return { type = "team", teamId = team }
end

local function text_of(value, name)
  if check.string(value, name) == "" then error(name .. ": is empty", 0) end
  return value
end

---@param value any
---@param name string
---@return "PRIVATE"|"PUBLIC"
function images.visibility(value, name)
  if value ~= "PRIVATE" and value ~= "PUBLIC" then
    error(name .. ': expected "PRIVATE" or "PUBLIC"', 0)
  end
  return value
end

local function source_of(value, name)
  if type(value) == "string" then return { reference = text_of(value, name) } end
  local given = check.options(check.table(value, name), {
    owner = check.none, name = check.none, tag = check.none,
  }, -1)
  return {
    owner = owner_of(given.owner, name .. ".owner"),
    name = text_of(given.name, name .. ".name"),
    tag = text_of(given.tag, name .. ".tag"),
  }
end

local function changes_of(value, name)
  local given = check.options(check.table(value, name), {
    name = check.none, tag = check.none, owner = check.none, visibility = check.none,
  }, -1)
  if next(given) == nil then error(name .. ": give at least one change", 0) end
  return {
    name = given.name and text_of(given.name, name .. ".name"),
    tag = given.tag and text_of(given.tag, name .. ".tag"),
    owner = given.owner and owner_of(given.owner, name .. ".owner"),
    visibility = given.visibility and images.visibility(given.visibility, name .. ".visibility"),
  }
end

local function checked_updates(updates, given)
  local options = check.options(given, { dry_run = false }, -1)
  check.boolean(options.dry_run, "dry_run")
  local list = {}
  for i, update in ipairs(check.table(updates, "updates")) do
    local name = ("updates[%d]"):format(i)
    local one = check.options(check.table(update, name), {
      source = check.none, set = check.none,
    }, -1)
    list[i] = {
      source = source_of(one.source, name .. ".source"), set = changes_of(one.set, name .. ".set"),
    }
  end
  if #list == 0 or #list > MAX_UPDATES then
    error(("updates: expected a list of 1 to %d"):format(MAX_UPDATES), 0)
  end
  return list, options
end

local change_shape = { success = "boolean", before = "table?", after = "table?", error = "table?" }

local function changes_from(call, answer)
  local list = answers.list(call, answer, "results", change_shape)
  for i, found in ipairs(list) do
    local source = answer.results[i].source
    if source ~= json.null then found.source = source end
    if found.error then
      found.error = answers.read(call, found.error, {
        code = "string?", message = "string?",
      }, ("results[%d].error"):format(i))
    end
  end
  return list
end

---Changes names, tags, owners or visibilities of images, each as its entry says, or with
---`dry_run` only tells what would come of it. A refused change is no failure of the
---call: see `success` of each. It is never sent twice.
---@async
---@param updates sbx.sandbox.ImageUpdate[]
---@param options? { dry_run?: boolean }
---@return { success: boolean, dry_run: boolean, results: sbx.sandbox.ImageChange[] }
function methods:update_images(updates, options)
  local list, opts = request.blame(checked_updates, updates, options)
  local call = {
    op = "update_images",
    method = "PATCH",
    path = "/images",
    body = { mode = "explicit", dryRun = opts.dry_run, updates = json.array(list) },
  }
  answers.not_local(self, call.op, "images to change", images.not_local)
  local answer = wire.call(self, call)
  local found = answers.read(call, answer, { success = "boolean", dryRun = "boolean" })
  if found.dry_run ~= opts.dry_run then
    answers.refuse(call, "'dryRun' is not what was asked for")
  end
  found.results = changes_from(call, answer)
  return found
end

images.methods = methods

return images
