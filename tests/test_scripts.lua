-- The automations of scripts/, each as people run it. The ones that move files,
-- open ports or run for long have their tests in test_scripts_*.lua.

local encoding = require("sbx.encoding")
local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local sandbox = require("sbx.sandbox")
local scripts = dofile(here .. "scripts_support.lua")
local support = dofile(here .. "run_support.lua")
local task = require("sbx.task")
local watch = dofile(here .. "leftover_support.lua")

local run_local = scripts.run_local

---Runs a script against the scripted API of a test.
---@async
local function run_against(server, name, words)
  return scripts.run_against({ url = server.url, api_key = api.KEY }, name, words)
end

-- Rows of CSV by the values of one column.
local function rows_by(column, text)
  local rows = {}
  for row in encoding.csv_rows(text, { header = true }) do
    assert(rows[row[column]] == nil, "twice: " .. row[column])
    rows[row[column]] = row
  end
  return rows
end

test("scripts: each explains itself, example first, and refuses what it does not know", function()
  local checked = 0
  for _, file in ipairs(fs.list(scripts.folder)) do
    if file:find("%.lua$") and not file:find("_demo") then
      local name = file:gsub("%.lua$", "")
      local result = support.run({ scripts.folder .. file, "--help" })
      assert(result.code == 0 and result.stderr == "", result.stderr)
      local example = result.stdout:match("^sbxlua [^\n]*scripts/([%w_]+)%.lua")
      assert(example == name, result.stdout)

      result = support.run({ scripts.folder .. file, "--no-such-option" })
      assert(result.code == 2 and result.stdout == "", result.stdout)
      assert(result.stderr:find(name .. ": unknown option '--no-such-option'", 1, true))
      checked = checked + 1
    end
  end
  assert(checked >= 6)
end)

test("scripts: what only the script can see to be wrong is status 2, too", function()
  for _, words in ipairs({
    { "batch" }, { "batch", "-", input = "name,command\nonly a name,\n" }, { "collect_logs" },
    { "check_isolation", "--target", "nowhere" }, { "check_isolation", "--target", "a:70000" },
    { "fan_out" }, { "long_job" }, { "sync_artifacts" }, { "smoke_web", "index.html" },
    { "sync_artifacts", "--push", "/no/such/folder" }, { "lockdown" },
    { "lockdown", "--allow", "a", "--deny", "b", "x" }, { "lockdown", "--open", "a", "x" },
    { "jobs" }, { "jobs", "start" }, { "jobs", "wait", "/no/such/file" }, { "preview" },
    { "pool", "fill", "--label", "x" }, { "release_image", "/", "no-tag", "--test", "true" },
  }) do
    local name = table.remove(words, 1)
    local result = support.run(scripts.argv(name, words), { input = words.input })
    assert(result.code == 2 and result.stdout == "", name .. ": " .. result.stderr)
    assert(result.stderr:find("^" .. name .. "[ %a]*: %S"), result.stderr)
  end
end)

-- What has another name as a method of a box, is one of what is shown for many, or goes
-- by itself.
local SHOWN_OTHERWISE = {
  execute_command = "exec", wait_for_creation = "wait", get_background_job = "get_background_jobs",
  get_build = "wait_for_build", list_images = "each_image", close_ssh_session = "open_ssh_session",
}

test("scripts: each use of the sandbox client is shown by one of them", function()
  local sources = {}
  for _, file in ipairs(fs.list(scripts.folder)) do
    table.insert(sources, fs.read(scripts.folder .. file))
  end
  local text = table.concat(sources)
  local client <close> = sandbox.client({ api_key = "none" })
  local count = 0
  for name, method in pairs(getmetatable(client).__index) do
    if type(method) == "function" and not name:find("^__") and name ~= "close" then
      local word = SHOWN_OTHERWISE[name] or name
      assert(text:find("[%a)][:.]" .. word .. "%f[^%w_]"), name .. " is shown by none")
      count = count + 1
    end
  end
  assert(count > 40, count)
end)

-- -------------------------------------------------------------------- batch

local JOBS = [[
name,command,image
six,python -c 'print(6 * 7)',
"quoted, yes","echo ""a b""; echo $0 >&2",python:3.11-slim
broken,echo half; exit 3,
]]

