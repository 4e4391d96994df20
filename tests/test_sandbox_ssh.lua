-- SSH sessions: opened, entered with a key, closed; the token shows nowhere.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local fs = require("sbx.fs")
local json = require("sbx.json")
local process = require("sbx.process")
local run = require("sbx.run")
local task = require("sbx.task")

local TOKEN = "ssh-token-4712"
local KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVx me@here"

local function with_box(handlers, fn)
  local server <close> = api.start(handlers)
  local client <close> = server:client()
  fn(client:create({ name = "a", docker_image = "b" }), server, client)
end

test("ssh: a session is opened, a key let in, and the session closed", function()
  with_box({}, function(box, server)
    do
      local session <close> = box:open_ssh_session({ ttl_seconds = 600 })
      assert(server.calls[#server.calls].body.ttl_seconds == 600)
      assert(session.session_id == "ssh-1" and session.host == "127.0.0.1" and session.port == 2222)
      assert(session.ttl_seconds == 600 and session.sandbox_id == box.id)
      assert(not expect.shows(session, TOKEN) and not json.encode(session):find(TOKEN, 1, true))
      session:authorize(KEY .. "\n")
      local sent = server.calls[#server.calls]
      assert(sent.op == "authorize" and sent.headers.authorization == "Bearer " .. TOKEN)
      assert(sent.body.public_key == KEY and sent.body.session_id == "ssh-1")
      assert(sent.body.ttl_seconds == 600)
    end
    assert(server:count("close_ssh") == 1)
    assert(server.calls[#server.calls].path:find("/ssh%-session/ssh%-1$"))
  end)
end)

test("ssh: without a lifetime the body is an empty object", function()
  with_box({ open_ssh = function(call) assert(call.bytes == "{}") end }, function(box, server)
    local session = box:open_ssh_session()
    box:close_ssh_session(session)
    session:close()
    assert(server:count("close_ssh") == 1)
    expect.misuse("is closed", session.authorize, session, KEY)
    box:close_ssh_session("ssh-2")
    assert(server:count("close_ssh") == 2)
  end)
end)

test("ssh: a key is let in although the gateway stumbles, and never with a bad token", function()
  local answer
  with_box({ authorize = function(call) return answer(call) end }, function(box, server)
    local session <close> = box:open_ssh_session()
    answer = function(call) if call.n < 3 then return 503, { message = "not yet" } end end
    session:authorize(KEY)
    assert(server:count("authorize") == 3)
    answer = function(call) return 401, { message = "bad " .. call.headers.authorization } end
    local err = expect.failure(session.authorize, session, KEY)
    assert(err.status == 401 and err.op == "authorize" and not expect.shows(err, TOKEN))
    assert(server:count("authorize") == 4)
    answer = function() return api.HANG end
    assert(not task.move_on(0.2, session.authorize, session, KEY))
  end)
end)

test("ssh: virtual machines and private keys are refused before anything is sent", function()
  with_box({}, function(box, server, client)
    server:add("vm-1", { vm = true })
    client:get("vm-1")
    local before = #server.calls
    local err = expect.failure(client.open_ssh_session, client, "vm-1")
    assert(err.kind == "unsupported" and err.message:find("pty", 1, true))
    assert(expect.failure(client.close_ssh_session, client, "vm-1", "s").kind == "unsupported")
    expect.misuse("ttl_seconds", box.open_ssh_session, box, { ttl_seconds = 0 })
    expect.misuse("session", box.close_ssh_session, box, "..")
    assert(#server.calls == before)
    local session <close> = box:open_ssh_session()
    expect.misuse("private key", session.authorize, session,
      "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----")
    for _, key in ipairs({ "", "x", KEY .. "\n" .. KEY, "ssh-rsa \0AAAA" }) do
      expect.misuse("public_key", session.authorize, session, key)
    end
    assert(server:count("authorize") == 0)
  end)
end)

test("ssh: a session closes behind a failure, and one that is gone is closed", function()
  with_box({ close_ssh = function() return 404, { detail = "gone" } end }, function(box, server)
    local ok, err = pcall(function()
      local _ <close> = box:open_ssh_session()
      error("the first failure", 0)
    end)
    assert(not ok and err == "the first failure" and server:count("close_ssh") == 1)
    local opened
    expect.cancelled_once(function() return opened end, function()
      local _ <close> = box:open_ssh_session()
      opened = true
      task.sleep(60)
    end)
    assert(server:count("close_ssh") == 2)
  end)
end)

test("ssh: a throw-away key, which goes with the session", function()
  if not process.which("ssh-keygen") then return end
  with_box({}, function(box, server)
    local path
    do
      local session <close> = box:open_ssh_session()
      path = session:new_key()
      assert(fs.stat(path).mode & 63 == 0, "others can read the key")
      local sent = server.calls[#server.calls].body.public_key
      assert(sent .. "\n" == fs.read(path .. ".pub"))
      local argv = table.concat(session:argv(path, { "true" }), " ")
      assert(argv:find("-l ssh-1 -- 127.0.0.1 true", 1, true) and argv:find(path, 1, true))
    end
    assert(not fs.exists(path))
    assert(not expect.shows({ server.calls }, "PRIVATE KEY"))
  end)
end)

test("ssh: what ssh makes of the words: no questions, no agent, a host of its own", function()
  if not (process.which("ssh-keygen") and process.which("ssh")) then return end
  with_box({}, function(box)
    local session <close> = box:open_ssh_session()
    local function settings(key)
      local words = session:argv(key, { "true" })
      table.insert(words, 2, "-G") -- ssh then only tells how it would go about it
      local found = {}
      for line in process.run(words, { check = true }).stdout:gmatch("[^\n]+") do
        local name, value = line:match("^(%S+) (.*)$")
        if name then found[name] = value end
      end
      return found
    end
    local key = session:new_key()
    local found = settings(key)
    assert(found.stricthostkeychecking == "accept-new" and found.batchmode == "yes")
    assert(found.userknownhostsfile == key:gsub("id$", "known_hosts"), found.userknownhostsfile)
    assert(found.forwardagent == "no" and found.forwardx11 == "no")
    assert(found.user == "ssh-1" and found.port == "2222" and found.hostname == "127.0.0.1")
    assert(settings("/nowhere/id").userknownhostsfile == "/dev/null")
  end)
end)

test("ssh: keys of a session that is left open go with the run", function()
  if not process.which("ssh-keygen") then return end
  with_box({}, function(box)
    local first, second = box:open_ssh_session(), box:open_ssh_session()
    local paths = { first:new_key(), first:new_key(), second:new_key() }
    assert(#run.finish() == 0)
    for _, path in ipairs(paths) do
      assert(not fs.exists(path) and not fs.exists((path:gsub("/id$", ""))))
    end
    local later = second:new_key()
    assert(fs.exists(later))
    second:close()
    assert(not fs.exists(later))
  end)
end)

test("ssh: a key that is made while the session closes goes, too", function()
  if not process.which("ssh-keygen") then return end
  local closing = task.waiter("close of the session")
  with_box({ close_ssh = function() closing:wait() end }, function(box)
    local session = box:open_ssh_session()
    local paths = {}
    task.scope(function(scope)
      scope:spawn(session.close, session)
      paths[1] = session:new_key()
      closing:wake(true)
    end)
    assert(#paths == 1 and not fs.exists(paths[1]))
    expect.misuse("is closed", session.new_key, session)
  end)
end)

test("ssh: a token that was told over TLS never goes in clear", function()
  local config
  with_box({
    -- As if the request had come to an address with https.
    open_ssh = function() config.base_url = "HTTPS" .. config.base_url:sub(5) end,
  }, function(box, _, client)
    config = client.config
    local plain = config.base_url
    local err = expect.code("BAD_ANSWER", box.open_ssh_session, box)
    config.base_url = plain
    assert(err.message:find("'gateway_url' is no https address", 1, true), err.message)
  end)
end)

test("ssh: an answer that cannot be read is not shown, for it has the token", function()
  for _, body in ipairs({ '[{"token":"' .. TOKEN .. '"}]', '{"token":"' .. TOKEN .. '","ho' }) do
    with_box({ open_ssh = function() return 200, body end }, function(box)
      local err = expect.code("BAD_ANSWER", box.open_ssh_session, box)
      assert(not expect.shows(err, TOKEN) and err.body == nil)
    end)
  end
end)

test("ssh: hostile answers are named by their field, without the token", function()
  local name, value
  with_box({
    open_ssh = function(call, server)
      local _, answer = api.usual.open_ssh(server, call)
      answer[name] = value
      return 200, answer
    end,
  }, function(box)
    for _, bad in ipairs({
      { "session_id", json.null }, { "session_id", "-oProxyCommand=x" }, { "session_id", "a b" },
      { "host", "-oProxyCommand=touch /tmp/x" }, { "host", "a b" }, { "host", "" },
      { "port", "22" }, { "port", 0 }, { "port", 70000 }, { "sandbox_id", "sbx-other" },
      { "token", "" }, { "token", "a\r\nx: y" }, { "token", 7 },
      { "gateway_url", "file:///etc/passwd" }, { "gateway_url", "http://u:p@h/" },
      { "gateway_url", "http://h/?x=" },
      { "gateway_url", "http:///x" }, { "user_ns", ".." }, { "job_id", "" },
      { "ttl_seconds", "900" }, { "external_endpoint", {} },
    }) do
      name, value = bad[1], bad[2]
      local err = expect.code("BAD_ANSWER", box.open_ssh_session, box)
      assert(err.message:find("'" .. name .. "'", 1, true), err.message)
      assert(not expect.shows(err, TOKEN))
    end
  end)
end)
