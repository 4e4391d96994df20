-- Gateway tokens on disk, shared by the processes of one user.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local run = require("sbx.run")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local test_module = require("sbx.test")
local time = require("sbx.core.time")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local LIBRARY = os.getenv("SBXLUA_LUA")

local home -- state folder of the test that runs

test_module.before(function()
  local outer = fs.tmpdir({})
  home = outer.path .. "/sbxlua"
  state.use(home)
  test_module.after(function()
    state.use(false)
    outer:close()
  end)
end)

local function path_of(client)
  return home .. "/tokens/" .. state.account(client.config)
end

local function mode_of(path)
  return ("%o"):format(fs.lstat(path).mode)
end

-- A server with so many sandboxes, that counts what it is asked for each.
---@async
local function start(count, handlers)
  local server = api.start(handlers)
  for i = 1, count do
    server:add("sbx-" .. i)
  end
  return server
end

-- Runs a command through a client of its own, which is closed behind it.
---@async
local function use(server, id, options)
  local client <close> = server:client(options)
  return client:execute_command(id, "x")
end

test("token store: a token outlives its client, and is fetched once", function()
  local server <close> = start(1)
  for _ = 1, 3 do
    use(server, "sbx-1")
  end
  assert(server:count("auth") == 1 and server:count("exec") == 3)
end)

test("token store: file and folder are the user's own from the first byte on", function()
  local server <close> = start(1)
  use(server, "sbx-1")
  local path = path_of(server:client())
  assert(mode_of(home) == "700" and mode_of(home .. "/tokens") == "700" and mode_of(path) == "600")
  assert(not path:find(api.KEY, 1, true) and not fs.read(path):find(api.KEY, 1, true))
end)

test("token store: a file that others can read is not believed, and mended", function()
  local server <close> = start(1)
  use(server, "sbx-1")
  local path = path_of(server:client())
  fs.chmod(path, tonumber("644", 8))
  use(server, "sbx-1")
  assert(server:count("auth") == 2 and mode_of(path) == "600")
  use(server, "sbx-1")
  assert(server:count("auth") == 2)
end)

test("token store: a link in its place is replaced, not followed", function()
  local server <close> = start(1)
  local path = path_of(server:client())
  state.folder("tokens")
  fs.write(home .. "/victim", "safe")
  fs.symlink("../victim", path)
  use(server, "sbx-1")
  assert(fs.read(home .. "/victim") == "safe" and fs.lstat(path).type == "file")
end)

test("token store: another key or another address has other tokens", function()
  local server <close> = start(1)
  use(server, "sbx-1")
  use(server, "sbx-1", { api_key = "another-key-1" })
  assert(server:count("auth") == 2)
  use(server, "sbx-1", { base_url = server.url .. "/" })
  assert(server:count("auth") == 2, "the address is the same")
  local other <close> = start(1)
  use(other, "sbx-1")
  assert(other:count("auth") == 1)
end)

test("token store: whatever is in the file, a call works and the file is written anew", function()
  local server <close> = start(1)
  local path = path_of(server:client())
  local later = time.wall() + 500
  local head = "sbxlua-tokens 1 abcd\n"
  local function line(id, fields, good_until)
    return head .. ("%.3f %s %s\n"):format(good_until or later, id, fields)
  end
  local good = '{"token":"stolen-token","base":"http://127.0.0.1:1/x"}'
  local texts = {
    "", "\0\0\0\0", "{}", '{"sbx-1":{"token":"x"}}', head, "sbxlua-tokens 2 abcd\n",
    line("sbx-1", "{"), line("sbx-1", "{}"), line("sbx-1", '{"token":5,"base":"http://a/b"}'),
    line("sbx-1", '{"token":"a\\nb","base":"http://127.0.0.1:1/x"}'),
    line("sbx-1", '{"token":"","base":"http://127.0.0.1:1/x"}'),
    line("sbx-1", '{"token":"a","base":"file:///etc/passwd"}'),
    line("sbx-1", '{"token":"a","base":"http://"}'),
    line("sbx-1", good, time.wall() - 1), -- expired
    line("sbx-1", good, 1e11), -- not even in a thousand years
    line("sbx-1", good):sub(1, -2), -- torn: its end may be missing
    head .. ("%s sbx-1 %s\n"):format("1e309", good), head .. "soon sbx-1 " .. good .. "\n",
    head .. ("x"):rep(100000) .. "\n",
  }
  for i, text in ipairs(texts) do
    state.folder("tokens")
    fs.write(path, text, { mode = tonumber("600", 8) })
    use(server, "sbx-1")
    assert(server:count("auth") == i, text:sub(1, 100))
    use(server, "sbx-1")
    assert(server:count("auth") == i, text:sub(1, 100))
    fs.remove(path)
  end
end)

