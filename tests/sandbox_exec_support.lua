-- What the tests of commands share: a real sandbox of this machine, and a server
-- between client and sandbox that loses, repeats or refuses what a test names.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local local_server = require("sbx.local_server")
local run = require("sbx.run")
local sandbox = require("sbx.sandbox")
local task = require("sbx.task")

local support = { api = api }

---Calls `fn(box, client)` with a running sandbox, which ends with it.
---@async
function support.with_box(fn)
  local server = local_server.start({ stderr = function() end })
  local ok, err = xpcall(function()
    local client <close> = sandbox.client({ api_key = server.api_key, base_url = server.url })
    local box <close> = client:create({ name = "exec", docker_image = "python:3.11-slim" })
    box:wait()
    fn(box, client)
  end, function(err) return type(err) == "string" and debug.traceback(err) or err end)
  run.finish()
  server.stop()
  if not ok then error(err, 0) end
end

---Calls `fn(client, box, server)`: `client` knows a sandbox "sbx-1" of a scripted
---server, whose commands run in `box`. `before(call, pass)` gets each command first:
---what it returns is the answer, `pass()` runs the command there.
---@async
function support.with_relay(before, fn)
  support.with_box(function(box)
    local function pass(call)
      local body = call.body
      return 200, box:exec(body.command, {
        env = body.env, timeout = body.timeout, spool = false,
        working_dir = type(body.working_dir) == "string" and body.working_dir or nil,
      })
    end
    local server <close> = api.start({
      exec = function(call)
        local status, body = before(call, pass)
        if status then return status, body end
        return pass(call)
      end,
    })
    server:add("sbx-1")
    local client <close> = server:client()
    fn(client, box, server)
  end)
end

---Whether a script sent is the one that starts, looks, kills, or asks who was first.
function support.kind(call)
  local text = call.body.command
  if text:find("sbx-run", 1, true) then return "start" end
  if text:find("targets()", 1, true) then return "kill" end
  if text:find("echo claimed", 1, true) then return "claim" end
  if text:find("fresh()", 1, true) then return "look" end
  return "clean"
end

-- Processes of the sandbox besides its first and those that ask.
local PROCESSES = [[for f in /proc/[0-9]*; do
  p=${f#/proc/}; [ "$p" = 1 ] || [ "$p" = $$ ] || { read -r l < $f/stat; } 2>/dev/null || continue
  case $p in 1|$$) continue;; esac
  set -- ${l##*") "}; [ "$2" = 1 ] && [ "$4" = 0 ] && continue
  c=$(tr '\0' ' ' < $f/cmdline 2>/dev/null)
  case $c in ''|/.agent*) ;; *) echo "$c";; esac
done]]

---Waits until nothing runs in the sandbox and nothing of ours is left in /tmp.
---@async
function support.await_nothing(box, but)
  local left
  local in_time = task.move_on(60, function()
    repeat
      left = box:exec(PROCESSES .. "\nls -A /tmp").stdout
      if but then left = left:gsub(but, "") end
      if left ~= "" then task.sleep(0.1) end
    until left == ""
  end)
  assert(in_time, "left in the sandbox: " .. tostring(left))
end

---Waits until a command in the sandbox succeeds.
---@async
function support.await(box, command)
  task.timeout(60, function()
    while box:exec(command).exit_code ~= 0 do
      task.sleep(0.05)
    end
  end)
end

return support
