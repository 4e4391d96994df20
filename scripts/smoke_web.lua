-- Starts a web service in a sandbox, makes its port reachable, and checks from
-- outside what its pages answer.
--
--   sbxlua --local scripts/smoke_web.lua / /missing=404
--   sbxlua --local scripts/smoke_web.lua --folder site --port 8080 \
--     --start 'python server.py' / /health /admin=403
--
-- stdout has a table with a line for each page. The status is 1 if one of them
-- did not answer as it should.

local cli = require("sbx.cli")
local errors = require("sbx.errors")
local http = require("sbx.http")
local retry = require("sbx.retry")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local SITE = "/tmp/site" -- the service's folder in the sandbox

local given = cli.parse(arg, {
  name = "smoke_web",
  summary = "Checks a web service that runs in a sandbox from outside.",
  example = "sbxlua --local scripts/smoke_web.lua / /missing=404",
  options = {
    { name = "start", metavar = "COMMAND", default = "python -m http.server 8000",
      help = "what starts the service" },
    { name = "port", short = "p", type = "integer", default = 8000, min = 1, max = 65535,
      help = "where it listens" },
    { name = "folder", type = "path", help = "files to put into its folder first" },
    { name = "image", default = "python:3.11-slim", help = "what the sandbox runs" },
    { name = "wait", type = "duration", default = "30s",
      help = "how long each page may take to answer as it should" },
  },
  arguments = {
    { name = "pages", metavar = "PATH[=STATUS]", many = true,
      help = "what to ask for, and the status to expect (200)" },
  },
})

local checks = {}
for i, page in ipairs(given.pages) do
  local path, status = page:match("^(/.*)=(%d%d%d)$")
  path = path or page:match("^/.*")
  if not path then
    io.stderr:write("smoke_web: ", page, " is no page: a path begins with /\n")
    os.exit(2)
  end
  checks[i] = { path = path, wanted = tonumber(status or 200) }
end

-- Asks until the answer is as it should be. A service needs a moment to start, and
-- a new address may need one to be known: 404 and 502 can turn into 200.
---@async
local function check_page(base, check)
  local ok, err = errors.try(retry.call, function()
    local started = task.now()
    local answer = http.get(base .. check.path, { timeout = 10, max_body = 1 << 20 })
    check.status, check.seconds = answer.status, task.now() - started
    if answer.status ~= check.wanted then
      errors.raise({ kind = "http", message = "wanted " .. check.wanted })
    end
    return true
  end, {
    attempts = 1000, timeout = given.wait, pause = 0.1, max_pause = 2, when = errors.is_error,
  })
  check.problem = not ok and tostring(err) or nil
end

---@async
local function start_service(box)
  box:exec("mkdir -p " .. SITE)
  if given.folder then box:copy_tree_up(given.folder, SITE) end
  -- In the background and with its output in a file, or the call would wait for it.
  box:exec('nohup sh -c "$COMMAND" > /tmp/service.log 2>&1 &', {
    working_dir = SITE, env = { COMMAND = given.start },
  })
end

local client <close> = sandbox.client()
local box <close> = client:create({ name = "smoke-web", docker_image = given.image })
box:wait()
start_service(box)

local failed = 0
do
  local exposure = box:expose(given.port, { name = "smoke" })
  -- The end of this block closes the port again, whatever happens in it.
  local scope <close> = task.open_scope()
  scope:defer(function() box:unexpose(exposure) end)
  io.stderr:write("the service is at ", exposure.url, "\n")

  local base = exposure.url:gsub("/$", "")
  print("RESULT  STATUS  SECONDS  PATH")
  for i in task.imap(checks, function(check) check_page(base, check) end, { progress = "pages" }) do
    local check = checks[i]
    print(("%-6s  %6s  %7.3f  %s%s"):format(check.problem and "FAIL" or "ok", check.status or "-",
      check.seconds or 0, check.path, check.problem and "  " .. check.problem or ""))
    if check.problem then failed = failed + 1 end
  end
end
io.stderr:write(("%d of %d pages as expected\n"):format(#checks - failed, #checks))
if failed > 0 then
  io.stderr:write(box:exec("tail -n 20 /tmp/service.log").stdout)
  os.exit(1)
end
