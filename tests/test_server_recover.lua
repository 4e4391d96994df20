-- A server that starts where another one ended: what is taken up, what is reported, and
-- what is done with the rest. With a driver whose sandboxes are files.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local kept_driver = dofile(here .. "peers/kept_driver.lua")

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local json = require("sbx.json")
local net = require("sbx.core.net")
local process = require("sbx.process")
local server = require("sbx.server")
local sqlite = require("sbx.core.sqlite")
local state = require("sbx.server.state")
local task = require("sbx.task")

local KEY = "k"

-- A place for servers that follow one another: `run(options, fn)` starts one, calls
-- `fn(api, driver, kept)` and stops it.
local function with_place(fn)
  local folder <close> = fs.tmpdir { prefix = "recover-" }
  local place = { boxes = folder.path .. "/boxes", state = folder.path .. "/state" }
  fs.mkdir(place.boxes)
  function place.run(options, use)
    local kept <close> = state.open(place.state)
    local driver = kept_driver.open {
      folder = place.boxes, keep = options.keep, commands = options.commands,
      starts = options.starts, boot = options.boot, spoil = options.spoil,
    }
    local running <close> = server.start {
      driver = driver, api_key = KEY, state = kept, keep = options.keep,
      notice = options.notice or function() end, minute = options.minute, drain = options.drain,
    }
    return use(support.api(running), driver, kept, running)
  end
  function place.has_box(id)
    return fs.exists(place.boxes .. "/" .. id)
  end
  function place.change(...)
    local db <close> = sqlite.open(place.state .. "/state.db")
    return db:run(...)
  end
  return fn(place)
end

local function get(api, id)
  local status, object = api:call("GET", "/sandbox/" .. id)
  assert(status == 200, tostring(status))
  return object
end

