-- The images of an engine, looked after: listed, named, fetched, and built from contexts.

local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local images = require("sbx.server.driver.docker.images")
local json = require("sbx.json")

---@class sbx.server.driver.docker.builds
local builds = {}

local BUILD_IDLE_SECONDS = 1800 -- a step that says nothing
local MAX_REFUSAL = 1024 * 1024
local NATIVE = "linux/amd64" -- what clients ask for that do not care

local function split(full)
  return full:match("^(.*):([^:/]+)$")
end

-- In paths of the API names go as they are; what could be more than a name does not.
local function check_name(full)
  local name = split(full)
  if name and full:find("^[%w][%w%._/:%-]*$") and not full:find("..", 1, true) then return end
  errors.raise { kind = "image_pull", message = "that is no name of an image" }
end

---@async
---@param engine sbx.server.driver.docker.Engine
---@return sbx.server.ImageFacts[]
function builds.list(engine)
  local list = {}
  for _, image in ipairs(engine:get("/images/json", "list images") or {}) do
    for _, full in ipairs(type(image.RepoTags) == "table" and image.RepoTags or {}) do
      local name, tag = split(full)
      if name and name ~= "<none>" then
        list[#list + 1] = {
          id = image.Id .. "@" .. full, name = name, tag = tag, size_bytes = image.Size,
          created_at = image.Created,
        }
      end
    end
  end
  return list
end

---@async
---@param engine sbx.server.driver.docker.Engine
---@param from string
---@param to string
function builds.tag(engine, from, to)
  check_name(to)
  local image = images.find(engine, from)
  if not image then errors.raise { kind = "not_found", message = "no image " .. from } end
  local name, tag = split(to)
  engine:call("POST", "/images/" .. image.Id .. "/tag", {
    what = "name an image " .. to, query = { repo = name, tag = tag },
  })
end

---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
function builds.untag(engine, name)
  check_name(name)
  engine:call("DELETE", "/images/" .. name, {
    what = "remove the name " .. name, query = { noprune = "1" },
  })
end

local function build_failed(name, words)
  words = words:gsub("%c+", " "):gsub("%s+$", "")
  errors.raise { kind = "image_build", detail = words, message = "build " .. name .. ": " .. words }
end

-- Every line of a build; a failure comes as one of them.
local function read_build(res, name, log)
  for text in res:lines() do
    local ok, line = pcall(json.decode, text)
    if ok and type(line) == "table" then
      local detail = type(line.errorDetail) == "table" and line.errorDetail.message
      local words = detail or line.error
      if words then build_failed(name, tostring(words)) end
      local said = line.stream or line.status
      for part in (type(said) == "string" and said or ""):gmatch("[^\r\n]+") do
        log(part)
      end
    end
  end
end

---Builds an image from a context, which the engine unpacks. Raises `image_build` with its
---words.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param context string  path of a tar archive, packed or not
---@param options { name: string, dockerfile: string, platform: string }
---@param log fun(line: string)
---@return {size_bytes: integer|nil}
function builds.build(engine, context, options, log)
  check_name(options.name)
  do
    local res <close> = engine:stream("POST", "/build", {
      query = {
        t = options.name, dockerfile = options.dockerfile, rm = "1", forcerm = "1",
        platform = options.platform ~= NATIVE and options.platform or nil,
      },
      headers = { ["Content-Type"] = "application/x-tar" },
      body_path = context, timeout = false, idle_timeout = BUILD_IDLE_SECONDS,
    })
    if res.status >= 400 then
      local _, refusal = pcall(engines.refuse, "build", res.status, res:all(MAX_REFUSAL))
      build_failed(options.name, refusal.detail)
    end
    read_build(res, options.name, log)
  end
  local image = images.find(engine, options.name)
  if not image then build_failed(options.name, "the engine has no image at its end") end
  return { size_bytes = image.Size }
end

---Gives a driver the methods that `sbx.server.ImageDriver` describes.
---@param Driver table  its class; objects have `engine` and `options`
function builds.equip(Driver)
  function Driver:list_images() return builds.list(self.engine) end

  function Driver:tag_image(from, to) builds.tag(self.engine, from, to) end

  function Driver:untag_image(name) builds.untag(self.engine, name) end

  function Driver:build_image(context, options, log)
    return builds.build(self.engine, context, options, log)
  end

  function Driver:pull_image(source, log)
    images.ensure(self.engine, source, log, self.options.credentials)
  end
end

return builds
