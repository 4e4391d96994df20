-- Lists that are read page by page, while sandboxes come and go.

local json = require("sbx.json")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

-- A server whose list is newest first, as the API's is: `order` has the ids.
---@async
local function ordered(count, without_total)
  local order = {}
  local server = api.start({
    list = function(call, server)
      local page, size = tonumber(call.query.page[1]), tonumber(call.query.per_page[1])
      local found = {}
      for i = (page - 1) * size + 1, math.min(page * size, #order) do
        found[#found + 1] = server.sandboxes[order[i]]
      end
      return 200, {
        sandboxes = json.array(found), total = not without_total and #order or nil,
        has_next = page * size < #order,
      }
    end,
    delete = function(call)
      for i, id in ipairs(order) do
        if id == call.id then table.remove(order, i) end
      end
    end,
  })
  local function add(id)
    table.insert(order, 1, server:add(id))
  end
  for i = 1, count do
    add("sbx-" .. i)
  end
  return server, server:client(), order, add
end

test("each: goes through all of them, a page at a time", function()
  local server <close>, client = ordered(250)
  local seen, count = {}, 0
  for box in client:each() do
    count = count + 1
    assert(not seen[box.id])
    seen[box.id] = true
    if count == 1 then assert(server:count("list") == 1) end
  end
  assert(count == 250 and server:count("list") == 3)
  assert(#client:list({ per_page = 7 }) == 250)
end)

test("each: options are those of list; a wrong one is told at the caller's line", function()
  local server <close>, client = ordered(3)
  for _ in client:each({
    labels = { "a" }, status = "RUNNING", exclude_terminated = true, team_id = "t", user_id = "u",
    per_page = 5,
  }) do end
  local query = server.calls[1].query
  assert(query.labels[1] == "a" and query.status[1] == "RUNNING" and query.is_active[1] == "true")
  assert(query.team_id[1] == "t" and query.user_id[1] == "u" and query.per_page[1] == "5")
  for _, bad in ipairs({ { page = 1 }, { label = "x" }, { labels = { 1 } }, { per_page = 0 },
    -- Without the label it would be a list of all.
    { labels = { team = "a" } } }) do
    local ok, err = pcall(client.each, client, bad)
    assert(not ok and type(err) == "string", tostring(err))
  end
  assert(server:count("list") == 1)
end)

test("each: a loop that deletes what it gets reaches all of them", function()
  local server <close>, client, order = ordered(450)
  local count = 0
  for box in client:each() do
    count = count + 1
    client:delete(box.id)
  end
  assert(count == 450 and #order == 0, count)
  assert(server:count("list") <= 20, server:count("list"))
end)

test("each: what is made and deleted by others meanwhile hides nobody", function()
  local server <close>, client, order, add = ordered(300)
  local seen, made, seed = {}, 0, math.random(1 << 30)
  math.randomseed(seed)
  for box in client:each({ per_page = 20 }) do
    assert(not seen[box.id], box.id)
    seen[box.id] = true
    -- Now and then the newest go, and others come.
    if math.random() < 0.1 then
      for _ = 1, math.random(1, 30) do
        if #order > 0 then table.remove(order, math.random(math.min(40, #order))) end
      end
    end
    if math.random() < 0.1 then
      made = made + 1
      add("new-" .. made)
    end
  end
  for _, id in ipairs(order) do
    assert(seen[id] or id:find("^new"), ("seed %d: %s"):format(seed, id))
  end
  math.randomseed()
  assert(server:count("list") < 200)
end)

test("each: without a total it goes on as the pages do", function()
  local _ <close>, client = ordered(45, true)
  local count = 0
  for _ in client:each({ per_page = 10 }) do
    count = count + 1
  end
  assert(count == 45)
end)

test("each: can be left and called once more after its end", function()
  local server <close>, client = ordered(120)
  local next_box = client:each()
  for _ = 1, 5 do
    next_box()
  end
  assert(server:count("list") == 1)
  for _ = 6, 120 do
    assert(next_box())
  end
  assert(next_box() == nil and next_box() == nil and server:count("list") == 2)
end)

test("each: totals that never stop shrinking, and pages without end, come to an end", function()
  local total = 1 << 40
  local server <close> = api.start({
    list = function(call)
      total = total - 1000
      return 200, {
        sandboxes = json.array({ api.object("sbx-" .. call.n % 50) }), total = total,
        has_next = call.n < 500,
      }
    end,
  })
  local client <close> = server:client()
  local count = 0
  for _ in client:each() do
    count = count + 1
    total = total < 0 and 0 or total
    if server:count("list") > 400 then total = 0 end
  end
  assert(count == 50)
end)

test("each: an answer that is none raises; one that was cut off is asked for again", function()
  local hang = false
  local server <close> = api.start({
    list = function(call)
      if call.n == 1 then return 200, { sandboxes = "x" } end
      if hang then return api.HANG end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local next_box = client:each()
  assert(api.failure(next_box).code == "BAD_ANSWER")
  hang = true
  assert(not task.move_on(0.05, next_box))
  hang = false
  assert(next_box().id == "sbx-1" and next_box() == nil)
end)
