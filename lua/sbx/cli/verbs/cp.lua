-- The verb `cp`, in the manner of docker's.

local boxes = require("sbx.cli.boxes")
local copy = require("sbx.cli.copy")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local sandbox = require("sbx.sandbox")

local verb = {}

verb.spec = {
  example = {
    "sbxlua cp main.py web:/app/",
    "sbxlua cp -r web:/app/out results",
    "tar -cf - src | sbxlua cp -r - web:/app",
    "sbxlua cp web:/app/log - | tail",
  },
  notes = "One of SOURCE and TARGET is SANDBOX:PATH, the other a path here, or - for stdin or"
    .. " stdout: the bytes of a file, with -r a tar archive. Paths in a sandbox that do not begin"
    .. " with / are below its working folder. A target that is a folder, or ends in /, gets what is"
    .. " copied under its own name; otherwise it is the new name. With SOURCE/. the content of a"
    .. " folder is copied. Folders that are missing on the way to the target are made. `./a:b` is a"
    .. " path here.",
  arguments = {
    { name = "source", metavar = "SOURCE", complete = "copy" },
    { name = "target", metavar = "TARGET", complete = "copy" },
  },
  options = {
    { name = "recursive", short = "r", type = "flag", help = "folders with all that they hold" },
    { name = "checksum", type = "flag", help = "compare what arrived with what was sent" },
    { name = "unsafe", type = "choice", choices = { "refuse", "skip" }, default = "refuse",
      help = "links that lead out of a folder, devices, sockets" },
  },
}

-- SANDBOX and PATH of "SANDBOX:PATH"; nil for a path here.
local function split(word)
  if word == "-" then return nil end
  local name, path = word:match("^([^/:]+):(.*)$")
  if not name or name == "." or name == ".." then return nil end
  if path == "" then path = "." end
  return name, path
end

local function usage(message)
  errors.raise({ kind = "usage", message = message })
end

---@async
function verb.run(given, out)
  local from, from_path = split(given.source)
  local to, to_path = split(given.target)
  if from and to then
    usage("both are in sandboxes; copy by way of here: sbxlua cp SOURCE - | sbxlua cp - TARGET")
  elseif not from and not to then
    usage("neither is SANDBOX:PATH")
  end
  local client <close> = sandbox.client()
  local box = boxes.find_one(client, from or to)
  local done
  if to then
    done = copy.up(box, given.source, to_path, given)
  else
    done = copy.down(box, from_path, given.target, given)
  end
  if done and out:is_json() and given.target ~= "-" then
    out:one({ sandbox_id = box.id, source = given.source, target = given.target,
      bytes = done.bytes, files = done.files }, "")
  elseif done and host.isatty(2) then
    out:note("%s -> %s: %d bytes in %d file%s", given.source, given.target, done.bytes, done.files,
      done.files == 1 and "" or "s")
  end
end

return verb
