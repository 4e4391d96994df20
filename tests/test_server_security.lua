-- Who may ask the server, for what, and from where: keys of several users, tokens, names
-- and origins, and that none of the secrets is seen where it does not belong.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local key_store = require("sbx.server.key_store")
local keys = require("sbx.server.keys")
local log = require("sbx.log")
local net = require("sbx.core.net")
local process = require("sbx.process")
local reply = require("sbx.server.reply")
local sqlite = require("sbx.core.sqlite")
local state = require("sbx.server.state")
local task = require("sbx.task")
local tokens = require("sbx.server.tokens")
local memory_driver = dofile("tests/peers/memory_driver.lua")
local support = dofile("tests/server_support.lua")

local function with_server(fn, options)
  local opts = { driver = memory_driver.open() }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  support.with_server(fn, opts)
end

-- A server with a state, in which `names` have keys: fn(api of the owner, by name).
local function with_users(names, fn)
  local folder <close> = fs.tmpdir()
  fs.chmod(folder.path, 448)
  local made = {}
  do
    local store <close> = key_store.open(folder.path)
    for _, name in ipairs(names) do
      made[name] = store:add(name)
    end
  end
  task.scope(function()
    local kept <close> = state.open(folder.path)
    with_server(function(api)
      local users = {}
      for name, key in pairs(made) do
        users[name] = support.api { url = api.server.url, api_key = key }
      end
      fn(api, users, folder.path)
    end, { state = kept })
  end)
end

test("keys: what a name may be", function()
  for _, name in ipairs { "a", "bob", "ci-2", ("x"):rep(40) } do
    assert(keys.check_name(name))
  end
  for _, name in ipairs {
    "", "local", "Bob", "1a", "-a", "a b", "a/b", "../x", ("x"):rep(41), "a\n",
  } do
    assert(not keys.check_name(name), name)
  end
end)

test("keys: only the right ones are known, and one that is taken away no more", function()
  local ring = keys.new("main key")
  assert(ring:find("main key").admin and ring:find("main ke") == nil and ring:find(nil) == nil)
  assert(ring:find("") == nil and ring:find(hash.sha256("main key")) == nil)
  ring:replace { { hash = hash.sha256("k"), name = "bob" }, { hash = hash.sha256("old") } }
  local bob = ring:find("k")
  assert(bob.name == "bob" and bob.user_id == "u-bob" and not bob.admin)
  assert(ring:find("old") == nil) -- an earlier key of the server's own
  assert(ring:is_user("u-bob") and ring:is_user("u-local") and not ring:is_user("u-eve"))
  ring:replace {}
  assert(ring:find("k") == nil and ring:find("main key"))
end)