test("batch: a row for each job; one that fails does not end the others", function()
  local result = run_local("batch", { "-", "--retry", "1" }, { input = JOBS })
  assert(result.code == 1, result.stderr)
  local rows = rows_by("name", result.stdout)
  local six, quoted, broken = rows.six, rows["quoted, yes"], rows.broken
  assert(six.exit_code == "0" and six.stdout == "42" and six.tries == "1" and six.error == "")
  assert(quoted.exit_code == "0" and quoted.stdout == "a b")
  assert(broken.exit_code == "3" and broken.stdout == "half" and broken.tries == "2")
  assert(broken.error == "exit code 3" and tonumber(broken.seconds))
  assert(result.stderr:find("3 jobs, 1 failed", 1, true), result.stderr)
end)

test("batch: results go to a file, their ends only; a slow job is an error", function()
  local folder <close> = fs.tmpdir()
  local jobs, out = folder.path .. "/jobs.csv", folder.path .. "/out.csv"
  fs.write(jobs, "name,command\nlong,printf 0123456789é\nslow,sleep 60\n")
  local result = run_local("batch", { jobs, "--out", out, "--tail", "3", "--timeout", "1s" })
  assert(result.code == 1 and result.stdout == "", result.stderr)
  local rows = rows_by("name", fs.read(out))
  assert(rows.long.stdout == "9é" and rows.long.error == "")
  assert(rows.slow.exit_code == "" and rows.slow.error:find("not done within 1 s", 1, true))
end)

