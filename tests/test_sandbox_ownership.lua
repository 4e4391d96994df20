local errors = require("sbx.errors")
local log = require("sbx.log")
local run = require("sbx.run")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local WANTED = { name = "a", docker_image = "python:3.11-slim" }

-- What the log says while `fn` runs.
---@async
local function logged(fn)
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  local ok, err = pcall(fn)
  log.set_writer(nil)
  assert(ok, err)
  return table.concat(lines)
end

test("ownership: a block's end deletes its sandbox", function()
  local server <close> = api.start()
  local client <close> = server:client()
  do
    local box <close> = client:create(WANTED)
    assert(server.sandboxes[box.id])
  end
  assert(next(server.sandboxes) == nil and server:count("delete") == 1)
end)

test("ownership: keep, and objects of other sandboxes, are left alone", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-other")
  do
    local kept <close> = client:create({ name = "a", docker_image = "x", keep = true })
    local marked <close> = client:create(WANTED)
    marked.keep = true
    local other <close> = client:get("sbx-other")
    assert(kept.keep and other.id == "sbx-other")
  end
  assert(server:count("delete") == 0)
  assert(#run.finish() == 0)
  assert(server:count("bulk_delete") == 0 and server.sandboxes["sbx-other"])
end)

test("ownership: __close deletes while an error is in flight", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ok, err = pcall(function()
    local box <close> = client:create(WANTED)
    error("the script's own: " .. box.id, 0)
  end)
  assert(not ok and err == "the script's own: sbx-1")
  assert(next(server.sandboxes) == nil)
end)

test("ownership: __close deletes while cancelled", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  local done = task.move_on(0.3, function()
    local box <close> = client:create(WANTED)
    box:exec("sleep 1000")
  end)
  assert(not done and next(server.sandboxes) == nil)
end)

test("ownership: a finalizer of the script that calls client:delete while cancelled", function()
  local server <close> = api.start({ exec = function() return api.HANG end })
  local client <close> = server:client()
  local seen
  local done = task.move_on(0.3, function()
    local box = client:create(WANTED)
    local _ <close> = setmetatable({}, {
      __close = function(_, err)
        seen = err
        client:delete(box.id)
      end,
    })
    box:exec("sleep 1000")
  end)
  assert(not done and next(server.sandboxes) == nil)
  assert(errors.is_error(seen) and seen.kind == "cancelled")
end)

test("ownership: a create whose task is cancelled meanwhile loses nothing", function()
  local release = task.waiter("the cancel")
  local server <close> = api.start({
    create = function() release:wait() end,
  })
  local client <close> = server:client()
  local box
  task.scope(function(scope)
    local child = scope:pspawn(function()
      box = client:create(WANTED)
      task.sleep(1000)
    end)
    while server:count("create") == 0 do
      task.sleep(0.001)
    end
    child:cancel()
    release:wake()
  end)
  assert(box and server.sandboxes[box.id] and client.owned:has(box.id))
  assert(#run.finish() == 0 and next(server.sandboxes) == nil)
end)

test("ownership: the end of the run deletes in bulk and says so", function()
  local server <close> = api.start()
  local client <close> = server:client()
  task.map({ 1, 2, 3 }, function() return client:create(WANTED) end)
  local text = logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil)
  assert(server:count("bulk_delete") == 1 and server:count("delete") == 0)
  assert(text:find('msg="created 3 sandboxes, deleted 3 (3 that the script left)"', 1, true), text)
  assert(#run.finish() == 0 and server:count("bulk_delete") == 1)
end)

test("ownership: without a bulk call they are deleted one by one", function()
  local server <close> = api.start({ bulk_delete = function() return 405, "no" end })
  local client <close> = server:client()
  client:create(WANTED)
  client:create(WANTED)
  logged(function() assert(#run.finish() == 0) end)
  assert(next(server.sandboxes) == nil and server:count("delete") == 2)
end)

test("ownership: what cannot be deleted is a failure that names it", function()
  local broken = true
  local function fail()
    if broken then return 500, { detail = "no" } end
  end
  local server <close> = api.start({ bulk_delete = fail, delete = fail })
  local client <close> = server:client()
  client:create(WANTED)
  local failures = run.finish()
  assert(#failures == 1 and tostring(failures[1]):find("sbx-1", 1, true), tostring(failures[1]))
  broken = false
  client:delete("sbx-1")
end)

test("ownership: a failing delete does not hide the script's error", function()
  local broken = true
  local server <close> = api.start({
    delete = function() if broken then return 500, { detail = "no" } end end,
  })
  local client <close> = server:client()
  local ok, err
  local text = logged(function()
    ok, err = pcall(function()
      local _ <close> = client:create(WANTED)
      error("the real problem", 0)
    end)
  end)
  assert(not ok and err == "the real problem")
  assert(text:find("cannot delete", 1, true))

  ok, err = pcall(function() local _ <close> = client:create(WANTED) end)
  assert(not ok and err.status == 500)
  broken = false
end)

