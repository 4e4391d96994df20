-- The verb `doctor`: what it says of the API, of the settings and of the state folder.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local certificates = dofile(here .. "peers/certificates.lua")
local fs = require("sbx.fs")
local json = require("sbx.json")
local ledger = require("sbx.sandbox.ledger")
local net = require("sbx.net")
local nginx = dofile(here .. "peers/nginx.lua")
local process = require("sbx.process")
local server_support = dofile(here .. "server_support.lua")
local state = require("sbx.sandbox.state")
local support = dofile(here .. "cli_support.lua")
local task = require("sbx.task")
local time = require("sbx.time")

local NAMES = {
  "address", "name", "certificate", "server", "key", "clock", "kind of server", "profile",
  "rate limit", "config file", "contexts", "state folder", "token cache", "ledger",
}
local LEAVES = { ok = true, weak = true, missing = true, skipped = true }

-- Runs `doctor --cloud -o json`: findings by name, and the report; the key is in neither.
local function cloud(cli, status, key, words)
  local argv = { "doctor", "--cloud", "-o", "json" }
  table.move(words or {}, 1, #(words or {}), #argv + 1, argv)
  local result = cli:run(argv)
  assert(result.code == status, ("%d: %s %s"):format(result.code, result.stdout, result.stderr))
  if key then assert(not (result.stdout .. result.stderr):find(key, 1, true), "shows the key") end
  local report = json.decode(result.stdout)
  assert(report.v == 1 and report.can_run == json.null)
  assert(report.can_reach == (status == 0))
  local found = {}
  for _, finding in ipairs(report.findings) do
    assert(LEAVES[finding.state] and finding.part == "cloud", finding.what)
    assert(type(finding.by) == "string" and not finding.by:find("%c"), finding.what)
    local is_fine = finding.state == "ok" or finding.state == "skipped"
    assert(is_fine or type(finding.todo) == "string", finding.what)
    assert(not found[finding.what], finding.what)
    found[finding.what] = finding
  end
  for _, name in ipairs(NAMES) do
    assert(found[name], name)
  end
  return found, report
end

local function is(finding, wanted, text)
  local said = ("%s: %s: %s -> %s"):format(finding.what, finding.state, finding.by,
    tostring(finding.todo))
  assert(finding.state == wanted, said)
  assert(not text or said:find(text, 1, true), ("no %q in %s"):format(text, said))
end

local function at(url, key, more)
  local env = { PRIME_API_BASE_URL = url, PRIME_API_KEY = key or api.KEY }
  for name, value in pairs(more or {}) do
    env[name] = value
  end
  return env
end

test("doctor cloud: this program's own server", function()
  server_support.with_server(function(one)
    support.alone(function(cli)
      local found = cloud(cli, 0, one.server.api_key)
      is(found.address, "ok", "from PRIME_API_BASE_URL")
      is(found.key, "ok", "from PRIME_API_KEY; the server takes it")
      is(found.name, "ok", "is an address")
      is(found.server, "ok")
      is(found.clock, "ok")
      is(found["kind of server"], "ok", "sbxlua serve")
      is(found["rate limit"], "ok", "none")
      is(found.profile, "skipped")
      one:create({ vm = true })
      is(cloud(cli, 0).profile, "ok", "of the newest 1: 0 containers, 1 virtual machines")
      cli.env.PRIME_API_KEY = "sk-wrong-4711"
      found = cloud(cli, 1, "sk-wrong-4711")
      is(found.key, "missing", "refuses it (401)")
      is(found.server, "ok")
      is(found.profile, "skipped")
    end, at(one.server.url, one.server.api_key))
  end, { profile = "both" })
end)

test("doctor cloud: what an answer tells", function()
  local answer
  local server <close> = api.start({ list = function() return table.unpack(answer, 1, 3) end })
  support.alone(function(cli)
    answer = { 402, { detail = "pay" } }
    local found = cloud(cli, 1, api.KEY)
    is(found.key, "missing", "has to pay (402)")
    is(found.server, "ok")
    answer = { 403, { detail = "no" } }
    is(cloud(cli, 1).key, "missing", "(403)")
    answer = { 500, { detail = api.KEY .. " broke" } }
    found = cloud(cli, 1, api.KEY)
    is(found.server, "missing", "answered 500")
    is(found.key, "skipped")
    answer = { 200, "<html>" }
    is(cloud(cli, 1).server, "missing", "not as the sandbox API does")
    answer = { 429, { detail = "slow" }, { ["Retry-After"] = "7" } }
    found = cloud(cli, 0)
    is(found["rate limit"], "weak", "wait 7 s")
    is(found.server, "ok")
    local rows = json.array({ { vm = true }, { vm = false }, { vm = json.null }, "x" })
    answer = { 200, { sandboxes = rows, total = 4 }, {
      ["X-RateLimit-Limit"] = "100", ["X-RateLimit-Remaining"] = "42",
    } }
    found = cloud(cli, 0)
    is(found["rate limit"], "ok", "100 requests, 42 are left")
    is(found.profile, "ok", "of the newest 4: 3 containers, 1 virtual machines")
    answer[3] = { ["X-RateLimit-Limit"] = "99.5", ["X-RateLimit-Remaining"] = "0.0" }
    is(cloud(cli, 0)["rate limit"], "weak", "0 are left")
  end, at(server.url))
  -- Nothing was created, and each run asked once.
  assert(server.created == 0)
end)

-- An answer of a fixed head, for a date of its own.
local function dated(date, fn)
  local listener <close> = net.listen("127.0.0.1", 0)
  local body = '{"sandboxes": [], "total": 0}'
  local head = ("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %s\r\n"
    .. "Content-Length: %d\r\nConnection: close\r\n\r\n"):format(date, #body)
  local scope <close> = task.open_scope()
  scope:daemon(function()
    while true do
      local connection <close> = listener:accept()
      local text = ""
      while not text:find("\r\n\r\n", 1, true) do
        text = text .. assert(connection:read())
      end
      connection:write(head .. body)
    end
  end)
  support.alone(fn, at("http://127.0.0.1:" .. listener.port))
end

local function http_date(seconds)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", math.floor(seconds))
end

test("doctor cloud: a clock that is off", function()
  dated(http_date(time.wall() - 3600), function(cli)
    is(cloud(cli, 0).clock, "weak", "ahead of the server's")
  end)
  dated(http_date(time.wall() + 3600), function(cli)
    is(cloud(cli, 0).clock, "weak", "behind the server's")
  end)
  dated(http_date(time.wall()), function(cli)
    local found = cloud(cli, 0)
    is(found.clock, "ok")
    is(found["kind of server"], "ok", "another one")
    is(found["rate limit"], "skipped")
  end)
  dated("Mon, 99 Foo 2026", function(cli) is(cloud(cli, 0).clock, "skipped") end)
end)

test("doctor cloud: certificates", function()
  local dir <close> = fs.tmpdir()
  local ca = certificates.make(dir.path)
  process.run({ "openssl", "x509", "-req", "-in", dir.path .. "/server.csr", "-CA", ca, "-CAkey",
    dir.path .. "/ca.key", "-CAcreateserial", "-out", dir.path .. "/old.pem", "-days", "-1",
    "-extfile", dir.path .. "/server.ext" }, { check = true })
  local location = [[location / { default_type application/json;
    return 200 '{"sandboxes": [], "total": 0}'; }]]
  local peer <close> = nginx.start(dir.path, ([[
    server { listen 127.0.0.1:@1 ssl; ssl_certificate @dir/server.pem;
      ssl_certificate_key @dir/server.key; LOCATION }
    server { listen 127.0.0.1:@2 ssl; ssl_certificate @dir/old.pem;
      ssl_certificate_key @dir/server.key; LOCATION }
  ]]):gsub("LOCATION", function() return location end))
  local function url(i) return "https://127.0.0.1:" .. peer.ports[i] end
  support.alone(function(cli)
    local found = cloud(cli, 1, api.KEY)
    is(found.certificate, "missing", "SSL_CERT_FILE")
    is(found.server, "missing", "`certificate`")
    is(found.key, "skipped")
  end, at(url(1)))
  support.alone(function(cli)
    -- It ends in two days.
    is(cloud(cli, 0).certificate, "weak", "trusted, until 20")
  end, at(url(1), nil, { SSL_CERT_FILE = ca }))
  support.alone(function(cli)
    is(cloud(cli, 1).certificate, "missing", "it ended on 20")
  end, at(url(2), nil, { SSL_CERT_FILE = ca }))
end)

test("doctor cloud: nobody there, and a name that nobody knows", function()
  local listener = net.listen("127.0.0.1", 0)
  local url = "http://127.0.0.1:" .. listener.port
  listener:close()
  support.alone(function(cli)
    local found = cloud(cli, 1, api.KEY)
    is(found.server, "missing", "firewall")
    is(found.clock, "skipped")
  end, at(url))
  support.alone(function(cli)
    local found = cloud(cli, 1, api.KEY)
    is(found.name, "missing", "no-such-host.invalid")
    is(found.server, "missing", "`name`")
  end, at("https://no-such-host.invalid"))
end)

test("doctor cloud: a server that is silent holds up no Ctrl-C", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  support.alone(function(cli)
    local child <close> = cli:start({ "doctor", "--cloud" }, { stdout = "null", stderr = "null" })
    local connection <close> = listener:accept()
    assert(connection:read():find("^GET /api/v1/sandbox%?"))
    child:kill("INT")
    local code = task.timeout(60, child.wait, child)
    assert(code == 130, tostring(code))
  end, at("http://127.0.0.1:" .. listener.port))
end)

test("doctor: without a key the cloud is not set up, which is no failure", function()
  support.alone(function(cli)
    local found = cloud(cli, 1)
    is(found.key, "missing", "PRIME_API_KEY")
    is(found.name, "skipped")
    local result = cli:run({ "doctor", "-o", "json" })
    local report = json.decode(result.stdout)
    assert(report.can_reach == json.null and result.code == (report.can_run and 0 or 1))
    local parts = {}
    for _, finding in ipairs(report.findings) do
      parts[finding.part] = true
      if finding.what == "key" then is(finding, "skipped", "the cloud is not set up") end
    end
    assert(parts.machine and parts.cloud)
    -- --local is that half alone, before the verb and behind it.
    for _, words in ipairs({ { "doctor", "--local" }, { "--local", "doctor" } }) do
      local text = cli:run(words).stdout
      assert(text:find("\nisolation ") and not text:find("\nledger "), text)
    end
    local text = cli:run({ "doctor", "--cloud" }).stdout
    assert(text:find("\nledger ") and not text:find("\nisolation "), text)
    assert(not text:find("skipped", 1, true), text)
    assert(cli:run({ "doctor", "--cloud", "-o", "wide" }).stdout:find("skipped", 1, true))
    local names = cli:run({ "doctor", "--cloud", "-q" }).stdout
    assert(names:find("^address\nkey\n"), names)
    local line = cli:run({ "doctor", "--cloud", "-o", "jsonl" }).stdout:match("^[^\n]*")
    assert(json.decode(line).v == 1)
  end)
end)

-- ---------------------------------------------------- settings and state folder

test("doctor cloud: settings that are broken, and keys that others can read", function()
  local server <close> = api.start({})
  support.alone(function(cli)
    local prime = cli.home .. "/.prime"
    fs.mkdir(prime)
    local function config(text, mode)
      fs.write(prime .. "/config.json", text)
      fs.chmod(prime .. "/config.json", mode)
    end
    config('{"api_key": "sk-broken', 384)
    local found = cloud(cli, 1, "sk-broken")
    is(found["config file"], "weak", "is no JSON")
    is(found.key, "missing", "not used")
    assert(cli:run({ "doctor" }).code == 1)
    config('{"base_url": 7}', 384)
    found = cloud(cli, 1)
    is(found.address, "missing", "base_url")
    local file = json.encode({ api_key = api.KEY, base_url = server.url })
    config(file, 420)
    found = cloud(cli, 0, api.KEY)
    is(found["config file"], "weak", "chmod 600")
    is(found.key, "ok", "from ~/.prime/config.json")
    config(file, 384)
    is(cloud(cli, 0)["config file"], "ok")
    fs.mkdir(cli.home .. "/.config/sbxlua", { parents = true })
    local contexts = cli.home .. "/.config/sbxlua/contexts.json"
    fs.write(contexts, "{", { mode = 384 })
    found = cloud(cli, 1)
    is(found.contexts, "missing", "is no JSON")
    is(found.address, "missing", "is no JSON")
    fs.write(contexts, '{"v":1,"contexts":{"a":{"url":"http://h"}},"current":"b"}')
    is(cloud(cli, 1).contexts, "missing", "sbxlua context use")
    local name = "a\27[31m"
    fs.write(contexts, json.encode({ v = 1, current = name, contexts = {
      [name] = { url = server.url, api_key = api.KEY },
    } }))
    is(cloud(cli, 0, api.KEY).key, "ok", "from context a")
  end)
end)

test("doctor cloud: the state folder, the tokens, and runs that died", function()
  local server <close> = api.start({})
  support.alone(function(cli)
    local place = cli.home .. "/.local/state/sbxlua"
    is(cloud(cli, 0)["state folder"], "ok", "made when it is needed")
    assert(not fs.exists(place))
    fs.mkdir(place .. "/runs", { parents = true, mode = 448 })
    fs.mkdir(place .. "/tokens", { mode = 448 })
    fs.chmod(place, 448)
    local settings = { api_key = api.KEY, base_url = server.url }
    local account = state.account(settings)
    local found = cloud(cli, 0)
    is(found["state folder"], "ok", place)
    is(found["token cache"], "ok", "none yet")
    is(found.ledger, "ok")
    assert(#fs.list(place) == 2)

    local tokens = place .. "/tokens/" .. account
    fs.write(tokens, "sbxlua-tokens 1 0011\nx\n", { mode = 384 })
    is(cloud(cli, 0)["token cache"], "ok", "1 in ")
    fs.chmod(tokens, 420)
    is(cloud(cli, 0)["token cache"], "weak", "chmod 600")
    fs.write(tokens, "garbage")
    fs.chmod(tokens, 384)
    is(cloud(cli, 0)["token cache"], "weak", "damaged")

    local host, boot = ledger.place()
    local head = json.encode({
      v = 1, run = "r1", account = account, url = server.url, at = time.wall() - 100,
      pid = 1, host = host, boot = boot,
    })
    local path = place .. "/runs/r1." .. account:sub(1, 8) .. ".jsonl"
    fs.write(path, head .. '\n{"e":"intend","key":"k","at":1}\n{"e":"made","key":"k","id":"a"}\n',
      { mode = 384 })
    is(cloud(cli, 0).ledger, "weak", "1 dead run left up to 1 sandbox;")
    assert(fs.exists(path))
    do
      local _ <close> = fs.try_lock(path)
      is(cloud(cli, 0).ledger, "ok", "1 run alive")
    end
    cli.env.PRIME_API_KEY = "sk-other"
    is(cloud(cli, 0).ledger, "weak", "1 dead run of other accounts")
    cli.env.PRIME_API_KEY = api.KEY

    fs.chmod(place, 493)
    is(cloud(cli, 0)["state folder"], "weak", "chmod 700")
    fs.remove(place, { recursive = true })
    fs.write(place, "")
    is(cloud(cli, 0)["state folder"], "missing", "is no folder")
  end, at(server.url))
end)
