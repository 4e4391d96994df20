-- The images that a driver has, whichever it is: those that it looks after itself (a
-- container engine), or those of this machine's own store.

local names = require("sbx.server.services.image_names")

local image_store = {}

local Own = {}
Own.__index = Own

function Own:list_images()
  local list = {}
  for _, entry in ipairs(self.images:list()) do
    local name, tag = names.split(entry.name)
    list[#list + 1] = {
      id = entry.image.id .. ":" .. entry.name, name = name, tag = tag,
      size_bytes = entry.image.bytes, created_at = entry.image.imported_at,
    }
  end
  return list
end

function Own:tag_image(from, to)
  local _ <close> = self.images:lock()
  local image = self.images:find(from)
  if image then self.images:tag(to, image.id) end
end

function Own:untag_image(name)
  self.images:remove(name)
end

---What lists, names and makes images; nil where there is nothing of the kind.
---@param driver sbx.server.Driver
---@return sbx.server.ImageDriver|nil
function image_store.of(driver)
  if driver.list_images then return driver end
  local images = driver.options and driver.options.images
  return images and setmetatable({ images = images }, Own) or nil
end

return image_store