test("token store: expired tokens are dropped when the file is written", function()
  local lifetime = 1
  local server <close> = start(2, { auth = function(call, server)
    server.tokens = server.tokens + 1
    return 200, {
      token = "gateway-token-" .. server.tokens, gateway_url = server.gateway_url,
      user_ns = "ns", job_id = call.id, expires_at = time.iso(time.wall() + lifetime),
    }
  end })
  use(server, "sbx-1")
  local path = path_of(server:client())
  assert(fs.read(path):find("sbx-1", 1, true))
  task.sleep(1)
  lifetime = 500
  use(server, "sbx-2")
  assert(fs.read(path):find("sbx-2", 1, true) and not fs.read(path):find("sbx-1", 1, true))
end)

test("token store: deleting a sandbox takes its token away, and so does its being gone", function()
  local gone = false
  local server <close> = start(2, { exec = function()
    if gone then return 502, { error = "sandbox_not_found", message = "Gone", code = 502 } end
  end })
  use(server, "sbx-1")
  use(server, "sbx-2")
  local client = server:client()
  local path = path_of(client)
  client:delete("sbx-1")
  gone = true
  assert(api.failure(client.execute_command, client, "sbx-2", "x").kind == "not_running")
  client:close()
  local text = fs.read(path)
  assert(not text:find("sbx-1", 1, true) and not text:find("sbx-2", 1, true), text)
end)

test("token store: a token that a 401 was about is not taken from the disk again", function()
  local refused = "Bearer gateway-token-1"
  local server <close> = start(1)
  use(server, "sbx-1")
  server.handlers.exec = function(call)
    if call.headers.authorization == refused then
      return 401, { error = "unauthorized", message = "expired", code = 401 }
    end
  end
  assert(use(server, "sbx-1").exit_code == 0 and server:count("auth") == 2)
  -- The new one has taken its place.
  assert(use(server, "sbx-1").exit_code == 0 and server:count("auth") == 2)
end)

test("token store: a new token that another one has fetched meanwhile is used", function()
  local server <close> = start(1)
  local one <close> = server:client()
  one:execute_command("sbx-1", "x")
  one.tokens.store:flush()
  server.handlers.exec = function(call)
    if call.headers.authorization == "Bearer gateway-token-1" then
      return 401, { error = "unauthorized", message = "expired", code = 401 }
    end
  end
  use(server, "sbx-1")
  assert(server:count("auth") == 2)
  task.sleep(0.3) -- the file is looked at a few times a second
  assert(one:execute_command("sbx-1", "x").exit_code == 0)
  assert(server:count("auth") == 2, "one token was fetched twice")
end)

test("token store: whether a sandbox is a virtual machine is asked once", function()
  local server <close> = start(1)
  for _ = 1, 3 do
    use(server, "sbx-1")
  end
  assert(server:count("get") == 1, server:count("get"))
  -- Also when the token has to be renewed.
  local client <close> = server:client()
  client:execute_command("sbx-1", "x")
  client.tokens.entries["sbx-1"].refresh_at = 0
  client.tokens.store.lines = {}
  client:execute_command("sbx-1", "x")
  assert(server:count("get") == 1 and server:count("auth") == 2)
end)

