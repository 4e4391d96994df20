-- Sandboxes as the commands see them: found by what people call them, and shown.

local errors = require("sbx.errors")
local json = require("sbx.json")
local log = require("sbx.log")
local task = require("sbx.task")
local time = require("sbx.time")

local boxes = {}

local SHOWN = 5 -- of several that a word may mean
local GONE = { TERMINATED = true, TIMEOUT = true, ERROR = true }

---The argument that takes one sandbox.
boxes.argument = {
  name = "sandbox", metavar = "SANDBOX", complete = "sandbox",
  help = "its id, its name, or a beginning of its id",
}

---The argument that takes several.
boxes.arguments = {
  name = "sandbox", metavar = "SANDBOX", complete = "sandbox", many = true,
  help = "ids, names, or beginnings of ids",
}

-- -------------------------------------------------------------------- showing

---How long ago an RFC 3339 time was, for people.
---@param stamp any
---@return string
function boxes.age(stamp)
  local at = type(stamp) == "string" and errors.try(time.parse_iso, stamp)
  if not at then return "?" end
  local seconds = math.max(0, math.floor(time.wall() - at))
  if seconds >= 86400 then
    seconds = seconds - seconds % 3600
  elseif seconds >= 3600 then
    seconds = seconds - seconds % 60
  end
  return time.format_duration(seconds)
end

-- A time in UTC, whatever offset the server writes.
local function utc(stamp)
  local at = type(stamp) == "string" and errors.try(time.parse_iso, stamp)
  return at and time.iso(at) or stamp
end

local FIELDS = [[
  name status docker_image cpu_cores memory_gb disk_size_gb gpu_count gpu_type vm
  network_access network_allowlist network_denylist timeout_minutes idle_timeout_minutes labels
  team_id user_id region exit_code error_type error_message termination_reason
  pending_image_build_id start_command]]

