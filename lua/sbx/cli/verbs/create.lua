-- The verb `create`.

local boxes = require("sbx.cli.boxes")
local new_box = require("sbx.cli.new_box")
local output = require("sbx.cli.output")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local verb = { cleans = true }

local DELETE_SECONDS = 30

verb.spec = {
  example = {
    "id=$(sbxlua create python:3.11-slim)",
    "sbxlua create -n web -l ci --lifetime 2h --no-network python:3.11-slim",
  },
  notes = "stdout gets the id and nothing else. The sandbox stays until `sbxlua rm`, or until its"
    .. " lifetime is over: it carries the label sbxlua-keep, so that `sbxlua gc` leaves it alone,"
    .. " and `sbxlua rm -l sbxlua-keep` finds it. One whose start fails is deleted, unless"
    .. " --no-wait was given, and so is one whose id could not be written.",
  arguments = { new_box.image },
  options = new_box.with({
    { name = "wait", type = "flag", default = true,
      help = "whether to wait until it can be used" },
    { name = "env", short = "e", type = "map", help = "a variable for all its commands" },
    { name = "env-file", type = "file", metavar = "FILE", help = "lines NAME=VALUE" },
    { name = "start-command", metavar = "LINE", help = "what it runs from its start on" },
  }),
}

-- Deletes what cannot be used, or not be found, however the wait for it ended.
local function undo(client, box)
  return setmetatable({}, {
    __close = function(self)
      if not self.done then pcall(task.shield, DELETE_SECONDS, client.delete, client, box.id) end
    end,
  })
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local box = new_box.create(client, given, {
    environment_vars = new_box.env(given), start_command = given.start_command, keep = true,
  })
  local attempt <close> = undo(client, box)
  if given.wait then new_box.wait(box, given.timeout) end
  -- One whose id nobody gets to know would be found by nobody.
  out:one(boxes.row(box), box.id, "id")
  output.flush()
  attempt.done = true
end

return verb