test("token store: what create and auth say of it is kept as well", function()
  local server <close> = start(0)
  local client = server:client()
  local box = client:create({ name = "a", docker_image = "b", keep = true })
  box:exec("x")
  client:close()
  use(server, box.id)
  assert(server:count("get") == 0 and server:count("auth") == 1)
end)

-- -------------------------------------------------------------- clearing, sharing

test("token store: clearing in one process is noticed by the others", function()
  local server <close> = start(2)
  local one <close> = server:client()
  local other <close> = server:client()
  one:execute_command("sbx-1", "x")
  one.tokens.store:flush()
  other:execute_command("sbx-1", "x")
  assert(server:count("auth") == 1)
  task.sleep(0.3)
  other:clear_auth_cache()
  one:execute_command("sbx-1", "x")
  assert(server:count("auth") == 2, "a token that was cleared is still used")
  -- What one fetched before the clear does not come back by a late write.
  assert(not fs.read(path_of(one)):find("gateway-token-1\"", 1, true))
end)

test("token store: a file that somebody removes counts as cleared", function()
  local server <close> = start(1)
  local client <close> = server:client()
  client:execute_command("sbx-1", "x")
  client.tokens.store:flush()
  fs.remove(path_of(client))
  task.sleep(0.3)
  client:execute_command("sbx-1", "x")
  assert(server:count("auth") == 2)
end)

test("token store: a fetch that was under way while they were cleared is not written", function()
  local server <close> = start(1, { auth = function() task.sleep(0.1) end })
  local client <close> = server:client()
  task.scope(function(scope)
    scope:spawn(client.execute_command, client, "sbx-1", "x")
    task.sleep(0.03)
    client:clear_auth_cache()
  end)
  client.tokens.store:flush()
  assert(not fs.read(path_of(client)):find("gateway-token-1\"", 1, true))
end)

test("token store: many clients at once lose nothing of each other", function()
  local server <close> = start(40)
  local list = {}
  for i = 1, 40 do
    list[i] = "sbx-" .. i
  end
  task.map(list, function(id) use(server, id) end, { limit = 10 })
  assert(server:count("auth") == 40)
  task.map(list, function(id) use(server, id) end, { limit = 10 })
  assert(server:count("auth") == 40, server:count("auth"))
end)

