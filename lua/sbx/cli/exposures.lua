-- Exposed ports, as the commands show them.

local exposures = {}

local FIELDS = {
  "sandbox_id", "port", "name", "protocol", "url", "external_port", "external_endpoint",
  "created_at",
}

---@param exposure sbx.sandbox.Exposure
---@return table
function exposures.row(exposure)
  local row = {
    id = exposure.exposure_id, address = exposure.external_endpoint or exposure.url,
  }
  for _, name in ipairs(FIELDS) do
    row[name] = exposure[name]
  end
  return row
end

---@type sbx.cli.Column[]
exposures.columns = {
  { "ID", "id" }, { "SANDBOX", "sandbox_id" }, { "PORT", "port" }, { "NAME", "name" },
  { "ADDRESS", "address" }, { "PROTOCOL", "protocol", wide = true },
}

return exposures
