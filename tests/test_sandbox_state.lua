local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local state = require("sbx.sandbox.state")
local task = require("sbx.task")
local test_module = require("sbx.test")

local LIBRARY = os.getenv("SBXLUA_LUA")
local SELF = host.executable()

local folder -- of the test that runs; not made yet

test_module.before(function()
  local outer = fs.tmpdir({})
  folder = outer.path .. "/state"
  state.use(folder)
  test_module.after(function()
    state.use(false)
    outer:close()
  end)
end)

local function mode_of(path)
  return ("%o"):format(fs.lstat(path).mode)
end

-- Runs Lua code in a process of its own.
---@async
local function lua(code, env)
  local all = { PATH = os.getenv("PATH"), SBXLUA_LUA = LIBRARY }
  for name, value in pairs(env or {}) do
    all[name] = value
  end
  return process.run({ SELF, "-e", code }, { env = all, clear_env = true })
end

-- Starts a process that holds the lock of a file until it is told to end.
---@async
local function holder(path)
  local child = process.spawn({ SELF, "-e", [[
    local held = require("sbx.fs").lock(arg[1])
    print("held")
    io.stdout:flush()
    io.read()
    held:close()
  ]], path }, { stdin = "pipe", stdout = "pipe", env = { SBXLUA_LUA = LIBRARY or false } })
  assert(child.stdout:read():find("held", 1, true))
  return child
end

test("state: the folder is the user's own, whatever the umask", function()
  local path = state.folder("tokens")
  assert(path == folder .. "/tokens" and mode_of(path) == "700" and mode_of(folder) == "700")
  fs.chmod(folder, tonumber("755", 8))
  fs.chmod(path, tonumber("777", 8))
  assert(state.folder("tokens") == path)
  assert(mode_of(path) == "700" and mode_of(folder) == "700")
end)

test("state: what is no folder of one's own is none", function()
  fs.mkdir(folder)
  fs.write(folder .. "/tokens", "a file")
  assert(state.folder("tokens") == nil)
  fs.mkdir(folder .. "/elsewhere")
  fs.symlink("elsewhere", folder .. "/limits")
  assert(state.folder("limits") == nil)
  state.use("/dev/null/state")
  assert(state.folder() == nil)
  state.use(false)
  assert(state.folder() == nil)
end)

test("state: the folder is where the environment says", function()
  local code = [[print(require("sbx.sandbox.state").folder("runs"))]]
  local home <close> = fs.tmpdir({})
  local function place(env) return (lua(code, env).stdout:gsub("\n", "")) end
  assert(place({ HOME = home.path }) == home.path .. "/.local/state/sbxlua/runs")
  assert(place({ HOME = home.path, XDG_STATE_HOME = home.path .. "/x" })
    == home.path .. "/x/sbxlua/runs")
  -- Relative ones are to be ignored.
  assert(place({ HOME = home.path, XDG_STATE_HOME = "x" })
    == home.path .. "/.local/state/sbxlua/runs")
  assert(place({}) == "nil" and place({ HOME = "" }) == "nil")
  assert(place({ HOME = home.path .. "/none" }) == "nil" and not fs.exists(home.path .. "/none"))
end)

test("state: an account is one address and one key, and shows neither", function()
  local function account(url, key) return state.account({ base_url = url, api_key = key }) end
  local one = account("http://a:1", "key-1")
  assert(one:find("^%x+$") and #one == 24 and one == account("http://a:1", "key-1"))
  assert(one ~= account("http://a:2", "key-1") and one ~= account("http://a:1", "key-2"))
  assert(account("http://a:1", "1key") ~= account("http://a:11", "key"))
end)

test("state: whatever is in a file, it reads as a table", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  local texts = { "", "{", "null", "5", '"x"', "\0\0\0", '{"a":1} x', ("["):rep(10000) }
  for _, bytes in ipairs(texts) do
    fs.write(path, bytes)
    assert(next(state.read(path)) == nil, bytes:sub(1, 20))
  end
  assert(next(state.read(folder .. "/none")) == nil)
  assert(next(state.read(folder)) == nil)
end)

test("state: a file is replaced whole, for its owner alone, and links are not followed", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  fs.write(folder .. "/victim", "safe")
  fs.symlink("victim", path)
  fs.symlink("victim", path .. ".new")
  assert(state.update(path, 1, function(value)
    assert(value.a == nil)
    value.a = 1
    return "done"
  end) == "done")
  assert(fs.lstat(path).type == "file" and mode_of(path) == "600")
  assert(fs.read(folder .. "/victim") == "safe" and state.read(path).a == 1)
  assert(state.is_private(path))
  fs.chmod(path, tonumber("640", 8))
  assert(not state.is_private(path))
end)

test("state: an update that says false writes nothing", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  state.update(path, 1, function(value) value.a = 1 end)
  state.update(path, 1, function(value)
    value.a = 2
    return false
  end)
  assert(state.read(path).a == 1)
end)

test("state: updates of many tasks and two processes lose nothing", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  local code = ([[
    local state, task = require("sbx.sandbox.state"), require("sbx.task")
    local list = {}
    for i = 1, 50 do list[i] = i end
    task.map(list, function()
      state.update(%q, 30, function(value) value.n = (value.n or 0) + 1 end)
    end, { limit = 10 })
  ]]):format(path)
  task.gather({
    function() assert(lua(code).code == 0) end,
    function() assert(lua(code).code == 0) end,
    function() assert(load(code))() end,
  })
  assert(state.read(path).n == 150, state.read(path).n)
  assert(#fs.list(folder) == 2, table.concat(fs.list(folder), " "))
end)

test("state: a process that holds a file and stands still does not hold up others", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  local child = holder(path .. ".lock")
  child:kill("STOP")
  local ok, err = pcall(state.update, path, 0.1, function() end)
  assert(not ok and err.kind == "timeout" and err.code == "EBUSY", tostring(err))
  -- And what it held is free when it is gone.
  child:kill("KILL")
  child:wait()
  state.update(path, 5, function(value) value.a = 1 end)
  assert(state.read(path).a == 1)
end)

test("state: cancelled while it waits for another process", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  local child = holder(path .. ".lock")
  assert(not task.move_on(0.05, state.update, path, math.huge, function() end))
  child.stdin:write("\n")
  child:wait()
  assert(state.locked(path, 5, function() return "mine" end) == "mine")
end)

test("state: what fails under a lock leaves it free", function()
  fs.mkdir(folder)
  local path = folder .. "/file"
  local ok, err = pcall(state.update, path, 1, function() error("oops", 0) end)
  assert(not ok and err == "oops")
  state.update(path, 1, function(value) value.a = 1 end)
end)

test("state: files of accounts that nobody uses any more are removed", function()
  local config = { base_url = "http://a:1", api_key = "key-1" }
  local path = state.file("limits", config)
  assert(path == folder .. "/limits/" .. state.account(config) and not fs.exists(path))
  local old, young = folder .. "/limits/old", folder .. "/limits/young"
  for _, name in ipairs({ old, old .. ".lock", young, young .. ".lock" }) do
    fs.write(name, "")
  end
  process.run({ "touch", "-d", "40 days ago", old, young .. ".lock" }, { check = true })
  state.file("limits", config)
  assert(table.concat(fs.list(folder .. "/limits"), " ") == "young young.lock")
end)
