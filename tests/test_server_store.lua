-- The records of the server: how many are held, and for how long.

local sandbox = require("sbx.server.sandbox")
local store = require("sbx.server.store")
local time = require("sbx.core.time")

local function record()
  return sandbox.new { name = "x", docker_image = "debian", labels = {}, timeout_minutes = 60 }
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
  local found, total = all:list { active = true }
  assert(total == 30 and found[1] == made[59] and found[30] == made[1])
  assert(select(2, all:list()) == 40 and #forgotten == 20)
  assert(forgotten[1] == made[60].id and not all:get(made[60].id))
  assert(all:get(made[2].id) and all:get(made[20].id) and not all:get(made[22].id))
  local page = all:list({}, 2, 3)
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
  assert(forgotten == 2 and select(2, all:list()) == 2)
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
  for _, one in ipairs(all:list()) do
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
  assert(select(2, all:list()) == 1100)
end)

-- What a query means, found the slow way; `made` is in the order of creation.
local function by_hand(made, query)
  local found = {}
  for index = #made, 1, -1 do
    local one, fits = made[index], true
    for _, label in ipairs(query.labels or {}) do
      fits = fits and (" " .. table.concat(one.spec.labels, " ") .. " ")
        :find(" " .. label .. " ", 1, true) ~= nil
    end
    fits = fits and (not query.status or one.status == query.status)
    fits = fits and not (query.active and one:ended())
    fits = fits and (not query.user or query.user == "u-" .. (one.spec.owner or "local"))
    fits = fits and (not query.team or query.team == one.spec.team_id)
    fits = fits and (not query.accept or query.accept(one))
    if fits then found[#found + 1] = one end
  end
  return found
end

local QUERIES = {
  {}, { active = true }, { status = "RUNNING" }, { status = "RUNNING", active = true },
  { status = "TERMINATED", active = true }, { status = "any" }, { status = "active" },
  { status = "" }, { labels = { "a" } }, { labels = { "a", "b" } }, { labels = { "a", "a" } },
  { labels = { "none" } }, { labels = { "a", "none" } }, { labels = { "a" }, active = true },
  { labels = { "b" }, status = "PENDING" }, { user = "u-ann" }, { user = "u-local", active = true },
  { user = "u-ann", labels = { "b" }, status = "TERMINATED" }, { team = "t1" }, { team = "none" },
  { team = "t1", user = "u-ann", labels = { "a", "b" }, active = true },
  { labels = { "user u-ann" } },
  { labels = { "a" }, accept = function(one) return one.number % 3 == 0 end },
}

local function compare(all, made)
  for number, query in ipairs(QUERIES) do
    local expected = by_hand(made, query)
    for _, window in ipairs {
      { 1, math.huge }, { 1, 1 }, { 3, 9 }, { 700, 1300 }, { 5000, 5050 },
    } do
      local found, total = all:list(query, window[1], window[2])
      assert(total == #expected, ("query %d: %d, not %d"):format(number, total, #expected))
      local last = math.min(#expected, window[2])
      assert(#found == math.max(0, last - window[1] + 1), "query " .. number)
      for index, one in ipairs(found) do
        assert(one == expected[window[1] + index - 1], "query " .. number)
      end
    end
  end
end

test("server.store: each list is what looking at all would find", function()
  local random = 12345
  local function dice(sides)
    random = (random * 1103515245 + 12345) & 0x7fffffff
    return random // 65536 % sides + 1
  end
  local made, forgotten = {}, {}
  local all = store.new { keep = 1500, on_forget = function(one)
    forgotten[one] = true
  end }
  local labels = { {}, { "a" }, { "b" }, { "a", "b" }, { "a", "a", "c" } }
  for round = 1, 4 do
    for _ = 1, 1500 do
      local one = record()
      one.spec.labels = labels[dice(5)]
      one.spec.owner = dice(4) == 1 and "ann" or nil
      one.spec.team_id = dice(3) == 1 and "t" .. dice(2) or nil
      if dice(5) == 1 then one:set_status("RUNNING") end -- before it is known
      all:add(one)
      made[#made + 1] = one
    end
    for _ = 1, 3000 do
      local one, choice = made[dice(#made)], dice(4)
      if not one:ended() then
        if choice == 1 then finish(all, one) end
        one:set_status(choice == 2 and "PROVISIONING" or "RUNNING")
      end
    end
    local kept = {}
    for _, one in ipairs(made) do
      if not forgotten[one] then kept[#kept + 1] = one end
    end
    made = kept
    compare(all, made)
    assert(round < 3 or next(forgotten), "nothing was ever forgotten")
  end
  for _, one in ipairs(made) do
    if not one:ended() then finish(all, one) end
  end
  local _, left = all:list()
  assert(left == 1500)
  for _, one in ipairs(all:list()) do
    one.terminated_at = 0
  end
  all:expire()
  assert(select(2, all:list()) == 0 and next(all.index.facets) == nil, "something is left")
end)

test("server.store: a page looks at nothing but its own", function()
  local all, touched = store.new(), 0
  for number = 1, 20000 do
    local one = record()
    one.spec.labels = { "all", "n" .. number % 200 }
    all:add(one)
    one:set_status("RUNNING")
    -- Whoever asks it for its status, its labels or its end is counted.
    local fields = { spec = one.spec, status = one.status, ended = one.ended }
    one.spec, one.status = nil, nil
    setmetatable(one, { __index = function(_, name)
      touched = touched + 1
      return fields[name]
    end })
  end
  for _, query in ipairs {
    {}, { labels = { "all" } }, { labels = { "n7" } }, { labels = { "all" }, status = "RUNNING" },
    { labels = { "n7" }, active = true },
  } do
    local found, total = all:list(query, 41, 60)
    assert(#found == 20 and total == (query.labels and query.labels[1] == "n7" and 100 or 20000))
  end
  assert(touched == 0, touched .. " looks")
end)
