-- Commands in virtual machines with output as it comes, input, deadlines: by the
-- command session, whose processes here are those of this machine.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local fs = require("sbx.fs")
local support = dofile(here .. "vm_support.lua")
local temporary = dofile(here .. "temporary_support.lua")

local function with_vm(fn)
  support.with_vm({}, fn)
end

local function messages_of(vm)
  local messages = {}
  for i, call in ipairs(vm.calls) do
    messages[i] = call.message
  end
  return messages
end

test("exec in a vm: output comes by the connection, exact, and both streams", function()
  with_vm(function(client, vm)
    local out, err = {}, {}
    local result = client:execute_command("sbx-1",
      "[[ a == a ]] && printf '\\377\\000'; pwd; echo $A >&2; exit 3", {
        working_dir = "/tmp", env = { A = "\xfe" },
        on_stdout = function(bytes) out[#out + 1] = bytes end,
        on_stderr = function(bytes) err[#err + 1] = bytes end,
      })
    assert(table.concat(out) == "\xff\0/tmp\n" and table.concat(err) == "\xfe\n")
    assert(result.exit_code == 3 and result.stdout == "" and result.outcome == "exited")
    assert(#vm.calls == 1)
    assert(client:execute_command("sbx-1", "printf '\\377'", { binary = true }).stdout == "\xff")
    assert(client:execute_command("sbx-1", "echo a", { timeout = 100 }).stdout == "a\n")
    assert(#vm.calls == 3)
  end)
end)

test("exec in a vm: small input, words, max_output and check", function()
  with_vm(function(client)
    local result = client:execute_command("sbx-1", { "cat" }, { stdin = "a\0\xff", max_output = 2 })
    assert(result.stdout == "a\0" and result.stdout_truncated)
    result = client:execute_command("sbx-1", "echo abc; echo err >&2", {
      on_stderr = function() end, max_output = 1,
    })
    assert(result.stdout == "a" and result.stdout_truncated and result.stderr == "")
    local err = api.failure(client.execute_command, client, "sbx-1", "exit 9", { check = true })
    assert(err.kind == "command_failed" and err.exit_code == 9)
  end)
end)

test("exec in a vm: a spool works there, too, and a deadline kills", { timeout = 180 }, function()
  with_vm(function(client, vm)
    local result = client:execute_command("sbx-1", "[[ a == a ]] && echo out; exit 4",
      { spool = true })
    assert(result.exit_code == 4 and result.stdout == "out\n", result.stderr)
    -- None that ignores TERM: that is for sandboxes of their own, where looking again and
    -- again for what is left does not mean looking at all of this machine.
    local err = api.failure(client.execute_command, client, "sbx-1",
      "echo $$; (setsid sleep 4799 &); sleep 4799", { deadline = 3 })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    assert(not fs.exists("/proc/" .. err.stdout:match("%d+")))
    local left = temporary.left_by(messages_of(vm))
    assert(#left == 0, table.concat(left, " "))
  end)
end)

test("exec in a vm: a listener that fails or is cancelled ends the command", function()
  with_vm(function(client)
    local pid
    local function note(bytes)
      pid = bytes:match("%d+")
      error("mine", 0)
    end
    local command = "echo $$; exec sleep 4798"
    local ok, err = pcall(client.execute_command, client, "sbx-1", command, { on_stdout = note })
    assert(not ok and err == "mine" and not fs.exists("/proc/" .. pid), tostring(err))
    pid = nil
    expect.cancelled_once(function() return pid end, client.execute_command, client, "sbx-1",
      command, { on_stdout = function(bytes) pid = bytes:match("%d+") end })
    assert(not fs.exists("/proc/" .. pid))
    err = api.failure(client.execute_command, client, "sbx-1", command,
      { on_stdout = function() end, timeout = 1 })
    assert(err.kind == "command_timeout", tostring(err))
  end)
end)
