-- One sandbox from creation to deletion: create, wait, run, logs, upload,
-- download, expose, delete.
--
--   sbxlua --local scripts/launch_demo.lua     on this machine, no account
--   sbxlua scripts/launch_demo.lua             against the API (PRIME_API_KEY)
--
-- stdout carries what the sandbox answered, stderr tells what happens.

local cli = require("sbx.cli")
local fs = require("sbx.fs")
local http = require("sbx.http")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local given = cli.parse(arg, {
  name = "launch_demo",
  summary = "Takes one sandbox through its whole life and prints what it answers.",
  example = "sbxlua --local scripts/launch_demo.lua",
  options = {
    { name = "image", default = "python:3.11-slim", help = "what to run" },
  },
})

local step_number = 0

local function step(text, ...)
  step_number = step_number + 1
  io.stderr:write(("%d. "):format(step_number), text:format(...), "\n")
end

local function note(text, ...)
  io.stderr:write("   ", text:format(...), "\n")
end

-- The file goes up, a command works on it, and it comes back as it was.
---@async
local function move_files(box)
  step("Move a file: up, through a command in the sandbox, and down again.")
  local folder <close> = fs.tmpdir({ prefix = "launch-demo-" })
  local there, back = folder.path .. "/input.txt", folder.path .. "/reports/output.txt"
  local text = ("line of text, größer als ASCII\n"):rep(1000)
  fs.write(there, text)

  box:upload_file("/tmp/demo/input.txt", there)
  local made = box:exec("tr a-z A-Z < input.txt > upper.txt && wc -c < upper.txt", {
    working_dir = "/tmp/demo",
  })
  assert(made.exit_code == 0, made.stderr)
  note("%s bytes after the command in the sandbox", made.stdout:match("%d+"))
  local size = box:download_file("/tmp/demo/input.txt", back)
  assert(fs.read(back) == text, "the file changed on its way")
  note("%d bytes came back, equal to what went up", size)
end

-- The server needs a moment to listen; each try is a plain HTTP request.
---@async
local function fetch(url)
  for _ = 1, 50 do
    local ok, response = pcall(http.request, "GET", url, { timeout = 5 })
    if ok and response.status == 200 then return response.body end
    task.sleep(0.1)
  end
  return nil
end

---@async
local function open_port(box)
  step("Expose a port: a web server inside, opened from outside.")
  box:exec("nohup python -m http.server 8000 --bind 0.0.0.0 > /dev/null 2>&1 &", {
    working_dir = "/tmp/demo",
  })
  local exposed = box:expose(8000, { name = "web-server" })
  local page = fetch(exposed.url)
  note("%s %s", exposed.url, page and "lists upper.txt" or "does not answer")
  assert(page and page:find("upper.txt", 1, true), "the exposed port does not answer")
  box:unexpose(exposed)
end

---@async
local function launch_demo(image)
  local client <close> = sandbox.client()

  step("Create a sandbox from the image %s.", image)
  local box <close> = client:create({
    name = "sdk-demo",
    docker_image = image,
    labels = { "experiment", "ml-pipeline", "team-research" },
    timeout_minutes = 120,
  })
  note("it is %s, and %s", box.id, box.status)

  step("Wait until commands get through.")
  box:wait()
  note("it is %s now", box.status)

  step("Run a command: python -c 'print(42)'")
  local result = box:exec("python -c 'print(42)'")
  assert(result.exit_code == 0, result.stderr)
  io.stdout:write(result.stdout)

  step("Read its log.")
  local logs = box:logs()
  note("%d bytes: %s", #logs, logs:match("[^\r\n]*"):sub(1, 100))

  move_files(box)
  open_port(box)

  step("Delete the sandbox.")
  box:delete()
  note("nothing is left of it")
end

launch_demo(given.image)
