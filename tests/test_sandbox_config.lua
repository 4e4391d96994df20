local config = require("sbx.sandbox.config")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http_server = require("sbx.server.http")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

-- The library that this run uses is the one that its child shall use.
local LIBRARY = os.getenv("SBXLUA_LUA")

-- Runs Lua code in a process of its own with this environment and config file,
-- and returns what it printed, or its exit code and stderr.
---@async
local function run(code, env, file)
  local home <close> = fs.tmpdir({})
  if file then
    fs.mkdir(home.path .. "/.prime")
    fs.write(home.path .. "/.prime/config.json", file)
  end
  local all = { HOME = home.path, PATH = os.getenv("PATH"), SBXLUA_LUA = LIBRARY }
  for name, value in pairs(env or {}) do
    all[name] = value
  end
  local result = process.run({ host.executable(), "-e", code }, { env = all, clear_env = true })
  return result.stdout, result.code, result.stderr
end

local SHOW = [[
  local client <close> = require("sbx.sandbox").client({ %s })
  local c = client.config
  print(c.base_url, c.api_key, tostring(c.team_id()), tostring(c.user_id()))
]]

local FILE = '{"api_key":"file-key","base_url":"http://file:1/","team_id":"ft","user_id":"fu"}'

---@async
local function settings(arguments, env, file)
  local out, _, err = run(SHOW:format(arguments or ""), env, file)
  return out ~= "" and out:gsub("\n", ""):gsub("\t", " ") or err
end

test("config: arguments, then environment, then file, then defaults", function()
  assert(settings() == "https://api.primeintellect.ai  nil nil", settings())
  assert(settings(nil, nil, FILE) == "http://file:1 file-key ft fu")
  local env = {
    PRIME_API_KEY = "env-key", PRIME_API_BASE_URL = "http://env:2/api/v1/",
    PRIME_TEAM_ID = "et", PRIME_USER_ID = "eu",
  }
  assert(settings(nil, env, FILE) == "http://env:2 env-key et eu")
  local arguments = 'api_key = "arg-key", base_url = "http://arg:3", team_id = "at"'
  assert(settings(arguments, env, FILE) == "http://arg:3 arg-key at eu")
end)

test("config: an empty variable counts as unset, except for team and user", function()
  local env = {
    PRIME_API_KEY = "", PRIME_API_BASE_URL = "", PRIME_BASE_URL = "http://second:4",
    PRIME_TEAM_ID = "", PRIME_USER_ID = "",
  }
  assert(settings(nil, env, FILE) == "http://second:4 file-key  ")
  assert(settings('api_key = ""', env, FILE) == "http://second:4 file-key  ")
end)

test("config: a missing or broken file counts as empty", function()
  for _, file in ipairs({ "", "{", "api_key: x", '{"api_key":"x"} trailing' }) do
    assert(settings(nil, nil, file) == "https://api.primeintellect.ai  nil nil", file)
  end
end)

test("config: why a file was not used is told when there is no key", function()
  local code = [[
    local client <close> = require("sbx.sandbox").client()
    client:list()
  ]]
  local _, status, err = run(code, nil, '{"api_key":"file-key-4711",}')
  assert(status == 4 and err:find("The file was not used: .*config%.json is no JSON"), err)
  assert(not err:find("4711", 1, true), err)
  _, _, err = run([[
    local fs = require("sbx.fs")
    fs.mkdir(os.getenv("HOME") .. "/.prime/config.json", { parents = true })
  ]] .. code)
  assert(err:find("not used: .*config%.json.*directory"), err)
  _, _, err = run([[
    os.execute("mkdir $HOME/.prime; mkfifo $HOME/.prime/config.json")
  ]] .. code)
  assert(err:find("not used: .*config%.json.*fifo"), err)
  _, _, err = run(code)
  assert(not err:find("not used", 1, true), err)
end)