test("keys: a user sees its own sandboxes, the server's key all of them", function()
  with_users({ "ann", "bob" }, function(owner, users)
    local ann, bob = users.ann, users.bob
    local hers = ann:create { name = "hers", labels = { "x" } }
    local his = bob:create { name = "his", labels = { "x" } }
    local mine = owner:create { name = "mine", labels = { "x" } }
    assert(hers.userId == "u-ann" and his.userId == "u-bob" and mine.userId == "u-local")

    local _, list = ann:call("GET", "/sandbox")
    assert(list.total == 1 and list.sandboxes[1].id == hers.id)
    assert(select(2, owner:call("GET", "/sandbox")).total == 3)
    assert(select(2, owner:call("GET", "/sandbox?user_id=u-bob")).total == 1)
    -- A user of another service, from a client's configuration, means nothing here.
    assert(select(2, ann:call("GET", "/sandbox?user_id=usr-elsewhere")).total == 1)
    assert(ann:call("GET", "/sandbox?user_id=u-bob") == 403)

    for _, call in ipairs {
      { "GET", "" }, { "DELETE", "" }, { "GET", "/logs" }, { "POST", "/auth" },
      { "GET", "/error-context" }, { "GET", "/expose" }, { "POST", "/expose", { port = 80 } },
      { "DELETE", "/expose/exp-1" }, { "GET", "/egress-policy" },
      { "PUT", "/egress-policy", { allowlist = json.array {} } },
    } do
      local status, body = ann:call(call[1], "/sandbox/" .. his.id .. call[2], call[3])
      assert(status == 404 and body.detail == "Sandbox not found", call[1] .. call[2])
    end
    local _, batch = ann:call("POST", "/sandbox/status:batchGet",
      { sandbox_ids = { hers.id, his.id } })
    assert(#batch.statuses == 1 and batch.errors[1].code == "NOT_FOUND")
    assert(owner:call("GET", "/sandbox/" .. his.id) == 200)
  end)
end)

test("keys: a bulk delete takes the caller's own, unless the owner says whose", function()
  with_users({ "ann", "bob" }, function(owner, users)
    local hers = users.ann:create { labels = { "x" } }
    local his = users.bob:create { labels = { "x" } }
    local mine = owner:create { labels = { "x" } }
    local function delete(api, body)
      local status, answer = api:call("DELETE", "/sandbox", body)
      table.sort(answer.succeeded or {})
      return status, table.concat(answer.succeeded or {}, " "), answer
    end
    local _, deleted, answer = delete(users.ann, { sandbox_ids = { his.id } })
    assert(deleted == "" and answer.failed[1].error == "not found")
    assert(delete(users.ann, { labels = { "x" }, all_users = true }) == 403)
    assert(delete(users.ann, { labels = { "x" }, user_id = "u-bob" }) == 403)
    assert(delete(users.ann, { labels = { "x" }, all_users = 1 }) == 422)
    assert(select(2, delete(users.ann, { labels = { "x" } })) == hers.id)
    assert(select(2, delete(owner, { labels = { "x" }, all_users = false })) == mine.id)
    assert(select(2, delete(owner, { labels = { "x" }, all_users = true })) == his.id)
  end)
end)

test("keys: the same idempotency key of two users makes two sandboxes", function()
  with_users({ "ann", "bob" }, function(owner, users)
    local seen = {}
    for name, api in pairs { owner = owner, ann = users.ann, bob = users.bob } do
      local made = api:create { name = "same", idempotency_key = "k-1" }
      assert(api:create({ name = "same", idempotency_key = "k-1" }).id == made.id, name)
      assert(not seen[made.id])
      seen[made.id] = true
    end
  end)
end)

test("keys: added and taken away beside a running server; only hashes are kept", function()
  with_users({ "ann" }, function(owner, users, folder)
    local key
    do
      local store <close> = key_store.open(folder)
      key = store:add("eve")
      assert(not pcall(store.add, store, "eve"))
      assert(store:remove("ann") and not store:remove("ann"))
    end
    local eve = support.api { url = owner.server.url, api_key = key }
    task.timeout(60, function()
      while eve:call("GET", "/sandbox") ~= 200 or users.ann:call("GET", "/sandbox") ~= 401 do
        task.sleep(0.05)
      end
    end)
    for _, name in ipairs { "state.db", "state.db-wal" } do
      local content = fs.read(folder .. "/" .. name)
      for _, secret in ipairs { key, key:sub(4), owner.server.api_key, users.ann.server.api_key } do
        assert(not content:find(secret, 1, true), name)
      end
    end
  end)
end)

test("keys: a sandbox stays its user's in the next server", function()
  local folder <close> = fs.tmpdir()
  fs.chmod(folder.path, 448)
  local ann
  do
    local store <close> = key_store.open(folder.path)
    ann = store:add("ann")
  end
  local id
  local function serve(key, fn)
    task.scope(function()
      local kept <close> = state.open(folder.path)
      with_server(fn, { state = kept, api_key = key })
    end)
  end
  serve("first", function(api)
    id = support.api({ url = api.server.url, api_key = ann }):create().id
  end)
  serve("second", function(api)
    local hers = support.api { url = api.server.url, api_key = ann }
    local _, object = hers:call("GET", "/sandbox/" .. id)
    assert(object.status == "TERMINATED" and object.userId == "u-ann")
    local old = support.api { url = api.server.url, api_key = "first" }
    assert(old:call("GET", "/sandbox") == 401)
  end)
  local database <close> = sqlite.open(folder.path .. "/state.db")
  local rows = database:run("SELECT hash FROM api_keys WHERE name IS NULL")
  assert(#rows == 1 and rows[1].hash == hash.sha256("second"))
end)

local function sbxlua(args)
  local argv = { host.executable(), "serve", "key" }
  table.move(args, 1, #args, 4, argv)
  return process.run(argv, { timeout = 60 })
end

test("serve key: add, ls and rm; the key is in a file of its owner, and nowhere else", function()
  local folder <close> = fs.tmpdir()
  local place = folder.path .. "/state"
  local added = sbxlua { "add", "ann", "--state", place }
  local path = added.stdout:match("^(%S+)\n$")
  assert(added.code == 0 and fs.stat(path).mode & 511 == 384, added.stderr)
  local key = fs.read(path):match("^(sk_%x+)\n$")
  assert(#key == 67)
  local other = sbxlua { "add", "bob", "--state=" .. place, "--out=" .. folder.path .. "/bob" }
  assert(other.code == 0 and other.stdout == folder.path .. "/bob\n")
  local again = sbxlua { "add", "bob", "--state", place }
  assert(again.code == 1 and again.stderr:find("there is a key named bob", 1, true), again.stderr)
  assert(not fs.exists(place .. "/bob.key"))
  assert(sbxlua({ "add", "ann", "--state", place }).code == 1) -- no file is replaced
  assert(fs.read(path) == key .. "\n")

  local list = sbxlua { "ls", "--state", place }
  assert(list.stdout:match("^ann\t[%dTZ:-]+\nbob\t[%dTZ:-]+\n$"), list.stdout)
  assert(not list.stdout:find(key, 1, true))
  local rows = json.decode(sbxlua({ "ls", "--state", place, "-o", "json" }).stdout)
  assert(#rows == 2 and rows[1].name == "ann" and rows[1].v == 1)
  assert(sbxlua({ "rm", "ann", "--state", place }).code == 0)
  assert(sbxlua({ "rm", "ann", "--state", place }).code == 1)
  assert(sbxlua({ "ls", "--state", place }).stdout:match("^bob\t%S+\n$"))
  for _, args in ipairs {
    {}, { "what" }, { "add" }, { "add", "a", "b" }, { "add", "local" }, { "add", "../x" },
    { "ls", "x" }, { "rm", "x", "--out", "y" }, { "add", "x", "--nothing" }, { "ls", "--state" },
  } do
    local refused = sbxlua(args)
    local told = refused.stderr:find("Try 'sbxlua serve", 1, true)
    assert(refused.code == 2 and told, table.concat(args, " "))
  end
end)

-- --------------------------------------------------------------------- tokens

test("tokens: a lifetime of one's own, after which the gateway says 401", function()
  with_server(function(api)
    local _, gateway = api:running()
    assert(gateway:exec("x") == 200)
    task.timeout(60, function()
      while true do
        local status, body = gateway:exec("x")
        if status == 401 then
          return assert(body.message == "Token expired" or body.message == "Invalid token")
        end
        task.sleep(0.05)
      end
    end)
    assert(api:gateway(gateway.id):exec("x") == 200)
  end, { token_lifetime = 0.3 })
end)

test("tokens: one sandbox has so many, the oldest go", function()
  local made = tokens.new()
  local first = made:issue("sbx-1")
  local other = made:issue("sbx-2")
  local last
  for _ = 1, 1000 do
    last = made:issue("sbx-1")
  end
  assert(made:sandbox_of(first) == nil and made:sandbox_of(last) == "sbx-1")
  assert(made:sandbox_of(other) == "sbx-2")
end)

test("tokens: none reaches another sandbox, by path, by query or by body", function()
  with_server(function(api)
    local _, mine = api:running()
    local _, other = api:running()
    assert(mine:upload("/tmp/a", { data = "mine" }) == 200)
    assert(other:upload("/tmp/a", { data = "other" }) == 200)
    for _, path in ipairs { "/exec", "/upload?path=/x", "/download?path=/tmp/a",
      "/read-file?path=/tmp/a", "/command_session.CommandSession/List" } do
      local method = (path:find("^/[dr]") and "GET") or "POST"
      local res = http.request(method, other.base .. path, {
        headers = { Authorization = "Bearer " .. mine.auth.token }, timeout = 60,
        json = method == "POST" and { command = "x" } or nil,
      })
      assert(res.status == 401, path .. " " .. res.status)
    end
    -- The id in the query or the body changes nothing: the token decides.
    local res = mine:request("GET", "/download?path=/tmp/a&sandbox_id=" .. other.id)
    assert(res.body == "mine")
    -- A key is no token, and a token no key.
    assert(mine:request("POST", "/exec", { token = api.server.api_key, json = {} }).status == 401)
    assert(api:call("GET", "/sandbox", nil,
      { headers = { Authorization = "Bearer " .. mine.auth.token } }) == 401)
    for _, job in ipairs {
      "..", "%2e%2e", other.auth.job_id .. "%00", mine.auth.job_id .. "%00",
    } do
      local base = mine.auth.gateway_url .. "/local/" .. job
      local answer = http.post(base .. "/exec", {
        headers = { Authorization = "Bearer " .. mine.auth.token }, json = { command = "x" },
      })
      assert(answer.status >= 400, job)
    end
  end)
end)

test("secrets: no key and no token in the log, whatever fails", function()
  local driver = memory_driver.open()
  local lines = {}
  local before = log.set_writer(function(line)
    lines[#lines + 1] = line
  end)
  local _ <close> = setmetatable({}, {
    __close = function()
      log.set_writer(before)
    end,
  })
  with_server(function(api)
    local _, gateway = api:running()
    driver.boxes[gateway.id].agent.exec = function()
      error("broken inside")
    end
    assert(gateway:exec("x") == 500)
    local res = http.get(gateway.base .. "/download?path=/x&token=" .. gateway.auth.token, {
      headers = { Authorization = "Bearer " .. gateway.auth.token },
    })
    assert(res.status == 404)
    -- The address of a build's context is a secret by itself.
    local builds = api.server.builds
    api.server.builds = nil
    res = http.put(api.server.url .. "//image-context/secret-4711", { body = "x" })
    api.server.builds = builds
    assert(res.status == 500)
    local text = table.concat(lines, "\n")
    assert(text:find("broken inside", 1, true) and text:find("image-context/***", 1, true), text)
    for _, secret in ipairs { api.server.api_key, gateway.auth.token, "secret-4711" } do
      assert(not text:find(secret, 1, true))
    end
  end, { driver = driver })
end)

-- ------------------------------------------------------------ names and origins

-- The status of a request whose head is as given.
local function ask(api, head, target)
  local stream <close> = net.connect("127.0.0.1", api.server.port)
  stream:write(("%s HTTP/1.1\r\n%sAuthorization: Bearer %s\r\nConnection: close\r\n\r\n"):format(
    target or "GET /api/v1/sandbox", head, api.server.api_key))
  local text = ""
  repeat
    local bytes = stream:read()
    text = text .. (bytes or "")
  until not bytes
  return math.tointeger(tonumber(text:match("^HTTP/1%.1 (%d+)")))
end

test("host: only names of this machine, and those that were given", function()
  with_server(function(api)
    local port = ":" .. api.server.port
    for _, name in ipairs {
      "127.0.0.1" .. port, "localhost" .. port, "LocalHost", "[::1]" .. port, "127.9.9.9",
      "sandboxes.example" .. port, "Sandboxes.Example",
    } do
      assert(ask(api, "Host: " .. name .. "\r\n") == 200, name)
    end
    for _, name in ipairs {
      "evil.example", "evil.example" .. port, "sandboxes.example.evil", "x.localhost",
      "localhost.evil", "127.0.0.1.evil", "0.0.0.0", "[::]", "", "sandboxes.example:80:80",
      "user@localhost", "localhost/x", "127.0.0.1 ",
    } do
      local status = ask(api, "Host: " .. name .. "\r\n")
      assert(status == 403 or status == 400 or name == "127.0.0.1 ", name .. " " .. status)
    end
    -- The absolute form says one name and the header another: the header counts.
    assert(ask(api, "Host: evil.example\r\n", "GET http://localhost/api/v1/sandbox") == 403)
  end, { host_names = { "Sandboxes.example" } })
end)

test("origin: pages from elsewhere may not ask, with the key or without", function()
  with_server(function(api)
    local own = "127.0.0.1:" .. api.server.port
    local targets = {
      "GET /api/v1/sandbox", "POST /api/v1/sandbox", "DELETE /api/v1/sandbox/x",
      "POST /gw/local/job/exec", "GET /metrics",
    }
    for _, target in ipairs(targets) do
      for _, origin in ipairs {
        "http://evil.example", "null", "https://" .. own, "http://127.0.0.1",
        "http://" .. own .. "/", "http://127.0.0.1:1", "http://localhost:" .. api.server.port,
        "http://" .. own .. ".evil.example", "",
      } do
        local status = ask(api, ("Host: %s\r\nOrigin: %s\r\n"):format(own, origin), target)
        assert(status == 403, target .. " from " .. origin .. ": " .. status)
      end
      local status = ask(api, ("Host: %s\r\nOrigin: http://%s\r\n"):format(own, own), target)
      assert(status ~= 403, target .. ": " .. status)
    end
    -- No answer lets another page read it.
    local res = http.request("OPTIONS", api.server.url .. "/api/v1/sandbox", {
      headers = { Origin = "http://evil.example", ["Access-Control-Request-Method"] = "GET" },
    })
    assert(res.status == 405 and res.headers["access-control-allow-origin"] == nil)
  end)
end)

test("requests: a form that is none, or is broken, is 422 and says what is wrong", function()
  with_server(function(api)
    local _, gateway = api:running()
    for type, body in pairs {
      ["multipart/form-data; boundary=bb"] = "--bb\r\nContent", ["multipart/form-data"] = "x",
      ["text/plain"] = "x", ["application/json"] = "{}",
    } do
      local res = gateway:request("POST", "/upload?path=/tmp/x", {
        headers = { ["Content-Type"] = type }, body = body,
      })
      local object = json.decode(res.body)
      assert(res.status == 422 and object.errors[1].param == "body", type .. " " .. res.status)
      assert(object.error == "bad_request" and object.message:find("form", 1, true))
    end
    assert(gateway:download("/tmp/x").status == 404)
  end)
end)

test("requests: every 422 has words and names what is wrong", function()
  with_server(function(api)
    local id = api:create().id
    for _, call in ipairs {
      { "POST", "/sandbox", { name = "x" } }, { "GET", "/sandbox?page=0" },
      { "DELETE", "/sandbox", {} }, { "POST", "/sandbox/status:batchGet", {} },
      { "POST", "/sandbox/" .. id .. "/expose", { port = 1 } },
      { "DELETE", "/sandbox", { sandbox_ids = { id }, labels = { "x" } } },
      { "PUT", "/sandbox/" .. id .. "/egress-policy", {} },
    } do
      local status, body = api:call(call[1], call[2], call[3])
      assert(status == 422, call[2] .. " " .. status)
      assert(#body.detail > 0 and #body.errors > 0 and #body.errors[1].param > 0
        and #body.errors[1].details > 0, call[2])
    end
    for _, bytes in ipairs { "[]", "1", "{", "\255", "null", "" } do
      local status, body = api:call("POST", "/sandbox", nil, { body = bytes })
      assert(status == 422 and body.errors[1].param, bytes)
    end
  end)
end)

test("requests: what cannot go out again does not come in, and spoils no list", function()
  with_server(function(api)
    local deep = ("["):rep(510) .. ("]"):rep(510)
    local bodies = {
      '["x"]', '[1,2]', '{"a":' .. deep .. "}", '{"a":"' .. ("x"):rep(70000) .. '"}', '"x"', "1",
    }
    for _, configs in ipairs(bodies) do
      local status, body = api:call("POST", "/sandbox", nil, {
        body = '{"name":"n","docker_image":"i","advanced_configs":' .. configs .. "}",
      })
      assert(status == 422 and body.errors[1].param == "advanced_configs", configs:sub(1, 30))
    end
    api:create { advanced_configs = { any = { "thing", { json.null } } } }
    local status, list = api:call("GET", "/sandbox")
    assert(status == 200 and list.total == 1)
    assert(list.sandboxes[1].advancedConfigs.any[1] == "thing")
  end)
end)

test("requests: a body that comes byte by byte has its time", function()
  local before = reply.body_seconds
  local _ <close> = setmetatable({}, {
    __close = function()
      reply.body_seconds = before
    end,
  })
  reply.body_seconds = 0.2
  with_server(function(api)
    local stream <close> = net.connect("127.0.0.1", api.server.port)
    stream:write(("POST /api/v1/sandbox HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
      .. "Content-Length: 1000\r\n\r\n{"):format(api.server.api_key))
    for _ = 1, 8 do
      task.sleep(0.05)
      stream:write(" ")
    end
    -- The rest is thrown away first, so that a client gets to read the answer.
    stream:write((" "):rep(1000))
    local text = task.timeout(60, stream.read, stream)
    assert(text:find("^HTTP/1%.1 408 ") and text:find("in time", 1, true), text)
    assert(api:call("GET", "/sandbox") == 200)
  end)
end)
