-- Virtual machines: refusals that ask for a pause, and failures that nobody waits for.

local log = require("sbx.log")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local faults = dofile(here .. "fault_support.lua")
local rpc = dofile(here .. "peers/rpc.lua")
local support = dofile(here .. "vm_support.lua")
local with_vm, eventually = support.with_vm, support.eventually

-- Calls `fn` and returns what it put into the log.
local function logged(fn)
  local lines = {}
  log.set_writer(function(line) lines[#lines + 1] = line end)
  local ok, err = pcall(fn)
  log.set_writer(nil)
  if not ok then error(err, 0) end
  return table.concat(lines)
end

-- The n-th call fails as `first` says; the others work.
local function once(first)
  return function(call)
    if call.n > 1 then return false end
    first(call)
    return true
  end
end

-- -------------------------------------------------------------------- pauses

local refusals = {
  ["a status"] = function(call)
    call.request:respond(429, { ["retry-after"] = "7" }, "{}")
  end,
  ["a status with a code"] = function(call)
    call.request:respond(429, { ["retry-after"] = "7" }, '{"code":"resource_exhausted"}')
  end,
  ["the last frame"] = function(call)
    call:write(rpc.frame(2, '{"error":{"code":"resource_exhausted","message":"busy"},'
      .. '"metadata":{"Retry-After":["7"]}}'))
  end,
}

for what, refuse in pairs(refusals) do
  test("rpc: a pause that is asked for by " .. what .. " is made, not shortened", function()
    for _, rpc_name in ipairs({ "Start", what ~= "the last frame" and "List" or nil }) do
      with_vm({ [rpc_name] = once(refuse) }, function(client, vm)
        client.tokens:get("sbx-1", "test")
        local ok, took = faults.at_once(function()
          local began = task.now()
          if rpc_name == "List" then
            client:list_processes("sbx-1")
          else
            assert(client:execute_command("sbx-1", "exit 3").exit_code == 3)
          end
          return task.now() - began
        end)
        assert(ok, tostring(took))
        assert(took >= 7 and vm:count(rpc_name) == 2, took)
      end)
    end
  end)
end

test("rpc: a pause longer than patience is raised, and says how long it would be", function()
  local function refuse(call)
    call.request:respond(429, { ["retry-after"] = "500" }, "{}")
    return true
  end
  with_vm({ Start = refuse, SendSignal = refuse }, function(client, vm)
    for _, fn in ipairs({ client.execute_command, client.open_process }) do
      local err = api.failure(fn, client, "sbx-1", "true")
      assert(err.status == 429 and err.retry_after == 500, tostring(err))
      assert(err.outcome ~= "unknown")
    end
    assert(vm:count("Start") == 2)
  end)
end)

test("rpc: what is asked again after 409 or 503 waits as long as it is told", function()
  for status, name in pairs({ [409] = "Start", [503] = "List" }) do
    with_vm({ [name] = once(function(call)
      call.request:respond(status, { ["retry-after"] = "9" }, "{}")
    end) }, function(client)
      local ok, took = faults.at_once(function()
        local began = task.now()
        if name == "List" then client:list_processes("sbx-1")
        else client:execute_command("sbx-1", "true") end
        return task.now() - began
      end)
      assert(ok and took >= 9, tostring(took))
    end)
  end
end)

test("rpc: exhausted without a pause is an error at once", function()
  local function refuse(call)
    call:write(rpc.last("resource_exhausted", "too large"))
    return true
  end
  with_vm({ Start = refuse }, function(client, vm)
    local err = api.failure(client.execute_command, client, "sbx-1", "true")
    assert(err.code == "resource_exhausted" and vm:count("Start") == 1, tostring(err))
  end)
end)

test("rpc: pauses that make no sense are none", function()
  for _, text in ipairs({ '{"Retry-After":[]}', '{"retry-after":"x"}', '{"retry-after":[{}]}',
    "[]", '"x"', '{"a":1,"Retry-After":[-1]}', '{"retry-after":["1e9"]}' }) do
    with_vm({ Start = function(call)
      call:write(rpc.frame(2, '{"error":{"code":"resource_exhausted"},"metadata":' .. text .. "}"))
      return true
    end }, function(client)
      local err = api.failure(client.execute_command, client, "sbx-1", "true")
      assert(err.code == "resource_exhausted" and err.retry_after == nil, tostring(err))
    end)
  end
end)

test("rpc process: a start that is only refused for long is not killed", function()
  local n = 0
  with_vm({ Start = function(call)
    n = n + 1
    if n > 1 then return false end
    call.request:respond(429, { ["retry-after"] = "90" }, "{}")
    return true
  end }, function(client, vm)
    local ok, p = faults.at_once(client.open_process, client, "sbx-1", "cat")
    assert(ok, tostring(p))
    p:close()
    assert(vm:count("Start") == 2)
  end)
end)

-- ------------------------------------------------------------------- silences

test("exec in a vm: what could not be run is no success, with output as it comes, either",
  function()
    with_vm({ Start = function(call)
      call:write(rpc.event({ start = { pid = 9 } })
        .. rpc.event({ ["end"] = { exit_code = 0, exited = false, error = "no such program" } })
        .. rpc.last())
      return true
    end }, function(client)
      for _, options in ipairs({ { on_stdout = function() end }, {} }) do
        local err = api.failure(client.execute_command, client, "sbx-1", "x", options)
        assert(err.kind == "api" and err.message:find("no such program", 1, true), tostring(err))
      end
    end)
  end)

test("rpc exec: a command whose caller is cancelled does not run on", function()
  with_vm({}, function(client, vm)
    local known
    local running = task.pspawn(client.execute_command, client, "sbx-1",
      "echo here; exec sleep 4797", { on_stdout = function() known = true end })
    eventually(function() return known end)
    running:cancel()
    running:pjoin()
    eventually(function() return next(vm.processes) == nil end)
    assert(vm:count("SendSignal") == 1)
  end)
end)

test("rpc exec: a command that could not be ended is in the log", function()
  with_vm({ SendSignal = function(call)
    call:fail("internal", "cannot")
    return true
  end }, function(client)
    local text = logged(function()
      local err = api.failure(client.execute_command, client, "sbx-1", "sleep 30",
        { timeout = 1 })
      assert(err.kind == "command_timeout")
    end)
    assert(text:find("may run on", 1, true), text)
  end)
end)

test("rpc process: one that failed before it was closed, unseen, is in the log", function()
  with_vm({}, function(client, vm)
    local text = logged(function()
      local p <close> = client:open_process("sbx-1", "exit 9")
      eventually(function() return vm.last_process and vm.last_process.over end)
      assert(p.result == nil)
    end)
    assert(text:find("nobody waited for it: exit code 9", 1, true), text)
    -- One that did well is no news, nor is one that was waited for.
    vm.last_process = nil
    text = logged(function()
      local p <close> = client:open_process("sbx-1", "exit 0")
      eventually(function() return vm.last_process and vm.last_process.over end)
      local q <close> = client:open_process("sbx-1", "exit 9")
      assert(q:wait().exit_code == 9 and p.result == nil)
    end)
    assert(text == "", text)
  end)
end)
