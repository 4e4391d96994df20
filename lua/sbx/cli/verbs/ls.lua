-- The verb `ls`.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local sandbox = require("sbx.sandbox")
local time = require("sbx.time")

local verb = {}

verb.spec = {
  example = {
    "sbxlua ls -l ci --older-than 2h",
    "sbxlua ls -a --status ERROR -o wide",
    "sbxlua ls -q | xargs sbxlua rm --yes",
  },
  options = {
    { name = "all", short = "a", type = "flag", help = "also those that have ended" },
    { name = "label", short = "l", type = "list", help = "only those that carry it" },
    { name = "status", metavar = "STATUS", help = "only those of this status, as RUNNING" },
    { name = "older-than", type = "duration", help = "only those made so long ago" },
    { name = "limit", short = "n", type = "integer", min = 1, help = "the newest so many" },
  },
}

---Whether a sandbox was made so many seconds ago. Of one whose age is not told: no.
---@param box sbx.sandbox.Box
---@param seconds number|nil
---@return boolean
function verb.is_older(box, seconds)
  if not seconds then return true end
  local at = type(box.created_at) == "string" and errors.try(time.parse_iso, box.created_at)
  return at and time.wall() - at >= seconds or false
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local rows = {}
  local status = given.status and given.status:upper()
  local options = {
    labels = boxes.labels(given), status = status,
    exclude_terminated = not (given.all or status) or nil,
  }
  for box in client:each(options) do
    local fits = boxes.carries(box, options.labels)
    if fits and verb.is_older(box, given.older_than) then rows[#rows + 1] = boxes.row(box) end
    if given.limit and #rows == given.limit then break end
  end
  out:rows(rows, boxes.columns)
  if #rows == 0 then out:note("no sandboxes") end
end

return verb
