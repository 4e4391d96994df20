-- Images by the API: listing them, and changing their names. All of them are everybody's
-- here, so only the server's own key may change them.

local errors = require("sbx.errors")
local image_store = require("sbx.server.services.image_store")
local json = require("sbx.json")
local names = require("sbx.server.services.image_names")
local reply = require("sbx.server.reply")
local text = require("sbx.server.text")

local images = {}

local MAX_UPDATES = 1000
local MOST_AT_ONCE = 250

---The images of this server's driver. Raises 501 where there are none to look after.
---@param server sbx.server.Server
---@return sbx.server.ImageDriver
function images.store(server)
  local store = image_store.of(server.fleet.driver)
  if store then return store end
  reply.refuse(501, ("this server's driver (%s) looks after no images: it runs whatever a create"
    .. " names as it can"):format(server.fleet.driver.name), { error = "unsupported" })
end

---Raises 403 for others than the owner of the server.
---@param caller sbx.server.Caller
function images.require_owner(caller)
  if caller.admin then return end
  reply.refuse(403, "images are everybody's on this server: changing them needs its own key")
end

-- ------------------------------------------------------------------------- listing

local function or_null(value)
  if value == nil then return json.null end
  return value
end

---An image as a row of the API.
---@param facts sbx.server.ImageFacts
---@return table
function images.row(facts)
  local at = or_null(text.timestamp(facts.created_at))
  local full = names.join(facts.name, facts.tag)
  return {
    id = facts.id, artifactType = "CONTAINER_IMAGE", imageName = facts.name,
    imageTag = facts.tag, status = "COMPLETED", fullImagePath = full, displayRef = full,
    errorMessage = json.null, sizeBytes = or_null(facts.size_bytes), visibility = "PRIVATE",
    createdAt = at, startedAt = at, completedAt = at, pushedAt = at, teamId = json.null,
    ownerType = "personal",
  }
end

local function number(request, name, default, least, most)
  local given = reply.query(request, name)
  if not given or given == "" then return default end
  local value = math.tointeger(tonumber(given))
  if not value or value < least or value > most then
    reply.invalid(name, ("expected a whole number from %d to %d"):format(least, most))
  end
  return value
end

---@async
function images.list(server, request)
  local offset = number(request, "offset", 0, 0, 1000000000)
  local limit = number(request, "limit", 100, 1, MOST_AT_ONCE)
  local search = (reply.query(request, "search") or ""):lower()
  -- The images of a platform are those that a service offers to all its accounts.
  local is_platform = reply.query(request, "ownerScope") == "platform"
  local found = {}
  for _, facts in ipairs(is_platform and {} or images.store(server):list_images()) do
    if names.join(facts.name, facts.tag):lower():find(search, 1, true) then
      found[#found + 1] = facts
    end
  end
  table.sort(found, function(a, b)
    return names.join(a.name, a.tag) < names.join(b.name, b.tag)
  end)
  local rows = {}
  for index = offset + 1, math.min(offset + limit, #found) do
    rows[#rows + 1] = images.row(found[index])
  end
  return 200, {
    data = json.array(rows), totalCount = #found, offset = offset, limit = limit,
    status = json.null,
  }
end

-- ------------------------------------------------------------------------ changing

local function problem(code, message)
  return nil, { code = code, message = message }
end

local function source_name(source)
  if type(source) ~= "table" then return nil end
  local reference = source.reference
  if type(reference) == "string" then return names.split(reference) end
  return source.name, source.tag
end

local function find(list, name, tag)
  for _, facts in ipairs(list) do
    if facts.name == name and facts.tag == tag then return facts end
  end
  return nil
end

local function given(value)
  if value == json.null then return nil end
  return value
end

-- What an update asks for: the name and tag to be had, or nil and a problem.
local function target_of(facts, set)
  if type(set) ~= "table" or next(set) == nil then
    return problem("INVALID", "set: expected at least one change")
  end
  local name, tag = given(set.name) or facts.name, given(set.tag) or facts.tag
  if not names.is_name(name) then return problem("INVALID", "set.name: no name of an image") end
  if not names.is_tag(tag) then return problem("INVALID", "set.tag: not a tag") end
  local visibility, owner = given(set.visibility), given(set.owner)
  if visibility ~= nil and visibility ~= "PRIVATE" then
    return problem("UNSUPPORTED", "set.visibility: images of this server are PRIVATE")
  elseif owner ~= nil and (type(owner) ~= "table" or owner.type ~= "personal") then
    return problem("UNSUPPORTED", "set.owner: this server has no teams: images are personal")
  end
  return { name = name, tag = tag }
end

local function place(facts)
  return {
    name = facts.name, tag = facts.tag, visibility = "PRIVATE", owner = { type = "personal" },
  }
end

-- Does one update on the list of images, and unless it is a rehearsal for good. Returns
-- the image as it was and as it is, or nil and a problem.
---@async
local function change(store, list, update, is_dry)
  local name, tag = source_name(update.source)
  if type(name) ~= "string" or type(tag) ~= "string" then
    return problem("INVALID", "source: expected a reference, or owner, name and tag")
  end
  local facts = find(list, name, tag)
  if not facts then return problem("NOT_FOUND", "there is no image " .. names.join(name, tag)) end
  local target, why = target_of(facts, update.set)
  if not target then return nil, why end
  local before, after = place(facts), place(target)
  if target.name == facts.name and target.tag == facts.tag then return before, after end
  local to = names.join(target.name, target.tag)
  if find(list, target.name, target.tag) then return problem("CONFLICT", to .. " is taken") end
  if not is_dry then
    local from = names.join(facts.name, facts.tag)
    local ok, failure = pcall(function()
      store:tag_image(from, to)
      store:untag_image(from)
    end)
    if not ok then
      if not errors.is_error(failure) or failure.kind == "cancelled" then error(failure, 0) end
      return problem("FAILED", text.valid_utf8(failure.message))
    end
  end
  facts.name, facts.tag = target.name, target.tag
  return before, after
end

local function wanted_updates(body)
  local list = body.updates
  if body.mode ~= nil and body.mode ~= "explicit" then
    reply.invalid("mode", "expected explicit")
  elseif not text.is_list(list) or #list < 1 or #list > MAX_UPDATES then
    reply.invalid("updates", ("expected a list of 1 to %d updates"):format(MAX_UPDATES))
  elseif body.dryRun ~= nil and type(body.dryRun) ~= "boolean" then
    reply.invalid("dryRun", "expected true or false")
  end
  for index, update in ipairs(list) do
    if type(update) ~= "table" then
      reply.invalid(("updates[%d]"):format(index - 1), "expected an object")
    end
  end
  return list, body.dryRun == true
end

---@async
function images.update(server, request, _, caller)
  images.require_owner(caller)
  local updates, is_dry = wanted_updates(reply.json_body(request))
  local store = images.store(server)
  if not store.tag_image then
    reply.refuse(501, "this server's driver cannot rename images", { error = "unsupported" })
  end
  local list, results, all = store:list_images(), {}, true
  for index, update in ipairs(updates) do
    local before, after = change(store, list, update, is_dry)
    local failed = before == nil
    all = all and not failed
    results[index] = {
      source = or_null(update.source), success = not failed, before = or_null(before),
      after = failed and json.null or after, error = failed and after or json.null,
    }
  end
  return 200, { success = all, dryRun = is_dry, results = json.array(results) }
end

return images
