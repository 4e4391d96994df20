-- The verb `ports`.

local boxes = require("sbx.cli.boxes")
local exposures = require("sbx.cli.exposures")
local sandbox = require("sbx.sandbox")

local verb = {}

verb.spec = {
  example = { "sbxlua ports", "sbxlua ports web -o json" },
  arguments = {
    { name = "sandbox", metavar = "SANDBOX", complete = "sandbox", optional = true,
      help = "of this one only" },
  },
}

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local box = given.sandbox and boxes.find_one(client, given.sandbox)
  local rows = {}
  for i, exposure in ipairs(client:list_exposed_ports(box)) do
    rows[i] = exposures.row(exposure)
  end
  out:rows(rows, exposures.columns)
  if #rows == 0 then out:note("no exposed ports") end
end

return verb
