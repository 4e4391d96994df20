local json = require("sbx.json")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local function add_many(server, count)
  local ids = {}
  for i = 1, count do
    ids[i] = server:add(("sbx-%04d"):format(i))
  end
  return ids
end

test("wait: returns once RUNNING and a command gets through", function()
  local server <close> = api.start({
    get = function(call, server)
      server.sandboxes[call.id].status = call.n < 3 and "PROVISIONING" or "RUNNING"
      return 200, server.sandboxes[call.id]
    end,
    exec = function(call) if call.n == 1 then return 502, { error = "gateway_error" } end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local box = client:wait_for_creation("sbx-1")
  assert(box.status == "RUNNING" and server:count("get") == 4 and server:count("exec") == 2)
end)

test("wait: box:wait refreshes the object", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local box <close> = client:create({ name = "a", docker_image = "x" })
  assert(box.status == "PENDING")
  assert(box:wait() == box and box.status == "RUNNING")
end)

test("wait: the probe's exit code and output do not matter", function()
  local server <close> = api.start({
    exec = function() return 200, { stdout = "", stderr = "no echo", exit_code = 127 } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  client:wait_for_creation("sbx-1")
end)

test("wait: what the gateway says while it learns of the sandbox is waited out", function()
  local trouble = {
    { 409, { error = "sandbox_not_running" } },
    { 502, { error = "sandbox_not_found" } },
    { 408, { error = "command_timeout" } },
    { 524, "" },
    { 429, { error = "slow" } },
  }
  local server <close> = api.start({
    exec = function(call) if trouble[call.n] then return table.unpack(trouble[call.n]) end end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  client:wait_for_creation("sbx-1")
  assert(server:count("exec") == #trouble + 1)
end)

test("wait: what time will not mend is raised at once", function()
  local server <close> = api.start({ exec = function() return 404, { error = "x" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.wait_for_creation, client, "sbx-1")
  assert(err.status == 404 and server:count("exec") == 1)
end)

test("wait: an ended sandbox raises the kind of its error", function()
  local kinds = {
    OOM_KILLED = "oom", TIMEOUT = "sandbox_timeout", IMAGE_PULL_FAILED = "image_pull",
    WEIRD = "not_running",
  }
  for error_type, kind in pairs(kinds) do
    local server <close> = api.start({
      get = function()
        return 200, api.object("sbx-1", {
          status = "ERROR", errorType = error_type, errorMessage = "it broke",
        })
      end,
    })
    local client <close> = server:client()
    local err = api.failure(client.wait_for_creation, client, "sbx-1")
    assert(err.kind == kind and err:is("not_running") and err.sandbox_id == "sbx-1")
    assert(err.status == "ERROR" and err.message:find("it broke", 1, true))
  end
end)

test("wait: the deadline is total, and says what was seen last", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.wait_for_creation, client, "sbx-1", { timeout = 0.3 })
  assert(err.kind == "not_running" and err.status == "RUNNING" and err.timeout == 0.3)
  assert(err.error_type == "GATEWAY_REACHABILITY_TIMEOUT")

  server.handlers.get = function() return 200, api.object("sbx-1", { status = "PENDING" }) end
  err = api.failure(client.wait_for_creation, client, "sbx-1", { timeout = 0.2 })
  assert(err.status == "PENDING" and err.error_type == nil)
end)

test("wait: cancelled while it waits", function()
  local server <close> = api.start({
    get = function() return 200, api.object("sbx-1", { status = "PENDING" }) end,
  })
  local client <close> = server:client()
  assert(not task.move_on(0.2, client.wait_for_creation, client, "sbx-1"))
end)

test("bulk wait: reads the list endpoint, not each sandbox", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ids = add_many(server, 20)
  local statuses = client:bulk_wait_for_creation(ids)
  for _, id in ipairs(ids) do
    assert(statuses[id] == "RUNNING")
  end
  assert(server:count("list") == 1 and server:count("get") == 0 and server:count("exec") == 20)
  local query = server.calls[1].query
  assert(query.per_page[1] == "100" and query.page[1] == "1")
end)

test("bulk wait: wanted sandboxes spread over pages keep their state", function()
  -- Each round shows only some as running, and never all on one page.
  local server <close> = api.start({
    list = function(call)
      local page = tonumber(call.query.page[1])
      local found = {}
      for i = 1, 100 do
        local status = (i + page + call.n) % 3 == 0 and "RUNNING" or "PENDING"
        found[i] = api.object(("sbx-%04d"):format((page - 1) * 100 + i), { status = status })
      end
      return 200, { sandboxes = json.array(found), has_next = page < 3, page = page }
    end,
  })
  local client <close> = server:client()
  local all = add_many(server, 300)
  client:bulk_wait_for_creation({ all[5], all[150], all[299] })
  assert(server:count("exec") == 3, "each is proven once")
end)

test("bulk wait: one that a page did not show is looked up", function()
  local server <close> = api.start({
    list = function()
      return 200, { sandboxes = json.array({ api.object("sbx-0001") }), has_next = false }
    end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  client:bulk_wait_for_creation(ids)
  assert(server:count("get") == 1)
end)

test("bulk wait: names all that ended, with their statuses", function()
  local server <close> = api.start({
    list = function()
      return 200, {
        sandboxes = json.array({
          api.object("sbx-0001"),
          api.object("sbx-0002", { status = "ERROR", errorType = "OOM_KILLED" }),
          api.object("sbx-0003", { status = "PENDING" }),
        }),
        has_next = false,
      }
    end,
    get = function() return 404, { detail = "Sandbox not found" } end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 4)
  local err = api.failure(client.bulk_wait_for_creation, client, ids)
  assert(err.kind == "not_running" and #err.errors == 2, tostring(err))
  assert(err.failed["sbx-0002"] == "ERROR" and err.failed["sbx-0004"] == "TERMINATED")
  assert(err.errors[1].kind == "oom" and err.message:find("sbx-0004 is TERMINATED", 1, true))
end)

test("bulk wait: a storm of 429 is waited out, page by page", function()
  local server <close> = api.start({
    list = function(call)
      if call.n <= 5 then return 429, { detail = "Too many requests" } end
    end,
  })
  local client <close> = server:client({ throttle_timeout = 0.1 })
  client:bulk_wait_for_creation(add_many(server, 3))
  assert(server:count("list") == 6)
end)

test("wait: 429 is waited out until the deadline, not only for one call's patience", function()
  local server <close> = api.start({
    list = function() return 200, { sandboxes = json.array({}), has_next = false } end,
    get = function(call)
      if call.n <= 3 then return 429, { detail = "no" }, { ["retry-after"] = "0" } end
    end,
  })
  local client <close> = server:client({ throttle_timeout = 0.1 })
  local ids = add_many(server, 2)
  client:wait_for_creation(ids[1])
  client:bulk_wait_for_creation(ids)
end)

test("bulk wait: Retry-After sets the least pause, and the deadline ends it", function()
  local server <close> = api.start({
    list = function() return 429, { detail = "no" }, { ["retry-after"] = "3600" } end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  local err = api.failure(client.bulk_wait_for_creation, client, ids, { timeout = 0.3 })
  assert(err.kind == "not_running" and server:count("list") == 1)
end)

test("bulk wait: pages that shift under it hide nobody", function()
  -- Two fresh sandboxes appear in front of each page after the first: what was
  -- at its end is shown twice, and when some go, others are never shown.
  local server <close> = api.start({
    list = function(call)
      local page, found = tonumber(call.query.page[1]), {}
      local shift = call.n % 2 == 0 and 2 or -2
      for i = 1, 100 do
        local at = (page - 1) * 100 + i + (page > 1 and shift or 0)
        found[#found + 1] = api.object(("sbx-%04d"):format(at))
      end
      return 200, { sandboxes = json.array(found), has_next = page < 3, page = page }
    end,
  })
  local client <close> = server:client()
  local statuses = client:bulk_wait_for_creation(add_many(server, 300))
  assert(statuses["sbx-0101"] == "RUNNING" and statuses["sbx-0300"] == "RUNNING")
  assert(server:count("exec") == 300, "each is proven once")
end)

test("bulk wait: an endless storm of 429 ends at the deadline", function()
  local server <close> = api.start({
    list = function() return 429, { detail = "no" }, { ["retry-after"] = "0" } end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 3)
  local err = api.failure(client.bulk_wait_for_creation, client, ids, { timeout = 1 })
  assert(err.kind == "not_running" and #err.errors == 3 and err.failed["sbx-0001"] == "unknown")
  assert(server:count("list") <= 5, "the pauses must grow")
end)

test("bulk wait: probes run at once, and only for those not yet proven", function()
  local tried = {}
  local server <close> = api.start({
    exec = function(call)
      tried[call.id] = (tried[call.id] or 0) + 1
      if call.id == "sbx-0003" and tried[call.id] < 3 then return 503, { error = "x" } end
      task.sleep(0.05)
    end,
  })
  local client <close> = server:client()
  local ready = {}
  client:bulk_wait_for_creation(add_many(server, 20), {
    on_ready = function(id, done, total)
      ready[#ready + 1] = id
      assert(done == #ready and total == 20)
    end,
  })
  assert(#ready == 20 and ready[20] == "sbx-0003")
  assert(tried["sbx-0001"] == 1 and tried["sbx-0003"] == 3)
end)

test("bulk wait: nothing to wait for, and misuse", function()
  local server <close> = api.start()
  local client <close> = server:client()
  assert(next(client:bulk_wait_for_creation({})) == nil)
  local ok, err = pcall(client.bulk_wait_for_creation, client, { "a", "a" })
  assert(not ok and err:find("named twice", 1, true))
  ok, err = pcall(client.bulk_wait_for_creation, client, { "a" }, { timout = 1 })
  assert(not ok and err:find("did you mean 'timeout'", 1, true))
  assert(#server.calls == 0)
end)
