-- scripts/shell.lua, lockdown.lua and jobs.lua, as people run them: on virtual machines,
-- of which tests/peers/rpc.lua plays the command session with processes of this machine.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local json = require("sbx.json")
local net = require("sbx.net")
local process = require("sbx.process")
local scripts = dofile(here .. "scripts_support.lua")
local support = dofile(here .. "run_support.lua")
local terminal = dofile(here .. "peers/terminal.lua")
local vm_support = dofile(here .. "vm_support.lua")
local with_vm, eventually = vm_support.with_vm, vm_support.eventually
local run_local = scripts.run_local

---@async
local function run_against(server, name, words, options)
  return scripts.run_against({ url = server.url, api_key = api.KEY }, name, words, options)
end

-- -------------------------------------------------------------------- shell

test("shell: a program in a virtual machine has a terminal; its exit code counts", function()
  with_vm({}, function(_, vm, server)
    local result = run_against(server, "shell", {
      "--sandbox", "sbx-1", "--", "sh", "-c", "stty size; read word; echo \"<$word>\"; exit 4",
    }, { input = "hello\n" })
    assert(result.code == 1, result.stderr)
    assert(result.stdout:find("24 80\r\n", 1, true), result.stdout)
    assert(result.stdout:find("<hello>\r\n", 1, true), result.stdout)
    assert(next(vm.processes) == nil)
  end)
end)

test("shell: the end of the input is Ctrl-D, and ends a shell", function()
  with_vm({}, function(_, _, server)
    local result = run_against(server, "shell", { "--sandbox", "sbx-1", "--", "sh" },
      { input = "echo $((6 * 7))\n" })
    assert(result.code == 0 and result.stdout:find("42\r\n", 1, true), result.stdout)
  end)
end)

test("shell: with a tag it runs on, and is found again", function()
  with_vm({}, function(_, vm, server)
    -- The end of our input does not end it.
    local words = { "--sandbox", "sbx-1", "--tag", "mine", "--", "sh", "-c",
      'echo begun; while :; do read w && echo "<$w>"; [ "$w" = bye ] && exit; sleep 0.02; done' }
    local env = scripts.env({ url = server.url, api_key = api.KEY })
    local going <close> = support.start(scripts.argv("shell", words), env)
    going:await("stdout", "begun")
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
    assert(vm:count("SendSignal") == 0 and next(vm.processes))

    local listed = run_against(server, "shell", { "--sandbox", "sbx-1", "--list" })
    assert(listed.code == 0 and listed.stdout:find("^%d+\tmine\tsh %-c "), listed.stdout)

    local result = run_against(server, "shell", words, { input = "again\nbye\n" })
    assert(result.code == 0, result.stderr)
    assert(result.stdout:find("<again>", 1, true) and not result.stdout:find("begun", 1, true))
    eventually(function() return next(vm.processes) == nil end)
  end)
end)

test("shell: Ctrl-C from outside ends a program without a tag", function()
  with_vm({}, function(_, vm, server)
    local env = scripts.env({ url = server.url, api_key = api.KEY })
    local going <close> = support.start(scripts.argv("shell",
      { "--sandbox", "sbx-1", "--", "sh", "-c", "echo begun; exec sleep 600" }), env)
    going:await("stdout", "begun")
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
    eventually(function() return next(vm.processes) == nil end)
  end)
end)

test("shell: a local container is logged in to", function()
  local result = run_local("shell", {}, { input = "cd /var\npwd; echo 'a  b' >&2\nexit 3\n" })
  assert(result.code == 1 and result.stdout == "/var\n", result.stdout)
  assert(result.stderr:find("a  b\n", 1, true), result.stderr)
  result = run_local("shell", { "--", "cat" }, { input = "typed" })
  assert(result.code == 0 and result.stdout == "typed", result.stderr)
end)

test("shell: a container without SSH takes line by line, and keeps the folder", function()
  -- All programs but ssh-keygen, without which there are no keys.
  local folder <close> = fs.tmpdir()
  process.shell([[IFS=:; for at in $PATH; do for one in "$at"/*; do
    [ -e "$FOLDER/${one##*/}" ] || ln -s "$one" "$FOLDER/"; done; done
    rm "$FOLDER/ssh-keygen"]], { env = { FOLDER = folder.path } })
  local env = { PATH = folder.path }
  local result = run_local("shell", {}, {
    input = "cd /var\npwd; echo 'a  b' >&2\nexit 3\n", env = env,
  })
  assert(result.code == 1 and result.stdout == "/var\n", result.stdout)
  assert(result.stderr:find("no SSH here", 1, true), result.stderr)
  assert(result.stderr:find("a  b\n", 1, true), result.stderr)
  -- A program of one's own needs what is not there.
  result = run_local("shell", { "--", "python" }, { env = env })
  assert(result.code == 1 and result.stderr:find("kind=unsupported", 1, true), result.stderr)
end)

