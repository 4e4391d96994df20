-- The verb `serve`: what it does is in sbx.cli.serve, which needs the whole server.

local description = require("sbx.cli.serve_options").description

return { uses = {}, own_program = true, spec = description, run = description.run }
