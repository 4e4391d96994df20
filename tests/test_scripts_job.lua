-- scripts/long_job.lua and scripts/jobs.lua, as people run them: commands that take
-- longer than a request, and such that outlive the script.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local scripts = dofile(here .. "scripts_support.lua")
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")
local watch = dofile(here .. "leftover_support.lua")
local run_local, run_against = scripts.run_local, scripts.run_against

test("long_job: output is exact, whatever its bytes, and a failure is status 1", function()
  local command = [[
    for _ in 1 2 3; do head -c 150000 /dev/zero | tr '\0' '\377'; sleep 0.2; done
    printf 'ü\n'; echo "it's \"$PWD\"" >&2; exit 3]]
  local result = run_local("long_job", { "--folder", "/var", command })
  assert(result.code == 1 and result.stderr:find("long_job: exit code 3\n", 1, true), result.stderr)
  assert(result.stderr:find("it's \"/var\"\n", 1, true), result.stderr)
  assert(result.stdout == ("\xff"):rep(450000) .. "ü\n", #result.stdout)
end)

test("long_job: the command reads a pipe of this side to its end", function()
  local text = ("line\n"):rep(20000)
  local result = run_local("long_job", { "--stdin", "-", "wc -c; echo over" }, { input = text })
  assert(result.code == 0 and result.stdout == "100000\nover\n", result.stderr)
end)

test("long_job: one that is killed with its shell, or by the deadline, does not hang it", function()
  local result = run_local("long_job", { "echo begun; kill -9 $PPID $$" })
  assert(result.code == 1 and result.stdout == "begun\n", result.stderr)
  assert(result.stderr:find("end is not known", 1, true), result.stderr)

  result = run_local("long_job", { "--deadline", "500ms", "echo begun; sleep 600" })
  assert(result.code == 1 and result.stdout == "begun\n", result.stderr)
  assert(result.stderr:find("not done within 0.5 s", 1, true), result.stderr)
end)

test("long_job: Ctrl-C ends all of the command in a sandbox that stays", function()
  scripts.with_box(function(box, server)
    local stubborn = "echo begun; (trap '' TERM; sleep 4711) & sleep 4711"
    local words = scripts.argv("long_job", { "--sandbox", box.id, stubborn })
    local going <close> = support.start(words, scripts.env(server))
    going:await("stdout", "begun\n")
    local count = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^4711$'"
    task.timeout(60, function()
      while box:exec(count).stdout ~= "2\n" do
        task.sleep(0.02)
      end
    end)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
    assert(box:exec(count).stdout == "0\n")
    assert(box:exec("echo still here; ls -A /tmp").stdout == "still here\n")
  end)
end)

test("long_job: Ctrl-C leaves nothing of a sandbox of its own", function()
  watch.run(function(start, look)
    local going <close> = start(scripts.argv("long_job", { "echo begun; sleep 600" }))
    going:await("stdout", "begun\n") -- while it runs: output comes as it is made
    assert(look(going.pid) >= 4)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
  end)
end)

-- --------------------------------------------------------------------- jobs

-- By sandbox: what the lines of a run say.
local function by_sandbox(result)
  local found = {}
  for _, line in ipairs(scripts.lines(result.stdout)) do
    assert(not found[line.sandbox_id], "twice: " .. line.sandbox_id)
    found[line.sandbox_id] = line
  end
  return found
end

test("jobs: are started in a fleet, looked at, awaited; one that fails is status 1", function()
  local folder <close> = fs.tmpdir()
  local file = folder.path .. "/jobs.jsonl"
  scripts.with_server(function(server, client)
    local boxes = task.map({ "a", "b" }, function(name)
      return client:create({ name = name, docker_image = "python:3.11-slim", labels = { "team" } })
    end)
    client:bulk_wait_for_creation(boxes)
    local a, b = boxes[1], boxes[2]
    b:exec("touch /tmp/fail")
    -- It runs until it is told.
    local result = run_against(server, "jobs", {
      "start", "--label", "team", "--folder", "/tmp", "-e", "WHO=it's me", "--", "sh", "-c",
      'echo "begun $WHO"; while ! [ -e go ]; do sleep 0.05; done; echo end >&2; ! [ -e fail ]',
    })
    assert(result.code == 0, result.stderr)
    fs.write(file, result.stdout)
    assert(by_sandbox(result)[a.id].id and by_sandbox(result)[b.id].id, result.stdout)

    task.timeout(60, function()
      repeat
        result = run_against(server, "jobs", { "status", file, "--tail", "4" })
        assert(result.code == 0, result.stderr)
        local line = by_sandbox(result)[a.id]
        assert(line.state == "running", result.stdout)
      until line.stdout == " me\n"
    end)
    a:exec("touch /tmp/go")
    b:exec("touch /tmp/go")
    result = run_against(server, "jobs", { "wait", file, "--every", "50ms" })
    assert(result.code == 1, result.stderr)
    local lines = by_sandbox(result)
    assert(lines[a.id].state == "done" and lines[a.id].exit_code == 0, result.stdout)
    assert(lines[a.id].stdout == "begun it's me\n" and lines[a.id].stderr == "end\n", result.stdout)
    assert(lines[b.id].exit_code == 1, result.stdout)

    -- What is gone ends the waiting, too.
    b:delete()
    result = run_against(server, "jobs", { "wait", file })
    lines = by_sandbox(result)
    assert(result.code == 1 and lines[a.id].state == "done", result.stdout)
    assert(lines[b.id].state == "unknown" and lines[b.id].error, result.stdout)
  end)
end)

test("jobs: are cancelled; those that could not be started are told, and left out", function()
  local folder <close> = fs.tmpdir()
  local file = folder.path .. "/jobs.jsonl"
  scripts.with_box(function(box, server)
    local result = run_against(server, "jobs",
      { "start", "-s", box.id, "-s", "sbx-none", "--", "sleep", "4712" })
    assert(result.code == 1, result.stderr)
    fs.write(file, result.stdout)
    local lines = by_sandbox(result)
    assert(lines[box.id].id and lines["sbx-none"].error, result.stdout)

    result = run_against(server, "jobs", { "cancel", file })
    assert(result.code == 0 and by_sandbox(result)[box.id].state == "cancelled", result.stdout)
    local count = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^4712$'"
    assert(box:exec(count).stdout == "0\n")
    result = run_against(server, "jobs", { "cancel", file })
    assert(result.code == 0 and by_sandbox(result)[box.id].state == "over before", result.stdout)
  end)
end)

test("jobs: without a sandbox nothing starts", function()
  local server <close> = api.start()
  local result = run_against({ url = server.url, api_key = api.KEY }, "jobs",
    { "start", "--label", "nobody", "--", "true" })
  assert(result.code == 2 and result.stdout == "" and result.stderr:find("^jobs: no sandbox"))
end)
