-- The records of the server: how many are held, and for how long.

local sandbox = require("sbx.server.sandbox")
local store = require("sbx.server.store")
local time = require("sbx.core.time")

local function record()
  return sandbox.new { name = "x", docker_image = "debian", labels = {}, timeout_minutes = 60 }
end

local function everything()
  return true
end

local function living(one)
  return not one:ended()
end

-- As the fleet does.
local function finish(all, one)
  one:set_status("TERMINATED")
  all:retire(one)
end

test("server.store: what ended first goes first, the living never", function()
  local forgotten = {}
  local all = store.new { keep = 10, on_forget = function(one)
    forgotten[#forgotten + 1] = one.id
  end }
  local made = {}
  for i = 1, 60 do
    made[i] = record()
    all:add(made[i])
  end
  for i = 60, 2, -2 do
    finish(all, made[i])
  end
  local found, total = all:select(living)
  assert(total == 30 and found[1] == made[59] and found[30] == made[1])
  assert(select(2, all:select(everything)) == 40 and #forgotten == 20)
  assert(forgotten[1] == made[60].id and not all:get(made[60].id))
  assert(all:get(made[2].id) and all:get(made[20].id) and not all:get(made[22].id))
  local page = all:select(everything, 2, 3)
  assert(#page == 2 and page[1] == made[57])
end)

test("server.store: what ended long ago goes too, also of an earlier server", function()
  local forgotten = 0
  local all = store.new { keep_seconds = 100, on_forget = function()
    forgotten = forgotten + 1
  end }
  for i = 1, 4 do
    local one = record()
    one:set_status("TERMINATED")
    one.terminated_at = time.wall() - (i <= 2 and 101 or 1)
    all:add(one)
  end
  all:expire()
  assert(forgotten == 2 and select(2, all:select(everything)) == 2)
end)

test("server.store: logs of ended sandboxes are cut, and together have a bound", function()
  local all = store.new { max_log_bytes = 1000000 }
  local first
  for _ = 1, 40 do
    local one = record()
    first = first or one
    for _ = 1, 8 do
      one.logs:add(("x"):rep(16000))
    end
    all:add(one)
    finish(all, one)
    assert(one.logs.size <= 65536 and one.logs.size > 40000)
  end
  assert(first.logs.size == 0 and first.logs:text():find("dropped", 1, true))
  local held = 0
  for _, one in ipairs(all:select(everything)) do
    held = held + one.logs.size
  end
  assert(held <= 1000000 and held > 800000, held)
end)

test("server.store: records pass through it without end and leave nothing", function()
  local all = store.new { keep = 1000 }
  local alive, high = {}, 0
  local function used()
    collectgarbage()
    collectgarbage()
    return collectgarbage("count")
  end
  local base
  for i = 1, 30000 do
    local one = record()
    one.logs:add("sandbox is running")
    all:add(one)
    alive[#alive + 1] = one
    if #alive > 100 then
      finish(all, table.remove(alive, i % 100 + 1))
    end
    if i == 10000 then base = used() end
    if i % 10000 == 0 then high = math.max(high, used()) end
  end
  assert(high < base * 1.2 + 256, ("%.0f KiB after 10,000, %.0f at most"):format(base, high))
  assert(select(2, all:select(everything)) == 1100)
  assert(#all.order < 3000, "holes are not closed")
end)