test("recover: kept sandboxes are taken up, with what they were and have left", function()
  with_place(function(place)
    local before, exposed
    place.run({ keep = true }, function(api, driver)
      before = api:running {
        name = "mine", timeout_minutes = 30, labels = { "a" }, secrets = { S = "hidden" },
        environment_vars = { E = "1" }, idle_timeout_minutes = 20,
      }
      local status
      status, exposed = api:call("POST", "/sandbox/" .. before.id .. "/expose", {
        port = 8000, name = "web", protocol = "TCP",
      })
      assert(status == 200)
      assert(driver.boxes[before.id])
    end)
    assert(place.has_box(before.id), "it was ended")
    place.run({
      keep = true, commands = { show = function(_, options)
        return { stdout = options.env.S .. options.env.E }
      end },
    }, function(api, driver)
      local after = get(api, before.id)
      assert(after.status == "RUNNING" and after.name == "mine" and after.labels[1] == "a")
      assert(after.startedAt == before.startedAt and after.createdAt == before.createdAt)
      assert(after.imageSource == "kept" and after.secrets.S == "***")
      local spec = driver.adopted[before.id]
      assert(spec.lifetime > 1700 and spec.lifetime <= 30 * 60 + 300 and next(spec.env) == nil)
      local code, result = api:gateway(before.id):exec("show")
      assert(code == 200 and result.stdout == "hidden1")
      local _, list = api:call("GET", "/sandbox/" .. before.id .. "/expose")
      assert(#list.exposures == 1, "exposures")
      for _, name in ipairs { "exposure_id", "url", "name", "external_port", "created_at" } do
        assert(list.exposures[1][name] == exposed[name], name)
      end
      assert(api:call("DELETE", "/sandbox/" .. before.id) == 200)
      assert(not place.has_box(before.id))
    end)
    place.run({ keep = true }, function(api)
      assert(get(api, before.id).status == "TERMINATED")
      assert(get(api, before.id).terminationReason == "deleted")
    end)
  end)
end)

test("recover: what cannot be taken up has ended, and nothing else is left", function()
  with_place(function(place)
    local ids = {}
    place.run({ keep = true }, function(api)
      for i = 1, 3 do
        ids[i] = api:running().id
      end
    end)
    fs.remove(place.boxes .. "/" .. ids[1])
    fs.write(place.boxes .. "/stranger", "")
    place.run({ keep = true }, function(api)
      local gone = get(api, ids[1])
      assert(gone.status == "TERMINATED")
      assert(gone.terminationReason == "server restarted: it has ended meanwhile")
      assert(get(api, ids[2]).status == "RUNNING")
      assert(not place.has_box("stranger"))
    end)
    -- A server that does not keep ends what its predecessor kept.
    place.run({}, function(api)
      for i = 2, 3 do
        local gone = get(api, ids[i])
        assert(gone.status == "TERMINATED" and gone.terminationReason == "server restarted")
        assert(gone.terminatedAt ~= json.null and not place.has_box(ids[i]))
      end
    end)
  end)
end)

test("recover: lifetimes go on with what is left of them, also the idle ones", function()
  with_place(function(place)
    local long, over, idle, busy
    place.run({ keep = true }, function(api)
      long = api:running({ timeout_minutes = 60 }).id
      over = api:running({ timeout_minutes = 60 }).id
      idle = api:running({ timeout_minutes = 600, idle_timeout_minutes = 5 }).id
      busy = api:running({ timeout_minutes = 600, idle_timeout_minutes = 5 }).id
    end)
    place.change("UPDATE sandboxes SET deadline = deadline - 3600 WHERE id = ?", over)
    place.change("UPDATE sandboxes SET deadline = deadline - 1800 WHERE id = ?", long)
    place.change("UPDATE sandboxes SET last_used = last_used - 301 WHERE id = ?", idle)
    place.change("UPDATE sandboxes SET last_used = last_used - 200 WHERE id = ?", busy)
    place.run({ keep = true }, function(api, driver)
      local ended = api:await(over, "TIMEOUT")
      assert(ended.terminationReason:find("lifetime", 1, true))
      assert(api:await(idle, "TIMEOUT").terminationReason:find("idle", 1, true))
      assert(get(api, long).status == "RUNNING" and get(api, busy).status == "RUNNING")
      local left = driver.adopted[long].lifetime - 300
      assert(left > 1700 and left <= 1800, left)
      local record = api.server.fleet.store:get(busy)
      assert(task.now() - record.last_used >= 199)
    end)
  end)
end)

test("recover: a create that was not booted yet is booted by the next one that keeps", function()
  with_place(function(place)
    local ids = {}
    place.run({ keep = true, boot = function()
      task.sleep(3600)
    end }, function(api)
      for i = 1, 12 do -- eight boot, four wait
        ids[i] = api:create({ secrets = { S = "s" .. i } }).id
      end
      api:await(ids[8], "PROVISIONING")
    end)
    for _, id in ipairs(ids) do
      assert(not place.has_box(id))
    end
    place.run({ keep = true, commands = { show = function(_, options)
      return { stdout = options.env.S }
    end } }, function(api)
      for i, id in ipairs(ids) do
        api:await(id, "RUNNING")
        assert(select(2, api:gateway(id):exec("show")).stdout == "s" .. i)
      end
    end)
  end)
end)

test("recover: without keep, creates that waited have ended too", function()
  with_place(function(place)
    local id
    place.run({ keep = true, boot = function()
      task.sleep(3600)
    end }, function(api)
      id = api:create({}).id
    end)
    place.run({}, function(api)
      assert(get(api, id).terminationReason == "server restarted")
      local _, list = api:call("GET", "/sandbox?is_active=true")
      assert(list.total == 0)
    end)
  end)
end)

test("recover: idempotency keys hold for a day, across restarts", function()
  with_place(function(place)
    local first, other
    place.run({}, function(api)
      first = api:create({ name = "x", idempotency_key = "k1", secrets = { S = "1" } }).id
      other = api:create({ name = "x", idempotency_key = "k2" }).id
    end)
    place.change("UPDATE idempotency SET at = at - 24 * 3600 WHERE key = 'k2'")
    place.run({}, function(api)
      local again = api:create { name = "x", idempotency_key = "k1", secrets = { S = "1" } }
      assert(again.id == first and again.status == "TERMINATED")
      local status, body = api:call("POST", "/sandbox", {
        name = "y", docker_image = "debian", idempotency_key = "k1",
      })
      assert(status == 409 and body.detail:find("idempotency_key", 1, true))
      assert(api:create({ name = "x", idempotency_key = "k2" }).id ~= other)
    end)
    assert(place.change("SELECT count(*) AS n FROM idempotency")[1].n == 2)
    local keys = place.change("SELECT * FROM api_keys")
    assert(#keys == 1 and keys[1].hash == hash.sha256(KEY))
    -- What it made is forgotten: that is said, and no second one made.
    place.change("DELETE FROM sandboxes WHERE id = ?", first)
    place.run({}, function(api)
      local status, body = api:call("POST", "/sandbox", {
        name = "x", docker_image = "debian:12", idempotency_key = "k1", secrets = { S = "1" },
      })
      assert(status == 409, json.encode(body))
    end)
  end)
end)

test("recover: an exposed port that is taken meanwhile gets another, and that is said", function()
  with_place(function(place)
    local id, old
    place.run({ keep = true }, function(api)
      id = api:running().id
      local _, made = api:call("POST", "/sandbox/" .. id .. "/expose", { port = 8000 })
      old = made
    end)
    local port = math.tointeger(tonumber(old.url:match(":(%d+)/")))
    local squatter <close> = net.listen("127.0.0.1", port)
    local said = {}
    place.run({ keep = true, notice = function(line)
      said[#said + 1] = line
    end }, function(api)
      local _, list = api:call("GET", "/sandbox/" .. id .. "/expose")
      local now = list.exposures[1]
      assert(now.exposure_id == old.exposure_id and now.url ~= old.url)
      assert(table.concat(said):find(tostring(port), 1, true))
      local _, logs = api:call("GET", "/sandbox/" .. id .. "/logs")
      assert(logs.logs:find(now.url:match("127[%d.:]+"), 1, true))
      assert(api:call("DELETE", "/sandbox/" .. id .. "/expose/" .. now.exposure_id) == 200)
    end)
    assert(squatter.port == port)
    place.run({ keep = true }, function(api)
      local _, list = api:call("GET", "/sandbox/" .. id .. "/expose")
      assert(#list.exposures == 0)
    end)
  end)
end)

test("recover: secrets are at rest only for a kept sandbox that lives", function()
  with_place(function(place)
    local function at_rest()
      for _, name in ipairs(fs.list(place.state)) do
        if fs.read(place.state .. "/" .. name):find("xyzzy", 1, true) then return true end
      end
      return false
    end
    place.run({}, function(api)
      api:running { secrets = { S = "xyzzy" } }
      assert(not at_rest())
    end)
    local id
    place.run({ keep = true }, function(api)
      id = api:running({ secrets = { S = "xyzzy" } }).id
    end)
    assert(at_rest())
    place.run({ keep = true }, function(api, _, kept)
      assert(api:call("DELETE", "/sandbox/" .. id) == 200)
      assert(kept.writer.wipe, "its traces are not to be removed soon")
    end)
    assert(not at_rest())
  end)
end)

test("recover: events and records go on, and forgotten records leave the disk", function()
  with_place(function(place)
    local id
    place.run({}, function(api)
      id = api:running().id
      api:call("DELETE", "/sandbox/" .. id)
    end)
    place.run({}, function(api, _, _, running)
      local kinds = {}
      for _, event in ipairs(running.fleet.events:since()) do
        if event.sandbox_id == id then kinds[#kinds + 1] = event.kind end
      end
      assert(table.concat(kinds, " ") == "created running ended", table.concat(kinds, " "))
      assert(get(api, id).status == "TERMINATED")
    end)
    place.change("UPDATE sandboxes SET terminated_at = terminated_at - 8 * 86400")
    place.run({}, function(api)
      assert(api:call("GET", "/sandbox/" .. id) == 404)
    end)
    assert(place.change("SELECT count(*) AS n FROM sandboxes")[1].n == 0)
  end)
end)

test("recover: a box that cannot be noted is not left running", function()
  with_place(function(place)
    place.run({ keep = true, spoil = true }, function(api)
      local object = api:await(api:create().id, "ERROR")
      assert(object.errorType == "BOOT_FAILED", object.errorMessage)
      assert(#fs.list(place.boxes) == 0)
    end)
    local id
    place.run({ keep = true }, function(api)
      id = api:running().id
    end)
    place.run({ keep = true, spoil = true }, function(api)
      assert(get(api, id).status == "TERMINATED")
      assert(#fs.list(place.boxes) == 0)
    end)
  end)
end)

-- Serves on the state and the boxes of a place until it is killed.
local SERVER = [[
  local kept_driver = dofile(arg[1])
  local kept = require("sbx.server.state").open(arg[3])
  local running <close> = require("sbx.server").start {
    driver = kept_driver.open { folder = arg[2], keep = true }, api_key = "k", state = kept,
    keep = true, notice = function() end,
  }
  print(running.url)
  io.stdout:flush()
  running:wait()
]]

test("recover: after kill -9 whatever was acknowledged is taken up, deleted or booted", function()
  with_place(function(place)
    local child <close> = process.spawn({
      host.executable(), "-e", SERVER, here .. "peers/kept_driver.lua", place.boxes, place.state,
    }, { stdout = "pipe" })
    local url = task.timeout(60, child.stdout.read, child.stdout):match("%S+")
    local api = support.api { url = url, api_key = KEY }
    local told, exposed = {}, {}
    local function work()
      while true do
        local status, made = api:call("POST", "/sandbox", { name = "x", docker_image = "d" })
        if status ~= 201 then return end
        told[made.id] = "created"
        if math.random() < 0.3 then
          told[made.id] = "deleting"
          if api:call("DELETE", "/sandbox/" .. made.id) == 200 then told[made.id] = "deleted" end
        elseif math.random() < 0.3 then
          local code, one = api:call("POST", "/sandbox/" .. made.id .. "/expose", { port = 80 })
          if code == 200 then exposed[one.exposure_id] = one end
        end
      end
    end
    local clients = { task.pspawn(work), task.pspawn(work), task.pspawn(work) }
    task.sleep(0.2 + math.random() * 0.3)
    child:kill("KILL")
    child:wait()
    for _, client in ipairs(clients) do
      client:cancel()
      client:pjoin()
    end
    assert(next(told))

    place.run({ keep = true }, function(again)
      for id, what in pairs(told) do
        if what == "created" then
          again:await(id, "RUNNING")
        elseif what == "deleted" then
          assert(get(again, id).status == "TERMINATED", id)
        end
      end
      for id, one in pairs(exposed) do
        local _, list = again:call("GET", "/sandbox/" .. one.sandbox_id .. "/expose")
        assert(list.exposures[1].exposure_id == id and list.exposures[1].url == one.url)
      end
      local _, active = again:call("GET", "/sandbox?is_active=true&per_page=1000")
      task.timeout(60, function()
        while #fs.list(place.boxes) ~= active.total do -- one that boots is not there yet
          task.sleep(0.01)
        end
      end)
      for _, object in ipairs(active.sandboxes) do
        again:await(object.id, "RUNNING")
        assert(place.has_box(object.id) and told[object.id] ~= "deleted")
      end
    end)
  end)
end)

-- A state whose disk is full for as long as `full()`.
local function on_full_disk(kept, full)
  local database = kept.writer.database
  kept.writer.database = setmetatable({
    transaction = function(_, statements)
      if full() then
        errors.raise { kind = "io", code = "SQLITE_FULL", message = "disk is full" }
      end
      return database:transaction(statements)
    end,
    run = function(_, ...)
      return database:run(...)
    end,
  }, { __index = database })
  return function()
    kept.writer.database = database
  end
end

test("recover: what cannot be recorded is not acknowledged, nor left running", function()
  with_place(function(place)
    place.run({}, function(api, _, kept)
      local running, other = api:running(), api:running()
      local full = true
      local mend = on_full_disk(kept, function() return full end)
      local status, body = api:call("POST", "/sandbox", {
        name = "x", docker_image = "debian", idempotency_key = "again",
      })
      assert(status == 503 and body.detail:find("disk is full", 1, true), json.encode(body))
      assert(api:call("POST", "/sandbox/" .. running.id .. "/expose", { port = 80 }) == 503)
      local _, list = api:call("GET", "/sandbox/" .. running.id .. "/expose")
      assert(#list.exposures == 0)
      assert(api:call("DELETE", "/sandbox/" .. other.id) == 503)
      assert(api:call("GET", "/sandbox?is_active=true") == 200)
      full = false
      local made = api:create { name = "x", docker_image = "debian", idempotency_key = "again" }
      api:await(made.id, "RUNNING")
      mend()
      assert(#fs.list(place.boxes) == 2)
    end)
  end)
end)

test("drain: nothing new, and what is under way gets its answer", function()
  with_place(function(place)
    local go = task.waiter("the command")
    local begun = task.waiter("the command to begin")
    place.run({ drain = 20, commands = { slow = function(id)
      begun:wake()
      go:wait()
      return { stdout = place.has_box(id) and "done" or "the sandbox was ended first" }
    end } }, function(api, _, _, running)
      local box = api:gateway(api:running().id)
      local slow = task.spawn(box.exec, box, "slow")
      begun:wait()
      local stopping = task.spawn(running.stop, running)
      task.timeout(60, function()
        while api:call("POST", "/sandbox", { name = "x", docker_image = "debian" }) ~= 503 do
          task.sleep(0.01)
        end
      end)
      local status, body, res = api:call("POST", "/sandbox", { name = "x", docker_image = "d" })
      assert(status == 503 and body.detail:find("stopping", 1, true))
      assert(res == nil or res.headers["retry-after"])
      go:wake()
      local code, result = slow:join()
      assert(code == 200 and result.stdout == "done")
      stopping:join()
    end)
    assert(#fs.list(place.boxes) == 0)
  end)
end)

test("drain: has an end, and then the answer is that the sandbox is gone", function()
  with_place(function(place)
    local begun = task.waiter("the command to begin")
    place.run({ drain = 0.05, commands = { slow = function(id)
      begun:wake()
      while place.has_box(id) do
        task.sleep(0.01)
      end
      errors.raise { kind = "not_running", message = "gone" }
    end } }, function(api, _, _, running)
      local box = api:gateway(api:running().id)
      local slow = task.spawn(box.exec, box, "slow")
      begun:wait()
      running:stop()
      local code, result = slow:join()
      assert(code == 502 and result.error == "sandbox_not_found")
    end)
  end)
end)

test("memory: a process that is killed for want of it ends the sandbox as OOM_KILLED", function()
  with_place(function(place)
    local driver
    place.run({ commands = {
      hog = function(id)
        driver.boxes[id].kills = 1
        return { exit_code = 137 }
      end,
      killed = { exit_code = 137 },
      swallowed = function(id)
        driver.boxes[id].kills = 1
        while place.has_box(id) do
          task.sleep(0.01)
        end
      end,
    } }, function(api, opened)
      driver = opened
      local id = api:running().id
      local box = api:gateway(id)
      assert(select(2, box:exec("killed")).exit_code == 137)
      local code, result = box:exec("hog")
      assert(code == 409 and result.error == "sandbox_not_running", json.encode(result))
      local object = api:await(id, "ERROR")
      assert(object.errorType == "OOM_KILLED" and object.terminationReason == "out of memory")
      local _, context = api:call("GET", "/sandbox/" .. id .. "/error-context")
      assert(context.errorType == "OOM_KILLED")

      -- Where the command goes on without it: seen by looking from time to time.
      local second = api:running().id
      local going = task.pspawn(function() return api:gateway(second):exec("swallowed") end)
      assert(api:await(second, "ERROR").errorType == "OOM_KILLED")
      going:cancel()
      going:pjoin()
    end)
  end)
end)

test("start command: its output is in the log while it runs, then its exit code", function()
  with_place(function(place)
    local go = task.waiter("the start command")
    place.run({ starts = { work = {
      "first\nsec", "ond\n", ("x"):rep(9000), function() go:wait() end, "\nlast", exit_code = 7,
    } } }, function(api)
      local id = api:running({ start_command = "work" }).id
      local function logged(text)
        local _, logs = api:call("GET", "/sandbox/" .. id .. "/logs")
        return logs.logs:find(text, 1, true)
      end
      task.timeout(60, function()
        while not logged(("x"):rep(9000)) do
          task.sleep(0.01)
        end
      end)
      assert(logged(" first\n") and logged(" second\n") and not logged("last"))
      assert(get(api, id).exitCode == json.null)
      go:wake()
      task.timeout(60, function()
        while get(api, id).exitCode == json.null do
          task.sleep(0.01)
        end
      end)
      assert(get(api, id).exitCode == 7 and logged(" last\n") and logged("exit code 7"))
    end)
  end)
end)

test("start command: a kept sandbox does not run it again", function()
  with_place(function(place)
    local runs, id = 0, nil
    local starts = { work = { function() runs = runs + 1 end } }
    place.run({ keep = true, starts = starts }, function(api)
      id = api:running({ start_command = "work" }).id
      task.timeout(60, function()
        while get(api, id).exitCode == json.null do
          task.sleep(0.01)
        end
      end)
    end)
    place.run({ keep = true, starts = starts }, function(api)
      assert(get(api, id).status == "RUNNING" and get(api, id).exitCode == 0)
    end)
    assert(runs == 1)
  end)
end)
