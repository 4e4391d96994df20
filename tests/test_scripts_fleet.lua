-- scripts/pool.lua, watch_fleet.lua and canary.lua, as people run them: sandboxes that
-- outlive a script, their states, and whether the service is up.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local scripts = dofile(here .. "scripts_support.lua")
local support = dofile(here .. "run_support.lua")
local run_local, run_against = scripts.run_local, scripts.run_against

-- The ids of the pool that are there.
---@async
local function members(client, label)
  local ids = {}
  for box in client:each({ labels = { label }, exclude_terminated = true }) do
    ids[#ids + 1] = box.id
  end
  return ids
end

local function words_of(text)
  local words = {}
  for word in text:gmatch("sbx%-%w+") do
    words[#words + 1] = word
  end
  return words
end

-- --------------------------------------------------------------------- pool

test("pool: is filled up to a number, outlives the script, and is drained", function()
  scripts.with_server(function(server, client)
    local other <close> = client:create({
      name = "other", docker_image = "python:3.11-slim", labels = { "other" },
    })
    local result = run_against(server, "pool", { "fill", "--label", "warm", "--count", "2" })
    assert(result.code == 0 and #words_of(result.stdout) == 2, result.stderr)
    result = run_against(server, "pool", { "fill", "--label", "warm", "--count", "3" })
    assert(#words_of(result.stdout) == 3 and result.stderr:find("created 1 ", 1, true))
    local ids = members(client, "warm")
    assert(#ids == 3)
    assert(client:execute_command(ids[1], "echo ready").stdout == "ready\n")

    result = run_against(server, "pool", { "show", "--label", "warm" })
    local _, running = result.stdout:gsub("\tRUNNING\t", "")
    assert(result.code == 0 and running == 3, result.stdout)
    result = run_against(server, "pool", { "drain", "--label", "warm" })
    assert(result.code == 0 and #words_of(result.stdout) == 3, result.stderr)
    assert(#members(client, "warm") == 0 and other:refresh().status ~= "TERMINATED")
    result = run_against(server, "pool", { "drain", "--label", "warm" })
    assert(result.code == 0 and result.stdout == "", result.stderr)
  end)
end)

test("pool: one that does not become ready is told, and deleted", function()
  local server <close> = api.start({
    batch = function(call, server)
      local status, body = api.usual.batch(server, call)
      for _, entry in ipairs(body.statuses) do
        if entry.sandbox_id == "sbx-2" then
          entry.status, entry.error_type = "ERROR", "IMAGE_PULL_FAILED"
        end
      end
      return status, body
    end,
  })
  local result = run_against({ url = server.url, api_key = api.KEY }, "pool",
    { "fill", "--label", "warm", "--count", "3" })
  assert(result.code == 1 and result.stderr:find("pool: .*sbx%-2"), result.stderr)
  assert(#words_of(result.stdout) == 2 and not result.stdout:find("sbx-2", 1, true))
  assert(server.sandboxes["sbx-1"] and server.sandboxes["sbx-3"])
  assert(not server.sandboxes["sbx-2"])
end)

test("pool: Ctrl-C before they are ready leaves none", function()
  local server <close> = api.start({ batch = function() return api.HANG end })
  local going <close> = support.start(scripts.argv("pool",
    { "fill", "--label", "warm", "--count", "3" }),
    scripts.env({ url = server.url, api_key = api.KEY }))
  going:await("stderr", "created after")
  going:kill("INT")
  assert(going:finish() == 130, going.text.stderr)
  assert(server:count("create") == 3 and next(server.sandboxes) == nil)
end)

-- -------------------------------------------------------------- watch_fleet

test("watch_fleet: a line for each sandbox, why it is in trouble, and its log", function()
  local server <close> = api.start({
    batch = function(call, server)
      local status, body = api.usual.batch(server, call)
      for _, entry in ipairs(body.statuses) do
        if entry.sandbox_id == "sbx-2" then entry.status = "ERROR" end
      end
      return status, body
    end,
    context = function()
      return 200, { status = "ERROR", errorType = "OOM_KILLED", errorMessage = "too much" }
    end,
    logs = function() return 200, { logs = "first\nlast words\n" } end,
  })
  server:add("sbx-1", { labels = { "team" } })
  server:add("sbx-2", { labels = { "team" } })
  local result = run_against({ url = server.url, api_key = api.KEY }, "watch_fleet",
    { "--label", "team", "--tail", "11", "sbx-9" })
  assert(result.code == 1, result.stderr)
  assert(result.stderr:find("3 sandboxes, 2 in trouble", 1, true), result.stderr)
  local lines = {}
  for _, line in ipairs(scripts.lines(result.stdout)) do
    lines[line.id] = line
  end
  assert(lines["sbx-1"].status == "RUNNING" and not lines["sbx-1"].log, result.stdout)
  local bad = lines["sbx-2"]
  assert(bad.status == "ERROR" and bad.error_type == "OOM_KILLED" and bad.log == "last words\n")
  assert(lines["sbx-9"].status == "NOT_FOUND", result.stdout)
  assert(server:count("context") == 2)
end)

test("watch_fleet: follows what changes, also what comes and goes", function()
  local looks = 0
  local server <close> = api.start({
    batch = function(call, server)
      looks = looks + 1
      if looks == 3 then return 500, { detail = "broken" } end -- one look is lost
      if looks == 2 then server:add("sbx-2", { labels = { "team" } }) end
      if looks == 5 then server.sandboxes["sbx-1"] = nil end
      return api.usual.batch(server, call)
    end,
  })
  server:add("sbx-1", { labels = { "team" } })
  local going <close> = support.start(scripts.argv("watch_fleet",
    { "--label", "team", "--for", "10m", "--every", "100ms" }),
    scripts.env({ url = server.url, api_key = api.KEY }))
  going:await("stdout", "NOT_FOUND.*\n")
  going:kill("INT")
  assert(going:finish() == 130, going.text.stderr)
  assert(going.text.stderr:find("watch_fleet: looks again: [^\n]*500"), going.text.stderr)
  local said = {}
  for i, line in ipairs(scripts.lines(going.text.stdout)) do
    said[i] = line.id .. " " .. tostring(line.before) .. " " .. line.status
  end
  assert(table.concat(said, ", ")
    == "sbx-1 nil RUNNING, sbx-2 nil RUNNING, sbx-1 RUNNING NOT_FOUND", going.text.stdout)
  assert(server:count("context") == 0) -- to go is no trouble
end)

-- ------------------------------------------------------------------- canary

test("canary: measures each step, and leaves nothing", function()
  local folder <close> = fs.tmpdir()
  local result = run_local("canary", { "--fresh", "--size", "3MiB" },
    { env = { XDG_STATE_HOME = folder.path } })
  assert(result.code == 0, result.stdout .. result.stderr)
  local steps = {}
  for i, row in ipairs(scripts.rows(result.stdout)) do
    steps[i] = row.step
    assert(row.result == "ok" and tonumber(row.seconds), result.stdout)
  end
  assert(table.concat(steps, " ") == "list create ready exec upload download job logs delete")
  assert(not result.stderr:find("the script left", 1, true), result.stderr)
end)

test("canary: a step that fails or is slow is status 1; what was made is deleted", function()
  local server <close> = api.start({
    exec = function(call)
      if call.body.command:find("printf", 1, true) or call.body.command:find("'echo'", 1, true) then
        return 200, { stdout = "", stderr = "broken", exit_code = 4 }
      end
    end,
    list = function(call) return call.n == 1 and api.HANG or nil end,
  })
  local target = { url = server.url, api_key = api.KEY }
  local result = run_against(target, "canary", { "--slow", "300ms" })
  local rows = scripts.rows(result.stdout)
  assert(result.code == 1 and #rows == 1 and rows[1].step == "list", result.stdout)
  assert(rows[1].result:find("timed out", 1, true) and server:count("create") == 0, result.stdout)

  result = run_against(target, "canary", {})
  rows = scripts.rows(result.stdout)
  assert(result.code == 1 and rows[#rows].step == "delete", result.stdout)
  assert(rows[4].step == "exec" and rows[4].result:find("broken", 1, true), result.stdout)
  assert(server:count("delete") == 1 and next(server.sandboxes) == nil)
end)
