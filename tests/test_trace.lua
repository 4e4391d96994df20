-- sbxlua --trace: what the file says, whatever becomes of the run, and what it never says.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local support = dofile(here .. "run_support.lua")
local traces = dofile(here .. "trace_support.lua")

local find = traces.find

---Runs `fn(path)` with the name of a file that is not there yet.
---@async
local function with_file(fn)
  local folder <close> = fs.tmpdir({ prefix = "trace-" })
  fn(folder.path .. "/run.json")
end

---@async
local function traced(path, code, options)
  return support.run({ "--trace", path, "-e", code }, options)
end

test("trace: tasks and what they wait for, paired and nested", function()
  with_file(function(path)
    local result = traced(path, [[
      local task = require("sbx.task")
      task.scope(function(scope)
        for i = 1, 3 do
          scope:spawn(function() task.sleep(0.01 * i); task.yield() end).name = "worker " .. i
        end
        task.daemon(function() task.sleep(60) end)
        scope:pspawn(function() error("broken") end)
        local steps = coroutine.wrap(function() task.sleep(0.005) coroutine.yield(1) end)
        steps()
      end)
      print("done")
    ]])
    assert(result.code == 0 and result.stdout == "done\n", result.stderr)
    local events, document = traces.read(path)
    assert(document.otherData.sbxlua and document.otherData.v == 1)
    assert(#find(events, { ph = "B", pid = 1, name = "task" }) == 7, "tasks")
    local names = {}
    for _, event in ipairs(find(events, { ph = "E", pid = 1 })) do
      names[event.args.name ~= "" and event.args.name or event.args.result] = event
    end
    for i = 1, 3 do
      assert(names["worker " .. i].args.result == "done")
    end
    assert(names.failed and names.cancelled and names.script and names.unfinished)
    local sleeps = find(events, { ph = "X", cat = "wait", name = "sleep" })
    assert(#sleeps == 5, #sleeps)
    local joined = find(events, { ph = "X", cat = "wait", name = "the end of its tasks" })
    assert(joined[1].args.by > 0, "nobody has ended the wait for the tasks")
    assert(fs.stat(path).mode & 511 == 384)
  end)
end)

test("trace: a mistake of the command line or of the file is told", function()
  local result = support.run({ "--trace" })
  assert(result.code == 2 and result.stderr:find("--trace: the name of a file is missing", 1, true))
  result = support.run({ "--trace=", "-e", "" })
  assert(result.code == 2 and result.stderr:find("the name of a file is missing", 1, true))
  with_file(function(path)
    result = traced(path .. "/no/such", "print(1)")
    assert(result.code == 1 and result.stdout == "")
    assert(result.stderr:find("--trace: open " .. path .. "/no/such: no such file", 1, true))
  end)
  result = traced("/dev/null", "print(1)")
  assert(result.code == 1 and result.stderr:find("--trace: open /dev/null", 1, true))
end)

test("trace: the arguments of a script are its own", function()
  local folder <close> = fs.tmpdir({ prefix = "trace-" })
  fs.write(folder.path .. "/s.lua", "print(table.concat(arg, ' '))")
  local result = support.run({ folder.path .. "/s.lua", "--trace", "x", "--record=y" })
  assert(result.code == 0 and result.stdout == "--trace x --record=y\n", result.stdout)
  assert(not fs.exists("x"))
end)

test("trace: whole after an error, os.exit and a deadlock; the exit status stays", function()
  for code, status in pairs({
    ["error('broken')"] = 1,
    ["require('sbx.task').sleep(0.01) os.exit(7)"] = 7,
    ["require('sbx.task').waiter():wait()"] = 1,
  }) do
    with_file(function(path)
      local result = traced(path, code)
      assert(result.code == status, code .. ": " .. result.stderr)
      assert(#find(traces.read(path), { ph = "E", pid = 1 }) >= 2)
    end)
  end
end)

local SLEEPER = [[
  local task = require("sbx.task")
  task.scope(function(scope)
    scope:defer(function() io.stderr:write("ending\n") task.sleep(%s) end)
    scope:spawn(function() print("asleep") task.sleep(100) end)
    task.sleep(100)
  end)
]]

test("trace: whole after Ctrl-C, after the second one, and after kill -9", function()
  with_file(function(path)
    local going <close> = support.start({ "--trace", path, "-e", SLEEPER:format("0.01") })
    going:await("stdout", "asleep")
    going:kill("INT")
    going.child:wait()
    local cancelled = 0
    for _, event in ipairs(find(traces.read(path), { ph = "E", pid = 1 })) do
      if event.args.result == "cancelled" then cancelled = cancelled + 1 end
    end
    assert(cancelled == 2, "two tasks were cancelled, not " .. cancelled)
  end)
  with_file(function(path)
    local going <close> = support.start({ "--trace", path, "-e", SLEEPER:format("100") })
    going:await("stdout", "asleep")
    going:kill("INT")
    going:await("stderr", "ending\n")
    going:kill("INT")
    going.child:wait()
    local events = traces.read(path, true)
    assert(#find(events, { ph = "X", cat = "wait", name = "sleep" }) >= 2, "what was at hand")
  end)
  with_file(function(path)
    local going <close> = support.start({ "--trace", path, "-e", [[
      local task = require("sbx.task")
      for _ = 1, 40 do task.sleep(0.01) end
      print("asleep") task.sleep(100)
    ]] })
    going:await("stdout", "asleep")
    going:kill("KILL")
    going.child:wait()
    assert(#find(traces.read(path, true), { name = "sleep" }) > 10)
  end)
end)

-- What the sandbox client does, with everything that must not be seen.
local SECRETIVE = [[
  local sandbox, task, http = require("sbx.sandbox"), require("sbx.task"), require("sbx.http")
  local url = os.getenv("PRIME_API_BASE_URL")
  local client <close> = sandbox.client()
  local box = client:create({
    name = "b", docker_image = "i", environment_vars = { GREETING = "env-value-1147" },
    secrets = { DB = "secret-value-2258" },
  })
  box:wait()
  box:exec("true", { env = { OTHER = "env-value-3369" } })
  http.get(url .. "/api/v1/sandbox/y?token=query-value-4470",
    { query = { q = "query-value-5581" }, bearer = "bearer-value-6692" })
  pcall(http.get, (url:gsub("//", "//user:password-value-7703@")) .. "/api/v1/sandbox/x")
  do
    local answer <close> = http.stream("GET", url .. "/api/v1/sandbox/z#fragment-value-8814")
    answer:all()
  end
  LEFT_OPEN = http.stream("GET", url .. "/api/v1/sandbox/left")
  task.scope(function(scope)
    scope:spawn(function() task.sleep(0) end).name = "with " .. os.getenv("PRIME_API_KEY")
  end)
  box:delete()
]]

test("trace: requests and phases of sandboxes, and no secret", function()
  local server <close> = api.start()
  with_file(function(path)
    local result = traced(path, SECRETIVE, {
      env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY },
    })
    assert(result.code == 0, result.stderr)
    local events, _, text = traces.read(path)
    for _, secret in ipairs({
      api.KEY, "-value-", "Bearer", "password", "gateway-token",
    }) do
      assert(not text:find(secret, 1, true), "the trace has " .. secret)
    end
    local names = {}
    for _, event in ipairs(find(events, { ph = "b", cat = "http" })) do
      names[event.name] = (names[event.name] or 0) + 1
    end
    assert(names["POST /api/v1/sandbox"] == 1 and names["GET /api/v1/sandbox/y"] == 1)
    assert(names["GET /api/v1/sandbox/z"] == 1)
    assert(names["DELETE /api/v1/sandbox/sbx-1"] == 1 and names["GET /api/v1/sandbox/x"] == 1)
    local statuses = {}
    for _, event in ipairs(find(events, { ph = "e", cat = "http" })) do
      statuses[event.args.status or 0] = true
    end
    assert(statuses[200])
    assert(names["GET /api/v1/sandbox/left"] == 1)
    local phases = {}
    for i, event in ipairs(find(events, { ph = "X", cat = "phase", pid = 3 })) do
      phases[i] = event.name
      assert(event.args.sandbox == "sbx-1")
    end
    local order = table.concat(phases, " ")
    assert(order:find("^accept .*boot first exec use delete$"), order)
  end)
end)

test("trace: what is tried again, and why", function()
  local server <close> = api.start({
    get = function(call)
      if call.n == 1 then return 503, { detail = "busy" } end
      if call.n == 2 then return 429, { detail = "slow down" }, { ["retry-after"] = "0" } end
    end,
  })
  with_file(function(path)
    local result = traced(path, [[
      local client <close> = require("sbx.sandbox").client()
      local box = client:create({ name = "b", docker_image = "i" })
      client:get(box.id)
      box:delete()
      local n = 0
      require("sbx.retry").call(function()
        n = n + 1
        local failure = { kind = "x", code = "AGAIN", retryable = true }
        if n < 3 then require("sbx.errors").raise(failure) end
      end, { pause = 0.001 })
    ]], { env = { PRIME_API_BASE_URL = server.url, PRIME_API_KEY = api.KEY } })
    assert(result.code == 0, result.stderr)
    local causes = {}
    for i, event in ipairs(find(traces.read(path), { ph = "i", cat = "retry" })) do
      causes[i] = event.args.op .. " " .. event.args.cause
    end
    local list = table.concat(causes, ", ")
    assert(list == "get 503, get 429, retry AGAIN, retry AGAIN", list)
  end)
end)

test("trace: a fleet of real sandboxes", function()
  with_file(function(path)
    local script = here .. "../scripts/fleet_demo.lua"
    local result = support.run({ "--local", "--trace=" .. path, script, "2" })
    assert(result.code == 0, result.stderr)
    local events = traces.read(path)
    local boxes = find(events, { ph = "E", pid = 3 })
    assert(#boxes == 2 and boxes[1].args.deleted and boxes[2].args.deleted)
    assert(#find(events, { cat = "phase", name = "delete" }) == 2)
    local shown = support.run({ "explain", path, "-o", "json" })
    assert(shown.code == 0, shown.stderr)
    local found = require("sbx.json").decode(shown.stdout)
    assert(found.v == 1 and found.whole and found.sandboxes == 2 and found.requests > 5)
    -- Every moment of the run is on the path once.
    local sum, at = 0, 0
    for _, step in ipairs(found.critical_path) do
      sum = sum + step.seconds
      assert(step.at >= at - 1e-5, "the path goes back")
      at = step.at
    end
    local last = found.critical_path[#found.critical_path]
    assert(math.abs(sum - (last.at + last.seconds)) < 1e-3,
      ("%f of %f"):format(sum, last.at + last.seconds))
    assert(found.slowest_sandbox.id:find("^sbx%-") and found.slowest_sandbox.seconds > 0)
  end)
end)
