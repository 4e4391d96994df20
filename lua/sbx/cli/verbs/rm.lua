-- The verb `rm`.

local boxes = require("sbx.cli.boxes")
local errors = require("sbx.errors")
local host = require("sbx.core.host")
local ls = require("sbx.cli.verbs.ls")
local output = require("sbx.cli.output")
local sandbox = require("sbx.sandbox")

local verb = {}

local MOST_ANSWER = 100 -- bytes

verb.spec = {
  example = { "sbxlua rm web", "sbxlua rm -l ci --older-than 2h --yes" },
  notes = "More than one are deleted with --yes only, or when somebody at a terminal says so;"
    .. " otherwise they are shown, and the exit status is 2. stdout gets what was deleted.",
  arguments = {
    { name = "sandbox", metavar = "SANDBOX", complete = "sandbox", optional = true, many = true,
      help = boxes.arguments.help },
  },
  options = {
    { name = "yes", short = "y", type = "flag", also = { "--force", "-f" },
      help = "delete more than one without a question" },
    { name = "label", short = "l", type = "list", help = "those that carry it" },
    { name = "status", metavar = "STATUS", help = "those of this status, as ERROR" },
    { name = "older-than", type = "duration", help = "those made so long ago" },
    { name = "all", type = "flag", help = "all that live" },
    { name = "ignore-missing", type = "flag", help = "what is not there is no failure" },
  },
}

-- Those that were named.
---@async
local function named(client, given)
  if not given.ignore_missing then return boxes.find(client, given.sandbox) end
  local list, seen = {}, {}
  for _, word in ipairs(given.sandbox) do
    local box, err = errors.try(boxes.find_one, client, word)
    if box and not seen[box.id] then
      seen[box.id] = true
      list[#list + 1] = box
    elseif not box and err.kind ~= "not_found" then
      error(err, 0)
    end
  end
  return list
end

---@async
local function chosen(client, given, out)
  local by_rule = #given.label > 0 or given.status or given.older_than or given.all
  if #given.sandbox > 0 then
    if by_rule then
      errors.raise({ kind = "usage", message = "give SANDBOX or --label, --status, --older-than, "
        .. "--all, not both" })
    end
    return named(client, given)
  elseif not by_rule then
    errors.raise({ kind = "usage", message = "which? Give SANDBOX, --label, --status, --older-than "
      .. "or --all" })
  end
  local list, others = {}, 0
  local labels = boxes.labels(given)
  for box in client:each({ labels = labels, exclude_terminated = true }) do
    local fits = not given.status or box.status == given.status:upper()
    if not boxes.carries(box, labels) then
      others = others + 1
    elseif fits and ls.is_older(box, given.older_than) then
      list[#list + 1] = box
    end
  end
  if others > 0 then
    out:note("the server showed %s without the label, left alone",
      output.count(others, "sandbox"))
  end
  return list
end

-- Asks at a terminal; nil where there is none.
---@async
local function ask(count)
  if not (host.isatty(0) and host.isatty(2)) then return nil end
  host.write(2, ("delete %s? [y/N] "):format(count))
  local answer = io.read("L") or ""
  return answer:sub(1, MOST_ANSWER):lower():find("^%s*y") ~= nil
end

-- Whether to go on; else the exit status.
---@async
local function may_delete(list, given, out)
  if #list <= 1 or given.yes then return true end
  local rows = {}
  for i, box in ipairs(list) do
    rows[i] = boxes.row(box)
  end
  host.write(2, output.table(rows, {
    boxes.columns[1], boxes.columns[2], boxes.columns[3], boxes.columns[5],
  }))
  local count = output.count(#list, "sandbox")
  local answer = not out:is_json() and ask(count)
  if answer then return true end
  if answer == false and host.isatty(0) then
    out:note("nothing was deleted")
    return false, 1
  end
  return false, errors.raise({
    kind = "usage", message = ("nothing was deleted; --yes deletes the %s"):format(count),
  })
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local list = chosen(client, given, out)
  local go, status = may_delete(list, given, out)
  if not go then return status end
  if #list == 0 then
    out:rows({}, {})
    out:note("no sandboxes")
    return 0
  end
  local names = {}
  for _, box in ipairs(list) do
    names[box.id] = box.name
  end
  local rows, failed = {}, {}
  if #list == 1 then
    client:delete(list[1])
    rows[1] = { id = list[1].id, name = list[1].name, deleted = true }
  else
    local result = client:bulk_delete(list)
    for i, id in ipairs(result.succeeded) do
      rows[i] = { id = id, name = names[id], deleted = true }
    end
    failed = result.failed
  end
  if out.format == "table" or out.format == "wide" then out.format = "name" end
  out:rows(rows, {})
  if #failed == 0 then return 0 end
  errors.raise({ kind = "api", message = ("could not delete %s: %s: %s"):format(
    output.count(#failed, "sandbox"), failed[1].sandbox_id, tostring(failed[1].error)) })
end

return verb
