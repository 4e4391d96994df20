-- What a run writes down of what it makes, and what is read of it once it is dead.

local dead_runs = require("sbx.sandbox.dead_runs")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local log = require("sbx.log")
local process = require("sbx.process")
local run = require("sbx.run")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local WANTED = { name = "a", docker_image = "python:3.11-slim" }
local CONFIG = { api_key = "a secret key", base_url = "http://user:word@127.0.0.1:9/x" }

-- A state folder for one test: `folder.runs` is where its ledgers are.
---@async
local function new_folder()
  local temporary = fs.tmpdir({ prefix = "ledger" })
  state.use(temporary.path .. "/state")
  return setmetatable({ path = temporary.path, runs = temporary.path .. "/state/runs" }, {
    __close = function()
      ledger.finish()
      state.use(false)
      local _ <close> = temporary
    end,
  })
end

---@async
local function quietly(fn, ...)
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  local result = table.pack(pcall(fn, ...))
  log.set_writer(nil)
  assert(result[1], result[2])
  return table.concat(lines), table.unpack(result, 2, result.n)
end

---@async
local function entries_in(path)
  local entries = {}
  for line in fs.read(path):gmatch("[^\n]+") do
    entries[#entries + 1] = json.decode(line)
  end
  return entries
end

---@async
local function only_file(folder)
  local names = fs.list(folder.runs)
  assert(#names == 1, table.concat(names, " "))
  return folder.runs .. "/" .. names[1]
end

-- As if the process that wrote it had died.
---@async
local function die(book)
  book.lock:close()
  fs.write(book.path, (fs.read(book.path):gsub('"born":"%d+"', '"born":"1"')))
end

-- ------------------------------------------------------------------- writing

test("ledger: an intent is in the file before the create is sent; its end follows", function()
  local folder <close> = new_folder()
  local at_create
  local server <close> = api.start({
    create = function() at_create = entries_in(only_file(folder)) end,
  })
  local client <close> = server:client()
  local box = client:create(WANTED)
  assert(#at_create == 2 and at_create[1].v == 1 and at_create[1].run == ledger.run_id())
  assert(at_create[1].pid == process.pid() and at_create[1].url == server.url)
  assert(at_create[2].e == "intend" and at_create[2].key == server.calls[1].body.idempotency_key)
  local entries = entries_in(only_file(folder))
  assert(#entries == 3 and entries[3].e == "made" and entries[3].id == box.id)
  box:delete()
  entries = entries_in(only_file(folder))
  assert(#entries == 4 and entries[4].e == "gone" and entries[4].id == box.id)
  quietly(run.finish)
  assert(#fs.list(folder.runs) == 0, "nothing is left, so the ledger goes")
end)

test("ledger: nobody else can read it, and no secret is in it", function()
  local folder <close> = new_folder()
  local book = ledger.of(CONFIG)
  book:intend("key-1", false, "team-1")
  local path = only_file(folder)
  assert(fs.stat(path).mode & 511 == tonumber("600", 8))
  assert(fs.stat(folder.runs).mode & 511 == tonumber("700", 8))
  assert(fs.stat(folder.path .. "/state").mode & 511 == tonumber("700", 8))
  local text = fs.read(path)
  assert(not text:find("secret", 1, true) and not text:find("word", 1, true), text)
  assert(text:find("http://127.0.0.1:9/x", 1, true) or text:find("127.0.0.1:9\\/x", 1, true))
end)

test("ledger: one for each account, one for all clients of it; none with --local", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local one <close> = server:client()
  local two <close> = server:client()
  local other <close> = server:client({ api_key = "another-key" })
  for _, client in ipairs({ one, two, other }) do
    client:create(WANTED)
  end
  assert(#fs.list(folder.runs) == 2)
  one.config.is_local = true
  assert(ledger.of(one.config) == nil)
  assert(ledger.of({ api_key = "", base_url = "http://x" }) == nil)
end)

test("ledger: keys and labels are those of the run; copied ones are not kept", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local client <close> = server:client()
  local first = client:create(WANTED)
  local copied = { "sbxlua-run=19990101-000000-deadbeef", "sbxlua-keep", "blue" }
  local second = client:create({ name = "b", docker_image = "x", labels = copied })
  assert(#copied == 3, "the caller's list is not touched")
  assert(first.labels[1] == ledger.label() and #first.labels == 1)
  assert(second.labels[1] == "blue" and second.labels[2] == ledger.label() and #second.labels == 2)
  local one, two = server.calls[1].body.idempotency_key, server.calls[2].body.idempotency_key
  assert(one == ledger.run_id() .. "-1" and two == ledger.run_id() .. "-2")
  local name = ledger.run_id()
  quietly(run.finish)
  assert(ledger.run_id() ~= name and #fs.list(folder.runs) == 0)
end)

test("ledger: intents of many tasks share a write", function()
  local folder <close> = new_folder()
  local book = ledger.of(CONFIG)
  local file, syncs = book.file, 0
  book.file = setmetatable({ sync = function()
    syncs = syncs + 1
    return file:sync()
  end }, { __index = function(_, name)
    return function(_, ...) return file[name](file, ...) end
  end })
  local tasks = {}
  for i = 1, 200 do
    tasks[i] = i
  end
  task.map(tasks, function(i) book:intend("key-" .. i, false) end, { limit = 200 })
  assert(syncs <= 4, syncs)
  assert(#entries_in(only_file(folder)) == 201)
  book.file = file
end)

test("ledger: a cancelled intent holds up nobody, and its create is not sent", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local client <close> = server:client()
  task.scope(function(scope)
    for i = 1, 20 do
      local child = scope:pspawn(function() client:create(WANTED) end)
      if i % 2 == 0 then child:cancel() end
    end
  end)
  assert(server:count("create") == 10)
  local _, failures = quietly(run.finish)
  assert(#failures == 0 and #fs.list(folder.runs) == 0)
end)

test("ledger: a create that was refused leaves nothing to look for", function()
  local folder <close> = new_folder()
  local server <close> = api.start({ create = function() return 422, { detail = "no" } end })
  local client <close> = server:client()
  api.failure(client.create, client, WANTED)
  local last = entries_in(only_file(folder))
  assert(last[#last].e == "intend")
  assert(quietly(run.finish) == "" and #fs.list(folder.runs) == 0)
end)

-- A file that fails when told to; else the real one.
local function breaking(file, broken)
  return setmetatable({ write = function(_, bytes)
    if not broken.now then return file:write(bytes) end
    if broken.half then file:write(bytes:sub(1, #bytes // 2)) end
    require("sbx.errors").raise({ kind = "io", code = "ENOSPC", message = "the disk is full" })
  end }, { __index = function(_, name)
    return function(_, ...) return file[name](file, ...) end
  end })
end

test("ledger: a full disk is told once, and the run goes on", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local client <close> = server:client()
  local first = client:create(WANTED)
  local book, broken = client.owned.book, { now = true }
  local file = book.file
  book.file = breaking(file, broken)
  local text = quietly(function()
    client:create(WANTED)
    client:create(WANTED)
  end)
  local _, told = text:gsub("sbxlua gc cannot find", "")
  assert(told == 1 and text:find("the disk is full", 1, true), text)
  assert(server:count("create") == 3 and first.id)
  quietly(run.finish)
  assert(next(server.sandboxes) == nil and #fs.list(folder.runs) == 0)
end)

test("ledger: a line that was torn halfway does not spoil the others", function()
  local folder <close> = new_folder()
  local book, broken = ledger.of(CONFIG), {}
  book:intend("key-1", false)
  local file = book.file
  book.file = breaking(file, broken)
  broken.now, broken.half = true, true
  book:made("key-1", "sbx-1", false)
  book:flush()
  broken.now = false
  book:made("key-2", "sbx-2", false)
  book:flush()
  book.file = file
  local path = only_file(folder)
  die(book)
  local found <close> = dead_runs.take(path)
  assert(found.ids["sbx-1"] and found.ids["sbx-2"] and found.unsettled == 0)
end)

test("ledger: where the state folder is none, that is told once, and all else works", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local file <close> = fs.tmpdir()
  fs.write(file.path .. "/not a folder", "")
  state.use(file.path .. "/not a folder")
  local text = quietly(function()
    client:create(WANTED)
    client:create(WANTED)
  end)
  assert(select(2, text:gsub("no ledger", "")) == 1, text)
  assert(client.owned.book == nil)
  quietly(run.finish)
  state.use(false)
  assert(quietly(function() client:create(WANTED) end) == "")
  quietly(run.finish)
  assert(next(server.sandboxes) == nil)
end)

test("ledger: what cannot be deleted stays in it", function()
  local folder <close> = new_folder()
  local broken = true
  local function fail()
    if broken then return 500, { detail = "no" } end
  end
  local server <close> = api.start({ bulk_delete = fail, delete = fail })
  local client <close> = server:client()
  local box = client:create(WANTED)
  local book = client.owned.book
  local _, failures = quietly(run.finish)
  die(book)
  local text = tostring(failures[1])
  assert(text:find("sbx-1", 1, true) and text:find("`sbxlua gc --yes`", 1, true), text)
  local found <close> = dead_runs.take(only_file(folder))
  assert(found.ids["sbx-1"] and found.account == state.account(client.config))
  broken = false
  box:delete()
end)

test("ledger: what is kept, by option or later, is in no list of leftovers", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local client <close> = server:client()
  local kept = client:create({ name = "a", docker_image = "x", keep = true })
  assert(kept.labels[2] == "sbxlua-keep")
  local marked = client:create(WANTED)
  marked.keep = true
  client:create(WANTED)
  die(client.owned.book)
  local found <close> = dead_runs.take(only_file(folder))
  assert(found.kept[kept.id] and found.kept[marked.id] and found.ids["sbx-3"])
  assert(not found.ids[kept.id] and not found.ids[marked.id])
  local text = quietly(run.finish)
  assert(text:find("created 3 sandboxes, deleted 1 (1 that the script left), "
    .. "kept 2: sbx-1, sbx-2", 1, true), text)
end)

test("ledger: a sandbox that is marked to be kept after all is noted as such", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local client <close> = server:client()
  local box = client:create(WANTED)
  box.keep = false
  box.keep = true
  client.owned:flush()
  assert(fs.read(only_file(folder)):find('"kept"', 1, true))
  box.keep = false
  quietly(run.finish)
  assert(next(server.sandboxes) == nil)
end)

test("ledger: tests of a script leave no descriptor behind", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  fs.write(folder.path .. "/test_x.lua", [[
    local sandbox = require("sbx.sandbox")
    for i = 1, 2 do
      test("makes and deletes " .. i, function()
        local client <close> = sandbox.client()
        local box <close> = client:create({ name = "a", docker_image = "x" })
        assert(box.id)
      end)
    end
  ]])
  local result = process.run({ host.executable(), "test", folder.path .. "/test_x.lua" }, { env = {
    XDG_STATE_HOME = folder.path .. "/of child", PRIME_API_KEY = api.KEY,
    PRIME_API_BASE_URL = server.url,
  } })
  assert(result.code == 0 and result.stdout:find("2 passed", 1, true), result.stdout)
  assert(#fs.list(folder.path .. "/of child/sbxlua/runs") == 0 and server:count("create") == 2)
end)

-- ------------------------------------------------------------------- reading

local HEAD = '{"v":1,"run":"r-1","account":"abc","at":5,"url":"http://x","pid":7}\n'

---@async
local function read(text)
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/r-1.abc.jsonl"
  fs.write(path, text)
  local found, alive, problem = dead_runs.take(path)
  if found then found:close() end
  return found, alive, problem, fs.exists(path)
end

test("dead runs: intents, ends and deletes are put together", function()
  local found = read(HEAD .. table.concat({
    '{"e":"intend","key":"1","at":10}', '{"e":"made","key":"1","id":"a"}',
    '{"e":"intend","key":"2","at":11,"team":"t"}', '{"e":"made","key":"2","id":"b"}',
    '{"e":"gone","id":"a"}',
    '{"e":"intend","key":"3","at":12}', '{"e":"none","key":"3"}',
    '{"e":"intend","key":"4","at":13}',
    '{"e":"intend","key":"5","at":12.5}',
    '{"e":"intend","key":"6","at":99,"keep":true}',
    '{"e":"made","key":"7","id":"k","keep":true}',
    '{"e":"made","key":"8","id":"l"}', '{"e":"kept","id":"l"}',
  }, "\n"))
  assert(found.run == "r-1" and found.account == "abc" and found.at == 5 and found.pid == 7)
  assert(found.ids.b and not found.ids.a and not found.ids.l and found.kept.k and found.kept.l)
  assert(found.unsettled == 2 and found.youngest == 13)
  assert(found.teams[""] and found.teams.t)
end)

test("dead runs: torn and hostile files are read as far as they make sense", function()
  for _, bad in ipairs({
    '{"e":"made","key":{"x":1},"id":["a"]}', '{"e":"intend"}', '{"e":"gone"}', '{"e":{}}', "[]",
    "null", '{"e":"kept","id":null}', '{"e":"__index","id":"x"}', '{"e":"intend","key":1e999}',
    "\0\0\0\0", "{", '"', ("["):rep(5000), '{"e":"made","key":"9","id":"' .. ("x"):rep(300) .. '"}',
    '{"e":"intend","key":"8","at":"soon","keep":null}', ("\0"):rep(200000), ("x"):rep(65600),
    '{"e":"made","key":"9","id":".."}', '{"e":"kept","id":"a\\nb"}',
  }) do
    local found = read(HEAD .. bad .. "\n" .. '{"e":"made","key":"1","id":"a"}\n' .. bad)
    assert(found and found.ids.a and found.run == "r-1", bad:sub(1, 60))
    assert(next(found.ids, "a") == nil and next(found.kept) == nil, bad:sub(1, 60))
  end
  local torn = HEAD .. '{"e":"intend","key":"1","at":10}\n{"e":"made","key":"1","id":"a"}\n'
  for last = #HEAD, #torn do
    assert(read(torn:sub(1, last)).run == "r-1")
  end
end)

test("dead runs: no head and nothing in it is litter; anything else is told", function()
  local found, alive, problem, exists = read("")
  assert(not found and not alive and not problem and not exists)
  found, alive, problem, exists = read(HEAD:sub(1, 20))
  assert(not found and not alive and not problem and not exists)
  found, alive, problem, exists = read('{"e":"made","key":"1","id":"a"}\n')
  assert(not found and not alive and problem:find("no head", 1, true) and exists)
  found, alive, problem, exists = read(("x"):rep(100000))
  assert(not found and not alive and problem and exists)

  local folder <close> = fs.tmpdir()
  fs.mkdir(folder.path .. "/a.jsonl")
  fs.symlink("/etc/passwd", folder.path .. "/b.jsonl")
  for _, name in ipairs({ "a", "b" }) do
    found, alive, problem = dead_runs.take(folder.path .. "/" .. name .. ".jsonl")
    assert(not found and not alive and problem)
  end
  found, alive, problem = dead_runs.take(folder.path .. "/none.jsonl")
  assert(not found and not alive and not problem and not fs.exists(folder.path .. "/none.jsonl"))
end)

test("dead runs: a living run is left alone, also by two at once", function()
  local folder <close> = new_folder()
  local book = ledger.of(CONFIG)
  book:intend("key-1", false)
  local path = only_file(folder)
  local found, alive = dead_runs.take(path)
  assert(not found and alive)
  book.lock:close()
  found, alive = dead_runs.take(path)
  assert(not found and alive, "the process runs, whatever its lock says")
  die(book)
  local first <close> = dead_runs.take(path)
  local second, busy = dead_runs.take(path)
  assert(first and not second and busy)
end)

test("dead runs: a process is known by its birth; a dead one that nobody reaped is dead", function()
  local child <close> = process.spawn({ "sh", "-c", "true & exec sleep 60" })
  local own = ledger.born(process.pid())
  assert(own and own == ledger.born(process.pid()))
  assert(tonumber(ledger.born(child.pid)) > tonumber(own))
  local children = ("/proc/%d/task/%d/children"):format(child.pid, child.pid)
  task.timeout(60, function()
    while true do
      local orphan = math.tointeger(tonumber(fs.read(children):match("%d+") or ""))
      local line = orphan and fs.read(("/proc/%d/stat"):format(orphan))
      if line and line:find(") Z ", 1, true) then return assert(ledger.born(orphan) == nil) end
      task.sleep(0.01)
    end
  end)
end)

test("dead runs: a run of another machine is known as such", function()
  local here_host, here_boot = ledger.place()
  local function head(host_name, boot)
    local fields = { v = 1, run = "r-1", account = "abc", host = host_name, boot = boot }
    return json.encode(fields) .. "\n"
  end
  assert(here_host and here_boot)
  assert(read(head("elsewhere", "other boot")).elsewhere == "elsewhere")
  assert(read(head(here_host, "other boot")).elsewhere == nil)
  assert(read(head("a container", here_boot)).elsewhere == nil)
end)

test("dead runs: a file that never got its name is swept away in time", function()
  local folder <close> = new_folder()
  state.folder(ledger.FOLDER)
  fs.write(folder.runs .. "/.r-9.abc.jsonl", "")
  assert(#dead_runs.paths() == 0 and #fs.list(folder.runs) == 1)
  process.run({ "touch", "-d", "2 hours ago", folder.runs .. "/.r-9.abc.jsonl" }, { check = true })
  assert(#dead_runs.paths() == 0 and #fs.list(folder.runs) == 0)
end)

test("ledger: after kill -9 it says what there is", function()
  local folder <close> = new_folder()
  local server <close> = api.start()
  local code = ([[
    local client = require("sbx.sandbox").client({ api_key = %q, base_url = %q })
    for i = 1, 3 do client:create({ name = "n", docker_image = "x" }) end
    print("ready") io.stdout:flush()
    require("sbx.task").sleep(60)
  ]]):format(api.KEY, server.url)
  local child <close> = process.spawn({ host.executable(), "-e", code }, {
    stdout = "pipe", env = { XDG_STATE_HOME = folder.path .. "/of child" },
  })
  assert(child.stdout:read():find("ready"))
  state.use(folder.path .. "/of child/sbxlua")
  local paths = dead_runs.paths()
  local _, alive = dead_runs.take(paths[1])
  assert(#paths == 1 and alive)
  child:kill("KILL")
  child:wait()
  local found <close> = dead_runs.take(paths[1])
  assert(found.ids["sbx-1"] and found.ids["sbx-2"] and found.ids["sbx-3"] and found.unsettled == 0)
end)