local WORKER = [[
  local sandbox, task = require("sbx.sandbox"), require("sbx.task")
  local client = sandbox.client()
  local list = {}
  for i = tonumber(arg[1]), tonumber(arg[2]) do list[#list + 1] = "sbx-" .. i end
  task.map(list, function(id)
    client:execute_command(id, "x")
    task.sleep(math.random() / 50)
  end, { limit = 8 })
  print("done")
  io.stdout:flush()
  if arg[3] == "stay" then io.read() end
]]

---@async
local function worker(server, ...)
  return process.spawn({ host.executable(), "-e", WORKER, ... }, {
    stdin = "pipe", stdout = "pipe", clear_env = true, env = {
      PATH = os.getenv("PATH"), SBXLUA_LUA = LIBRARY,
      XDG_STATE_HOME = home:match("^(.*)/sbxlua$"),
      PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url,
    },
  })
end

test("token store: processes share tokens, while they live and after", function()
  local server <close> = start(60)
  local one, two = worker(server, "1", "30"), worker(server, "31", "60")
  one:wait()
  two:wait()
  assert(server:count("auth") == 60)
  local third = worker(server, "1", "60")
  third:wait()
  assert(server:count("auth") == 60, "tokens were lost: " .. server:count("auth"))
end)

test("token store: a process that goes on has written what it fetched", function()
  local server <close> = start(1)
  local one = worker(server, "1", "1", "stay")
  assert(one.stdout:read():find("done", 1, true))
  task.timeout(60, function()
    local path = path_of(server:client())
    while not fs.exists(path) do
      task.sleep(0.02)
    end
  end)
  use(server, "sbx-1")
  assert(server:count("auth") == 1)
  one:kill("KILL")
  one:wait()
end)

test("token store: a thousand tokens are a few rewrites", function()
  local server <close> = start(1000)
  local client <close> = server:client()
  local write, writes = fs.write_atomic, 0
  local _ <close> = setmetatable({}, { __close = function() fs.write_atomic = write end })
  fs.write_atomic = function(...)
    writes = writes + 1
    return write(...)
  end
  local list = {}
  for i = 1, 1000 do
    list[i] = "sbx-" .. i
  end
  local begin = task.now()
  task.map(list, function(id) client:execute_command(id, "x") end, { limit = 50 })
  client:close()
  -- Half a second, one, two, four, five, five … apart, and one at the end.
  assert(writes <= 5 + (task.now() - begin) / 5, writes)
  local lines = select(2, fs.read(path_of(client)):gsub("\n", ""))
  assert(lines == 1001, lines)
end)

test("token store: nothing is lost at the end of a run that forgets to close", function()
  local server <close> = start(1)
  local client = server:client()
  client:execute_command("sbx-1", "x")
  assert(#run.finish() == 0)
  assert(fs.read(path_of(client)):find("sbx-1", 1, true))
end)

test("token store: a process that holds the file and stands still holds up no call", function()
  local server <close> = start(3)
  use(server, "sbx-1")
  local client = server:client()
  local child = process.spawn({ host.executable(), "-e", [[
    local held = require("sbx.fs").lock(arg[1])
    print("held")
    io.stdout:flush()
    io.read()
    held:close()
  ]], path_of(client) .. ".lock" }, {
    stdin = "pipe", stdout = "pipe", env = { SBXLUA_LUA = LIBRARY or false },
  })
  assert(child.stdout:read():find("held", 1, true))
  child:kill("STOP")
  local begin = task.now()
  for _ = 1, 3 do
    client:execute_command("sbx-2", "x")
    task.sleep(0.2)
  end
  assert(task.now() - begin < 1.5, "a call waited for the file")
  client:close()
  assert(task.now() - begin < 8, "the client waited for ever")
  child:kill("KILL")
  child:wait()
end)

test("token store: a disk that takes nothing is done without", function()
  local server <close> = start(1)
  state.use("/dev/null/state")
  local client <close> = server:client()
  client:execute_command("sbx-1", "x")
  client:execute_command("sbx-1", "x")
  client:clear_auth_cache()
  client:execute_command("sbx-1", "x")
  assert(server:count("auth") == 2)
end)

test("token store: with a private server nothing is written", function()
  local config = require("sbx.sandbox.config")
  local server <close> = start(1)
  config.set_local({ url = server.url, api_key = api.KEY })
  test_module.after(function() config.set_local(nil) end)
  use(server, "sbx-1")
  assert(not fs.exists(home))
end)

test("token store: cancelled at any point, no call and no file is spoilt", function()
  local server <close> = start(20)
  for i = 1, 20 do
    task.move_on(i * 0.002, use, server, "sbx-" .. i)
  end
  for i = 1, 20 do
    use(server, "sbx-" .. i)
  end
  local count = server:count("auth")
  for i = 1, 20 do
    use(server, "sbx-" .. i)
  end
  assert(server:count("auth") == count)
  assert(fs.read(path_of(server:client())):find("^sbxlua%-tokens 1 %x+\n"))
  local names = table.concat(fs.list(home .. "/tokens"), " ")
  assert(#fs.list(home .. "/tokens") == 2, names)
end)

test("token store: what the vendor's client keeps is left alone", function()
  local server <close> = start(1)
  fs.mkdir(home)
  local result = process.run({ host.executable(), "-e", [[
    local client <close> = require("sbx.sandbox").client()
    client:execute_command("sbx-1", "x")
    client:clear_auth_cache()
  ]] }, { clear_env = true, env = {
    PATH = os.getenv("PATH"), SBXLUA_LUA = LIBRARY, HOME = home,
    PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url,
  } })
  assert(result.code == 0, result.stderr)
  assert(not fs.exists(home .. "/.prime") and fs.exists(home .. "/.local/state/sbxlua/tokens"))
end)