---A sandbox as a row. Of its variables only the names: their values may be secrets.
---@param box sbx.sandbox.Box
---@return table
function boxes.row(box)
  local row = { id = box.id }
  for name in FIELDS:gmatch("%S+") do
    row[name] = box[name]
  end
  for _, name in ipairs({ "created_at", "started_at", "updated_at", "terminated_at" }) do
    row[name] = utc(box[name])
  end
  row.labels = json.array(row.labels)
  local names = json.array({})
  for name in pairs(type(box.environment_vars) == "table" and box.environment_vars or {}) do
    names[#names + 1] = name
  end
  table.sort(names)
  row.environment_names = names
  return row
end

local function number(value)
  if type(value) ~= "number" then return nil end
  return tostring(math.tointeger(value) or value)
end

---@type sbx.cli.Column[]
boxes.columns = {
  { "ID", "id" }, { "NAME", "name" }, { "STATUS", "status" }, { "IMAGE", "docker_image" },
  { "AGE", function(row) return boxes.age(row.created_at) end },
  { "CPU", function(row) return number(row.cpu_cores) end, wide = true },
  { "MEMORY", function(row) return (number(row.memory_gb) or "?") .. "G" end, wide = true },
  { "DISK", function(row) return (number(row.disk_size_gb) or "?") .. "G" end, wide = true },
  { "KIND", function(row) return row.vm and "vm" or "container" end, wide = true },
  { "MINUTES", function(row) return number(row.timeout_minutes) end, wide = true },
  { "LABELS", function(row) return table.concat(row.labels, ",") end, wide = true },
}

---@param box sbx.sandbox.Box
---@return boolean
function boxes.is_gone(box)
  return GONE[box.status] or false
end

-- -------------------------------------------------------------------- finding

local function quoted(word)
  return "'" .. log.clean(word, 100) .. "'"
end

local function ambiguity(word, found)
  local parts = {}
  for i = 1, math.min(SHOWN, #found) do
    parts[i] = ("%s (%s, %s)"):format(found[i].id, log.clean(tostring(found[i].name), 60),
      found[i].status)
  end
  if #found > SHOWN then parts[#parts + 1] = ("and %d more"):format(#found - SHOWN) end
  return ("%s may be several sandboxes: %s"):format(quoted(word), table.concat(parts, ", "))
end

local function raise_conflict(texts)
  errors.raise({ kind = "conflict", message = table.concat(texts, "; ") })
end

-- Raises what could not be found, or not be told from others.
local function raise_missing(missing, unclear)
  if #missing == 0 then
    if #unclear > 0 then raise_conflict(unclear) end
    return
  end
  local words = {}
  for i, word in ipairs(missing) do
    words[i] = quoted(word)
  end
  local text = ("there is no sandbox %s; `sbxlua ls` shows those that live"):format(
    table.concat(words, ", "))
  errors.raise({
    kind = "not_found", status = 404, message = table.concat({ text, table.unpack(unclear) }, "; "),
  })
end

-- The sandboxes of `all` for which `fits`, those that live before those that do not.
local function pick(all, fits)
  local living, gone = {}, {}
  for _, box in ipairs(all) do
    if fits(box) then table.insert(boxes.is_gone(box) and gone or living, box) end
  end
  return #living > 0 and living or gone
end

-- By name, then by the beginning of an id; or nil, and why where it may be several.
local function search(all, word)
  local found = pick(all, function(box) return box.name == word end)
  if #found == 0 then
    found = pick(all, function(box) return box.id:sub(1, #word) == word end)
  end
  if #found > 1 then return nil, ambiguity(word, found) end
  return found[1]
end

-- The sandbox with exactly this id; nil when there is none.
---@async
local function by_id(client, word)
  -- Such are no ids, and would be another path.
  if word == "." or word == ".." or #word > 256 or word:find("[%c/]") then return nil end
  local box, err = errors.try(client.get, client, word)
  if box then return box end
  local unknown = errors.is_error(err) and (err.status == 404 or err.status == 422
    or err.status == 400)
  if unknown then return nil end
  error(err, 0)
end

---The labels of `--label`, or nil. Raises where one is empty, as that of a shell variable
---which is not set: to a server it is no filter.
---@param given { label: string[] }
---@return string[]|nil
function boxes.labels(given)
  for _, label in ipairs(given.label) do
    if label == "" then errors.raise({ kind = "usage", message = "--label: is empty" }) end
  end
  return #given.label > 0 and given.label or nil
end

---Whether a sandbox carries all of these labels, by its own word: to a server that does not
---know the filter all sandboxes fit.
---@param box sbx.sandbox.Box
---@param labels string[]|nil
---@return boolean
function boxes.carries(box, labels)
  local own = {}
  for _, label in ipairs(type(box.labels) == "table" and box.labels or {}) do
    own[label] = true
  end
  for _, label in ipairs(labels or {}) do
    if not own[label] then return false end
  end
  return true
end

---The sandboxes that these words mean, in their order, each once; and a function that raises
---for those that mean none (`not_found`) or may mean several (`conflict`), if there are any.
---@async
---@param client sbx.sandbox.Client
---@param words string[]
---@return sbx.sandbox.Box[] found, fun() raise
function boxes.look(client, words)
  local by_word = task.map(words, function(word)
    if word == "" then errors.raise({ kind = "usage", message = "SANDBOX: is empty" }) end
    return by_id(client, word) or false
  end, { limit = 8 })
  local all
  local list, seen, missing, unclear = {}, {}, {}, {}
  for i, word in ipairs(words) do
    local box, why = by_word[i], nil
    if not box then
      all = all or client:list()
      box, why = search(all, word)
    end
    if not box then table.insert(why and unclear or missing, why or word) end
    if box and not seen[box.id] then
      seen[box.id] = true
      list[#list + 1] = box
    end
  end
  return list, function() raise_missing(missing, unclear) end
end

---The sandboxes that these words mean, all of them: raises as `look` does.
---@async
---@param client sbx.sandbox.Client
---@param words string[]
---@return sbx.sandbox.Box[]
function boxes.find(client, words)
  local list, raise = boxes.look(client, words)
  raise()
  return list
end

---The sandbox that a word means.
---@async
---@param client sbx.sandbox.Client
---@param word string
---@return sbx.sandbox.Box
function boxes.find_one(client, word)
  return boxes.find(client, { word })[1]
end

return boxes
