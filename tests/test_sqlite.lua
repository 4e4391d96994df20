-- sbx.core.sqlite: databases in files.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local sqlite = require("sbx.core.sqlite")
local task = require("sbx.task")

local function with_database(fn)
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  local path = folder.path .. "/a.db"
  local db <close> = sqlite.open(path)
  return fn(db, path)
end

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "succeeded")
  return err
end

local function io_failure(code, fn, ...)
  local err = failure(fn, ...)
  assert(errors.is_error(err) and err.kind == "io" and err.code == code, tostring(err))
  return err
end

-- Runs for as long as it is let.
local ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
  .. "SELECT count(*) AS c FROM n"

test("sqlite: values come back exactly, and of their own type", function()
  with_database(function(db)
    db:run("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    local bytes = {}
    for i = 0, 255 do
      bytes[#bytes + 1] = string.char(i)
    end
    local values = {
      0, 1, -1, math.maxinteger, math.mininteger, 0.1, -0.0, 1e308, math.huge, -math.huge, 3.0,
      "", "text", "é\u{1F600}", "1", ("x"):rep(300000), sqlite.blob(""),
      sqlite.blob(table.concat(bytes)), sqlite.null,
    }
    for _, value in ipairs(values) do
      assert(db:run("INSERT INTO t(v) VALUES (?)", value).changes == 1)
    end
    local rows = db:run("SELECT id, v, typeof(v) AS type FROM t ORDER BY id")
    assert(#rows == #values and rows.changes == 0)
    for i = 1, 16 do
      local got = rows[i].v
      assert(got == values[i] and math.type(got) == math.type(values[i]), tostring(values[i]))
    end
    assert(1 / rows[7].v == -math.huge, "the sign of zero")
    assert(rows[16].type == "text" and rows[17].type == "blob" and rows[17].v == "")
    assert(rows[18].v == table.concat(bytes) and rows[18].type == "blob")
    assert(rows[19].v == nil and rows[19].type == "null")
  end)
end)

test("sqlite: a transaction takes effect as a whole or not at all", function()
  with_database(function(db)
    local results = db:transaction {
      { "CREATE TABLE t(a UNIQUE, b)" },
      { "INSERT INTO t VALUES (?, ?)", 1, "one" },
      { "INSERT INTO t VALUES (?, ?), (3, 'three')", 2, sqlite.null },
      { "SELECT a, b FROM t ORDER BY a" },
    }
    assert(#results == 4 and results[3].changes == 2 and #results[4] == 3)
    assert(results[4][1].b == "one" and results[4][2].b == nil and results[4][3].a == 3)

    local err = io_failure("SQLITE_CONSTRAINT", db.transaction, db, {
      { "INSERT INTO t VALUES (4, 4)" }, { "INSERT INTO t VALUES (1, 1)" },
    })
    assert(err.message:find("statement 2", 1, true) and err.message:find("UNIQUE", 1, true))
    assert(db:run("SELECT count(*) AS n FROM t")[1].n == 3)
    assert(#db:transaction {} == 0)
    db:transaction { { "DELETE FROM t" } }
    assert(db:run("SELECT count(*) AS n FROM t")[1].n == 0)
  end)
end)

test("sqlite: a transaction that a caller left open is not kept after a failure", function()
  with_database(function(db)
    db:run("CREATE TABLE t(a)")
    db:run("BEGIN")
    db:run("INSERT INTO t VALUES (1)")
    io_failure("SQLITE_ERROR", db.transaction, db, { { "SELECT 1" } })
    assert(db:run("SELECT count(*) AS n FROM t")[1].n == 0)
  end)
end)

test("sqlite: what is wrong with a statement is said", function()
  with_database(function(db, path)
    local err = io_failure("SQLITE_ERROR", db.run, db, "SELEC 1")
    assert(err.message:find("syntax error", 1, true) and err.message:find(path, 1, true))
    io_failure("SQLITE_ERROR", db.run, db, "SELECT * FROM missing")
    io_failure("SQLITE_MISUSE", db.run, db, "SELECT 1; SELECT 2")
    io_failure("SQLITE_MISUSE", db.run, db, " ")
    assert(io_failure("SQLITE_MISUSE", db.run, db, "SELECT ?", 1, 2).message
      :find("1 parameters, 2 values", 1, true))
    io_failure("SQLITE_MISUSE", db.run, db, "SELECT ?")
    assert(db:run("SELECT 1 AS one; ")[1].one == 1)
    for _, value in ipairs { true, {}, print, 0 / 0, "a\0b", io.stdout } do
      assert(tostring(failure(db.run, db, "SELECT ?", value)):find("value: ", 1, true))
    end
    for _, list in ipairs { { 1 }, { {} }, { { 1 } }, { { "SELECT\0 1" } } } do
      assert(type(failure(db.transaction, db, list)) == "string")
    end
    assert(type(failure(db.run, db)) == "string")
    assert(type(failure(db.transaction, db, nil)) == "string")
    assert(db:run("SELECT 1 AS one")[1].one == 1)
  end)
end)

test("sqlite: many different statements, more than are kept prepared", function()
  with_database(function(db)
    for round = 1, 2 do
      for i = 1, 60 do
        assert(db:run("SELECT " .. i .. " AS n, ? AS r", round)[1].n == i)
      end
    end
  end)
end)

test("sqlite: a file is its owner's alone, and so is what stands beside it", function()
  with_database(function(db, path)
    db:run("PRAGMA journal_mode = WAL")
    db:run("CREATE TABLE t(a)")
    for _, name in ipairs { path, path .. "-wal", path .. "-shm" } do
      assert(fs.stat(name).mode & 511 == 384, name)
    end
  end)
end)

test("sqlite: what cannot be opened, and what is no database", function()
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  io_failure("SQLITE_CANTOPEN", sqlite.open, folder.path .. "/none/a.db")
  io_failure("SQLITE_CANTOPEN", sqlite.open, folder.path .. "/a.db", { read_only = true })
  assert(not fs.exists(folder.path .. "/a.db"))
  fs.write(folder.path .. "/junk", ("junk"):rep(500))
  local db <close> = sqlite.open(folder.path .. "/junk")
  io_failure("SQLITE_NOTADB", db.run, db, "SELECT * FROM sqlite_schema")
  assert(type(failure(sqlite.open, "a\0b")) == "string")
  assert(type(failure(sqlite.open, folder.path .. "/b", { patience = -1 })) == "string")
  assert(not fs.exists(folder.path .. "/b"))
end)

test("sqlite: a reader alone cannot write", function()
  with_database(function(db, path)
    db:run("CREATE TABLE t(a)")
    local reader <close> = sqlite.open(path, { read_only = true })
    assert(#reader:run("SELECT * FROM t") == 0)
    io_failure("SQLITE_READONLY", reader.run, reader, "INSERT INTO t VALUES (1)")
  end)
end)

test("sqlite: one task at a time, and the loop goes on meanwhile", function()
  with_database(function(db)
    local running = task.pspawn(db.run, db, ENDLESS)
    task.yield()
    assert(tostring(failure(db.run, db, "SELECT 1")):find("another task", 1, true))
    assert(tostring(failure(db.close, db)):find("another task", 1, true))
    task.sleep(0.01) -- which needs the loop
    running:cancel()
    local ok, err = running:pjoin()
    assert(not ok and err.kind == "cancelled")
    assert(db:run("SELECT 1 AS one")[1].one == 1)
  end)
end)

test("sqlite: a cancelled transaction has not happened, and the next one can", function()
  with_database(function(db)
    db:run("CREATE TABLE t(a)")
    for _ = 1, 5 do
      local running = task.pspawn(db.transaction, db, {
        { "INSERT INTO t VALUES (1)" }, { ENDLESS },
      })
      task.sleep(0.005)
      running:cancel()
      local ok, err = running:pjoin()
      assert(not ok and err.kind == "cancelled")
    end
    -- Cancelled before a thread has begun with it.
    local early = task.pspawn(db.transaction, db, { { "INSERT INTO t VALUES (1)" }, { ENDLESS } })
    task.yield()
    early:cancel()
    early:pjoin()
    assert(db:run("SELECT count(*) AS n FROM t")[1].n == 0)
    assert(db:run("PRAGMA integrity_check")[1].integrity_check == "ok")
    db:transaction { { "INSERT INTO t VALUES (2)" } }
    assert(db:run("SELECT count(*) AS n FROM t")[1].n == 1)
  end)
end)

test("sqlite: waits for another process for as long as it is told to", function()
  with_database(function(db, path)
    db:run("CREATE TABLE t(a)")
    local other <close> = sqlite.open(path, { patience = 0 })
    local patient <close> = sqlite.open(path, { patience = 3600 })
    db:run("BEGIN IMMEDIATE")
    io_failure("SQLITE_BUSY", other.run, other, "INSERT INTO t VALUES (1)")
    local waiting = task.pspawn(patient.run, patient, "INSERT INTO t VALUES (2)")
    task.yield()
    local given_up = task.pspawn(function()
      local third <close> = sqlite.open(path, { patience = 3600 })
      third:run("INSERT INTO t VALUES (3)")
    end)
    task.sleep(0.02)
    given_up:cancel()
    assert(select(2, given_up:pjoin()).kind == "cancelled")
    db:run("COMMIT")
    assert(waiting:join().changes == 1)
    assert(db:run("SELECT a FROM t")[1].a == 2)
  end)
end)

test("sqlite: closed is closed, and once is enough", function()
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  local db = sqlite.open(folder.path .. "/a.db")
  db:run("PRAGMA journal_mode = WAL")
  db:run("CREATE TABLE t(a)")
  db:close()
  db:close()
  assert(not fs.exists(folder.path .. "/a.db-wal"))
  local err = failure(db.run, db, "SELECT 1")
  assert(err.code == "EBADF" and err.message:find("closed database", 1, true))
end)

test("sqlite: a cancelled task closes too, and nothing that was being opened stays", function()
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  local path = folder.path .. "/a.db"
  local opened = 0
  for i = 1, 20 do
    local running = task.pspawn(function()
      local db <close> = sqlite.open(path)
      opened = opened + 1
      db:run("PRAGMA journal_mode = WAL")
      db:run(ENDLESS)
    end)
    if i % 2 == 0 then task.yield() else task.sleep(0.005) end
    running:cancel()
    running:pjoin()
  end
  assert(opened > 0)
  local descriptors = 0
  for _, name in ipairs(fs.list("/proc/self/fd")) do
    local ok, target = pcall(fs.readlink, "/proc/self/fd/" .. name)
    if ok and target:find(path, 1, true) then descriptors = descriptors + 1 end
  end
  assert(descriptors == 0, descriptors .. " descriptors are open")
end)

test("sqlite: forgotten databases are collected", function()
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  for _ = 1, 3 do
    local db = sqlite.open(folder.path .. "/a.db")
    db:run("CREATE TABLE IF NOT EXISTS t(a)")
    db = nil -- luacheck: ignore
    collectgarbage()
  end
end)

test("sqlite: what was committed is there after kill -9", function()
  local folder <close> = fs.tmpdir { prefix = "sqlite-" }
  local path = folder.path .. "/a.db"
  local child <close> = process.spawn({ host.executable(), "-e", [[
    local sqlite = require("sbx.core.sqlite")
    local db = sqlite.open(arg[1])
    db:run("PRAGMA journal_mode = WAL")
    db:run("CREATE TABLE t(a INTEGER)")
    for i = 1, 1000000 do
      db:transaction { { "INSERT INTO t VALUES (?)", i } }
      print(i)
      io.stdout:flush()
    end
  ]], path }, { stdout = "pipe" })
  local text = ""
  while not text:find("\n20\n", 1, true) do
    text = text .. assert(child.stdout:read())
  end
  child:kill("KILL")
  while true do
    local bytes = child.stdout:read()
    if not bytes then break end
    text = text .. bytes
  end
  child:wait()
  local last = math.tointeger(tonumber(text:match("(%d+)\n[^\n]*$")))
  local db <close> = sqlite.open(path)
  local row = db:run("SELECT count(*) AS n, max(a) AS last FROM t")[1]
  assert(row.n == row.last and row.last >= last, row.last .. " of " .. last)
end)
