-- The verb `man`.

local host = require("sbx.core.host")
local pages = require("sbx.cli.pages")

local verb = { uses = {} }

verb.spec = {
  example = "sbxlua man | man -l -",
  options = {
    { name = "markdown", type = "flag", help = "as docs/commands.md has it" },
  },
}

---@async
function verb.run(given)
  io.stdout:write(given.markdown and pages.markdown() or pages.man(host.version))
end

return verb
