-- The images of an engine: whether one is there, whether its registry has it, and
-- fetching it, with the progress in the sandbox's log.

local engines = require("sbx.server.driver.docker.engine")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local json = require("sbx.json")
local time = require("sbx.core.time")

---@class sbx.server.driver.docker.images
local images = {}

local MAX_NAME = 512
local PULL_IDLE_SECONDS = 300
local REPORT_SECONDS = 5
local MIB = 1024 * 1024

---@class sbx.server.driver.docker.Login
---@field username string
---@field password string
---@field serveraddress? string

---Asked for the login at the registry of `image`; nil: there is none. The second value is
---for the log.
---@alias sbx.server.driver.docker.Credentials async fun(image: string): sbx.server.driver.docker.Login|nil, string|nil

-- A name goes into paths of the API as it is.
local function check_name(name)
  local fine = #name <= MAX_NAME and name:find("^[%w][%w%._/:@%-]*$")
    and not name:find("..", 1, true) and not name:find("//", 1, true)
  if fine then return end
  errors.raise {
    kind = "image_pull",
    message = ("image '%s': that is no name of an image; expected one such as python:3.11-slim")
      :format(name:sub(1, 80):gsub("%c", "?")),
  }
end

-- Name and tag or digest. Without a tag an engine would fetch all that there are.
local function split(name)
  local repository, digest = name:match("^(.-)@(.+)$")
  if repository then return repository, digest end
  local before, tag = name:match("^(.*):([^:/]+)$")
  if before then return before, tag end
  return name, "latest"
end

local function url_base64(text)
  return (hash.base64(text):gsub("%+", "-"):gsub("/", "_"))
end

local function find_login(name, credentials)
  if not credentials then return nil, nil end
  return credentials(name)
end

local function login_headers(login)
  if not login then return {} end
  return { ["X-Registry-Auth"] = url_base64(json.encode(login)) }
end

local DENIALS = {
  "no basic auth credentials", "unauthorized", "authentication required", "access denied",
  "denied:", "forbidden",
}

local function without(text, secret)
  local plain = secret:gsub("%p", "%%%0")
  return (text:gsub(plain, "***"))
end

-- The engine passes on what the registry says, which may repeat what it was sent.
local function without_login(words, login)
  if not login then return words end
  words = without(words, hash.base64(login.username .. ":" .. login.password))
  return without(words, login.password)
end

-- What to do about a registry that wants another login; nil when that is not the matter.
local function advice(words, login, note)
  local lower = words:lower()
  for _, denial in ipairs(DENIALS) do
    if lower:find(denial, 1, true) then
      return (login and "the login that this server has for the registry was sent"
        or "this server has no login for the registry: see serve --registry-credentials")
        .. (note and "; " .. note or "")
    end
  end
  return nil
end

-- What the engine says of a registry, with what can be done about it.
local function explain(words, login, note)
  words = without_login(tostring(words):gsub("%c+", " "), login)
  local more = advice(words, login, note)
  return more and words .. "; " .. more or words
end

---What the engine has under `name`; nil when it has not.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
---@return {Id: string, RepoTags: string[]|nil, Size: integer}|nil
function images.find(engine, name)
  check_name(name)
  return engine:get("/images/" .. name .. "/json", "look for image " .. name)
end

-- ---------------------------------------------------------------------- pulling

-- Turns the engine's many lines into few.
local function reporter(name, log)
  local layers, reported, begun = {}, time.now(), time.now()
  local function progress()
    local done, total = 0, 0
    for _, layer in pairs(layers) do
      done, total = done + layer.current, total + layer.total
    end
    return ("pulling %s: %.0f of %.0f MiB"):format(name, done / MIB, total / MIB)
  end
  return function(line)
    local detail = type(line.progressDetail) == "table" and line.progressDetail or {}
    if line.status == "Downloading" and line.id and detail.total then
      layers[line.id] = { current = detail.current or 0, total = detail.total }
    elseif not line.id and line.status then
      log(line.status)
    end
    if time.now() - reported < REPORT_SECONDS then return end
    reported = time.now()
    log(progress() .. (" (%.0f s)"):format(reported - begun))
  end
end

local function pull_failed(name, words)
  errors.raise { kind = "image_pull", detail = words, message = "pull " .. name .. ": " .. words }
end

-- The lines of a pull. Its status is said before it has begun, so that failures come
-- as a line.
local function read_pull(res, name, log, login, note)
  local report = reporter(name, log)
  for text in res:lines() do
    local ok, line = pcall(json.decode, text)
    if ok and type(line) == "table" then
      local detail = type(line.errorDetail) == "table" and line.errorDetail.message
      local words = detail or line.error
      if words then pull_failed(name, explain(words, login, note)) end
      report(line)
    end
  end
end

---Fetches an image from its registry. Raises `image_pull` with the engine's words.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
---@param log fun(line: string)
---@param credentials? sbx.server.driver.docker.Credentials
function images.pull(engine, name, log, credentials)
  check_name(name)
  local repository, tag = split(name)
  log("pulling " .. name)
  local login, note = find_login(name, credentials)
  if note then log(note) end
  local res <close> = engine:stream("POST", "/images/create", {
    query = { fromImage = repository, tag = tag },
    headers = login_headers(login),
    timeout = false, idle_timeout = PULL_IDLE_SECONDS,
  })
  if res.status >= 400 then
    local _, refusal = pcall(engines.refuse, "pull", res.status, res:all(MIB))
    pull_failed(name, explain(refusal.detail, login, note))
  end
  read_pull(res, name, log, login, note)
end

---The image, fetched when the engine lacks it.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
---@param log fun(line: string)
---@param credentials? sbx.server.driver.docker.Credentials
---@return {Id: string, RepoTags: string[]|nil}
function images.ensure(engine, name, log, credentials)
  local image = images.find(engine, name)
  if image then return image end
  if name:find("^sha256:%x+$") then pull_failed(name, "the engine does not have this image") end
  images.pull(engine, name, log, credentials)
  image = images.find(engine, name)
  if not image then pull_failed(name, "the engine has pulled it, but does not have it") end
  return image
end

---Whether the engine has the image, or its registry says that it has.
---@async
---@param engine sbx.server.driver.docker.Engine
---@param name string
---@param credentials? sbx.server.driver.docker.Credentials
---@return boolean
---@return string details
function images.look(engine, name, credentials)
  local ok, image = pcall(images.find, engine, name)
  if not ok then
    if not errors.is_error(image) or image.kind ~= "image_pull" then error(image, 0) end
    return false, image.message
  end
  if image then return true, "the engine has it: " .. images.describe(name, image) end
  local login, note = find_login(name, credentials)
  local res = engine:call("GET", "/distribution/" .. name .. "/json", {
    what = "ask the registry for " .. name,
    headers = login_headers(login),
    accept = setmetatable({}, { __index = function() return true end }),
  })
  if res.status == 200 then return true, "its registry has it; the first sandbox waits for it" end
  local _, refusal = pcall(engines.refuse, "", res.status, res.body)
  return false, ("the engine does not have %s, and cannot get it: %s"):format(name,
    explain(refusal.detail, login, note))
end

---What an image is, for people.
---@param name string
---@param image {Id: string}
---@return string
function images.describe(name, image)
  return ("%s (%s)"):format(name, tostring(image.Id):gsub("^sha256:", ""):sub(1, 12))
end

return images