test("batch: no more at once than allowed, and each sandbox is deleted", function()
  local at_once, most = 0, 0
  local server <close> = api.start({
    create = function()
      at_once = at_once + 1
      most = math.max(most, at_once)
    end,
    delete = function() at_once = at_once - 1 end,
    bulk_delete = function(call) at_once = at_once - #call.body.sandbox_ids end,
  })
  local folder <close> = fs.tmpdir()
  local jobs = { "name,command" }
  for i = 1, 9 do
    jobs[#jobs + 1] = ("job %d,true"):format(i)
  end
  fs.write(folder.path .. "/jobs.csv", table.concat(jobs, "\n"))
  local result = run_against(server, "batch", {
    folder.path .. "/jobs.csv", "--limit", "2", "--timeout", "60s", -- one request for each
  })
  assert(result.code == 0, result.stderr)
  assert(most == 2 and at_once == 0 and server:count("create") == 9, most .. " " .. at_once)
end)

test("batch: rows come as jobs finish; Ctrl-C leaves nothing", function()
  local folder <close> = fs.tmpdir()
  local jobs = folder.path .. "/jobs.csv"
  fs.write(jobs, "name,command\nslow,sleep 600\nfast,echo done\n")
  watch.run(function(start, look)
    local run <close> = start(scripts.argv("batch", { jobs }))
    run:await("stdout", "fast,0,")
    assert(look(run.pid) >= 4)
    run:kill("INT")
    assert(run:finish() == 130, run.text.stderr)
    assert(not run.text.stdout:find("slow", 1, true), run.text.stdout)
  end)
end)

-- ------------------------------------------------------------- collect_logs

test("collect_logs: starts sandboxes, collects what they log for a while, deletes them", function()
  local folder <close> = fs.tmpdir()
  local result = run_local("collect_logs", {
    "--start", "true", "--count", "2", "--for", "300ms", "--into", folder.path .. "/a/b",
  })
  assert(result.code == 0, result.stderr)
  assert(not result.stderr:find("the script left", 1, true), result.stderr)
  local rows = rows_by("name", result.stdout)
  for _, name in ipairs({ "logs-1", "logs-2" }) do
    local text = fs.read(rows[name].file)
    assert(#text > 0 and #text == tonumber(rows[name].bytes))
  end
end)

test("collect_logs: by label and by id, each once; one that fails does not end the rest", function()
  local folder <close> = fs.tmpdir()
  local server <close> = api.start({
    logs = function(call)
      if call.id == "sbx-gone" then return 404, { detail = "Sandbox not found" } end
      return 200, { logs = "log of " .. call.id .. "\n" }
    end,
  })
  server:add("sbx-1", { name = "one", labels = { "team" } })
  server:add("sbx-2", { id = "../../out", labels = { "team" } })
  local result = run_against(server, "collect_logs", {
    "--label", "team", "--into", folder.path .. "/logs", "sbx-1", "sbx-gone",
  })
  assert(result.code == 1, result.stderr)
  local rows = rows_by("id", result.stdout)
  assert(rows["sbx-1"].error == "" and rows["sbx-gone"].error:find("Sandbox not found", 1, true))
  assert(fs.read(folder.path .. "/logs/sbx-1.log") == "log of sbx-1\n")
  -- An id of a hostile server leads nowhere else.
  assert(rows["../../out"] and fs.exists(folder.path .. "/logs/______out.log"))
  assert(#fs.list(folder.path) == 1 and #fs.list(folder.path .. "/logs") == 3)
  for _, call in ipairs(server.calls) do
    if call.op == "list" then assert(call.query.labels[1] == "team") end
  end
end)

test("collect_logs: a log that lost its beginning counts as new", function()
  local folder <close> = fs.tmpdir()
  local texts = { "a\nb\n", "a\nb\nc\n", "c\nd\n" }
  local server <close> = api.start({
    logs = function(call) return 200, { logs = texts[math.min(call.n, #texts)] } end,
  })
  server:add("sbx-1")
  local result = run_against(server, "collect_logs", {
    "sbx-1", "--for", "500ms", "--every", "100ms", "--into", folder.path,
  })
  assert(result.code == 0, result.stderr)
  assert(server:count("logs") >= 3)
  assert(fs.read(folder.path .. "/sbx-1.log") == "a\nb\nc\nc\nd\n")
end)

test("collect_logs: follows a log, each line once; Ctrl-C leaves what was collected", function()
  local folder <close> = fs.tmpdir()
  local function collected()
    local names = fs.list(folder.path)
    return names[1] and fs.read(folder.path .. "/" .. names[1]) or ""
  end
  watch.run(function(start, look)
    local run <close> = start(scripts.argv("collect_logs", {
      "--start", "echo begun; sleep 0.2; echo ended",
      "--for", "10m", "--every", "100ms", "--into", folder.path,
    }))
    task.timeout(60, function()
      while not collected():find("ended\n", 1, true) do
        task.sleep(0.02)
      end
    end)
    assert(look(run.pid) >= 3)
    run:kill("INT")
    assert(run:finish() == 130, run.text.stderr)
  end)
  for _, line in ipairs({ "starting [^\n]*\n", "begun\n", "ended\n" }) do
    assert(select(2, collected():gsub(line, "")) == 1, collected())
  end
end)

-- ------------------------------------------------------------------ fan_out

test("fan_out: the same output is shown once, with all that gave it", function()
  local result = run_local("fan_out", { "--count", "3", "echo same" })
  assert(result.code == 0, result.stderr)
  local head = "== 3 of 3, exit code 0: python:3.11-slim #1, "
  assert(result.stdout:sub(1, #head) == head, result.stdout)
  local _, lines = result.stdout:gsub("\n", "")
  assert(lines == 2 and result.stdout:find("\nsame\n$"), result.stdout)
end)

test("fan_out: outputs that differ, failures and time running out are status 1", function()
  local result = run_local("fan_out", { "--count", "2", "-i", "a", "-i", "b", "hostname" })
  assert(result.code == 1 and result.stderr:find("4 different outputs", 1, true), result.stderr)
  result = run_local("fan_out", { "-n2", "echo no >&2; exit 7" })
  assert(result.code == 1 and result.stdout:find("== 2 of 2, exit code 7:", 1, true))
  assert(result.stdout:find("\nno\n$") and result.stderr:find("all the same", 1, true))

  local server <close> = api.start({
    exec = function(call)
      if call.body.command == "slow" then return 408, { message = "Exceeded 2 s" } end
    end,
  })
  result = run_against(server, "fan_out", { "-n2", "--timeout", "1500ms", "slow" })
  assert(result.code == 1 and result.stdout:find("== 2 of 2, command_timeout:", 1, true))
  assert(server.calls[#server.calls].op == "delete" and server:count("delete") == 2)
end)
