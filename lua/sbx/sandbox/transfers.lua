-- Taking over images from other registries: one by one, or many in one request, of which
-- some may fail.

local answers = require("sbx.sandbox.answers")
local build_status = require("sbx.sandbox.build_status")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local images = require("sbx.sandbox.images")
local request = require("sbx.sandbox.request")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local transfers = {}

---@class sbx.sandbox.Client
local methods = {}

local MAX_SOURCES = 100
local NOTHING = "the server's answer says nothing about it"

---@class sbx.sandbox.Transfer
---@field source_image string
---@field success boolean  it was taken over, or with `wait = false` will be
---@field status string|nil  of its build, as seen last
---@field build_id string|nil
---@field full_image_path string|nil  for `docker_image` of create
---@field visibility string|nil
---@field error string|nil  why it was not
---@field retryable boolean|nil  it may do better later

local shape = {
  sourceImage = "string", success = "boolean?", buildId = "string?", fullImagePath = "string?",
  visibility = "string?", error = "string?", retryable = "boolean?", build = "table?",
}

---Raises a string when this does not name one image.
---@param value any
---@param name string  of the argument
---@return string
function transfers.check_source(value, name)
  if check.string(value, name) == "" or value:find("[%s%c]") then
    error(name .. ": not the name of an image", 0)
  end
  -- The API has several names in one string.
  if value:find(",", 1, true) then
    error(name .. ": names several images: client:transfer_images takes a list", 0)
  end
  return value
end

-- A row with the build in it, in place of its fields, has them.
local function row_from(call, item, where)
  local build = item.build
  item.build = nil
  if build then
    local found = build_status.announced(call, build, where .. ".build")
    item.build_id = item.build_id or found.build_id
    item.build_ids = found.build_ids
    item.full_image_path = item.full_image_path or found.full_image_path
    item.visibility = item.visibility or found.visibility
  end
  if item.build_id then answers.id(call, item.build_id, where .. ".buildId") end
  if item.error then item.error = failure.clean(item.error) end
  item.success = item.success ~= false and item.build_id ~= nil and not item.error
  if not item.success and not item.error then item.error = "the server does not say why" end
  item.status = item.success and "PENDING" or nil
  return item
end

-- What an answer says of each source, or nil when it is not about several.
local function rows_from(call, answer)
  local rows, seen = {}, {}
  for _, name in ipairs({ "results", "failed" }) do
    if answers.is_list(answer[name]) then
      for i, item in ipairs(answers.list(call, answer, name, shape)) do
        if name == "failed" then item.success = false end
        -- What has failed may stand in both.
        if not seen[item.source_image] then
          seen[item.source_image] = true
          rows[#rows + 1] = row_from(call, item, ("%s[%d]"):format(name, i))
        end
      end
    end
  end
  return (answers.is_list(answer.results) or #rows > 0) and rows or nil, seen
end

local function refused(op, row)
  errors.raise({
    kind = "image_build",
    code = "FAILED",
    op = op,
    error_message = row.error,
    retryable = row.retryable or false,
    message = ("%s: the server does not take over %s: %s"):format(op,
      failure.clean(row.source_image, nil, 200), row.error),
  })
end

---The build of the only source in an answer that is written as one about several; nil
---when it is not.
---@param call sbx.sandbox.Call
---@param answer table
---@return sbx.sandbox.Build|nil
function transfers.single(call, answer)
  local rows = rows_from(call, answer)
  if not rows then return nil end
  if #rows ~= 1 then answers.refuse(call, "'results' is not about one image") end
  local row = rows[1]
  if not row.success then refused(call.op, row) end
  return {
    build_id = row.build_id, build_ids = row.build_ids, status = row.status,
    full_image_path = row.full_image_path, visibility = row.visibility,
  }
end

---@class sbx.sandbox.TransferOptions
---@field platform? string  (default "linux/amd64")
---@field team_id? string  (default: the client's)
---@field visibility? "PRIVATE"|"PUBLIC"
---@field owner_scope? string
---@field wait? boolean  until all have ended (default true)
---@field timeout? number  seconds in all (default 3600)
---@field on_progress? async fun(status: string, row: sbx.sandbox.Transfer)  at each change

local function checked(sources, given)
  local options = build_status.options(given, {
    platform = "linux/amd64", team_id = check.none, visibility = check.none,
    owner_scope = check.none, wait = true,
  })
  check.boolean(options.wait, "wait")
  if check.string(options.platform, "platform") == "" then error("platform: is empty", 0) end
  for _, name in ipairs({ "team_id", "owner_scope" }) do
    if options[name] ~= nil then check.string(options[name], name) end
  end
  if options.visibility ~= nil then images.visibility(options.visibility, "visibility") end
  local list = {}
  for i, source in ipairs(check.table(sources, "sources")) do
    list[i] = transfers.check_source(source, ("sources[%d]"):format(i))
  end
  if #list == 0 or #list > MAX_SOURCES then
    error(("sources: expected a list of 1 to %d images"):format(MAX_SOURCES), 0)
  end
  return list, options
end

---@async
local function order(client, call)
  local answer = wire.call(client, call)
  local rows, seen = rows_from(call, answer)
  if rows then return rows, seen end
  -- An answer about one image names no source.
  local sources = call.sources
  if #sources > 1 then answers.refuse(call, "'results' is missing") end
  local row = build_status.announced(call, answer)
  row.source_image, row.success = sources[1], true
  return { row }, { [sources[1]] = true }
end

-- Until the build of a row has ended, or there is no time left for that.
---@async
local function finish(client, row, opts)
  local function changed(status)
    row.status = status
    if opts.on_progress then opts.on_progress(status, row) end
  end
  local ok, build = pcall(build_status.within, opts.timeout, "transfer_images", row, function()
    return build_status.finish(client, row, "transfer_images", changed)
  end)
  if ok then
    row.full_image_path, row.visibility = build.full_image_path, build.visibility
    return
  end
  local err = build
  if not errors.is_error(err) or err.kind == "cancelled" then error(err, 0) end
  row.success, row.error, row.retryable = false, tostring(err), err.retryable or false
end

---Takes over images from other registries, in one request, and waits for all of them. What
---fails for one of them is in its row, and no failure of the call: see `success`. Rows are
---in the order of the answer. The order is never sent twice; a task that is cancelled
---leaves the builds to the server.
---@async
---@param sources string[]  their names, such as "registry.example/app:v1"; 1 to 100
---@param options? sbx.sandbox.TransferOptions
---@return sbx.sandbox.Transfer[]
function methods:transfer_images(sources, options)
  local list, opts = request.blame(checked, sources, options)
  answers.not_local(self, "transfer_images", "image builds", images.not_local)
  local rows, seen = order(self, {
    op = "transfer_images",
    method = "POST",
    path = "/images/build",
    body = {
      source_image = table.concat(list, ","),
      platform = opts.platform,
      team_id = images.team(self, opts.team_id),
      visibility = opts.visibility,
      owner_scope = opts.owner_scope,
    },
    sources = list,
  })
  -- A server may write names in its own way: only what lacks a row is missing.
  for _, source in ipairs(#rows < #list and list or {}) do
    if not seen[source] then
      rows[#rows + 1] = { source_image = source, success = false, error = NOTHING }
    end
  end
  if not opts.wait then return rows end
  local running = {}
  for _, row in ipairs(rows) do
    if row.success then running[#running + 1] = row end
  end
  task.map(running, function(row) finish(self, row, opts) end, { limit = MAX_SOURCES })
  return rows
end

transfers.methods = methods

return transfers
