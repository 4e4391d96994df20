-- What the gateway may answer to an upload, a download and a read-file, or do
-- instead: how often it is asked, with what pauses, and what is raised in the end.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local fs = require("sbx.fs")
local task = require("sbx.task")

local INNER, OUTER = { 1, 2, 4 }, { 0.25, 0.5, 1 }

-- The three operations, each as its route's name and a call.
local operations = {
  upload = function(client, _, options) client:upload_bytes("sbx-1", "/r", "data", options) end,
  download = function(client, folder, options)
    client:download_file("sbx-1", "/r", folder .. "/r", options)
  end,
  read = function(client, _, options) client:read_file("sbx-1", "/r", options) end,
}

-- Pauses pass at once; returns a list of them. Until the variable ends.
local function quick()
  local sleep = task.sleep
  local pauses = setmetatable({}, { __close = function() task.sleep = sleep end })
  function task.sleep(seconds)
    pauses[#pauses + 1] = seconds
    task.yield()
  end
  return pauses
end

local function same(pauses, wanted, what)
  local seen = table.concat(pauses, " ")
  for i = 1, math.max(#pauses, #wanted) do
    assert(pauses[i] == wanted[i], what .. ": paused " .. seen)
  end
end

-- Runs one operation on a server where it always ends as `handler` says. Returns
-- the error and the server, to be asked for its counts.
local function outcome(name, handler, pauses, options)
  local handlers = { context = options and options.context }
  handlers[name] = handler
  local server <close> = api.start(handlers)
  server.files["/r"] = "data"
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local ok, err = pcall(operations[name], client, folder.path, options and options.call)
  assert(#fs.list(folder.path) == (ok and name == "download" and 1 or 0), "a partial file stayed")
  if ok then return nil, server end
  assert(type(err) == "table" and err.kind, tostring(err))
  same(pauses, options and options.pauses or {}, name)
  return err, server
end

local function each(fn)
  for name in pairs(operations) do
    local pauses <close> = quick()
    fn(name, pauses)
  end
end

local function answering(status, body)
  return function() return status, body or { error = "x", message = "y", code = status } end
end

for _, status in ipairs({ 500, 502, 503, 504, 524 }) do
  test("transfer: " .. status .. " is tried four times", function()
    each(function(name, pauses)
      local err, server = outcome(name, answering(status), pauses, { pauses = OUTER })
      assert(err.kind == "api" and err.status == status and err.attempts == 4)
      assert(server:count(name) == 4 and server.tokens == 1)
    end)
  end)
end

test("transfer: what goes well at the second try is no error", function()
  each(function(name, pauses)
    local err, server = outcome(name, function(call)
      if call.n == 1 then return 503, {} end
    end, pauses)
    assert(err == nil and server:count(name) == 2)
    same(pauses, { OUTER[1] }, name)
  end)
end)

test("transfer: 502 of a sandbox that is gone is not_running, and its token is dropped", function()
  each(function(name, pauses)
    local gone = answering(502, { error = "sandbox_not_found", message = "Gone", code = 502 })
    local err, server = outcome(name, gone, pauses, {
      context = function() return 200, { status = "ERROR", errorType = "OOM_KILLED" } end,
    })
    assert(err.kind == "oom" and err:is("not_running") and err.status == "TERMINATED")
    assert(server:count(name) == 1)
    err = outcome(name, gone, pauses, { context = answering(404) })
    assert(err.kind == "not_running" and err.error_type == "SANDBOX_NOT_FOUND")
  end)
end)

test("transfer: 408 is tried again where the whole can be sent again", function()
  each(function(name, pauses)
    local again = name ~= "download"
    local err, server = outcome(name, answering(408), pauses, { pauses = again and OUTER or {} })
    assert(err.kind == "api" and err.status == 408 and server:count(name) == (again and 4 or 1))
  end)
end)

test("transfer: 409 is tried again while the sandbox runs, else it is not_running", function()
  each(function(name, pauses)
    local err, server = outcome(name, answering(409), pauses, { pauses = OUTER })
    assert(err.kind == "api" and err.status == 409 and server:count(name) == 4)
  end)
  each(function(name, pauses)
    local err, server = outcome(name, answering(409), pauses, {
      context = function() return 200, { status = "PENDING" } end,
    })
    assert(err.kind == "not_running" and err.status == "PENDING" and server:count(name) == 1)
  end)
end)

test("transfer: 401 fetches one new token, and is api the second time", function()
  each(function(name, pauses)
    local err, server = outcome(name, answering(401), pauses, { pauses = { 0 } })
    assert(err.kind == "api" and err.status == 401)
    assert(server:count(name) == 2 and server.tokens == 2)
  end)
  each(function(name, pauses)
    local err, server = outcome(name, function(call)
      if call.n == 1 then return 401, {} end
    end, pauses)
    assert(err == nil and server.tokens == 2)
  end)
end)

test("transfer: statuses that say no at once", function()
  local kinds = { [400] = "api", [403] = "api", [404] = "file_not_found", [410] = "api",
    [413] = "file_too_large", [422] = "api", [507] = "api" }
  for status, kind in pairs(kinds) do
    each(function(name, pauses)
      local err, server = outcome(name, answering(status), pauses)
      local wanted = name == "upload" and status == 404 and "api" or kind
      assert(err.kind == wanted and err:is("api") and err.status == status, name .. status)
      assert(server:count(name) == 1)
    end)
  end
end)

test("transfer: 429 is waited out as the gateway asks", function()
  each(function(name, pauses)
    local err, server = outcome(name, function(call)
      if call.n < 3 then return 429, {}, { ["retry-after"] = "3" } end
    end, pauses)
    assert(err == nil and server:count(name) == 3 and #pauses >= 2)
    for _, pause in ipairs(pauses) do
      assert(pause >= 3)
    end
  end)
end)

test("transfer: a gateway that cannot be reached is tried four times", function()
  local dead = api.dead_url()
  for name, operation in pairs(operations) do
    local pauses <close> = quick()
    local server <close> = api.start()
    local client <close> = server:client()
    server.gateway_url = dead .. "/gw"
    server:add("sbx-1")
    local folder <close> = fs.tmpdir({})
    local err = api.failure(operation, client, folder.path)
    assert(err.kind == "api" and err:is("connect") and err.attempts == 4, tostring(err))
    same(pauses, INNER, name)
  end
end)

test("transfer: a connection that closes or breaks is tried four times", function()
  local replies = { closed = "", broken = "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx" }
  for what, reply in pairs(replies) do
    for name, operation in pairs(operations) do
      local pauses <close> = quick()
      local raw <close> = api.raw(function() return reply end)
      local server <close> = api.start()
      local client <close> = server:client()
      server.gateway_url = raw.url .. "/gw"
      server:add("sbx-1")
      local folder <close> = fs.tmpdir({})
      local err = api.failure(operation, client, folder.path)
      assert(err.kind == "api" and err:is("http"), tostring(err))
      -- A download that has begun goes on by itself: see the tests of downloads.
      local most = name == "download" and what == "broken" and 8 or 3
      assert(#pauses >= 3 and #pauses <= most and #fs.list(folder.path) == 0, name .. what)
    end
  end
end)

test("transfer: an upload that breaks while it is sent is tried four times", function()
  local large = ("x"):rep(16 * 1024 * 1024) -- more than the sockets hold
  for _, how in ipairs({ "bytes", "file", "progress", "stream" }) do
    local pauses <close> = quick()
    local raw <close> = api.raw(function() return "" end)
    local server <close> = api.start()
    local client <close> = server:client()
    server.gateway_url = raw.url .. "/gw"
    server:add("sbx-1")
    local folder <close> = fs.tmpdir({})
    local path = folder.path .. "/large"
    fs.write(path, large)
    local function progress() end
    local err = api.failure(function()
      if how == "bytes" then
        client:upload_bytes("sbx-1", "/r", large)
      elseif how == "stream" then
        client:upload_stream("sbx-1", "/r", large, { progress = progress })
      else
        client:upload_file("sbx-1", "/r", path, how == "file" and {} or { progress = progress })
      end
    end)
    assert(err.kind == "api" and err:is("http") and err.attempts == 4, how .. tostring(err))
    same(pauses, INNER, how)
  end
end)

test("transfer: silence ends with a kind of its own, and is not tried again", function()
  for name, kind in pairs({ upload = "upload_timeout", download = "download_timeout" }) do
    local pauses <close> = quick()
    local err, server = outcome(name, function() return api.HANG end, pauses, {
      call = { timeout = 1 },
    })
    assert(err.kind == kind and err:is("timeout") and err.timeout == 1)
    assert(server:count(name) == 1)
  end
  local pauses <close> = quick()
  local err, server = outcome("read", function() return api.HANG end, pauses, {
    call = { timeout = 0.5 }, pauses = INNER,
  })
  assert(err:is("api") and server:count("read") == 4, tostring(err))
end)

test("transfer: a sandbox that has no token any more is not running", function()
  for _, operation in pairs(operations) do
    local server <close> = api.start({ auth = answering(404, { detail = "Sandbox not found" }) })
    local client <close> = server:client()
    local folder <close> = fs.tmpdir({})
    local err = api.failure(operation, client, folder.path)
    assert(err.kind == "not_running" and err.cause.status == 404, tostring(err))
  end
end)

test("transfer: the gateway's token is in no error", function()
  local token = "gateway-token-1"
  for name in pairs(operations) do
    local pauses <close> = quick()
    local err = outcome(name, function(call)
      return 400, { error = "bad", message = "you sent " .. call.headers.authorization }
    end, pauses)
    for field, value in pairs(err) do
      assert(not tostring(value):find(token, 1, true), field)
    end
  end
end)
