-- Background jobs in a real sandbox: their ends, their outputs, what of them is left,
-- and the vendor's client looking at ours and we at its.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local log = require("sbx.log")
local process = require("sbx.process")
local sdks = dofile(here .. "sdk_support.lua")
local support = dofile(here .. "sandbox_exec_support.lua")
local task = require("sbx.task")

local JOB_FILES = "job_[%w.]+\n"

local function finished(client, job)
  return task.timeout(60, function()
    while true do
      local status = client:get_background_job(job.sandbox_id, job)
      if status.completed then return status end
      task.sleep(0.05)
    end
  end)
end

test("jobs: start, look, look again; quotes, comments, folders and variables survive", function()
  support.with_box(function(box, client)
    box:exec("mkfifo /tmp/go")
    local job = box:start_background_job(
      "read l < /tmp/go; echo \"it's $A\" > here; echo out; echo err >&2; exit 5 # )",
      { env = { A = "\xff ü" }, working_dir = "/var/tmp" })
    assert(job.id:find("^%x%x%x%x%x%x%x%x$") and job.sandbox_id == box.id)
    assert(job.exit_file == "/tmp/job_" .. job.id .. ".exit")
    local status = box:get_background_job(job)
    assert(not status.completed and not status.lost and status.exit_code == nil)
    local statuses, failures = client:get_background_jobs({ job })
    assert(not statuses[1].completed and next(failures) == nil)

    box:exec("echo > /tmp/go; rm /tmp/go")
    status = finished(client, job)
    assert(status.exit_code == 5 and status.stdout == "out\n" and status.stderr == "err\n")
    assert(not status.stdout_truncated and status.job_id == job.id)
    assert(box:exec("cat here", { working_dir = "/var/tmp", binary = true }).stdout
      == "it's \xff ü\n")
    assert(box:get_background_job(job.id).exit_code == 5)
    support.await_nothing(box, JOB_FILES)
  end)
end)

