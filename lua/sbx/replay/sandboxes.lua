-- What a recording knows of sandboxes. Looks at many of them at once, and deletes of many,
-- travel together as time will have it: a replay gathers them in another way, and so gets
-- its answer put together from what each sandbox was at that moment.

local file = require("sbx.replay.file")
local json = require("sbx.json")
local request = require("sbx.replay.request")

local sandboxes = {}

local ROOT = "/api/v1/sandbox"

---@class sbx.replay.Sandboxes
---@field private known table<string, { at: number, record: table }[]>  what was seen, by id
---@field private records table<string, table>  the last whole one
---@field private passed table<string, number>  up to where what was seen has been told
---@field private gone table<string, boolean>
local Sandboxes = {}
Sandboxes.__index = Sandboxes

local function see(self, record, id, at)
  if type(record) ~= "table" or type(id) ~= "string" then return end
  if type(record.status) ~= "string" then return end
  local list = self.known[id]
  if not list then
    list = {}
    self.known[id] = list
  end
  list[#list + 1] = { at = at, record = record }
end

local function learn(self, exchange, document)
  local at = exchange.at + exchange.seconds
  local path = request.path(exchange.url):match("^(.-/api/v1/sandbox[^?]*)") or ""
  local rest = path:match(ROOT .. "(.*)$")
  if not rest then return end
  if exchange.method == "DELETE" then
    local id = rest:match("^/([^/]+)$")
    if id then self.gone[id] = true end
    for _, each in ipairs(type(document.succeeded) == "table" and document.succeeded or {}) do
      self.gone[each] = true
    end
  elseif rest == "" and type(document.sandboxes) == "table" then
    for _, record in ipairs(document.sandboxes) do
      see(self, record, record.id, at)
    end
  elseif rest == "/status:batchGet" then
    for _, status in ipairs(type(document.statuses) == "table" and document.statuses or {}) do
      see(self, status, status.sandbox_id, at)
    end
  elseif rest == "" or rest:find("^/[^/]+$") then
    see(self, document, document.id, at)
    if type(document.id) == "string" then self.records[document.id] = document end
  end
end

---@param recording sbx.replay.Recording
---@return sbx.replay.Sandboxes
function sandboxes.new(recording)
  local self = setmetatable({ known = {}, records = {}, passed = {}, gone = {} }, Sandboxes)
  for _, exchange in ipairs(recording.exchanges) do
    local answer = exchange.answer
    if answer and answer.status >= 200 and answer.status <= 299 and answer.text then
      local ok, document = pcall(json.decode, (file.bytes(answer)))
      if ok and type(document) == "table" then learn(self, exchange, document) end
    end
  end
  for _, list in pairs(self.known) do
    table.sort(list, function(a, b) return a.at < b.at end)
  end
  return self
end

-- What was seen last until `now`, never less than what was told before.
local function look(self, id, now)
  local list = self.known[id]
  if not list then return nil end
  local at = math.max(now, self.passed[id] or 0)
  local found = list[1]
  for _, each in ipairs(list) do
    if each.at > at then break end
    found = each
  end
  self.passed[id] = math.max(self.passed[id] or 0, found.at)
  return found.record
end

local STATUS_FIELDS = {
  { "error_type", "errorType" }, { "error_message", "errorMessage" },
  { "pending_image_build_id", "pendingImageBuildId" },
}

local function status_of(id, record)
  local status = { sandbox_id = id, status = record.status }
  for _, names in ipairs(STATUS_FIELDS) do
    local value = record[names[1]]
    if value == nil then value = record[names[2]] end
    status[names[1]] = value == nil and json.null or value
  end
  return status
end

local function batch(self, ids, now)
  local statuses, missing = {}, {}
  for _, id in ipairs(ids) do
    local record = look(self, id, now)
    if record then
      statuses[#statuses + 1] = status_of(id, record)
    else
      missing[#missing + 1] = { sandbox_id = id, code = "NOT_FOUND", message = "not recorded" }
    end
  end
  if #statuses == 0 then return nil end
  return { statuses = json.array(statuses), errors = json.array(missing) }
end

local function single(self, id, now)
  local whole, seen = self.records[id], look(self, id, now)
  if not (whole and seen) then return nil end
  local record = {}
  for name, value in pairs(whole) do
    record[name] = value
  end
  for name, value in pairs(seen) do
    if name ~= "sandbox_id" then record[name] = value end
  end
  return record
end

local function delete_many(self, ids)
  local succeeded = {}
  for _, id in ipairs(ids) do
    if not self.gone[id] then return nil end
    succeeded[#succeeded + 1] = id
  end
  return {
    succeeded = json.array(succeeded), failed = json.array({}), message = "replayed",
  }
end

local function ids_in(sent)
  local ok, body = pcall(json.decode, sent.body or "")
  local ids = ok and type(body) == "table" and body.sandbox_ids
  return type(ids) == "table" and ids or nil
end

---Whether the answer to a request is better made than looked for.
---@param sent sbx.replay.Request
---@return boolean
function sandboxes.is_batch(sent)
  return sent.method == "POST" and request.path(sent.url):find("/status:batchGet$") ~= nil
end

---The answer to a request about sandboxes that the recording knows; else nil.
---@param sent sbx.replay.Request
---@param now number  seconds since the recording began
---@return table|nil document
function Sandboxes:answer(sent, now)
  local path = request.path(sent.url)
  local rest = path:match("/api/v1/sandbox(.*)$")
  if not rest then return nil end
  local ids = sent.body and ids_in(sent)
  local id = rest:match("^/([^/?]+)$")
  if sandboxes.is_batch(sent) then return ids and batch(self, ids, now) end
  if sent.method == "GET" then return id and single(self, id, now) end
  if sent.method ~= "DELETE" then return nil end
  if rest == "" then return ids and delete_many(self, ids) end
  if id and self.gone[id] then return { success = true, message = "replayed" } end
end

return sandboxes
