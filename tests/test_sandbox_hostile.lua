-- Answers of an API that makes no sense: whatever is in a field, a call gives a value or
-- raises an error object, in time, and shows no key. For more of them:
-- SBXLUA_HOSTILE=1000 SBXLUA_HOSTILE_SEED=7 sbxlua test FILE

local errors = require("sbx.errors")
local json = require("sbx.json")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")

local TRIES = tonumber(os.getenv("SBXLUA_HOSTILE") or "") or 30
local LONGEST = 10 -- seconds for one call: only shows that it does not hang
local SECRET = "hunter2-hunter2"

local function deep(levels)
  return ("["):rep(levels) .. ("]"):rep(levels)
end

-- What a field may hold, as JSON.
local values = {
  "null", "true", "false", "0", "-1", "1e308", "9223372036854775807", "1.5", '""', '"."', '".."',
  '"a/b"', '"../../x"', '"\\u0000"', '"\\n\\u001b[2J"', "[]", "{}", "[null]", "[{}]", '[["a"]]',
  '{"id":"x"}', '{"sandbox_id":"sbx-1"}', '{"__index":{}}', '"' .. ("x"):rep(70000) .. '"',
  '"sbx-1"', '["sbx-1","sbx-1"]', '"' .. SECRET .. " " .. api.KEY .. '"', deep(60), deep(3000),
  '"RUNNING"', '"ERROR"', '"2026-13-45T99:99:99Z"', '"9999-12-31T23:59:59Z"',
}

local whole = {
  "", " ", "null", "[]", "{", '{"a":1}x', "<html>", "\255\254", "\0", '"text"', "{}", deep(5000),
  '{"detail":' .. deep(50) .. "}", '{"errors":[[[{}]]]}', '{"detail":[{"loc":[{}],"msg":{}}]}',
  '{"detail":[{"loc":["a",null],"msg":"m"},7,null,"x"],"error":{},"message":[]}',
}

-- Every place in a document, as the list of keys to it.
local function places(document, path, found)
  for key, value in pairs(document) do
    local at = table.move(path, 1, #path, 1, {})
    at[#at + 1] = key
    found[#found + 1] = at
    if type(value) == "table" then places(value, at, found) end
  end
  return found
end

-- The document with one place replaced.
local function spoilt(document, random)
  local text = json.encode(document)
  local copy = json.decode(text)
  local all = places(copy, {}, {})
  if #all == 0 then return text end
  local path = all[random(#all)]
  local at = copy
  for i = 1, #path - 1 do
    at = at[path[i]]
  end
  at[path[#path]] = "@@@"
  local value = values[random(#values)]
  return (json.encode(copy):gsub('"@@@"', function() return value end))
end

local statuses = { 200, 200, 200, 200, 201, 204, 302, 400, 402, 403, 404, 409, 422, 500, 299 }

local calls = {
  create = function(client)
    client:create({
      name = "a", docker_image = "x", secrets = { A = SECRET }, network_access = false,
    })
  end,
  get = function(client) tostring(client:get("sbx-1")) end,
  refresh = function(_, box) box:refresh() end,
  list = function(client)
    for box in client:each({ labels = { "x" } }) do
      tostring(box)
    end
  end,
  delete = function(client) client:delete("sbx-1") end,
  deletes = function(client)
    task.map({ "sbx-1", "sbx-2", "sbx-3" }, function(id) client:delete(id) end)
  end,
  bulk_delete = function(client) client:bulk_delete({ "sbx-1", "sbx-2" }) end,
  get_logs = function(client) client:get_logs("sbx-1") end,
  context = function(client) client:get_error_context("sbx-1") end,
  get_status = function(client) client:get_status({ "sbx-1", "sbx-2" }) end,
  wait = function(_, box) box:wait({ timeout = 0.05 }) end,
  bulk_wait = function(client)
    client:bulk_wait_for_creation({ "sbx-1", "sbx-2" }, { timeout = 0.05, on_error = "collect" })
  end,
  exec = function(client) client:execute_command("sbx-1", "true", { timeout = 1 }) end,
}

-- Answers each request of the API as usual, with one place spoilt; or not at all so.
local function hostile(server, random)
  local handlers = {}
  for op, usual in pairs(api.usual) do
    handlers[op] = function(call)
      if random(3) == 1 then return nil end
      local status, document, headers = usual(server, call)
      if random(8) == 1 then return statuses[random(#statuses)], whole[random(#whole)], headers end
      if random(8) == 1 then status = statuses[random(#statuses)] end
      return status, type(document) == "table" and spoilt(document, random) or document, headers
    end
  end
  server.handlers = handlers
end

for name, call in pairs(calls) do
  test("hostile answers: " .. name, function()
    local seed = tonumber(os.getenv("SBXLUA_HOSTILE_SEED") or "") or 1
    local state = seed
    local function random(n)
      state = (state * 6364136223846793005 + 1442695040888963407)
      return (state >> 33) % n + 1
    end
    local server <close> = api.start()
    for try = 1, TRIES do
      server.handlers = {}
      local client <close> = server:client({ throttle_timeout = 0 })
      for i = 1, 3 do
        server:add("sbx-" .. i, { status = "RUNNING" })
      end
      local box = client:get("sbx-1")
      hostile(server, random)
      local ok, err = pcall(task.timeout, LONGEST, call, client, box)
      local where = (" (try %d of seed %d)"):format(try, seed)
      assert(ok or errors.is_error(err), tostring(err) .. where)
      assert(ok or err.kind ~= "timeout", "it hangs" .. where)
      -- An id is what the server says it is. The secrets of a sandbox are known to who
      -- creates it.
      if errors.is_error(err) then err.sandbox_id = nil end
      for _, secret in ipairs({ api.KEY, "gateway-token", name == "create" and SECRET or nil }) do
        assert(ok or not expect.shows(err, secret), secret .. " in the error" .. where)
      end
    end
    server.handlers = {}
  end)
end
