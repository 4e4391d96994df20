-- A driver with images that are names, and sandboxes that never boot. Loaded with dofile by
-- the tests of what there is around sandboxes.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local task = require("sbx.task")

local image_driver = {}

local Driver = {}
Driver.__index = Driver

---@param images table<string, integer>  NAME:TAG → bytes
function image_driver.open(images)
  return setmetatable({ name = "images", features = {}, images = images, built = {} }, Driver)
end

function Driver.check() return { ok = true, problems = {} } end

function Driver.create() task.sleep(1000) end

function Driver:list_images()
  local list = {}
  for full, bytes in pairs(self.images) do
    local name, tag = full:match("^(.*):([^:]*)$")
    list[#list + 1] = {
      id = "id-" .. full, name = name, tag = tag, size_bytes = bytes, created_at = 1e9,
    }
  end
  return list
end

function Driver:tag_image(from, to) self.images[to] = self.images[from] end

function Driver:untag_image(name) self.images[name] = nil end

function Driver:look_for_image(name)
  if name == "broken" then
    errors.raise { kind = "image_pull", message = "the registry is down" }
  end
  return self.images[name] ~= nil, "as asked"
end

function Driver:build_image(context, options, log)
  local bytes = fs.read(context)
  log("step 1 of 1")
  if bytes:find("no such command", 1, true) then
    errors.raise { kind = "image_build", message = "step 1 failed" }
  end
  self.built[#self.built + 1] = { bytes = bytes, options = options, path = context }
  self.images[options.name] = #bytes
  return { size_bytes = #bytes }
end

function Driver:pull_image(source, log)
  log("pulling " .. source)
  if source:find("missing", 1, true) then
    errors.raise { kind = "image_pull", message = "no such image" }
  end
  self.images[source] = 7
end

function Driver.close() end

return image_driver
