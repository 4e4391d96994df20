-- The command session against what others made of it: our client and a server of the
-- Connect library, the vendor's SDK and the server that the other tests use.

local fs = require("sbx.fs")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local sdks = dofile(here .. "sdk_support.lua")
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")

test("rpc sdk: our client and a server of the Connect library", { timeout = 180 }, function()
  local python = sdks.newest(sdks.COMMAND_SESSION)
  local peer <close> = process.spawn({ python, here .. "peers/rpc_connect.py" }, {
    stdin = "pipe", stdout = "pipe",
  })
  local port = peer:lines()()
  local server <close> = api.start({ auth = rpc.auth("http://127.0.0.1:" .. port) })
  local client <close> = server:client()
  server:add("sbx-1")

  local result = client:execute_command("sbx-1", "pwd; echo \"$A\"; echo oops >&2; exit 3", {
    working_dir = "/tmp", env = { A = "ü b" },
  })
  assert(result.stdout == "/tmp\nü b\n" and result.stderr == "oops\n" and result.exit_code == 3)
  assert(#client:execute_command("sbx-1", "head -c 3000000 /dev/zero").stdout == 3000000)

  for code, kind in pairs({
    INTERNAL = "api", NOT_FOUND = "not_running", DEADLINE_EXCEEDED = "command_timeout",
  }) do
    local err = api.failure(client.open_process, client, "sbx-1", { "/refused", code })
    assert(err.kind == kind, tostring(err))
  end

  do
    local p <close> = client:open_process("sbx-1", "while read x; do echo \"<$x>\"; done")
    p:write("one\ntwo\n")
    local lines = p:lines()
    assert(lines() == "<one>" and lines() == "<two>")
    assert(p:signal("TERM") and p:wait().exit_code == -15)
  end
  -- It has no more than that.
  assert(api.failure(client.list_processes, client, "sbx-1").kind == "unsupported")
  assert(api.failure(client.attach_process, client, "sbx-1", 1).kind == "unsupported")
  peer.stdin:close()
end)

-- The newer ones live with the real server, in test_server_sdk.lua.
test("rpc sdk: the vendor's SDK and the server of these tests", { timeout = 180 }, function()
  local python = sdks.pythons(sdks.COMMAND_SESSION)[1]
  local vm <close> = rpc.start({}, { keepalive = 0.05 })
  local server <close> = api.start({ auth = vm:auth() })
  server:add("sbx-1", { vm = true })
  local home <close> = fs.tmpdir()
  local result = process.run({ python, here .. "peers/rpc_sdk.py" }, {
    timeout = 60,
    env = {
      HOME = home.path, PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url,
      NO_PROXY = "127.0.0.1",
    },
  })
  assert(result.code == 0, result.stderr)
  assert(vm:count("Start") == 3 and vm:count("SendInput") == 1)
end)
