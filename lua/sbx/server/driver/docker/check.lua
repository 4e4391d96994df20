-- Whether an engine starts sandboxes: tried with the smallest images that it has. One
-- that vanishes meanwhile, or that cannot be started, says nothing of the engine.

local errors = require("sbx.errors")
local hash = require("sbx.hash")
local images = require("sbx.server.driver.docker.images")
local task = require("sbx.task")

---@class sbx.server.driver.docker.check
local check = {}

local MAX_FAILED = 4 -- images; then it is the engine

local function refuse_others_than_linux(facts)
  if not facts.OSType or facts.OSType == "linux" then return end
  errors.raise {
    kind = "process",
    message = "this engine runs " .. facts.OSType .. " containers; sandboxes need linux ones",
  }
end

local function smallest_first(engine)
  local list = engine:get("/images/json", "list images") or {}
  table.sort(list, function(a, b)
    local size_a, size_b = a.Size or 0, b.Size or 0
    if size_a ~= size_b then return size_a < size_b end
    return a.Id < b.Id
  end)
  return list
end

local function name_of(image)
  local tags = type(image.RepoTags) == "table" and image.RepoTags or {}
  return images.describe(tags[1] or "an image without a name", image)
end

-- Starts a sandbox of it and ends it again.
local function try_image(driver, image)
  local made = driver:create {
    id = "check-" .. hash.random_hex(4), image = image.Id, hostname = "check", lifetime = 60,
    memory_gb = 0.125, cpu_cores = 1, disk_size_gb = 1, network = false, workdir = "/workspace",
    env = {}, log = function() end, notice = function() end,
  }
  local ok, found = pcall(made.agent.stat, made.agent, "/workspace")
  made:kill()
  if not ok then error(found, 0) end
end

-- Returns normally when one could be started, or when there is none to try.
local function try_images(driver)
  local failed, last = 0, nil
  for _, image in ipairs(smallest_first(driver.engine)) do
    local ok, failure = pcall(try_image, driver, image)
    if ok then return end
    if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
    if images.find(driver.engine, image.Id) then
      failed, last = failed + 1, ("%s: %s"):format(name_of(image), tostring(failure))
      if failed == MAX_FAILED then break end
    end
  end
  if not last then return end
  errors.raise {
    kind = "process",
    message = failed == 1 and last
      or ("none of the engine's %d smallest images can be started; the last was %s"):format(failed,
        last),
  }
end

local function try_engine(driver)
  driver.engine:ping()
  refuse_others_than_linux(driver:engine_facts())
  try_images(driver)
end

---Asks the engine what it is, and where it has images starts one container.
---@async
---@param driver sbx.server.driver.docker.Driver
---@return {ok: boolean, problems: string[]}
function check.run(driver)
  local ok, problem = pcall(task.scope, function()
    try_engine(driver)
  end)
  if ok then return { ok = true, problems = {} } end
  if errors.is_error(problem) and problem.kind == "cancelled" then error(problem, 0) end
  return { ok = false, problems = { tostring(problem) } }
end

return check
