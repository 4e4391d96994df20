-- The verb `test`: sbx.cli.test, with the options that all commands have.

local test = require("sbx.cli.test")

local verb = { uses = { client = true }, own_program = true, run = test.run_given }

verb.spec = {}
for key, value in pairs(test.description) do
  verb.spec[key] = value
end

-- `--local` is one of those of all commands.
verb.spec.options = {}
for _, option in ipairs(test.description.options) do
  if option.name ~= "local" then table.insert(verb.spec.options, option) end
end

return verb