test("config: JSON of the wrong shape is a clear error", function()
  for _, file in ipairs({ "[]", "5", '"x"', "null", '{"base_url":null}', '{"base_url":5}',
    '{"api_key":{}}' }) do
    local text = settings(nil, nil, file)
    assert(text:find("config.json", 1, true), file .. ": " .. text)
  end
end)

test("config: base URLs are normalized as documented", function()
  assert(config.normalize_url("http://h:1/api/v1/") == "http://h:1")
  assert(config.normalize_url("http://h/p//api/v1//") == "http://h/p/")
  assert(config.normalize_url("http://h/api/v1/api/v1") == "http://h/api/v1")
  assert(config.normalize_url("http://h") == "http://h")
  assert(config.normalize_url("http://h///") == "http://h")
  assert(config.normalize_url("http://h/api/v1//api/v1") == "http://h/api/v1/")
  assert(config.normalize_url("http://h/api/v10") == "http://h/api/v10")
  assert(config.normalize_url("http://h/xapi/v1/") == "http://h/xapi/v1")
  assert(config.normalize_url("http://h/API/V1") == "http://h/API/V1")
end)

test("config: an address or key that cannot be one is refused without showing the key", function()
  local wrong = {
    "h:1", "ftp://h", "http://", "http://a b", "http:///x", "http://h?x=1", "http://h/a#b",
    "http://h:99999", "https://", "http://h\n", "http://ann:hunter2@h", "http://ann@h",
    "http://ann:hunter2@h x", "ftp://ann:hunter2@h",
  }
  for _, url in ipairs(wrong) do
    local err = api.failure(sandbox.client, { base_url = url })
    assert(err.kind == "usage", tostring(err))
    assert(not tostring(err):find("hunter2", 1, true), tostring(err))
  end
  local fine = { "http://h", "HTTPS://h:8443/p/", "http://127.0.0.1:1", "http://[::1]:1/api/v1" }
  for _, url in ipairs(fine) do
    sandbox.client({ base_url = url }):close()
  end
  local err = api.failure(sandbox.client, { api_key = "secret\r\nX-Evil: 1" })
  assert(err.kind == "usage" and not tostring(err):find("secret", 1, true))
end)

test("config: without a key the first call says how to go on", function()
  local out, code, err = run([[
    local client <close> = require("sbx.sandbox").client()
    print("made")
    client:create { name = "a", docker_image = "b" }
  ]])
  assert(out == "made\n" and code == 4, code)
  assert(err:find("PRIME_API_KEY", 1, true) and err:find("~/.prime/config.json", 1, true))
  assert(err:find("--local", 1, true))
end)

test("config: the private server wins over environment and file, arguments over it", function()
  local code = [[
    local config = require("sbx.sandbox.config")
    config.set_local({ url = "http://127.0.0.1:9", api_key = "local-key" })
  ]] .. SHOW
  local env = { PRIME_API_KEY = "env-key", PRIME_API_BASE_URL = "http://env:2" }
  local out = run(code:format(""), env, FILE)
  assert(out:find("^http://127.0.0.1:9\tlocal%-key"), out)
  out = run(code:format('api_key = "arg"'), env, FILE)
  assert(out:find("^http://127.0.0.1:9\targ"), out)
end)

test("config: an address may have a path in front of the API's", function()
  local asked
  local listener = http_server.serve({
    routes = {
      { "GET", "/team/x/api/v1/sandbox/{id}", function(request)
        asked = request.raw_path
        http_server.respond_json(request, 200, api.object("a/../b"))
      end },
    },
  })
  local base = ("http://127.0.0.1:%d/team/x"):format(listener.port)
  for _, ending in ipairs({ "", "/", "/api/v1", "/api/v1/" }) do
    local client <close> = sandbox.client({ api_key = "k", base_url = base .. ending })
    assert(client:get("a/../b").id == "a/../b")
    assert(asked == "/team/x/api/v1/sandbox/a%2F..%2Fb", asked)
  end
  listener:close()
end)
