local errors = require("sbx.errors")
local json = require("sbx.json")
local task = require("sbx.task")
local test = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

-- As of a server of the first generation, which has no batch status.
local function no_batch() return 404, { detail = "Not Found" } end

local function add_many(server, count)
  local ids = {}
  for i = 1, count do
    ids[i] = server:add(("sbx-%04d"):format(i))
  end
  return ids
end

test("bulk wait: without batch status the list is read, not each sandbox", function()
  local server <close> = api.start({ batch = no_batch })
  local client <close> = server:client()
  local ids = add_many(server, 20)
  local statuses = client:bulk_wait_for_creation(ids)
  for _, id in ipairs(ids) do
    assert(statuses[id] == "RUNNING")
  end
  assert(server:count("list") == 1 and server:count("get") == 0 and server:count("exec") == 20)
  local query = server.calls[2].query
  assert(query.per_page[1] == "100" and query.page[1] == "1")
end)

test("bulk wait: wanted sandboxes spread over pages keep their state", function()
  -- Each round shows only some as running, and never all on one page.
  local server <close> = api.start({
    batch = no_batch,
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
    batch = no_batch,
    list = function()
      return 200, { sandboxes = json.array({ api.object("sbx-0001") }), has_next = false }
    end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  client:bulk_wait_for_creation(ids)
  assert(server:count("get") == 1)
end)

test("bulk wait: names all that one answer says have ended, with their statuses", function()
  local server <close> = api.start({
    batch = function()
      return 200, {
        statuses = json.array({
          { sandbox_id = "sbx-0001", status = "RUNNING" },
          { sandbox_id = "sbx-0002", status = "ERROR", error_type = "OOM_KILLED" },
          { sandbox_id = "sbx-0003", status = "PENDING" },
        }),
        errors = json.array({ { sandbox_id = "sbx-0004", code = "NOT_FOUND", message = "?" } }),
      }
    end,
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
    batch = no_batch,
    list = function(call)
      if call.n <= 2 then return 429, { detail = "Too many requests" } end
    end,
  })
  local client <close> = server:client({ throttle_timeout = 0.1 })
  client:bulk_wait_for_creation(add_many(server, 3))
  assert(server:count("list") == 3)
end)

test("bulk wait: Retry-After sets the least pause, and the deadline ends it", function()
  local server <close> = api.start({
    batch = no_batch,
    list = function() return 429, { detail = "no" }, { ["retry-after"] = "3600" } end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  local err = api.failure(client.bulk_wait_for_creation, client, ids, { timeout = 3 })
  assert(err.kind == "not_running" and server:count("list") == 1)
end)

test("bulk wait: pages that shift under it hide nobody", function()
  -- Two fresh sandboxes appear in front of each page after the first: what was
  -- at its end is shown twice, and when some go, others are never shown.
  local server <close> = api.start({
    batch = no_batch,
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
    batch = no_batch,
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

test("bulk wait: nothing to wait for, twice the same, and misuse", function()
  local server <close> = api.start()
  local client <close> = server:client()
  assert(next(client:bulk_wait_for_creation({})) == nil)
  local ok, err = pcall(client.bulk_wait_for_creation, client, { "a" }, { timout = 1 })
  assert(not ok and err:find("did you mean 'timeout'", 1, true))
  ok, err = pcall(client.bulk_wait_for_creation, client, { "a" }, { on_error = "ignore" })
  assert(not ok and err:find("on_error: expected 'raise' or 'collect'", 1, true))
  assert(#server.calls == 0)

  server:add("a")
  local totals = {}
  local statuses = client:bulk_wait_for_creation({ "a", { id = "a" } }, {
    on_ready = function(_, ready, total) totals[#totals + 1] = ready .. "/" .. total end,
  })
  test.equal(statuses, { a = "RUNNING" })
  test.equal(totals, { "1/1" })
end)

test("bulk wait: with collect, the others are waited for", function()
  local server <close> = api.start({
    batch = function(call, server)
      local statuses = {}
      for i, id in ipairs(call.body.sandbox_ids) do
        local ended = id == "sbx-0002"
        statuses[i] = {
          sandbox_id = id,
          status = ended and "ERROR" or id == "sbx-0003" and "PENDING" or "RUNNING",
          error_type = ended and "IMAGE_PULL_FAILED" or json.null,
        }
      end
      server.seen = true
      return 200, { statuses = json.array(statuses), errors = json.array({}) }
    end,
    get = function() return 200, api.object("sbx-0003", { status = "PENDING" }) end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 4)
  local ready = {}
  local statuses, failures = client:bulk_wait_for_creation(ids, {
    timeout = 4, on_error = "collect", on_ready = function(id) ready[#ready + 1] = id end,
  })
  test.equal(statuses, {
    ["sbx-0001"] = "RUNNING", ["sbx-0002"] = "ERROR", ["sbx-0003"] = "PENDING",
    ["sbx-0004"] = "RUNNING",
  })
  assert(#ready == 2 and failures["sbx-0002"].kind == "image_pull")
  assert(failures["sbx-0003"].timeout == 4 and failures["sbx-0001"] == nil)
end)

test("bulk wait: what on_ready raises ends it", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local err = api.failure(client.bulk_wait_for_creation, client, add_many(server, 5), {
    on_ready = function() errors.raise({ kind = "mine", message = "enough" }) end,
  })
  test.equal(err.kind, "mine")
end)

test("bulk wait: any number, a hundred in a request", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ids = add_many(server, 1001)
  client:bulk_wait_for_creation(ids)
  assert(server:count("batch") <= 13, "11 requests, and some when the machine is slow")
  assert(server:count("exec") == 1001 and server:count("auth") == 1001)
end)
