-- Each of the first requests of a spooled command and of a job goes wrong in each way:
-- it runs at most once, and what is said of it is so.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sandbox_exec_support.lua")

local COMMAND = "echo ran >> /var/tmp/count; echo out; echo err >&2; exit 4"
local COUNT = "cat /var/tmp/count 2>/dev/null | wc -l; rm -f /var/tmp/count"

local modes = {
  ["is lost before it arrives"] = function() return 500, { message = "lost" } end,
  ["has a lost answer"] = function(call, pass)
    pass(call)
    return 500, { message = "lost" }
  end,
  ["has garbage for an answer"] = function(call, pass)
    pass(call)
    return 200, "{{{"
  end,
  ["has an empty answer"] = function(call, pass)
    pass(call)
    return 200, { stdout = "", stderr = "", exit_code = 0 }
  end,
  ["is throttled"] = function() return 429, { message = "busy" }, { ["retry-after"] = "0" } end,
  ["takes too long"] = function(call, pass)
    pass(call)
    return 408, { error = "command_timeout" }
  end,
  ["has its script killed"] = function(call, pass)
    pass(call)
    return 200, { stdout = "", stderr = "", exit_code = 137 }
  end,
  ["finds the sandbox gone"] = function() return 502, { error = "sandbox_not_found" } end,
  ["is forbidden"] = function() return 403, { message = "no" } end,
}

local function check(ok, result, runs)
  assert(runs <= 1, runs)
  if ok then
    assert(result.exit_code == 4 and runs == 1)
    assert(result.stdout == "out\n" and result.stderr == "err\n")
  elseif result.outcome == "not_started" then
    assert(runs == 0, tostring(result))
  else
    assert(result.outcome == "unknown", tostring(result))
  end
end

test("spool: whatever becomes of one request, nothing runs twice, no word is false",
  { timeout = 180 }, function()
    local mode, target, seen
    local function trouble(call, pass)
      if not mode then return nil end
      seen = seen + 1
      if seen == target then return mode(call, pass) end
    end
    support.with_relay(trouble, function(client, box)
      for what, fn in pairs(modes) do
        for n = 1, 2 do
          for _, name in ipairs({ "execute_command", "run_background_job" }) do
            mode, target, seen = fn, n, 0
            local options = name == "execute_command" and { spool = true } or nil
            local ok, result = pcall(client[name], client, "sbx-1", COMMAND, options)
            mode = nil
            if not ok and result.job then support.await(box, "test -e " .. result.job.exit_file) end
            local runs = tonumber(box:exec(COUNT).stdout)
            local fine, why = pcall(check, ok, result, runs)
            assert(fine, ("%s %d that %s: %s"):format(name, n, what, tostring(why)))
          end
        end
      end
    end)
  end)
