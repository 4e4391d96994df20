-- Shows what is in a folder to others: a service in a sandbox, reachable from outside
-- until Ctrl-C, or for a while.
--
--   sbxlua --local scripts/preview.lua site
--   sbxlua scripts/preview.lua app --port 5432 --tcp --start ./run-db --for 2h
--   sbxlua scripts/preview.lua --list
--
-- stdout has the address, once something answers there; stderr what happens. In the
-- end the sandbox and all ways into it are gone.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local http = require("sbx.http")
local net = require("sbx.net")
local retry = require("sbx.retry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local SITE = "/tmp/site"

local given = cli.parse(arg, {
  name = "preview",
  summary = "Makes a service in a sandbox reachable until Ctrl-C.",
  example = {
    "sbxlua --local scripts/preview.lua site",
    "sbxlua scripts/preview.lua app --port 5432 --tcp --start ./run-db --for 2h",
  },
  options = {
    { name = "start", metavar = "COMMAND", default = "python -m http.server 8000",
      help = "what starts the service, in the folder" },
    { name = "port", short = "p", type = "integer", default = 8000, min = 1, max = 65535,
      help = "where it listens" },
    { name = "tcp", type = "flag", help = "it does not speak HTTP" },
    { name = "env", short = "e", type = "map",
      help = "variables for the service; no secrets: others see command lines" },
    { name = "ssh-key", type = "file", metavar = "FILE",
      help = "a public key whose owner may log in" },
    { name = "for", type = "duration", default = "8h", min = "100ms", max = "1d",
      help = "when it ends by itself" },
    { name = "wait", type = "duration", default = "60s", help = "until it has to answer" },
    { name = "image", default = "python:3.11-slim", help = "what the sandbox runs" },
    { name = "list", type = "flag", help = "only show what is exposed, by any sandbox" },
  },
  arguments = { { name = "folder", type = "path", optional = true, help = "what to show" } },
})

local client <close> = sandbox.client()
if given.list then
  for _, exposure in ipairs(client:list_exposed_ports()) do
    print(exposure.sandbox_id, exposure.port, exposure.external_endpoint or exposure.url)
  end
  os.exit(0)
end
if not given.folder then
  io.stderr:write("preview: which folder?\n")
  os.exit(2)
end

-- Whether the service is there: until then a port that nobody listens on answers 502,
-- or hangs up.
---@async
local function knock(exposure)
  if given.tcp then
    local host, port = exposure.external_endpoint:match("^%[?(.-)%]?:(%d+)$")
    local stream <close> = net.connect(host, tonumber(port), { timeout = 5 })
    -- Silence is fine; an end at once is not.
    local spoke, bytes = task.move_on(0.5, stream.read, stream)
    if spoke and not bytes then
      errors.raise({ kind = "connect", message = "it hung up at once", retryable = true })
    end
  elseif http.get(exposure.url, { timeout = 5, max_body = 1 << 20 }).status >= 502 then
    errors.raise({ kind = "http", message = "nothing answers there", retryable = true })
  end
  return true
end

local box <close> = client:create({
  name = "preview", docker_image = given.image, environment_vars = given.env,
  timeout_minutes = math.ceil(given["for"] / 60) + 10,
})
box:wait()
box:copy_tree_up(given.folder, SITE)
local job = box:start_background_job(given.start, { working_dir = SITE })

local exposure <close> = box:expose(given.port, {
  name = "preview", protocol = given.tcp and "TCP" or "HTTP",
})
local up, err = errors.try(retry.call, function() return knock(exposure) end, {
  attempts = 1000, timeout = given.wait, pause = 0.2, max_pause = 1, when = errors.is_error,
})
if not up then
  if not errors.is_error(err) then error(err, 0) end
  io.stderr:write("preview: ", tostring(err), "\n", (box:read_file(job.stderr_log_file)))
  os.exit(1)
end

-- A way in for who has the key, as long as this runs.
local session <close> = given.ssh_key and box:open_ssh_session({
  ttl_seconds = math.ceil(given["for"]),
})
if session then
  session:authorize((fs.read(given.ssh_key):gsub("%s+$", "")))
  io.stderr:write(("preview: ssh -p %d %s@%s\n"):format(
    session.port, session.session_id, session.host))
end

print(given.tcp and exposure.external_endpoint or exposure.url)
io.stdout:flush()
io.stderr:write("preview: for ", time.format_duration(given["for"]), ", or until Ctrl-C\n")
task.sleep(given["for"])
