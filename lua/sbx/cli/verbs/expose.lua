-- The verb `expose`.

local boxes = require("sbx.cli.boxes")
local exposures = require("sbx.cli.exposures")
local sandbox = require("sbx.sandbox")

local verb = {}

verb.spec = {
  example = { "curl $(sbxlua expose web 8000)", "sbxlua expose db 5432 --tcp" },
  notes = "stdout gets the address: a URL, or HOST:PORT with --tcp. Anyone who has it can use it."
    .. " The server inside has to listen; until then the answer is 502. `-o name` gives the id.",
  arguments = {
    boxes.argument,
    { name = "port", type = "integer", min = 1, max = 65535, help = "the port inside" },
  },
  options = {
    { name = "name", help = "what it is called" },
    { name = "tcp", type = "flag", help = "any protocol in place of HTTP" },
  },
}

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  -- It stays: nothing closes it at our end.
  local made = client:expose(box, given.port, {
    name = given.name, protocol = given.tcp and "TCP" or "HTTP",
  })
  local row = exposures.row(made)
  out:one(row, row.address, out.quiet and "address" or "id")
end

return verb
