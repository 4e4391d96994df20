-- What `create` and `list` refuse before anything is sent, and what a failed create
-- shows of its secrets: nothing.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local errors = require("sbx.errors")
local json = require("sbx.json")

local function wanted(changes)
  local options = { name = "a", docker_image = "x" }
  for name, value in pairs(changes or {}) do
    options[name] = value
  end
  return options
end

-- The order in which the members of an object are written is nobody's promise.
local function encode(value) return json.encode(value, { sort_keys = true }) end

test("request: what cannot be is named, at the line that asks for it", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local refused = {
    { "cpu_cores: JSON has no infinity", { cpu_cores = math.huge } },
    { "docker_image: a string with invalid UTF-8", { docker_image = "\xff" } },
    { "labels[1]: a string with invalid UTF-8", { labels = { "\xff" } } },
    { "advanced_configs.f: JSON has no function", { advanced_configs = { f = print } } },
    { "idle_timeout_minutes: 6 is more than timeout_minutes, which is 5",
      { timeout_minutes = 5, idle_timeout_minutes = 6 } },
    { "registry_credentials_id: needs vm = false",
      { vm = true, registry_credentials_id = "cred-1" } },
    { "guaranteed: needs vm = false", { vm = true, guaranteed = true } },
    { "not both", { vm = true, network_access = false, network_denylist = { "a.com" } } },
    { "not both", { vm = true, network_access = false, network_allowlist = { "a.com" } } },
  }
  for _, case in ipairs(refused) do
    local function create() client:create(wanted(case[2])) end
    expect.misuse("test_sandbox_request.lua:", create)
    expect.misuse(case[1], create)
  end
  expect.misuse("exclude_terminated", client.list, client, { exclude_terminated = "yes" })
  assert(#server.calls == 0)
  client:create(wanted({ timeout_minutes = 5, idle_timeout_minutes = 5 }))
end)

test("request: a value that is a secret is named, not shown", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local ok, err = pcall(client.create, client, wanted({ secrets = { A = "hunter2\xff" } }))
  assert(not ok and err:find("secrets.A", 1, true) and not err:find("hunter2", 1, true), err)
end)

test("request: a virtual machine without network access is asked for in its own words", function()
  local server <close> = api.start({
    create = function(call)
      -- As a server that does not know network_access any more.
      return 201, api.object("sbx-1", {
        vm = true, networkAccess = json.null, networkAllowlist = call.body.network_allowlist,
      })
    end,
  })
  local client <close> = server:client()
  client:create(wanted({ vm = true, network_access = false })).keep = true
  local sent = server.calls[1].bytes
  assert(sent:find('"network_allowlist":[]', 1, true), sent)
  assert(sent:find('"network_access":false', 1, true), sent)
end)

test("request: an id that no path can hold is no sandbox", function()
  for _, id in ipairs({ "", ".", "..", "a\nb", ("x"):rep(257) }) do
    local server <close> = api.start({ create = function() return 201, api.object(id) end })
    local client <close> = server:client()
    expect.code("BAD_ANSWER", client.create, client, wanted())
    server.handlers.create = function() return 500, {} end
  end
end)

test("request: an id reaches the path as it is, and no other path", function()
  local server <close> = api.start({
    get = function(call) return 200, api.object(call.id) end,
  })
  local client <close> = server:client()
  local paths = {
    ["a/b"] = "a%2Fb", ["a%2Fb"] = "a%252Fb", ["../x"] = "..%2Fx", ["a b"] = "a%20b",
    ["a?b#c"] = "a%3Fb%23c", ["\u{e4}"] = "%C3%A4", ["a+b;c=d&e"] = "a%2Bb%3Bc%3Dd%26e",
    ["a..b~-_."] = "a..b~-_.", ["\\"] = "%5C", ["expose"] = "expose",
  }
  for id, path in pairs(paths) do
    errors.try(client.get, client, id)
    assert(server.last_path == "/api/v1/sandbox/" .. path, server.last_path)
  end
  for _, id in ipairs({ "", ".", "..", ("x"):rep(257) }) do
    expect.misuse("sandbox", client.get, client, id)
  end
end)

test("request: a create does not follow to another address, but names it", function()
  local server <close> = api.start({
    create = function()
      return 307, "", { location = "https://ann:hunter2@elsewhere.example/api/v1/sandbox" }
    end,
  })
  local client <close> = server:client()
  local err = expect.failure(client.create, client, wanted())
  assert(err.status == 307 and err.message:find("elsewhere.example", 1, true), err.message)
  assert(err.message:find("PRIME_API_BASE_URL", 1, true) and server:count("create") == 1)
  assert(not expect.shows(err, "hunter2"))
end)

-- ------------------------------------------------------------------------ secrets

local PEM = "-----BEGIN KEY-----\nMIIEvQIBADAN/Bgkq\nhkiG9w0BAQ\"EF\\AASC\n"
local UMLAUTS = "p\u{e4}ssw\u{f6}rt/\u{1f511}"
local LONG = "hunter2-and-more"
local SECRETS = { PEM = PEM, U = UMLAUTS, SHORT = "hunter2", LONG = LONG }

-- The pieces that would give one away.
local PIECES = { "MIIEvQIBADAN", "hkiG9w0BAQ", "AASC", "ssw", "d83d", "D83D", "hunter2", "more" }

local answers = {
  json = function(call) return encode({ detail = "bad", input = call.body }) end,
  list = function(call)
    return encode({ detail = { { loc = { "body" }, msg = "bad: " .. call.body.secrets.PEM } } })
  end,
  ascii = function()
    return [[{"input":"p\u00e4ssw\u00f6rt/\ud83d\udd11 p\u00E4ssw\u00F6rt/\uD83D\uDD11]]
      .. [[ p\u00e4ssw\u00f6rt\/\ud83d\udd11"}]]
  end,
  text = function(call) return "cannot take " .. encode(call.body.secrets) end,
  nested = function(call) return encode({ detail = encode(call.body.secrets) }) end,
  query = function() return "p%C3%A4ssw%C3%B6rt%2F%F0%9F%94%91" end,
  part = function() return "line 2: MIIEvQIBADAN/Bgkq" end,
  both = function() return "got " .. LONG end,
}

for name, answer in pairs(answers) do
  test("request: the secrets of a create are in no error, quoted as " .. name, function()
    local server <close> = api.start({
      create = function(call) return 422, answer(call) end,
    })
    local client <close> = server:client()
    local err = expect.failure(client.create, client, wanted({ secrets = SECRETS }))
    for _, piece in ipairs(PIECES) do
      assert(not expect.shows(err, piece), piece .. " in " .. tostring(err) .. tostring(err.body))
    end
    assert(expect.shows(err, "***"))
  end)
end
