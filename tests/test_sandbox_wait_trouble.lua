-- Waiting while the API is in trouble: what passes is waited out, and named in the end.

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

-- What an API in trouble answers. Each passes, and nobody who waits hears of it.
local troubles = {
  { 500, { detail = "broken" } }, { 502, "" }, { 503, { detail = "later" } }, { 504, "" },
  { 524, "<html>" }, { 408, { detail = "too slow" } },
}

test("wait: an API in trouble is asked again, whichever way it is asked", function()
  task.map(troubles, function(trouble)
    local broken = {}
    local function answer(call)
      broken[call.op] = (broken[call.op] or 0) + 1
      if broken[call.op] <= 4 then return table.unpack(trouble) end
    end
    local server <close> = api.start({ batch = answer, get = answer })
    local client <close> = server:client()
    client:bulk_wait_for_creation(add_many(server, 2))
    client:wait_for_creation("sbx-0001")
    server.handlers.batch, server.handlers.list = no_batch, answer
    client:bulk_wait_for_creation(add_many(server, 3))
  end)
end)

test("wait: trouble that does not pass ends with the deadline, and is named", function()
  local function broken() return 503, { detail = "the database is gone" } end
  local server <close> = api.start({ get = broken, batch = broken })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  for _, err in ipairs({
    api.failure(client.wait_for_creation, client, ids[1], { timeout = 3 }),
    api.failure(client.bulk_wait_for_creation, client, ids, { timeout = 3 }).errors[1],
  }) do
    assert(err.kind == "not_running" and err.status == "unknown" and err.timeout == 3)
    assert(err.cause.status == 503 and err.message:find("the database is gone", 1, true))
  end
end)

test("wait: that nobody was let through until the deadline is named as well", function()
  local server <close> = api.start({
    get = function() return 429, { detail = "too many" }, { ["retry-after"] = "3600" } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.wait_for_creation, client, "sbx-1", { timeout = 3 })
  assert(err.kind == "not_running" and err.cause.status == 429, tostring(err))
  assert(err.message:find("too many", 1, true) and server:count("get") == 1)
end)

test("wait: a batch that breaks the server is not asked for again soon", function()
  local server <close> = api.start({ batch = function() return 500, { detail = "boom" } end })
  local client <close> = server:client()
  client:bulk_wait_for_creation(add_many(server, 20))
  client:bulk_wait_for_creation(add_many(server, 20))
  test.equal({ server:count("batch"), server:count("list") > 0 }, { 1, true })
end)

test("wait: one of whom the API cannot tell holds up no other", function()
  local server <close> = api.start({
    batch = function()
      return 200, { statuses = { { sandbox_id = "sbx-0001", status = "RUNNING" } } }
    end,
    get = function(call) if call.id == "sbx-0002" then return 500, {} end end,
  })
  local client <close> = server:client()
  local ids = add_many(server, 2)
  local results = task.settle({
    function() return client:wait_for_creation(ids[1], { timeout = 60 }) end,
    function() return client:wait_for_creation(ids[2], { timeout = 3 }) end,
  })
  assert(results[1].ok and results[2].error.cause.status == 500)
end)

test("wait: an API that has never answered is not waited for", function()
  local server <close> = api.start()
  local client <close> = server:client({ base_url = api.dead_url() })
  local err = api.failure(client.wait_for_creation, client, "sbx-1")
  assert(err.cause.kind == "connect", tostring(err))
end)

test("wait: an API that goes away and comes back is waited for", function()
  local cut = 0
  local server <close> = api.start()
  local relay <close> = api.raw(function(bytes)
    cut = cut + 1
    if cut > 1 and cut < 6 then return "" end
    local object = json.encode(api.object("sbx-1", { status = cut < 6 and "PENDING" or "ERROR" }))
    return ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"):format(
      #object, bytes ~= "" and object)
  end)
  local client <close> = server:client({ base_url = relay.url })
  local err = api.failure(client.wait_for_creation, client, "sbx-1")
  assert(err.status == "ERROR" and cut == 6, tostring(err))
end)
