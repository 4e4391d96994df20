-- The verb `wait`.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")
local time = require("sbx.time")

local verb = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5 -- seconds between looks

verb.spec = {
  example = {
    "sbxlua wait web db --timeout 10m",
    "sbxlua wait web --for gone",
  },
  notes = "Prints what it waited for. Exit status 124 when the time is up, 1 when a sandbox that is"
    .. " to get ready has ended.",
  arguments = { boxes.arguments },
  options = {
    { name = "for", type = "choice", choices = { "ready", "gone" }, default = "ready",
      help = "until commands can run in it, or until it has ended" },
    { name = "timeout", type = "duration", default = "5m", also = { "--deadline" },
      help = "for all of them together" },
  },
}

local function too_late(given, left)
  errors.raise({
    kind = "timeout",
    message = ("not %s within %s: %s"):format(given["for"], time.format_duration(given.timeout),
      table.concat(left, ", ")),
  })
end

-- Until all have ended, or the API knows them no more.
---@async
local function wait_gone(client, list, given)
  local deadline, pause = time.after(given.timeout), FIRST_PAUSE
  local left = {}
  for _, box in ipairs(list) do
    if not boxes.is_gone(box) then left[#left + 1] = box.id end
  end
  while #left > 0 do
    local statuses, failures = client:get_status(left)
    local still = {}
    for _, id in ipairs(left) do
      local status, err = statuses[id], failures[id]
      if err and err.code ~= "NOT_FOUND" then error(err, 0) end
      if status and not boxes.is_gone(status) then still[#still + 1] = id end
    end
    left = still
    if #left > 0 and deadline:passed() then too_late(given, left) end
    if #left > 0 then task.sleep(math.min(pause, deadline:left())) end
    pause = math.min(pause * 1.6, LONGEST_PAUSE)
  end
end

-- Whether it was the deadline that ended a wait, and no end of a sandbox.
local function is_late(err)
  if not errors.is_error(err) then return false end
  if err.timeout then return true end
  for _, one in pairs(type(err.errors) == "table" and err.errors or {}) do
    if not one.timeout then return false end
  end
  return err.errors ~= nil
end

---@async
local function wait_ready(client, list, given)
  local ok, err = pcall(client.bulk_wait_for_creation, client, list, { timeout = given.timeout })
  if ok then return end
  if is_late(err) then err.exit_status = 124 end
  error(err, 0)
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local list = boxes.find(client, given.sandbox)
  local wait = given["for"] == "gone" and wait_gone or wait_ready
  wait(client, list, given)
  local rows = {}
  for i, box in ipairs(list) do
    rows[i] = { id = box.id, name = box.name, state = given["for"] }
  end
  out:rows(rows, { { "ID", "id" }, { "NAME", "name" }, { "STATE", "state" } })
end

return verb
