-- The verb `version`.

local host = require("sbx.core.host")

local verb = { uses = { output = true } }

verb.spec = { example = "sbxlua version -o json" }

---@async
function verb.run(_, out)
  out:one({ version = host.version, lua = _VERSION },
    ("sbxlua %s (%s)"):format(host.version, _VERSION), "version")
end

return verb
