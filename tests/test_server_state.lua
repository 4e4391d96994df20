-- What the server remembers: the folder, its lock, its database, group commit.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local sqlite = require("sbx.core.sqlite")
local state = require("sbx.server.state")
local task = require("sbx.task")

local function row(id, more)
  local made = {
    id = id, status = "RUNNING", created_at = 1000.25, updated_at = 1001, started_at = 1002,
    deadline = 5000.5, last_used = 1003,
    record = { spec = { name = "a\0b", labels = json.array {}, secrets = { K = "hidden" } } },
  }
  for name, value in pairs(more or {}) do
    made[name] = value
  end
  return made
end

local function with_folder(fn)
  local folder <close> = fs.tmpdir { prefix = "state-" }
  return fn(folder.path .. "/server")
end

-- Opens the state, lets `fn` use it, and closes it.
local function visit(path, fn)
  local opened <close> = state.open(path)
  return fn(opened)
end

local function state_failure(code, path)
  local ok, err = pcall(visit, path, function() end)
  assert(not ok and errors.is_error(err) and err.kind == "state" and err.code == code,
    tostring(err))
  assert(err.message:find(path, 1, true), err.message)
  return err
end

test("state: all of it is there the next time, exactly", function()
  with_folder(function(path)
    visit(path, function(kept)
      kept:put_sandbox(row("sbx-1"))
      kept:put_sandbox(row("sbx-2", { created_at = 5 }))
      kept:put_exposure {
        id = "exp-1", sandbox_id = "sbx-1", port = 80, outer_port = 40000, protocol = "TCP",
        created_at = 7.5,
      }
      kept:put_idempotency("key", { fingerprint = "f", id = "sbx-1", at = 9 })
      kept:put_api_key("hash", nil, 3)
      kept:add_event { at = 1, kind = "created", sandbox_id = "sbx-1" }
      kept:add_event { at = 2, kind = "ended", sandbox_id = "sbx-1", detail = "why\0" }
    end)
    visit(path, function(kept)
      local loaded = kept:load()
      local second, first = loaded.sandboxes[1], loaded.sandboxes[2]
      assert(#loaded.sandboxes == 2 and first.id == "sbx-1" and second.id == "sbx-2")
      assert(first.created_at == 1000.25 and first.deadline == 5000.5 and first.status == "RUNNING")
      assert(first.record.spec.name == "a\0b" and first.terminated_at == nil)
      assert(json.encode(first.record.spec.labels) == "[]")
      local exposure = loaded.exposures[1]
      assert(exposure.outer_port == 40000 and exposure.name == nil and exposure.created_at == 7.5)
      local key = loaded.idempotency[1]
      assert(key.key == "key" and key.sandbox_id == "sbx-1" and key.fingerprint == "f")
      assert(loaded.api_keys[1].hash == "hash")
      assert(#loaded.events == 2 and loaded.events[1].at == 1)
      assert(loaded.events[2].detail == "why\u{FFFD}")
      kept:remove_sandbox("sbx-1")
      kept:remove_exposure("exp-1")
      kept:remove_idempotency("key")
      kept:remove_api_key("hash")
    end)
    visit(path, function(kept)
      local loaded = kept:load()
      assert(#loaded.sandboxes == 1 and #loaded.exposures == 0)
      assert(#loaded.idempotency == 0 and #loaded.api_keys == 0)
    end)
  end)
end)

test("state: its folder and files are its owner's alone", function()
  with_folder(function(path)
    visit(path, function(kept)
      kept:put_sandbox(row("sbx-1"))
      kept:sync()
      assert(fs.stat(path).mode & 511 == 448)
      for _, name in ipairs { "state.db", "state.db-wal", "state.db-shm", "lock" } do
        assert(fs.stat(path .. "/" .. name).mode & 511 == 384, name)
      end
    end)
    fs.chmod(path, 493)
    assert(state_failure("UNSAFE", path).message:find("chmod 700", 1, true))
  end)
end)

test("state: one server for each folder; the other is told whose it is", function()
  with_folder(function(path)
    visit(path, function()
      local err = state_failure("LOCKED", path)
      assert(err.pid == process.pid() and err.message:find(tostring(err.pid), 1, true))
      assert(err.message:find("--state", 1, true))
    end)
    visit(path, function() end)
  end)
end)

test("state: what is damaged, newer or another's is refused and left as it is", function()
  with_folder(function(path)
    local file = path .. "/state.db"
    visit(path, function(kept)
      for i = 1, 200 do
        kept:put_sandbox(row("sbx-" .. i))
      end
    end)
    local whole = fs.read(file)

    local function refused(code, bytes)
      fs.write(file, bytes, { mode = 384 })
      state_failure(code, path)
      assert(fs.read(file) == bytes, "the file was changed")
    end
    refused("DAMAGED", ("junk"):rep(4096))
    refused("DAMAGED", whole:sub(1, #whole // 2 - 100))
    refused("DAMAGED", whole:sub(1, 5000) .. ("\xff"):rep(8192) .. whole:sub(13193))
    fs.write(file, whole, { mode = 384 })
    assert(visit(path, function(kept) return #kept:load().sandboxes end) == 200)

    local function change(sql)
      local db <close> = sqlite.open(file)
      db:run(sql)
    end
    change("PRAGMA user_version = 1000")
    assert(state_failure("NEWER", path).message:find("newer sbxlua", 1, true))
    change("PRAGMA user_version = 1")
    change("PRAGMA application_id = 7")
    state_failure("FOREIGN", path)
  end)
end)

test("state: a record that cannot be read is damage", function()
  with_folder(function(path)
    visit(path, function(kept) kept:put_sandbox(row("sbx-1")) end)
    do
      local db <close> = sqlite.open(path .. "/state.db")
      db:run("UPDATE sandboxes SET record = '{'")
    end
    local ok, err = pcall(visit, path, function(kept) kept:load() end)
    assert(not ok and err.code == "DAMAGED" and err.message:find("sbx-1", 1, true))
  end)
end)

-- Counts the transactions that a state makes while `fn` runs.
local function counting(kept, fn)
  local database, count = kept.writer.database, 0
  local counted = setmetatable({
    transaction = function(_, statements)
      count = count + 1
      return database:transaction(statements)
    end,
  }, { __index = function(_, name)
    return function(_, ...) return database[name](database, ...) end
  end })
  kept.writer.database = counted
  fn()
  kept.writer.database = database
  return count
end

test("state: what changes in one turn is one transaction, and each waits for it", function()
  with_folder(function(path)
    visit(path, function(kept)
      local count = counting(kept, function()
        task.map({ table.unpack((function()
          local ids = {}
          for i = 1, 200 do ids[i] = "sbx-" .. i end
          return ids
        end)()) }, function(id)
          kept:put_sandbox(row(id, { status = "PENDING" }))
          kept:put_sandbox(row(id))
          kept:sync()
        end, { limit = 200 })
      end)
      assert(count <= 3, count .. " transactions")
      -- Seen by somebody else: it is on the disk.
      local reader <close> = sqlite.open(kept.path, { read_only = true })
      local found = reader:run("SELECT count(*) AS n, min(status) AS s FROM sandboxes")[1]
      assert(found.n == 200 and found.s == "RUNNING")
      assert(counting(kept, function() kept:sync() end) == 0)
    end)
  end)
end)

test("state: a sync waits for what was being written already", function()
  with_folder(function(path)
    visit(path, function(kept)
      kept:put_sandbox(row("sbx-1"))
      local writing = task.spawn(kept.sync, kept)
      while not kept.writer.flight do
        task.yield()
      end
      kept:sync()
      local reader <close> = sqlite.open(kept.path, { read_only = true })
      assert(reader:run("SELECT count(*) AS n FROM sandboxes")[1].n == 1)
      writing:join()
    end)
  end)
end)

test("state: what cannot be written raises, is kept, and is written once it can be", function()
  with_folder(function(path)
    visit(path, function(kept)
      local database = kept.writer.database
      local broken = true
      kept.writer.database = setmetatable({
        transaction = function(_, statements)
          if broken then
            kept:put_sandbox(row("sbx-1")) -- newer than what is being written
            errors.raise { kind = "io", code = "SQLITE_FULL", message = "disk is full" }
          end
          return database:transaction(statements)
        end,
      }, { __index = database })
      kept:put_sandbox(row("sbx-1", { status = "PENDING" }))
      kept:add_event { at = 1, kind = "created" }
      local ok, err = pcall(kept.sync, kept)
      assert(not ok and err.kind == "unavailable" and err.message:find("disk is full", 1, true))
      broken = false
      kept:put_sandbox(row("sbx-2"))
      kept:sync()
      kept.writer.database = database
    end)
    visit(path, function(kept)
      local loaded = kept:load()
      assert(#loaded.sandboxes == 2 and #loaded.events == 1)
      assert(loaded.sandboxes[1].status == "RUNNING", "an older change came over a newer one")
    end)
  end)
end)

test("state: what nobody waited for is written at the end, also of a cancelled scope", function()
  with_folder(function(path)
    local begun = false
    local running = task.pspawn(function()
      local kept = state.open(path)
      local _ <close> = setmetatable({}, {
        __close = function()
          kept:put_sandbox(row("sbx-2"))
          task.shield(5, kept.close, kept)
        end,
      })
      kept:put_sandbox(row("sbx-1"))
      begun = true
      task.sleep(3600)
    end)
    while not begun do
      task.sleep(0.001)
    end
    running:cancel()
    running:pjoin()
    visit(path, function(kept) assert(#kept:load().sandboxes == 2) end)
  end)
end)

test("state: nothing secret is left in any file once it is forgotten", function()
  with_folder(function(path)
    local function somewhere(text)
      for _, name in ipairs(fs.list(path)) do
        if fs.read(path .. "/" .. name):find(text, 1, true) then return true end
      end
      return false
    end
    visit(path, function(kept)
      kept:put_sandbox(row("sbx-1", { record = { spec = { secrets = { K = "xyzzy-secret" } } } }))
      kept:sync()
      assert(somewhere("xyzzy-secret"))
      kept:put_sandbox(row("sbx-1", { record = { spec = { secrets = { K = "***" } } } }))
      kept:forget_secrets()
    end)
    assert(not somewhere("xyzzy-secret"))
  end)
end)

test("state: events are cut, so that there is an end to them", function()
  with_folder(function(path)
    visit(path, function(kept)
      for round = 1, 13 do
        for _ = 1, 2000 do
          kept:add_event { at = round, kind = "created" }
        end
        kept:sync()
      end
      assert(kept.database:run("SELECT count(*) AS n FROM events")[1].n <= 20000)
      local events = kept:load(5).events
      assert(#events == 5 and events[5].at == 13)
    end)
  end)
end)

test("state: none remembers nothing and waits for nothing", function()
  local none = state.none()
  none:put_sandbox(row("sbx-1"))
  none:sync()
  assert(#none:load().sandboxes == 0)
  none:close()
end)

test("state: kill -9 while many write leaves what was told, and a folder that opens", function()
  with_folder(function(path)
    local child <close> = process.spawn({ host.executable(), "-e", [[
      local state = require("sbx.server.state")
      local task = require("sbx.task")
      local kept = state.open(arg[1])
      for worker = 1, 8 do
        task.spawn(function()
          for i = 1, 1000000 do
            local id = ("sbx-%d-%d"):format(worker, i)
            kept:put_sandbox { id = id, status = "PENDING", created_at = i, updated_at = i,
              record = { spec = {} } }
            kept:sync()
            print(id)
            io.stdout:flush()
          end
        end)
      end
    ]], path }, { stdout = "pipe" })
    local text = ""
    while select(2, text:gsub("\n", "")) < 200 do
      text = text .. assert(child.stdout:read())
    end
    child:kill("KILL")
    while true do
      local bytes = child.stdout:read()
      if not bytes then break end
      text = text .. bytes
    end
    child:wait()
    visit(path, function(kept)
      local known = {}
      for _, one in ipairs(kept:load().sandboxes) do
        known[one.id] = true
      end
      for id in text:gmatch("([^\n]+)\n") do
        assert(known[id], id .. " is lost")
      end
    end)
  end)
end)
