-- The verb `exec`.

local boxes = require("sbx.cli.boxes")
local remote_run = require("sbx.cli.remote_run")
local sandbox = require("sbx.sandbox")

local verb = { failure = remote_run.FAILED }

verb.spec = {
  example = {
    "sbxlua exec web -- ls -l /",
    "sbxlua exec -i web -- tar -xf - < files.tar",
    "sbxlua exec -w /tmp --deadline 10m web -- sh -c 'make && ./a.out'",
  },
  notes = "Words and bytes reach the command as they are, and come back as they are. SIGINT,"
    .. " SIGTERM and SIGHUP go to the command; a second Ctrl-C asks it to terminate, a third one"
    .. " ends it and all that it started. With -i stdin goes to it as it comes, to its end or to"
    .. " that of the command. Exit status: that of the command, which is 126 or 127 where it cannot"
    .. " be run or is not found; 124 when the deadline has come, 125 when sbxlua itself failed.",
  arguments = { boxes.argument, remote_run.argument },
  options = remote_run.options,
}

---@async
function verb.run(given)
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, given.sandbox)
  return remote_run.run(client, box, given)
end

return verb
