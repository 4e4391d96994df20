-- `sbxlua gc`: what killed runs left behind goes, and nothing else.

local fs = require("sbx.fs")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local process = require("sbx.process")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local time = require("sbx.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local support = dofile(here .. "run_support.lua")

local RUN = "20200101-000000-00000000"

-- A server, and a state folder with ledgers for it.
---@async
local function scene(handlers)
  local folder = fs.tmpdir({ prefix = "gc" })
  local self = { server = api.start(handlers), path = folder.path }
  self.runs = folder.path .. "/sbxlua/runs"
  fs.mkdir(self.runs, { parents = true, mode = tonumber("700", 8) })
  local config = { api_key = api.KEY, base_url = self.server.url }

  -- Writes a ledger: its lines, and what differs in its head.
  function self.leave(run, lines, head)
    local host_name, boot = ledger.place()
    local fields = {
      v = 1, run = run, account = state.account(config), url = config.base_url,
      at = time.wall() - 100, pid = 1, host = host_name, boot = boot,
    }
    for name, value in pairs(head or {}) do
      fields[name] = value
    end
    local path = ("%s/%s.%s.jsonl"):format(self.runs, run, fields.account:sub(1, 8))
    local text = { json.encode(fields) }
    for i, line in ipairs(lines or {}) do
      text[i + 1] = type(line) == "table" and json.encode(line) or line
    end
    fs.write(path, table.concat(text, "\n") .. "\n")
    return path
  end

  function self.add(id, run, fields)
    local object = { labels = { ledger.label(run or RUN) } }
    for name, value in pairs(fields or {}) do
      object[name] = value
    end
    return self.server:add(id, object)
  end

  function self.gc(words, env)
    local all = {
      PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = self.server.url, XDG_STATE_HOME = folder.path,
    }
    for name, value in pairs(env or {}) do
      all[name] = value
    end
    return support.run({ "gc", table.unpack(words or {}) }, { env = all })
  end

  return setmetatable(self, { __close = function(scene_, err)
    getmetatable(scene_.server).__close(scene_.server, err)
    local _ <close> = folder
  end })
end

local function ids_of(set)
  local ids = {}
  for id in pairs(set) do
    ids[#ids + 1] = id
  end
  table.sort(ids)
  return table.concat(ids, " ")
end

local function contains(text, wanted)
  assert(text:find(wanted, 1, true), ("no %q in %q"):format(wanted, text))
end

-- ------------------------------------------------------------------ dry run

test("gc: shows what it would delete, and changes nothing", function()
  local at <close> = scene()
  local path = at.leave(RUN, { { e = "made", key = "1", id = "sbx-1" } })
  at.add("sbx-1", RUN, { name = "one\27[31m", createdAt = time.iso(time.wall() - 7265) })
  at.add("sbx-2", RUN, { name = "two", createdAt = "yesterday" }) -- its line was not written
  at.add("sbx-3", "another-run")
  local result = at.gc()
  assert(result.code == 0, result.stderr)
  local lines = {}
  for line in result.stdout:gmatch("[^\n]+") do
    lines[#lines + 1] = line
  end
  assert(#lines == 3 and lines[1]:find("^RUN +ID +NAME +STATUS +AGE$"), result.stdout)
  assert(lines[2]:find("^" .. RUN:gsub("%-", "%%-") .. "  sbx%-1  one.* RUNNING  2h1m$"), lines[2])
  assert(lines[3]:find("sbx-2", 1, true) and lines[3]:find(" %?$"), lines[3])
  assert(not result.stdout:find("\27", 1, true))
  contains(result.stderr, "2 sandboxes of 1 dead run; --yes deletes them")
  assert(ids_of(at.server.sandboxes) == "sbx-1 sbx-2 sbx-3" and fs.exists(path))
  assert(at.server:count("delete") + at.server:count("bulk_delete") == 0)
end)

test("gc: -o json gives the same for programs", function()
  local at <close> = scene()
  at.leave(RUN)
  at.add("sbx-1")
  local rows = json.decode(at.gc({ "-o", "json" }).stdout)
  assert(#rows == 1 and rows[1].id == "sbx-1" and rows[1].run == RUN and rows[1].deleted == false)
  rows = json.decode(at.gc({ "-o", "json", "--yes" }).stdout)
  assert(#rows == 1 and rows[1].id == "sbx-1" and rows[1].deleted == true)
  local result = at.gc({ "-o", "json" })
  assert(result.stdout == "[]\n" and result.code == 0)
end)

-- ----------------------------------------------------------------- deleting

test("gc --yes: deletes in bulk, looks again, and removes the ledger", function()
  local at <close> = scene()
  local lines = {}
  for i = 1, 250 do
    lines[i] = { e = "made", key = tostring(i), id = "sbx-" .. i }
    at.add("sbx-" .. i)
  end
  local path = at.leave(RUN, lines)
  at.server:add("sbx-other")
  local result = at.gc({ "--yes" })
  assert(result.code == 0, result.stderr)
  contains(result.stderr, "deleted 250 sandboxes of 1 dead run")
  assert(ids_of(at.server.sandboxes) == "sbx-other" and not fs.exists(path))
  assert(at.server:count("bulk_delete") == 3 and at.server:count("delete") == 0)
  contains(at.gc({ "--yes" }).stderr, "nothing is left of dead runs")
end)

test("gc --yes: what was kept, what is gone and what carries two labels stays out of it", function()
  local at <close> = scene()
  local path = at.leave(RUN, {
    { e = "made", key = "1", id = "sbx-kept", keep = true }, { e = "kept", id = "sbx-marked" },
    { e = "made", key = "2", id = "sbx-gone" }, { e = "made", key = "3", id = "sbx-ended" },
    { e = "made", key = "4", id = "sbx-unlabelled" },
  })
  at.add("sbx-kept")
  at.add("sbx-marked")
  at.add("sbx-unwritten", RUN, { labels = { ledger.label(RUN), ledger.KEEP } })
  at.add("sbx-two", RUN, { labels = { ledger.label(RUN), ledger.label("20210101-0000-ff") } })
  at.server.handlers.batch = function() return 405, {} end
  at.server.handlers.get = function(call, server)
    local object = server.sandboxes[call.id]
    if call.id == "sbx-ended" then object.status = "TERMINATED" end
    if object then return 200, object end
  end
  at.server:add("sbx-ended")
  at.server:add("sbx-unlabelled")
  local result = at.gc({ "--yes" })
  assert(result.code == 0, result.stderr)
  assert(ids_of(at.server.sandboxes) == "sbx-ended sbx-kept sbx-marked sbx-two sbx-unwritten",
    ids_of(at.server.sandboxes))
  assert(not fs.exists(path) and select(2, result.stdout:gsub("\n", "")) == 2)
end)

test("gc --yes: what only the ledger knows is asked about in batches", function()
  local at <close> = scene()
  local lines = {}
  for i = 1, 250 do
    lines[i] = { e = "made", key = tostring(i), id = "sbx-" .. i }
  end
  local path = at.leave(RUN, lines)
  at.server:add("sbx-7") -- without the label
  local result = at.gc({ "--yes" })
  contains(result.stderr, "deleted 1 sandbox of 1 dead run")
  assert(next(at.server.sandboxes) == nil and not fs.exists(path))
  assert(at.server:count("get") <= 1, at.server:count("get"))
end)

test("gc --yes: one that cannot be looked at does not save the others", function()
  local stuck = true
  local function refuse(call)
    if stuck and call.id == "sbx-stuck" then return 403, { detail = "not yours" } end
  end
  local at <close> = scene({
    batch = function() return 405, {} end, get = refuse, delete = refuse,
    bulk_delete = function(call, server)
      local succeeded, failed = {}, {}
      for _, id in ipairs(call.body.sandbox_ids) do
        local ok = server.sandboxes[id] and not (stuck and id == "sbx-stuck")
        if ok then server.sandboxes[id] = nil end
        table.insert(ok and succeeded or failed, ok and id or { sandbox_id = id, error = "no" })
      end
      return 200, { succeeded = json.array(succeeded), failed = json.array(failed) }
    end,
  })
  local path = at.leave(RUN, {
    { e = "made", key = "1", id = "sbx-1" }, { e = "made", key = "2", id = "sbx-stuck" },
  })
  at.add("sbx-1")
  at.server:add("sbx-stuck")
  local result = at.gc({})
  assert(result.code == 0 and result.stdout:find("sbx%-stuck +%? +unknown +%?"), result.stdout)
  result = at.gc({ "--yes" })
  assert(result.code == 1 and fs.exists(path), result.stderr)
  contains(result.stderr, "could not delete 1 sandbox: sbx-stuck")
  contains(result.stderr, "not yours")
  assert(ids_of(at.server.sandboxes) == "sbx-stuck")
  stuck = false
  assert(at.gc({ "--yes" }).code == 0 and not fs.exists(path))
end)

test("gc: what the API leaves out of a sandbox, or gets wrong, spoils no table", function()
  local at <close> = scene()
  at.leave(RUN)
  at.add("sbx-1", RUN, { name = 7, createdAt = json.null })
  at.add("sbx-2", RUN, { name = json.array({}), createdAt = json.array({ "x" }) })
  for _, words in ipairs({ {}, { "-o", "json" }, { "--yes" } }) do
    local result = at.gc(words)
    assert(result.code == 0 and result.stdout:find("sbx-1", 1, true), result.stderr)
  end
end)

test("gc --yes: a sandbox made for a team is looked for in that team", function()
  local asked = {}
  local at <close> = scene({
    list = function(call) asked[#asked + 1] = (call.query.team_id or { "" })[1] end,
  })
  at.leave(RUN, { { e = "intend", key = "1", at = 1, team = "team-7" } })
  at.gc({}, { PRIME_TEAM_ID = "elsewhere" })
  assert(table.concat(asked, " ") == "team-7")
end)

test("gc --yes: creates that were under way are waited for", function()
  local at <close> = scene()
  local path = at.leave(RUN, { { e = "intend", key = "1", at = time.wall() } })
  task.scope(function(scope)
    scope:spawn(function()
      while at.server:count("list") < 2 do
        task.sleep(0.01)
      end
      at.add("sbx-late")
    end)
    local result = at.gc({ "--yes" })
    assert(result.code == 0, result.stderr)
    contains(result.stderr, "1 create may still be under way; waiting for up to 15 s")
    contains(result.stderr, "deleted 1 sandbox of 1 dead run")
  end)
  assert(next(at.server.sandboxes) == nil and not fs.exists(path))
end)

test("gc: creates of long ago are not waited for, nor does a dry run wait", function()
  local at <close> = scene()
  local path = at.leave(RUN, { { e = "intend", key = "1", at = time.wall() } })
  local started = task.now()
  contains(at.gc().stderr, "1 create may still be under way")
  path = at.leave(RUN, { { e = "intend", key = "1", at = time.wall() - 3600 } }) or path
  assert(at.gc({ "--yes" }).code == 0 and not fs.exists(path))
  assert(task.now() - started < 14)
end)

test("gc --yes: what cannot be deleted is named, and its ledger stays", function()
  local function fail(call)
    if call.id == "sbx-2" then return 500, { detail = "it is stuck" } end
    if call.op == "bulk_delete" then return 500, { detail = "no" } end
  end
  local at <close> = scene({ delete = fail, bulk_delete = fail })
  local path = at.leave(RUN)
  for i = 1, 3 do
    at.add("sbx-" .. i)
  end
  local result = at.gc({ "--yes" })
  assert(result.code == 1, result.stderr)
  contains(result.stderr, "could not delete 1 sandbox: sbx-2")
  contains(result.stderr, "it is stuck")
  contains(result.stdout, "sbx-1")
  assert(not result.stdout:find("sbx-2", 1, true) and fs.exists(path))
  assert(ids_of(at.server.sandboxes) == "sbx-2")
end)

-- ---------------------------------------------------------------- selection

test("gc: --run and --older-than choose", function()
  local at <close> = scene()
  local old = at.leave("20200101-000000-aaaaaaaa", nil, { at = time.wall() - 7200 })
  local young = at.leave("20200101-000000-bbbbbbbb", nil, { at = time.wall() - 60 })
  at.add("sbx-old", "20200101-000000-aaaaaaaa")
  at.add("sbx-young", "20200101-000000-bbbbbbbb")
  local result = at.gc({ "--older-than", "1h" })
  contains(result.stdout, "sbx-old")
  assert(not result.stdout:find("sbx-young", 1, true))
  result = at.gc({ "--run", "20200101-000000-bbbbbbbb", "--yes" })
  assert(result.code == 0 and fs.exists(old) and not fs.exists(young), result.stderr)
  assert(ids_of(at.server.sandboxes) == "sbx-old")
  result = at.gc({ "--run", "20200101-000000-bbbbbbbb" })
  assert(result.code == 5, result.stderr)
  contains(result.stderr, "no run 20200101-000000-bbbbbbbb has left a ledger")
end)

test("gc: a living run is left alone, also when it is named", function()
  local at <close> = scene()
  local path = at.leave(RUN)
  at.add("sbx-1")
  local lock <close> = fs.try_lock(path)
  local result = at.gc({ "--yes" })
  assert(lock and result.code == 0)
  contains(result.stderr, "1 run is alive, or in the hands of another gc: left alone")
  result = at.gc({ "--yes", "--run", RUN })
  assert(result.code == 6, result.stderr)
  contains(result.stderr, "run " .. RUN .. " is alive")
  assert(at.server.sandboxes["sbx-1"] and fs.exists(path))
end)

test("gc: ledgers of other accounts and other machines are named and left alone", function()
  local at <close> = scene()
  local foreign = at.leave("20200101-000000-aaaaaaaa", nil, { account = ("0"):rep(24),
    url = "http://other\27" })
  local far = at.leave(RUN, nil, { host = "far-away", boot = "another" })
  at.add("sbx-1", "20200101-000000-aaaaaaaa")
  at.add("sbx-2")
  local result = at.gc({ "--yes" })
  assert(result.code == 0 and result.stdout == "", result.stderr)
  contains(result.stderr, "20200101-000000-aaaaaaaa is left alone: it belongs to another account")
  contains(result.stderr, "it ran on far-away, where it may be alive: --run " .. RUN)
  assert(not result.stderr:find("\27", 1, true))
  assert(at.server:count("list") == 0 and fs.exists(foreign) and fs.exists(far))
  result = at.gc({ "--yes", "--run", RUN })
  assert(result.code == 0 and not fs.exists(far) and fs.exists(foreign), result.stderr)
  assert(ids_of(at.server.sandboxes) == "sbx-1")
end)

test("gc: torn and hostile ledgers stop nobody", function()
  local at <close> = scene()
  at.leave(RUN, { { e = "made", key = "1", id = "sbx-1" }, '{"e":"made","key":"2","id":"sb' })
  at.add("sbx-1")
  fs.write(at.runs .. "/empty.00000000.jsonl", "")
  fs.write(at.runs .. "/binary.00000000.jsonl", ("\0\255\n"):rep(1000))
  fs.write(at.runs .. "/headless.00000000.jsonl", '{"e":"made","key":"1","id":"sbx-9"}\n')
  fs.write(at.runs .. "/long.00000000.jsonl", ("x"):rep(1 << 20))
  fs.mkdir(at.runs .. "/folder.00000000.jsonl")
  fs.symlink(at.path, at.runs .. "/link.00000000.jsonl")
  fs.write(at.runs .. "/notes.txt", "not a ledger")
  at.leave("../../x", { { e = "made", key = "1", id = "../../../etc" } }, { run = "r\27]0;x" })
  process.run({ "mkfifo", at.runs .. "/pipe.00000000.jsonl" }, { check = true })
  local result = at.gc({ "--yes" })
  assert(result.code == 0, result.stderr)
  assert(next(at.server.sandboxes) == nil)
  for _, name in ipairs({ "headless", "long", "folder", "link", "pipe" }) do
    contains(result.stderr, "left alone: ")
    contains(result.stderr, name .. ".00000000.jsonl")
  end
  assert(not result.stderr:find("\27", 1, true), result.stderr)
  assert(not fs.exists(at.runs .. "/empty.00000000.jsonl") and fs.exists(at.runs .. "/notes.txt"))
end)

test("gc: two at once share the work and lose nothing", function()
  local at <close> = scene({ list = function() task.sleep(0.02) end })
  for i = 1, 20 do
    local run = ("20200101-000000-%08x"):format(i)
    at.leave(run)
    for j = 1, 3 do
      at.add(("sbx-%d-%d"):format(i, j), run)
    end
  end
  local function once()
    local result = at.gc({ "--yes" })
    assert(result.code == 0, result.stderr)
    return true
  end
  task.gather({ once, once, once })
  once()
  assert(next(at.server.sandboxes) == nil and #fs.list(at.runs) == 0)
end)

-- ------------------------------------------------------------- the command

test("gc: refusals have their exit status", function()
  local at <close> = scene()
  at.leave(RUN)
  at.add("sbx-1")
  assert(at.gc({}, { PRIME_API_KEY = false }).code == 4)
  assert(at.gc({ "--older-than", "soon" }).code == 2)
  assert(at.gc({ "rest" }).code == 2)
  local help = at.gc({ "--help" })
  assert(help.code == 0 and help.stdout:find("--older-than TIME", 1, true))
  at.server.handlers.list = function() return 401, { detail = "Invalid API key" } end
  local result = at.gc({ "--yes" })
  assert(result.code == 4 and at.server.sandboxes["sbx-1"], result.stderr)
  assert(at.gc({ "--yes" }, { PRIME_API_BASE_URL = api.dead_url() }).code == 0, "another API")
end)

test("gc: an API that cannot be reached is status 8", function()
  local at <close> = scene()
  local url = api.dead_url()
  local account = state.account({ api_key = api.KEY, base_url = url })
  local path = at.leave(RUN, nil, { account = account, url = url })
  local result = at.gc({ "--yes" }, { PRIME_API_BASE_URL = url })
  assert(result.code == 8 and fs.exists(path), result.stderr)
end)

test("gc: without a state folder there is nothing to do", function()
  local at <close> = scene()
  local result = at.gc({ "--yes" }, { XDG_STATE_HOME = false, HOME = "/nonexistent" })
  assert(result.code == 0, result.stderr)
  contains(result.stderr, "nothing is left of dead runs")
end)

test("gc: a state folder that cannot be used is told, not taken for an empty one", function()
  local at <close> = scene()
  fs.mkdir(at.path .. "/other")
  fs.write(at.path .. "/other/sbxlua", "")
  local result = at.gc({}, { XDG_STATE_HOME = at.path .. "/other" })
  assert(result.code == 1 and result.stdout == "", result.stderr)
  contains(result.stderr, at.path .. "/other/sbxlua")
  assert(not result.stderr:find("nothing is left", 1, true))
end)

test("gc: Ctrl-C in the middle leaves a ledger that the next one finishes", function()
  local at <close> = scene({
    bulk_delete = function(call) if call.n == 1 then return api.HANG end end,
  })
  local path = at.leave(RUN)
  for i = 1, 5 do
    at.add("sbx-" .. i)
  end
  local run <close> = support.start({ "gc", "--yes" }, {
    PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = at.server.url, XDG_STATE_HOME = at.path,
  })
  task.timeout(60, function()
    while at.server:count("bulk_delete") + at.server:count("delete") == 0 do
      task.sleep(0.01)
    end
  end)
  run:kill("INT")
  assert(run:finish() == 130, run.text.stderr)
  assert(fs.exists(path))
  assert(at.gc({ "--yes" }).code == 0 and not fs.exists(path))
  assert(next(at.server.sandboxes) == nil)
end)

test("gc: after kill -9 of a real run", function()
  local at <close> = scene()
  local code = [[
    local client = require("sbx.sandbox").client()
    local boxes = {}
    for i = 1, 6 do
      boxes[i] = client:create({ name = "n" .. i, docker_image = "x", keep = i == 6 })
    end
    boxes[1]:delete()
    boxes[5].keep = true
    boxes[2]:delete()
    print("ready") io.stdout:flush()
    require("sbx.task").sleep(60)
  ]]
  local env = {
    PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = at.server.url, XDG_STATE_HOME = at.path,
  }
  local run <close> = support.start({ "-e", code }, env)
  run:await("stdout", "ready")
  contains(at.gc({ "--yes" }).stderr, "1 run is alive")
  assert(ids_of(at.server.sandboxes) == "sbx-3 sbx-4 sbx-5 sbx-6")
  run:kill("KILL")
  run:finish()
  local result = at.gc({ "--yes" })
  assert(result.code == 0, result.stderr)
  contains(result.stderr, "deleted 2 sandboxes of 1 dead run")
  assert(ids_of(at.server.sandboxes) == "sbx-5 sbx-6" and #fs.list(at.runs) == 0)
end)
