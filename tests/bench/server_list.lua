-- What a page of a list costs among many sandboxes, by what it asks for. The handler
-- alone, without HTTP and JSON, which cost the same whatever is asked.
--
--   sbxlua tests/bench/server_list.lua [N]        (default 100000)

local control = require("sbx.server.control")
local keys = require("sbx.server.keys")
local sandbox = require("sbx.server.sandbox")
local store = require("sbx.server.store")


local COUNT = math.tointeger(tonumber(arg[1] or "100000")) or 100000
local TIMES = 20

local records = store.new()
local holders = keys.new("k")
local caller = holders:find("k")
local server = { fleet = { store = records }, keys = holders }

local made = {}
local began = os.clock()
for number = 1, COUNT do
  made[number] = sandbox.new {
    name = "s", docker_image = "x", timeout_minutes = 60, network = false,
    labels = { "bench", "n" .. number % (COUNT // 100), number % 2 == 0 and "even" or "odd" },
  }
  records:add(made[number])
end
for _, record in ipairs(made) do
  record:set_status("PROVISIONING")
  record:set_status("RUNNING")
end
print(("%d added and running: %.1f us of processor each"):format(COUNT,
  (os.clock() - began) * 1e6 / COUNT))

local function list(query)
  local given = {}
  for name, value in pairs(query) do
    given[name] = type(value) == "table" and value or { tostring(value) }
  end
  local best, total = math.huge, nil
  for _ = 1, TIMES do
    local from = os.clock()
    local _, answer = control.list(server, { query = given }, {}, caller)
    best, total = math.min(best, os.clock() - from), answer.total
  end
  return best, total
end

for _, entry in ipairs {
  { "all, first page", {} },
  { "all, page 1000", { page = 1000 } },
  { "label of 100", { labels = { "n7" } } },
  { "label of all", { labels = { "bench" } } },
  { "label of half, page 500", { labels = { "even" }, page = 500 } },
  { "status RUNNING", { status = "RUNNING" } },
  { "status PENDING, none", { status = "PENDING" } },
  { "label of 100, active", { labels = { "n7" }, is_active = "true" } },
  { "label of all, RUNNING", { labels = { "bench" }, status = "RUNNING" } },
  { "labels of 100 and of all", { labels = { "n7", "bench" } } },
  { "labels of half and of all", { labels = { "even", "bench" } } },
} do
  local seconds, total = list(entry[2])
  print(("%-28s %10.3f ms   (%d)"):format(entry[1], seconds * 1000, total))
end
