-- The command session against what others made of it: our client and a server of the
-- Connect library, the vendor's SDK and the server that the other tests use. Folders of
-- Python environments with the SDK are in SBXLUA_SDKS, as for test_server_sdk.lua.

local fs = require("sbx.fs")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")

local function find_python()
  for folder in (os.getenv("SBXLUA_SDKS") or ""):gmatch("[^:]+") do
    local python = folder .. "/bin/python"
    local code = "from prime_sandboxes._proto.command_session import command_session_pb2"
    if fs.exists(folder .. "/ready") and process.run({ python, "-c", code }).code == 0 then
      return python
    end
  end
  skip("no SDK with a command session in SBXLUA_SDKS: ./dev test installs it where it can")
end

test("rpc sdk: our client and a server of the Connect library", { timeout = 120 }, function()
  local peer <close> = process.spawn({ find_python(), here .. "peers/rpc_connect.py" }, {
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

test("rpc sdk: the vendor's SDK and the server of these tests", { timeout = 120 }, function()
  local python = find_python()
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