test("jobs: run waits for the end, with all bytes of the last 10 MiB", { timeout = 180 }, function()
  support.with_box(function(box, client)
    local status = box:run_background_job({ "sh", "-c", "printf '\\377\\000x'; exit 3" })
    assert(status.exit_code == 3 and status.stdout == "\xff\0x")
    status = box:run_background_job("head -c 11000000 /dev/zero; printf end; printf e >&2")
    assert(#status.stdout == 10 * 1024 * 1024 and status.stdout:sub(-4) == "\0end")
    assert(status.stdout_truncated and status.stderr == "e" and not status.stderr_truncated)

    local err = support.api.failure(box.run_background_job, box, "sleep 4711", { timeout = 3 })
    assert(err.kind == "command_timeout" and err.job.sandbox_id == box.id, tostring(err))
    assert(not box:get_background_job(err.job).completed) -- it runs on
    assert(client:cancel_background_job(err.job) == true)
  end)
end)

test("jobs: cancelling ends all that a job started, once", function()
  support.with_box(function(box, client)
    local job = box:start_background_job([[trap '' TERM
      (trap '' TERM; setsid sleep 4711 &); (sh -c "trap '' TERM; sleep 4712; sleep 4713" &)
      touch /tmp/begun; while :; do sleep 4714; done]])
    support.await(box, "rm /tmp/begun")
    assert(client:cancel_background_job(job) == true)
    support.await_nothing(box, JOB_FILES)
    assert(box:get_background_job(job).exit_code == 137)
    assert(client:cancel_background_job(job) == false)
    -- At once, before the command may have begun.
    for _ = 1, 10 do
      job = box:start_background_job("sleep 4711")
      assert(client:cancel_background_job(job) == true)
      assert(box:get_background_job(job).exit_code == 143)
    end
    support.await_nothing(box, JOB_FILES)
  end)
end)

test("jobs: one whose starter or waiter is cancelled does not run on", function()
  support.with_box(function(box)
    for _, seconds in ipairs({ 0, 0.002, 0.01, 0.4 }) do
      task.move_on(seconds, box.run_background_job, box, "sleep 4711")
    end
    support.await_nothing(box, JOB_FILES)
  end)
end)

test("jobs: a start whose answer is lost runs once; one that got nowhere is made anew", function()
  local n = 0
  local function lossy(call, pass)
    if support.kind(call) ~= "start" then return nil end
    n = n + 1
    if n == 1 then pass(call) end
    if n <= 2 then return 500, { message = "lost" } end
  end
  support.with_relay(lossy, function(client, box)
    for _ = 1, 2 do
      local job = client:start_background_job("sbx-1", "echo ran >> /var/tmp/count")
      assert(finished(client, job).exit_code == 0)
    end
    assert(n == 3 and box:exec("cat /var/tmp/count").stdout == "ran\nran\n")
  end)
end)

test("jobs: a job whose wrapper is killed is lost, and run says so", function()
  support.with_box(function(box, client)
    local err = support.api.failure(box.run_background_job, box, "kill -9 $PPID; sleep 4711")
    assert(err.code == "LOST" and err.outcome == "unknown", tostring(err))
    local status = box:get_background_job(err.job)
    assert(status.lost and not status.completed)
    assert(client:cancel_background_job(err.job) == true)
    support.await_nothing(box, JOB_FILES)
  end)
end)

test("jobs: many in many sandboxes, and those that fail apart", function()
  support.with_box(function(box, client)
    local jobs = {}
    for i = 1, 5 do
      jobs[i] = box:start_background_job("exit " .. i)
    end
    for _, job in ipairs(jobs) do
      finished(client, job)
    end
    jobs[6] = { id = "00000000", sandbox_id = "no-such-sandbox" }
    local statuses, failures = client:get_background_jobs(jobs)
    for i = 1, 5 do
      assert(statuses[i].exit_code == i)
    end
    assert(statuses[6] == nil and failures[6] ~= nil and next(failures) == 6)
  end)
end)

test("jobs: exit files that are none, and jobs that nobody noted a pid of", function()
  support.with_box(function(box, client)
    for _, text in ipairs({ "", "\n", "x\n", "-1\n", "1 2\n", ("9"):rep(3000) .. "\n" }) do
      box:upload_bytes("/tmp/job_0badcafe.exit", text)
      local ok, status = pcall(box.get_background_job, box, "0badcafe")
      assert(not ok or not status.completed, text)
    end
    box:upload_bytes("/tmp/job_0badcafe.exit", "7") -- without its line feed
    assert(box:get_background_job("0badcafe").exit_code == 7)
    assert(box:get_background_job("0badcafe").stdout == "")
    box:exec("rm /tmp/job_*")
    local err = support.api.failure(client.cancel_background_job, client,
      { id = "0badcafe", sandbox_id = box.id })
    assert(err.kind == "unsupported" and err.code == "NO_PID", tostring(err))
  end)
end)

test("jobs: misuse names the argument", function()
  support.with_box(function(box, client)
    for _, case in ipairs({
      { box.start_background_job, box, {}, nil, "command" },
      { box.start_background_job, box, "x", { timeout = 3 }, "timeout" },
      { box.run_background_job, box, "x", { poll = 0 }, "poll" },
      { box.get_background_job, box, "../../etc", nil, "job: expected" },
      { client.cancel_background_job, client, "0badcafe", nil, "job: expected a job, which" },
      { client.get_background_jobs, client, { "0badcafe" }, nil, "jobs%[1%]" },
    }) do
      local ok, err = pcall(table.unpack(case, 1, 4))
      assert(not ok and type(err) == "string" and err:find(case[5]), tostring(err))
    end
  end)
end)

test("jobs: one that does not exist is lost, another client's that begins is not", function()
  support.with_box(function(box, client)
    local status = box:get_background_job("00000000")
    assert(status.lost and not status.completed)
    local statuses = client:get_background_jobs({ { id = "00000000", sandbox_id = box.id } })
    assert(statuses[1].lost)
    box:upload_bytes("/tmp/job_0badcafe.stdout.log", "")
    status = box:get_background_job("0badcafe")
    assert(not status.lost and not status.completed)
    -- It may begin only after it was looked at.
    local looks = task.spawn(box.get_background_job, box, "0badcaff")
    task.sleep(0.2)
    box:upload_bytes("/tmp/job_0badcaff.stdout.log", "")
    assert(not looks:join().lost)
  end)
end)

test("jobs: an error while one is waited for names the job, which runs on", function()
  local function lose(call)
    if support.kind(call) == "look" then return 403, { message = "no" } end
  end
  support.with_relay(lose, function(client, box)
    local err = support.api.failure(client.run_background_job, client, "sbx-1", "exit 7")
    assert(err.status == 403 and err.job.sandbox_id == "sbx-1", tostring(err))
    assert(err.outcome == "unknown")
    support.await(box, "test -e " .. err.job.exit_file)
  end)
end)

test("jobs: one that could not be ended when its starter was cancelled is in the log", function()
  local lines = {}
  local function lose(call)
    local which = support.kind(call)
    if which == "look" then return support.api.HANG end
    if which == "kill" then return 403, { message = "no" } end
  end
  support.with_relay(lose, function(client, box)
    local started = task.spawn(task.move_on, 20, client.run_background_job, client, "sbx-1",
      "touch /var/tmp/begun; sleep 1")
    support.await(box, "test -e /var/tmp/begun")
    log.set_writer(function(line) lines[#lines + 1] = line end)
    started:cancel()
    started:pjoin()
    log.set_writer(nil)
  end)
  assert(table.concat(lines):find("may run on", 1, true), table.concat(lines))
end)

-- ------------------------------------------------------------ virtual machines

-- A server of virtual machines that knows each job's state by its id.
local function with_batch(handler, fn)
  local server <close> = support.api.start({ jobs = handler })
  local client <close> = server:client()
  fn(client, server)
end

test("jobs: in virtual machines one question asks for many", function()
  local asked
  local function answer(call)
    asked = call.body.jobs
    return 200, {
      statuses = { { sandbox_id = "sbx-1", job_id = "00000001", completed = false } },
      errors = {
        { sandbox_id = "sbx-2", job_id = "00000002", code = "NOT_FOUND", message = "no\27such" },
      },
    }
  end
  with_batch(answer, function(client, server)
    server:add("sbx-1", { vm = true })
    server:add("sbx-2", { vm = true })
    client:get("sbx-1")
    client:get("sbx-2")
    local statuses, failures = client:get_background_jobs({
      { id = "00000001", sandbox_id = "sbx-1" }, { id = "00000002", sandbox_id = "sbx-2" },
    })
    assert(#asked == 2 and asked[1].job_id == "00000001" and server:count("jobs") == 1)
    assert(statuses[1].completed == false and statuses[2] == nil)
    assert(failures[2].code == "NOT_FOUND" and not failures[2].message:find("\27"))
    assert(server:count("exec") == 0)
  end)
end)

test("jobs: in virtual machines each is asked for once; a failure is its own", function()
  local asked
  local function answer(call)
    asked = #call.body.jobs
    return 422, { detail = "no" }
  end
  with_batch(answer, function(client, server)
    server:add("sbx-1", { vm = true })
    server:add("sbx-2")
    client:get("sbx-1")
    client:get("sbx-2")
    server.handlers.exec = function()
      return 200, { stdout = "3 0 0 base64\n.\n.\n", stderr = "", exit_code = 0 }
    end
    local job = { id = "00000001", sandbox_id = "sbx-1" }
    local statuses, failures = client:get_background_jobs({
      job, { id = "00000002", sandbox_id = "sbx-2" }, job,
    })
    assert(asked == 1 and failures[1].status == 422 and failures[3].status == 422)
    assert(statuses[2].exit_code == 3 and failures[2] == nil)
  end)
end)

-- ------------------------------------------------------------- the vendor's SDK

local function with_sdk(python)
  support.with_box(function(box, client)
    local home <close> = fs.tmpdir()
    local job = box:start_background_job("echo 'out ü'; echo err >&2; exit 5")
    finished(client, job)
    local result = process.run({ python, here .. "peers/sdk_jobs.py", box.id, job.id }, {
      timeout = 60,
      env = {
        HOME = home.path, PRIME_API_KEY = client.config.api_key,
        PRIME_API_BASE_URL = client.base_url, NO_PROXY = "127.0.0.1",
      },
    })
    if result.code == sdks.NOT_ITS_KIND then return end
    assert(result.code == 0, result.stderr)
    local theirs = box:get_background_job((result.stdout:gsub("%s", "")))
    assert(theirs.completed and theirs.exit_code == 6)
    assert(theirs.stdout == "sdk's\n" and theirs.stderr == "e\n")
  end)
end

test("jobs: the vendor's SDK reads ours, and we read its", { timeout = 180 }, function()
  for _, python in ipairs(sdks.pythons()) do
    with_sdk(python)
  end
end)
