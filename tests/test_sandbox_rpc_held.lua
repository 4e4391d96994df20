-- What becomes of live processes that a run has opened and not closed.

local fs = require("sbx.fs")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local run = dofile(here .. "run_support.lua")
local support = dofile(here .. "vm_support.lua")

local function is_alive(pid)
  local ok, text = pcall(fs.read, "/proc/" .. pid .. "/stat")
  return ok and not text:match("^%d+ %(.*%) ([ZX])")
end

-- Runs a script against a virtual machine `sbx-1`; its result.
local function with_script(code, fn)
  local vm <close> = rpc.start({})
  local server <close> = api.start({
    auth = vm:auth(),
    create = function(call, server)
      local status, object = api.usual.create(server, call)
      object.vm = true
      return status, object
    end,
  })
  server:add("sbx-1", { vm = true })
  local folder <close> = fs.tmpdir({ prefix = "held-" })
  local script = folder.path .. "/s.lua"
  fs.write(script, [[
    local client = require("sbx.sandbox").client()
    local function open(...) return client:open_process("sbx-1", { ... }) end
  ]] .. code)
  fn(run.run({ script }, {
    env = {
      PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url, HOME = folder.path,
      XDG_STATE_HOME = folder.path,
    },
  }), vm, server)
end

test("rpc process: one that nobody closed is killed with the run, and told", function()
  with_script([[
    local p = open("sleep", "1000")
    print(p.pid)
    local q = open("sleep", "1001")
    print(q.pid)
    p, q = nil, nil
    collectgarbage()
    collectgarbage()
  ]], function(result)
    assert(result.code == 0, result.stderr)
    local first, second = result.stdout:match("^(%d+)\n(%d+)\n$")
    local low, high = math.min(first, second), math.max(first, second)
    assert(result.stderr:find(("process %d of sandbox sbx-1, %d of sandbox sbx-1 was never "
      .. "closed: it was killed"):format(low, high), 1, true), result.stderr)
    assert(select(2, result.stderr:gsub("never closed", "")) == 1, result.stderr)
    support.eventually(function() return not is_alive(first) and not is_alive(second) end)
  end)
end)

test("rpc process: nothing is said of those that were closed, let go of, or have ended", function()
  with_script([[
    do local p <close> = open("sleep", "1000") end
    open("sleep", "1000"):close()
    open("true"):wait()
    local detached = open("sleep", "1002")
    print(detached.pid)
    detached:detach()
    local attached = client:attach_process("sbx-1", detached.pid)
    attached, detached = nil, nil
    local unseen = open("true")
    -- It has ended once its server says so.
    local function is_listed()
      for _, one in ipairs(client:list_processes("sbx-1")) do
        if one.pid == unseen.pid then return true end
      end
    end
    while is_listed() do require("sbx.task").sleep(0.01) end
  ]], function(result)
    assert(result.code == 0, result.stderr)
    assert(not result.stderr:find("never closed", 1, true), result.stderr)
    local pid = result.stdout:match("%d+")
    assert(is_alive(pid))
  end)
end)

test("rpc process: one whose sandbox goes with the run is told of quietly", function()
  with_script([[
    local box = client:create({ name = "mine", docker_image = "x", vm = true })
    local p = client:open_process(box, { "sleep", "1003" })
  ]], function(result, vm, server)
    assert(result.code == 0, result.stderr)
    assert(result.stderr:find("level=info", 1, true)
      and result.stderr:find("ended with its sandbox", 1, true), result.stderr)
    assert(server:count("delete") + server:count("bulk_delete") > 0)
    for _, call in ipairs(vm.calls) do
      assert(call.method ~= "SendSignal", "it was signalled")
    end
  end)
end)
