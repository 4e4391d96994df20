-- The scripts of this project recorded against a server with real sandboxes, and replayed
-- when there is none; and what a recording never has in it.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local scripts = dofile(here .. "scripts_support.lua")
local support = dofile(here .. "run_support.lua")

---Records a script against the server, ends that, replays it: both results.
---@async
local function record_and_replay(name, words, check)
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local file = folder.path .. "/run.jsonl"
  local argv = scripts.argv(name, words)
  local first
  scripts.with_server(function(server)
    first = support.run({ "--record", file, table.unpack(argv) }, { env = scripts.env(server) })
    assert(not fs.read(file):find(server.api_key, 1, true), "the API key was recorded")
  end)
  -- No key, no address, and no server any more.
  local second = support.run({ "--replay", file, table.unpack(argv) })
  assert(first.code == 0, first.stderr)
  assert(second.code == first.code, second.stderr)
  assert(second.stdout == first.stdout, second.stdout)
  assert(not second.stderr:find("not in ", 1, true), second.stderr)
  check(second, fs.read(file))
end

test("replay: fleet_demo", function()
  record_and_replay("fleet_demo", { "5" }, function(result, text)
    assert(result.stdout:find("batch%-5: sbx%-%x+: 42\n$"), result.stdout)
    assert(text:find("replayed-secret-1", 1, true), "tokens have names")
  end)
end)

test("replay: launch_demo", function()
  record_and_replay("launch_demo", {}, function(result)
    assert(result.stdout == "42\n", result.stdout)
    assert(result.stderr:find("33000 bytes came back, equal to what went up", 1, true)
      or result.stderr:find("bytes came back, equal", 1, true), result.stderr)
  end)
end)

test("replay: with --local there is no server either", function()
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local file = folder.path .. "/run.jsonl"
  local words = { "--local", here .. "../scripts/fleet_demo.lua", "2" }
  local first = support.run({ "--record", file, table.unpack(words) })
  assert(first.code == 0, first.stderr)
  -- Where no server could start: not even its folder.
  local second = support.run({ "--replay", file, table.unpack(words) }, {
    env = { TMPDIR = "/nonexistent-folder", PATH = "/nonexistent-folder" },
  })
  assert(second.code == 0 and second.stdout == first.stdout, second.stderr)
end)

test("replay: a command, which keeps its words and its status", function()
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local file = folder.path .. "/run.jsonl"
  local words = { "run", "--local", "debian", "--", "sh", "-c", "echo out; exit 7" }
  local first = support.run({ "--record", file, table.unpack(words) })
  assert(first.code == 7 and first.stdout == "out\n", first.stderr)
  local second = support.run({ "--replay", file, table.unpack(words) })
  assert(second.code == 7 and second.stdout == "out\n", second.stderr)
end)

-- Everything that is secret, in every place where it may turn up.
local SECRETIVE = [[
  local sandbox, http, log = require("sbx.sandbox"), require("sbx.http"), require("sbx.log")
  local url = os.getenv("PRIME_API_BASE_URL") or "http://replay.invalid"
  local client <close> = sandbox.client()
  local box = client:create({
    name = "b", docker_image = "i", environment_vars = { GREETING = "env-value-1147" },
    secrets = { DB = "secret-value-2258" },
  })
  box:wait()
  print(box:exec("echo 1", { env = { MY_TOKEN = "env-value-3369" } }).stdout)
  print(box:exec("export PASSWORD=typed-value-9925; echo 2").stdout)
  box:upload_bytes("/tmp/x", "upload-value-0036")
  print(box:download_bytes("/tmp/x"))
  local function get(where, options) pcall(http.get, url .. where, options) end
  get("/api/v1/sandbox/y?token=query-value-4470", { query = { api_key = "query-value-5581" } })
  local cookie = { cookie = "c=cookie-value-7703" }
  get("/api/v1/sandbox/y", { bearer = "bearer-value-6692", headers = cookie })
  get("/api/v1/sandbox/y", { basic = { "u", "basic-value-8814" } })
  pcall(http.get, (url:gsub("//", "//user:password-value-1258@")) .. "/api/v1/sandbox/x")
  box:delete()
]]

local function told_secrets(call)
  return 404, {
    detail = "no key " .. tostring(call.headers.authorization),
    upload_url = "https://h/x?X-Amz-Signature=signed-value-5692&part=1",
    access_token = "given-value-2369", nested = { { password = "p-1" } },
  }, { ["set-cookie"] = "session=cookie-value-3470", ["x-api-key"] = "header-value-4581" }
end

test("replay: no secret is stored; what servers tell has names that replay", function()
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local file = folder.path .. "/run.jsonl"
  local first
  do
    local server <close> = api.start({
      get = function(call) if call.id == "y" then return told_secrets(call) end end,
      exec = function(call)
        return 200, {
          stdout = ("ran with %s and secret-value-2258\n"):format(
            tostring(call.headers.authorization)),
          stderr = "", exit_code = 0,
        }
      end,
    })
    first = support.run({ "--record", file, "-e", SECRETIVE }, {
      env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY },
    })
  end
  assert(first.code == 0, first.stderr)
  local text = fs.read(file)
  for _, secret in ipairs({
    api.KEY, "gateway-token", "env-value", "secret-value", "typed-value", "query-value",
    "bearer-value", "cookie-value", "basic-value", "password-value", "signed-value",
    "given-value", "header-value", "p-1\"", "set-cookie",
    require("sbx.encoding").base64("u:basic-value-8814"),
  }) do
    assert(not text:find(secret, 1, true), "the recording has " .. secret)
  end
  -- What a script uploads and downloads is data: the test needs it.
  assert(text:find("upload-value-0036", 1, true))
  local second = support.run({ "--replay", file, "-e", SECRETIVE })
  assert(second.code == 0, second.stderr)
  assert(second.stdout:find("ran with Bearer %*%*%* and %*%*%*\n"), second.stdout)
  assert(second.stdout:find("upload-value-0036\n", 1, true), second.stdout)
end)

test("replay: looks and deletes that travel together in another way", function()
  local folder <close> = fs.tmpdir({ prefix = "replay-" })
  local file = folder.path .. "/run.jsonl"
  local code = [[
    local sandbox, task = require("sbx.sandbox"), require("sbx.task")
    local together = os.getenv("TOGETHER") ~= nil
    local client <close> = sandbox.client()
    local boxes = {}
    for i = 1, 4 do boxes[i] = client:create({ name = "b" .. i, docker_image = "i" }) end
    local function in_turn(list, fn)
      for _, item in ipairs(list) do fn(item) end
    end
    local each = together and task.map or in_turn
    each(boxes, function(box) box:wait() end)
    for _, box in ipairs(boxes) do print(box.name, box.status) end
    each(boxes, function(box) box:delete() end)
    print(#boxes)
  ]]
  local server <close> = api.start()
  local env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY }
  for _, first_way in ipairs({ "together", "alone" }) do
    local other = first_way == "alone"
    env.TOGETHER = not other and "1" or false
    local first = support.run({ "--record", file, "-e", code }, { env = env })
    assert(first.code == 0, first.stderr)
    local second = support.run({ "--replay", file, "-e", code },
      { env = { TOGETHER = other and "1" or false } })
    assert(second.code == 0 and second.stdout == first.stdout, first_way .. ": " .. second.stderr)
  end
end)
