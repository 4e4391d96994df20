-- Takes one sandbox through its life and measures each step, for cron: is the service up,
-- and how fast is it?
--
--   sbxlua --local scripts/canary.lua
--   sbxlua scripts/canary.lua --fresh --slow 30s >> canary.csv
--
-- stdout has a row of CSV for each step. The status is 1 if a step failed, or was slow.

local cli = require("sbx.cli")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local hash = require("sbx.hash")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local given = cli.parse(arg, {
  name = "canary",
  summary = "Takes one sandbox through its life and measures each step.",
  example = "sbxlua scripts/canary.lua --fresh --slow 30s >> canary.csv",
  options = {
    { name = "fresh", type = "flag", help = "forget gateway tokens first, to measure that, too" },
    { name = "slow", type = "duration", default = "1m", help = "how long a step may take" },
    { name = "size", type = "size", default = "1MiB", min = 1, max = "64MiB",
      help = "of the file that goes up and down" },
    { name = "image", default = "python:3.11-slim", help = "what the sandbox runs" },
  },
})

local failed = false

-- Does one step; whatever it returns. What goes wrong ends the script, after the row.
---@async
local function step(name, fn, ...)
  local started = task.now()
  local result, err = errors.try(task.timeout, given.slow, fn, ...)
  local row = { time.iso(), name, ("%.3f"):format(task.now() - started), "ok" }
  if err then
    if not errors.is_error(err) then error(err, 0) end
    row[4], failed = tostring(err), true
  end
  print(encoding.csv_row(row))
  io.stdout:flush()
  return result
end

local client <close> = sandbox.client()
local bytes = hash.random_bytes(math.min(given.size, 1 << 20))
bytes = bytes:rep(given.size // #bytes)

---@async
local function use(box)
  step("ready", box.wait, box)
  if failed then return end
  step("exec", box.exec, box, { "echo", "ok" }, { timeout = 30, check = true })
  if failed then return end
  step("upload", box.upload_bytes, box, "/tmp/canary", bytes, { checksum = true })
  step("download", function()
    if box:download_bytes("/tmp/canary") ~= bytes then
      errors.raise({ kind = "io", message = "the file came back changed" })
    end
  end)
  step("job", box.run_background_job, box, "true", { timeout = 30, poll = 1 })
  step("logs", box.logs, box)
end

print(encoding.csv_row({ "time", "step", "seconds", "result" }))
if given.fresh then client:clear_auth_cache() end
step("list", client.list, client, { page = 1, per_page = 1 })
local box <close> = not failed and step("create", client.create, client, {
  name = "canary", docker_image = given.image, timeout_minutes = 10,
}) or nil
if box then
  use(box)
  step("delete", box.delete, box)
end
if failed then os.exit(1) end
