-- Builds of images: as they are announced, and looked at until they have ended.

local answers = require("sbx.sandbox.answers")
local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local task = require("sbx.task")
local throttle = require("sbx.sandbox.throttle")
local url = require("sbx.url")
local wire = require("sbx.sandbox.wire")

local build_status = {}

local BUILD_SECONDS = 3600
local MAX_BUILDS = 100 -- of one image
local FIRST_PAUSE, LONGEST_PAUSE = 1, 10 -- seconds between two looks
local GROWTH = 1.5

local ended = { COMPLETED = true, FAILED = true, CANCELLED = true }

---@class sbx.sandbox.FollowOptions
---@field timeout? number  seconds in all (default 3600)
---@field on_progress? async fun(status: string, build: sbx.sandbox.Build|nil)  at each change

---Checks options of something that follows builds. Raises a string.
---@param given table|nil
---@param more? table<string, any>  further options and their defaults
---@return table
function build_status.options(given, more)
  local defaults = { timeout = BUILD_SECONDS, on_progress = check.none }
  for name, default in pairs(more or {}) do
    defaults[name] = default
  end
  local options = check.options(given, defaults, -1)
  check.number(options.timeout, "timeout", 0, 1e9)
  if options.on_progress ~= nil then check.fn(options.on_progress, "on_progress") end
  return options
end

---@class sbx.sandbox.Build
---@field build_id string
---@field build_ids string[]|nil  where one order made several, all of them
---@field status string  PENDING, UPLOADING, BUILDING, COMPLETED, FAILED, CANCELLED
---@field full_image_path string|nil  for `docker_image` of create
---@field image_name string|nil
---@field image_tag string|nil
---@field error_message string|nil
---@field visibility string|nil
---@field size_bytes integer|nil
---@field created_at string|nil
---@field started_at string|nil
---@field completed_at string|nil

local shape = {
  status = "string", fullImagePath = "string?", imageName = "string?", imageTag = "string?",
  errorMessage = "string?", visibility = "string?", sizeBytes = "integer?",
  createdAt = "string?", startedAt = "string?", completedAt = "string?",
}

local announced_shape = {
  build_id = "string", buildIds = "table?", fullImagePath = "string?", visibility = "string?",
}

---The build in the answer to an order, as it stands before it was looked at.
---@param call sbx.sandbox.Call
---@param answer table
---@param where? string  the place of the build in the answer: "results[2].build"
---@return sbx.sandbox.Build
function build_status.announced(call, answer, where)
  local found = answers.read(call, answer, announced_shape, where)
  answers.id(call, found.build_id, "build_id")
  local list, ids, seen = found.build_ids or {}, { found.build_id }, { [found.build_id] = true }
  if #list > MAX_BUILDS then answers.refuse(call, "'buildIds' is too long") end
  for _, id in ipairs(list) do
    answers.id(call, id, "buildIds")
    if not seen[id] then ids[#ids + 1] = id end
    seen[id] = true
  end
  found.build_ids = #ids > 1 and ids or nil
  found.status = "PENDING"
  return found
end

---How a build stands.
---@async
---@param client sbx.sandbox.Client
---@param build_id string
---@param op string  on whose behalf, for messages
---@return sbx.sandbox.Build
function build_status.look(client, build_id, op)
  local call = {
    op = op, method = "GET", path = "/images/build/" .. url.escape(build_id),
  }
  local answer = wire.call(client, call)
  local found = answers.read(call, answer, shape)
  local ids = answers.read(call, answer, { id = "string?", build_id = "string?" })
  if (ids.build_id or ids.id or build_id) ~= build_id then
    answers.refuse(call, "'buildId' is another one")
  end
  found.build_id = build_id
  return found
end

local function build_failed(op, build)
  errors.raise({
    kind = "image_build",
    code = failure.clean(build.status, nil, 100),
    op = op,
    build_id = build.build_id,
    error_message = build.error_message and failure.clean(build.error_message),
    message = ("%s %s: the build has ended as %s%s"):format(op,
      failure.clean(build.build_id, nil, 100), failure.clean(build.status, nil, 100),
      build.error_message and ": " .. failure.clean(build.error_message) or ""),
  })
end

---Waits until a build has ended and returns what was built; raises `image_build` when
---that is nothing.
---@async
---@param client sbx.sandbox.Client
---@param build_id string
---@param op string  on whose behalf, for messages
---@param on_progress? fun(status: string, build: sbx.sandbox.Build)  called at each change
---@return sbx.sandbox.Build
function build_status.follow(client, build_id, op, on_progress)
  local pause, status = FIRST_PAUSE, nil
  while true do
    local build = build_status.look(client, build_id, op)
    if on_progress and build.status ~= status then on_progress(build.status, build) end
    if build.status == "COMPLETED" then return build end
    if ended[build.status] then build_failed(op, build) end
    -- What moves is looked at soon again.
    if build.status ~= status then pause = FIRST_PAUSE end
    status = build.status
    task.sleep(throttle.jitter(pause))
    pause = math.min(LONGEST_PAUSE, pause * GROWTH)
  end
end

---Waits until an announced build has ended, with all that belongs to it. What the API
---does not tell of it at its end is as announced.
---@async
---@param client sbx.sandbox.Client
---@param announced sbx.sandbox.Build
---@param op string  on whose behalf, for messages
---@param on_progress? fun(status: string, build: sbx.sandbox.Build)  called at each change
---@return sbx.sandbox.Build
function build_status.finish(client, announced, op, on_progress)
  local build = build_status.follow(client, announced.build_id, op, on_progress)
  for i = 2, #(announced.build_ids or {}) do
    build_status.follow(client, announced.build_ids[i], op)
  end
  for name, value in pairs(announced) do
    if build[name] == nil then build[name] = value end
  end
  return build
end

---Runs `fn` within `seconds`, or raises `timeout`; `state.build_id` is known once there
---is one.
---@async
---@generic T
---@param seconds number
---@param op string
---@param state { build_id?: string }
---@param fn async fun(): T
---@return T
function build_status.within(seconds, op, state, fn)
  local in_time, result = task.move_on(seconds, fn)
  if in_time then return result end
  errors.raise({
    kind = "timeout",
    op = op,
    build_id = state.build_id,
    timeout = seconds,
    outcome = "unknown",
    message = ("%s%s: not done within %g s%s"):format(op,
      state.build_id and " " .. failure.clean(state.build_id, nil, 100) or "", seconds,
      state.build_id and "; the build may go on: client:wait_for_build" or ""),
  })
end

return build_status
