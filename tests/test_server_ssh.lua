-- SSH into sandboxes of the local server, with OpenSSH's own client.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local net = require("sbx.net")
local process = require("sbx.process")
local sandbox = require("sbx.sandbox")
local state = require("sbx.server.state")
local task = require("sbx.task")

local function client_of(api)
  return sandbox.client { base_url = api.server.url, api_key = api.server.api_key }
end

-- `fn(box, session, ssh, api, key)`; `ssh(command, options)` is one run of the client.
local function with_session(fn, options)
  support.with_server(function(api)
    local client <close> = client_of(api)
    local box <close> = client:create { name = "c", docker_image = "i" }
    box:wait()
    local session <close> = box:open_ssh_session(options)
    local key = session:new_key()
    local function ssh(command, opts)
      opts = opts or {}
      local argv = session:argv(key, command)
      for index, word in ipairs(opts.words or {}) do
        table.insert(argv, 1 + index, word)
      end
      return process.run(argv, { input = opts.input, timeout = 60 }), argv
    end
    fn(box, session, ssh, api, key)
  end)
end

local function await(what, fn)
  task.timeout(60, function()
    while not fn() do
      task.sleep(0.02)
    end
  end, what)
end

test("ssh: commands have their own codes, outputs and input", function()
  with_session(function(box, _, ssh)
    local result = ssh { "echo out; echo err >&2; exit 7" }
    assert(result.code == 7 and result.stdout == "out\n", result.stderr)
    assert(result.stderr:find("err\n", 1, true) and not result.stdout:find("err"))
    result = ssh { "pwd; id -u; hostname" }
    local plain = box:exec("pwd; id -u; hostname")
    assert(result.stdout == plain.stdout, result.stdout)

    local bytes = hash.random_bytes(750000):rep(2)
    result = ssh({ "cat > /tmp/in; cat /tmp/in; cat /tmp/in >&2; echo done > /tmp/done" },
      { input = bytes })
    assert(result.code == 0 and result.stdout == bytes and result.stderr:sub(-#bytes) == bytes)
    assert(box:exec("cat /tmp/done").stdout == "done\n")

    assert(ssh({ "head -c 3000000 /dev/zero | tr '\\0' x" }).stdout == ("x"):rep(3000000))
    assert(ssh({ "kill -9 $$" }).code == 137)
    assert(ssh({ "printf %s \"$LC_TEST\"" },
      { words = { "-o", "SetEnv=LC_TEST=a=b" } }).stdout == "a=b")
    -- One that does not read its input.
    assert(ssh({ "exec 0<&-; sleep 0.2; exit 3" }, { input = bytes }).code == 3)
  end)
end)

test("ssh: a shell on a terminal, which changes its size", function()
  with_session(function(_, session, ssh, _, key)
    local result = ssh(nil, { words = { "-tt" }, input = "stty -echo\ntty; exit 5\n" })
    assert(result.code == 5 and result.stdout:find("/dev/pts/%d+"), result.stdout)
    local argv = session:argv(key, {
      "stty size; trap 'stty size; exit 4' WINCH; echo RE''SIZE; while :; do sleep 0.05; done",
    })
    table.insert(argv, 2, "-tt")
    table.move({ "/usr/bin/python3", here .. "peers/ssh_terminal.py" }, 1, 2, 1,
      table.move(argv, 1, #argv, 3))
    result = process.run(argv, { timeout = 60 })
    assert(result.stdout:find("30 100\r\nRESIZE\r\n40 120\r\n", 1, true), result.stdout)
    assert(result.code == 4)
    -- Keys that mean signals there.
    result = ssh({ "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done" },
      { words = { "-tt" }, input = "\3" })
    assert(result.code == 9 or result.code == 130, result.code)
  end)
end)

test("ssh: a peer that hangs up ends what it has started", function()
  with_session(function(box, session, _, _, key)
    for _, words in ipairs { {}, { "-tt" } } do
      local argv = session:argv(key, {
        "trap 'echo hup >> /tmp/hup; trap \"\" TERM; while :; do sleep 1; done' HUP;"
          .. " sleep 3210 & echo ready; while :; do wait; done",
      })
      for _, word in ipairs(words) do
        table.insert(argv, 2, word)
      end
      box:exec("rm -f /tmp/hup")
      local child <close> = process.spawn(argv, {
        stdin = "pipe", stdout = "pipe", stderr = "null", grace = 0,
      })
      assert(child.stdout:read():find("ready"))
      assert(box:exec("pgrep -fx 'sleep 3210'").exit_code == 0)
      child:kill("KILL")
      await("the hang-up", function()
        return box:exec("cat /tmp/hup").stdout == "hup\n"
          and box:exec("pgrep -fx 'sleep 3210'").exit_code == 1
      end)
    end
  end)
end)

test("ssh: files by scp, connections to the sandbox's loopback, many channels", function()
  with_session(function(box, session, ssh, _, key)
    local folder <close> = fs.tmpdir()
    local bytes = hash.random_bytes(300000)
    fs.write(folder.path .. "/a", bytes)
    local options = table.move(session:argv(key), 8, 15, 1, {})
    assert(options[1] == "-o" and options[8]:find("^UserKnown"))
    local there = session.session_id .. "@" .. session.host .. ":/tmp/b"
    local ways = { "-O" }
    if fs.exists("/usr/lib/openssh/sftp-server") then ways[2] = "-s" end
    for _, way in ipairs(ways) do
      for _, pair in ipairs {
        { folder.path .. "/a", there }, { there, folder.path .. "/c" },
      } do
        local argv = { "scp", way, "-q", "-i", key, "-P", tostring(session.port) }
        table.move(options, 1, #options, #argv + 1, argv)
        table.move(pair, 1, 2, #argv + 1, argv)
        local result = process.run(argv, { timeout = 60 })
        assert(result.code == 0, result.stderr)
      end
      assert(fs.read(folder.path .. "/c") == bytes)
    end

    box:start_background_job([[python3 -c "
import socket
s = socket.create_server(('127.0.0.1', 4321))
while True:
    c, _ = s.accept()
    data = b''
    while piece := c.recv(65536): data += piece
    c.sendall(data[::-1]); c.close()
"]])
    await("the server inside", function()
      local result = ssh(nil, { words = { "-W", "localhost:4321" }, input = bytes })
      return result.stdout == bytes:reverse()
    end)
    local result = ssh(nil, { words = { "-W", "localhost:4322" } })
    assert(result.stdout == "", result.stdout)
    result = ssh(nil, { words = { "-W", "192.0.2.1:80" } })
    assert(result.code ~= 0 and result.stderr:find("open failed", 1, true), result.stderr)

    local socket = folder.path .. "/mux"
    local words = { "-o", "ControlPath=" .. socket }
    local argv = session:argv(key)
    for index, word in ipairs { "-M", "-N", words[1], words[2] } do
      table.insert(argv, 1 + index, word)
    end
    local master <close> = process.spawn(argv, { stderr = "null" })
    await("the master", function() return fs.exists(socket) end)
    assert(master.running)
    -- Without the master there is no way.
    table.move({ "-o", "ProxyCommand=false" }, 1, 2, 3, words)
    local scope <close> = task.open_scope()
    local tasks = {}
    for index = 1, 8 do
      tasks[index] = scope:spawn(ssh, { "sleep 0.1; echo " .. index .. "; exit " .. index },
        { words = words })
    end
    for index, one in ipairs(tasks) do
      local got = one:join()
      assert(got.code == index and got.stdout == index .. "\n", got.stderr)
    end
    for _ = 1, 12 do -- numbers of channels are used again
      assert(ssh({ "true" }, { words = words }).code == 0)
    end
  end)
end)

test("ssh: only the key that was let in, under that name", function()
  with_session(function(box, session, ssh, api, key)
    assert(ssh({ "true" }).code == 0)
    local folder <close> = fs.tmpdir()
    local other = folder.path .. "/id"
    process.run({ "ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", other }, { check = true })
    local function refused(argv)
      local result = process.run(argv, { timeout = 60 })
      assert(result.code == 255 and result.stderr:find("Permission denied (publickey)", 1, true),
        result.stderr)
    end
    refused(session:argv(other, { "true" }))
    local argv = session:argv(key, { "true" })
    for index, word in ipairs(argv) do
      if word == session.session_id then argv[index] = "root" end
    end
    refused(argv)
    -- One that nobody has let in yet; a second key takes the place of the first.
    local second <close> = box:open_ssh_session()
    refused(second:argv(key, { "true" }))
    session:authorize(fs.read(other .. ".pub"))
    assert(process.run(session:argv(other, { "true" }), { timeout = 60 }).code == 0)
    refused(session:argv(key, { "true" }))

    local gateway = api:gateway(box.id)
    local function authorize(body)
      local res = gateway:request("POST", "/authorize", { json = body })
      return res.status, json.decode(res.body)
    end
    local good = fs.read(key .. ".pub")
    for _, bad in ipairs {
      "", "x", "ssh-ed25519 AAAA", "ssh-rsa " .. good:match(" (%S+)"), good .. good,
      "ssh-dss AAAAB3NzaC1kc3M=", 'command="x" ' .. good,
    } do
      local status, body = authorize { session_id = session.session_id, public_key = bad }
      assert(status == 422 and body.error == "bad_public_key", bad)
    end
    assert(authorize { session_id = "ssh-none", public_key = good } == 404)
    assert(authorize { public_key = good } == 404)
    -- Another sandbox's token.
    local stranger = api:running()
    local res = api:gateway(stranger.id):request("POST", "/authorize",
      { json = { session_id = session.session_id, public_key = good } })
    assert(res.status == 404)
    assert(api:call("DELETE", "/sandbox/" .. stranger.id .. "/ssh-session/"
      .. session.session_id) == 404)
  end)
end)

test("ssh: the end of a session, of its time and of the sandbox cut what is connected", function()
  with_session(function(box, session, ssh, api, key)
    local function sleeper(one, with)
      local child = process.spawn(one:argv(with, { "echo ready; sleep 1000" }),
        { stdout = "pipe", stderr = "null" })
      assert(child.stdout:read() == "ready\n")
      return child
    end
    local child <close> = sleeper(session, key)
    session:close()
    assert(task.timeout(60, child.wait, child) == 255)
    local result = process.run({ "ssh", "-i", key, "-p", tostring(session.port), "-o",
      "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
      "-l", session.session_id, session.host, "true" }, { timeout = 60 })
    assert(result.code == 255, result.stderr)
    assert(api:call("DELETE", "/sandbox/" .. box.id .. "/ssh-session/" .. session.session_id)
      == 404)

    local short <close> = box:open_ssh_session { ttl_seconds = 2 }
    local started = process.spawn(short:argv(short:new_key(), { "sleep 1000" }),
      { stderr = "null" })
    local _ <close> = started
    assert(task.timeout(60, started.wait, started) == 255)

    local last = box:open_ssh_session()
    local third <close> = sleeper(last, last:new_key())
    box:delete()
    assert(task.timeout(60, third.wait, third) == 255)
    assert(ssh)
  end)
end)

test("ssh: peers that speak nonsense, or nothing, harm nobody", function()
  with_session(function(_, session, ssh)
    local silent = {}
    local _ <close> = setmetatable({}, { __close = function()
      for _, stream in ipairs(silent) do
        stream:close()
      end
    end })
    for index = 1, 8 do
      local stream <close> = net.connect(session.host, session.port)
      pcall(stream.write, stream, index % 2 == 0 and hash.random_bytes(100000)
        or "SSH-2.0-x\r\n" .. hash.random_bytes(100000))
      pcall(function() while stream:read() do end end)
    end
    assert(ssh({ "true" }).code == 0)
    for index = 1, 40 do
      silent[index] = net.connect(session.host, session.port)
    end
    -- More than 32 that have proved nothing are turned away.
    assert(silent[40]:read() == nil)
    for _, stream in ipairs(silent) do
      stream:close()
    end
    await("room for another", function() return ssh({ "true" }).code == 0 end)
  end)
end)

test("ssh: what cannot be, and how much there can be", function()
  support.with_server(function(api)
    local client <close> = client_of(api)
    local vm = api:running { vm = true }
    local ok, err = pcall(client.open_ssh_session, client, vm.id)
    assert(not ok and errors.is_error(err) and err:is("unsupported"))
    assert(api:call("POST", "/sandbox/" .. vm.id .. "/ssh-session", json.object {}) == 422)
    assert(api:call("POST", "/sandbox/sbx-none/ssh-session", json.object {}) == 404)
    local box = api:running { vm = false }
    local path = "/sandbox/" .. box.id .. "/ssh-session"
    for _, bad in ipairs { 0, 3601, 1.5, "60" } do
      assert(api:call("POST", path, { ttl_seconds = bad }) == 422)
    end
    local status, made = api:call("POST", path, { ttl_seconds = 60 })
    assert(status == 200 and made.ttl_seconds == 60 and made.host == "127.0.0.1")
    assert(made.external_endpoint == made.host .. ":" .. made.port and #made.expires_at > 18)
    for _ = 1, 15 do
      assert(api:call("POST", path, json.object {}) == 200)
    end
    assert(api:call("POST", path, json.object {}) == 429)
    assert(api:call("DELETE", path .. "/" .. made.session_id) == 200)
    assert(api:call("POST", path, json.object {}) == 200)
  end, { profile = "both" })
end)

test("ssh: the host's key stays with the state, for nobody else to read", function()
  local folder <close> = fs.tmpdir()
  local keys = {}
  for index = 1, 2 do
    local kept <close> = state.open(folder.path .. "/state")
    support.with_server(function(api)
      local box = api:running()
      local _, made = api:call("POST", "/sandbox/" .. box.id .. "/ssh-session", json.object {})
      local scanned = process.run({ "ssh-keyscan", "-p", tostring(made.port), made.host },
        { timeout = 60 }).stdout
      keys[index] = scanned:match("ssh%-ed25519 %S+")
    end, { state = kept })
  end
  assert(keys[1] and keys[1] == keys[2])
  assert(fs.stat(folder.path .. "/state/ssh_host_key").mode & 511 == 384)
end)