test("shell: a container is logged in to, with a key that goes afterwards", function()
  local folder <close> = fs.tmpdir()
  -- An ssh that says what it was called with; the first time the key is not there yet.
  local program = ([[#!/bin/sh
[ -e %s/known ] || { touch %s/known; exit 255; }
echo "$@" >> %s/log
for word; do
  [ "$before" = -i ] && cp "$word" %s/key
  before=$word
done
case "$*" in *true) exit 0;; esac
cat
exit 9
]]):gsub("%%s", folder.path)
  fs.write(folder.path .. "/ssh", program)
  fs.chmod(folder.path .. "/ssh", 448)
  local server <close> = api.start()
  server:add("sbx-1")
  local env = scripts.env({ url = server.url, api_key = api.KEY })
  env.PATH = folder.path .. ":" .. os.getenv("PATH")
  env.TMPDIR = folder.path
  local result = support.run(scripts.argv("shell", { "--sandbox", "sbx-1", "--", "uname", "-a" }),
    { env = env, input = "typed\n" })
  assert(result.code == 1 and result.stdout == "typed\n", result.stderr)
  local log = fs.read(folder.path .. "/log")
  assert(log:find("true\n.*127%.0%.0%.1 uname %-a\n"), log)
  assert(fs.read(folder.path .. "/key"):find("PRIVATE KEY", 1, true))
  local names = fs.list(folder.path)
  table.sort(names)
  assert(table.concat(names, " ") == "key known log ssh", table.concat(names, " "))
  assert(server:count("close_ssh") == 1 and server:count("delete") == 0)
end)

test("shell: on a terminal keys go as they are, and its size goes along", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  with_vm({}, function(_, vm, server)
    local env = scripts.env({ url = server.url, api_key = api.KEY })
    env.HOME = "/nonexistent"
    local screen <close> = terminal.start(scripts.argv("shell",
      { "--sandbox", "sbx-1", "--", "sh", "-c", "stty size; trap 'echo caught; exit 0' INT; "
        .. "read x; sleep 600 & wait" }),
      { columns = 70, rows = 20, env = env })
    screen:await("20 70")
    screen:type("\3")
    screen:await("caught")
    assert(screen:finish().status == 0 and next(vm.processes) == nil)
  end)
end)

-- --------------------------------------------------------------------- jobs

test("jobs: in virtual machines one that is gone ends the waiting, as patience does", function()
  local folder <close> = fs.tmpdir()
  fs.write(folder.path .. "/jobs", '{"id":"0000000a","sandbox_id":"sbx-1"}\n')
  local code
  with_vm({}, function(_, _, server)
    server.handlers.jobs = function(call)
      if call.n == 1 then return 500, { detail = "broken" } end -- one look is lost
      return 200, { statuses = json.array({}), errors = { {
        sandbox_id = "sbx-1", job_id = "0000000a", code = code, message = "told by the test",
      } } }
    end
    for _, case in ipairs({ { "NOT_FOUND", "1h" }, { "BUSY", "200ms" } }) do
      code = case[1]
      local result = run_against(server, "jobs",
        { "wait", folder.path .. "/jobs", "--every", "50ms", "--patience", case[2] })
      assert(code == "BUSY" or result.stderr:find("looks again [^\n]*500"), result.stderr)
      assert(result.code == 1, result.stderr)
      local line = scripts.lines(result.stdout)[1]
      assert(line.state == "unknown" and line.error:find("told by the test", 1, true))
      assert((result.stderr:find("again [^\n]*told") ~= nil) == (code == "BUSY"), result.stderr)
    end
  end)
end)

-- ----------------------------------------------------------------- lockdown

test("lockdown: sets a policy, and tries from inside what is in reach", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  local dead = api.dead_url():match("127.*")
  local open = "127.0.0.1:" .. listener.port
  with_vm({}, function(_, _, server)
    server.sandboxes["sbx-1"].labels = { "team" }
    server:add("sbx-2", { labels = { "team" }, name = "container" })
    local usual = server.handlers.auth
    server.handlers.auth = function(call)
      if call.id == "sbx-1" then return usual(call, server) end
    end
    local words = { "--allow", "packages.example", "--allow", "203.0.113.0/24", "--open", open,
      "--closed", dead, "sbx-1" }
    local result = run_against(server, "lockdown", words)
    assert(result.code == 0, result.stderr .. result.stdout)
    local rows = scripts.rows(result.stdout)
    assert(#rows == 2, result.stdout)
    assert(rows[1].policy == "allow packages.example 203.0.113.0/24" and rows[1].applied == "true")
    assert(rows[1].target == open and rows[1].is == "open" and rows[1].result == "PASS")
    assert(rows[2].target == dead and rows[2].is == "closed" and rows[2].result == "PASS")

    -- What it is now, of all: one that is a container does not keep the other back.
    result = run_against(server, "lockdown", { "--label", "team", "--closed", open })
    assert(result.code == 1 and server:count("put_egress") == 1, result.stdout)
    local by_id = {}
    for _, row in ipairs(scripts.rows(result.stdout)) do by_id[row.id] = row end
    assert(by_id["sbx-1"].policy == "allow packages.example 203.0.113.0/24")
    assert(by_id["sbx-1"].result == "FAIL", result.stdout)
    assert(by_id["sbx-2"].result:find("container", 1, true), result.stdout)

    result = run_against(server, "lockdown", { "--deny", "*", "sbx-1" })
    assert(result.code == 0 and scripts.rows(result.stdout)[1].policy ~= "", result.stdout)
  end)
end)
