-- The verb `unexpose`.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local log = require("sbx.log")
local sandbox = require("sbx.sandbox")

local verb = {}

verb.spec = {
  example = { "sbxlua unexpose web 8000" },
  arguments = {
    boxes.argument,
    { name = "exposure", metavar = "PORT|ID|NAME", help = "what `sbxlua ports` calls it" },
  },
}

-- Those that a word means: the one with that id or name, or all of a port.
local function matching(list, word)
  local port, found = math.tointeger(tonumber(word)), {}
  for _, exposure in ipairs(list) do
    if exposure.exposure_id == word then return { exposure } end
    if exposure.name == word or (port and exposure.port == port) then
      found[#found + 1] = exposure
    end
  end
  return found
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  local found = matching(client:list_exposed_ports(box), given.exposure)
  if #found == 0 then
    errors.raise({
      kind = "not_found",
      message = ("%s has no exposed port '%s'; `sbxlua ports %s` shows what there is"):format(
        box.id, log.clean(given.exposure, 100), box.id),
    })
  elseif #found > 1 then
    errors.raise({
      kind = "conflict",
      message = ("'%s' may be several: give the id, as `sbxlua ports %s` shows it"):format(
        log.clean(given.exposure, 100), box.id),
    })
  end
  client:unexpose(box, found[1].exposure_id)
  local row = { id = found[1].exposure_id, sandbox_id = box.id, port = found[1].port,
    deleted = true }
  out:one(row, row.id, "id")
end

return verb
