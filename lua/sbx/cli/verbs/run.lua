-- The verb `run`.

local new_box = require("sbx.cli.new_box")
local remote_run = require("sbx.cli.remote_run")
local sandbox = require("sbx.sandbox")

local verb = { private = true, cleans = true, failure = remote_run.FAILED }

verb.spec = {
  example = {
    "sbxlua run --local python:3.11-slim -- python -c 'print(6 * 7)'",
    "sbxlua run -i --no-network debian -- sort < names.txt",
  },
  notes = "The sandbox is deleted however the command ends, unless --keep was given: then its id is"
    .. " said on stderr. Exit status: as `sbxlua help exec` says.",
  arguments = { new_box.image, remote_run.argument },
  options = new_box.with((function()
    local own = table.move(remote_run.options, 1, #remote_run.options, 1, {})
    own[#own + 1] = { name = "keep", type = "flag", help = "leave the sandbox there" }
    return own
  end)()),
}

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local box <close> = new_box.create(client, given, { keep = given.keep })
  if given.keep then out:note("sandbox %s stays", box.id) end
  new_box.wait(box, given.timeout)
  return remote_run.run(client, box, given)
end

return verb
