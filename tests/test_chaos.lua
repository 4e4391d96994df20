-- Faults on demand: each of them as a client sees it, and that the seed alone decides.

local chaos = require("sbx.server.chaos")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local process = require("sbx.process")
local rules = require("sbx.server.chaos.rules")
local script = require("sbx.server.script")
local task = require("sbx.task")
local test_module = require("sbx.test")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sim_support.lua")

local with_server = support.with_server

-- One request: the answer, or nil and the error.
local function call(running, method, path, body, options)
  local given = {
    headers = { Authorization = "Bearer " .. running.api_key }, json = body, timeout = 60,
    at_most_once = true,
  }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  local ok, result = pcall(http.request, method, running.url .. path, given)
  if ok then return result end
  return nil, result
end

local function list(running)
  return json.decode(assert(call(running, "GET", "/api/v1/sandbox?per_page=1000")).body)
end

local function create(running, name)
  return call(running, "POST", "/api/v1/sandbox", { name = name or "a", docker_image = "x" })
end

-- A sandbox that runs: its gateway's URL and token.
local function gateway(running)
  local id = json.decode(assert(create(running)).body).id
  task.timeout(60, function()
    while running.fleet.store:get(id).status ~= "RUNNING" do
      task.sleep(0.005)
    end
  end)
  local answer = assert(call(running, "POST", ("/api/v1/sandbox/%s/auth"):format(id)))
  local auth = json.decode(answer.body)
  local base = ("/gw/%s/%s"):format(auth.user_ns, auth.job_id)
  return base, { headers = { Authorization = "Bearer " .. auth.token } }, auth
end

test("answers in place of what was asked for, before and after it was done", function()
  with_server({ chaos = { create = { nth = {
    [1] = 503, [2] = { status = 429, retry_after = 3 }, [3] = { status = 504, after = true },
    [4] = 409,
  } } } }, function(running)
    local answer = create(running)
    assert(answer.status == 503 and json.decode(answer.body).detail == "chaos: 503")
    answer = create(running)
    assert(answer.status == 429 and answer.headers["retry-after"] == "3")
    assert(list(running).total == 0)
    assert(create(running).status == 504 and list(running).total == 1)
    assert(create(running).status == 409 and list(running).total == 1)
    assert(create(running).status == 201 and list(running).total == 2)
  end)
end)

test("lost after it was done, cut in the head and in the body, served twice, late", function()
  local clock = test_module.clock()
  with_server({ chaos = { create = { nth = {
    [1] = "lost", [2] = { cut = 5 }, [3] = { cut = 300 }, [4] = { cut = 1 << 30 },
    [5] = "duplicate", [6] = { duplicate = true, cut = 0 }, [7] = { latency = 60 },
  } } } }, function(running)
    local expected = { 1, 2, 3, 4, 6, 8 }
    for n, total in ipairs(expected) do
      local answer, err = create(running)
      local arrives = n == 4 or n == 5
      assert((answer ~= nil) == arrives, n .. tostring(err))
      assert(not arrives or answer.status == 201)
      assert(arrives or err.kind == "http", tostring(err))
      assert(list(running).total == total, n)
    end
    local late = task.spawn(create, running)
    clock:advance(50)
    assert(late.status ~= "done")
    assert(list(running).total == 8)
    clock:advance(20)
    assert(late:join().status == 201)
  end)
end)

test("files: an upload twice, a download cut after so many bytes", function()
  with_server({ chaos = {
    upload = { nth = { [1] = "duplicate", [2] = { status = 502, after = true }, [3] = "lost" } },
    download = { nth = { [1] = { cut = 100000 }, [2] = "lost", [4] = { cut = 1 << 30 } } },
  } }, function(running)
    local base, options = gateway(running)
    local content = ("0123456789"):rep(30000)
    for n = 1, 3 do
      local given = { headers = options.headers, multipart = {
        { name = "file", filename = "a", data = content .. n },
      } }
      local answer = call(running, "POST", base .. "/upload?path=/tmp/a", nil, given)
      assert((n == 3) == (answer == nil))
      assert(n ~= 1 or json.decode(answer.body).size == #content + 1)
      assert(n ~= 2 or answer.status == 502)
    end
    for n = 1, 4 do
      local answer, err = call(running, "GET", base .. "/download?path=/tmp/a", nil, options)
      assert((n >= 3) == (answer ~= nil), tostring(err))
      assert(n < 3 or answer.body == content .. 3)
      assert(n >= 3 or err.kind == "http")
    end
  end)
end)

test("a command whose request comes twice runs twice", function()
  with_server({ chaos = { exec = { nth = { [1] = "duplicate" } } } }, function(running)
    local base, options = gateway(running)
    local function exec(command)
      local answer = call(running, "POST", base .. "/exec", { command = command }, options)
      return json.decode(answer.body)
    end
    assert(exec("echo x >> /tmp/f; cat /tmp/f").stdout == "x\nx\n")
    assert(exec("cat /tmp/f").stdout == "x\nx\n")
  end)
end)

test("a clock that is off shows in heads and times, and nowhere else", function()
  local offset = -7200
  with_server({ chaos = { clock = { offset = offset } } }, function(running)
    local before = os.time()
    local answer = create(running)
    local function near(stamp)
      return stamp:sub(1, 13) == os.date("!%Y-%m-%dT%H", before + offset)
        or os.date("!%M", before + offset) >= "59"
    end
    local object = json.decode(answer.body)
    assert(near(object.createdAt) and near(object.updatedAt), object.createdAt)
    local base, options, auth = gateway(running)
    assert(auth.expires_at < os.date("!%Y-%m-%dT%H:%M:%SZ", before), auth.expires_at)
    assert(answer.headers.date:sub(1, 19) == os.date("!%a, %d %b %Y %H", before + offset)
      or os.date("!%M", before + offset) >= "59", answer.headers.date)
    local told = '{"createdAt":"2020-01-01T00:00:00Z"}'
    local said = json.decode(call(running, "POST", base .. "/exec", {
      command = "echo '" .. told .. "'",
    }, options).body)
    assert(said.stdout == told .. "\n", said.stdout)
  end)
end)

test("sandboxes: images that cannot be pulled, and deaths", function()
  local clock = test_module.clock()
  with_server({ seed = 3, chaos = { sandboxes = {
    image_pull = 0.3, boot = { 1, 2 },
    death = { p = 0.5, after = { 10, 20 }, reason = "struck", error_type = "OOM_KILLED" },
  } } }, function(running)
    for n = 1, 40 do
      create(running, "n" .. n)
    end
    clock:advance(5)
    local counts = {}
    local function count()
      counts = {}
      for _, one in ipairs(list(running).sandboxes) do
        local word = one.errorType == json.null and one.status or one.errorType
        counts[word] = (counts[word] or 0) + 1
      end
      return counts
    end
    local pulled = count().IMAGE_PULL_FAILED
    assert(pulled > 5 and pulled < 20 and counts.RUNNING == 40 - pulled)
    clock:advance(20)
    assert(count().OOM_KILLED > 5 and counts.RUNNING > 5)
    assert(counts.OOM_KILLED + counts.RUNNING + pulled == 40)
  end)
end)

test("probabilities are kept, and one fault leaves the others alone", function()
  local function counted(given, seed)
    local made = rules.of(script.of(given), seed)
    local count, set = {}, {}
    for n = 1, 4000 do
      local plan = made:request("get", n)
      local name = plan.status or plan.lost and "lost" or plan.cut and "cut" or "none"
      count[name] = (count[name] or 0) + 1
      if plan.duplicate then count.twice = (count.twice or 0) + 1 end
      set[n] = name
    end
    return count, set
  end
  local given = { all = { lost = 0.1 }, get = {
    answers = { [500] = 0.1, [429] = { p = 0.2, retry_after = 1 } }, cut = 0.1, duplicate = 0.05,
  } }
  local count, set = counted(given, 1)
  local function near(name, p)
    test_module.near(count[name] / 4000, p, 0.03, tostring(name))
  end
  near(500, 0.1)
  near(429, 0.2)
  near("lost", 0.07)
  near("cut", 0.063)
  near("twice", 0.05)
  given.get.latency = { p50 = 0.1, p99 = 3 }
  test_module.equal(select(2, counted(given, 1)), set)
  assert(select(2, counted(given, 2))[1] ~= nil)
  given.get.lost = 0
  assert(counted(given, 1).lost == nil)
end)

test("delays have the distribution that was asked for", function()
  local made = rules.of(script.of {
    get = { latency = { p50 = 0.1, p99 = 2 } }, list = { latency = { 1, 3 } },
    auth = { latency = function(random) return random(5) end },
  }, 5)
  local values = {}
  for n = 1, 2000 do
    values[n] = made:request("get", n).latency
    local even = made:request("list", n).latency
    assert(even >= 1 and even <= 3)
    assert(math.type(made:request("auth", n).latency) == "integer")
  end
  table.sort(values)
  test_module.near(values[1000], 0.1, 0.015)
  test_module.near(values[1980], 2, 0.8)
end)

test("what is wrong with a file is told with its place", function()
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/chaos.lua"
  for text, words in pairs {
    ["return {\n  craete = {},\n}"] =
      "chaos.lua:2: craete: unknown in chaos; did you mean 'create'",
    ["return {\n  create = {\n    lots = 1 } }"] = "chaos.lua:3: lots: unknown in create",
    ["return {\n get = { lost = 2 } }"] = "chaos.lua:2: lost: expected a probability",
    ["return { get = {\n answers = { [200] = 0.1 } } }"] = "chaos.lua:2: 200: expected a status",
    ["return { get = { answers = { [500] = 0.7, [502] = 0.7 } } }"] = "above 1 together",
    ["return { get = { latency = 'slow' } }"] = "latency: expected a number",
    ["return { get = { nth = { [0] = 500 } } }"] = "numbers of requests",
    ["return { sandboxes = { death = { p = 1 } } }"] = "needs either after or per_hour",
    ["return { clock = { offset = 'x' } }"] = "offset: expected a number of seconds",
    ["return {"] = "chaos.lua:1:",
    ["error('no')"] = "chaos.lua:1: no",
  } do
    fs.write(path, text)
    local err = test_module.raises(function() chaos.open { path = path } end, "script")
    assert(err.message:find(words, 1, true), err.message)
  end
end)

-- -------------------------------------------------------------------------- the log

local STORM = {
  all = { latency = { p50 = 0.002, p99 = 0.02 }, answers = { [500] = 0.05, [503] = 0.05 } },
  create = { duplicate = 0.2, lost = 0.1 },
  get = { cut = { p = 0.3, at = { 0, 400 } } },
  sandboxes = { image_pull = 0.2, death = { per_hour = 1 } },
}

-- The log of a storm over the same requests, `at_once` of them at a time.
local function storm_log(seed, at_once, virtual)
  local folder <close> = fs.tmpdir()
  local path = folder.path .. "/chaos.log"
  with_server({ chaos = STORM, seed = seed, log = path }, function(running)
    local clock = virtual and test_module.clock()
    local work = task.spawn(function()
      task.map({ "a", "b", "c", "d", "e", "f", "g", "h" }, function(name)
        for _ = 1, 3 do
          create(running, name)
          call(running, "GET", "/api/v1/sandbox/none")
          call(running, "GET", "/api/v1/sandbox")
        end
      end, { limit = at_once })
    end)
    while clock and work.status ~= "done" do
      clock:advance(1)
    end
    work:join()
  end)
  return fs.read(path)
end

test("the same seed writes the same log, byte for byte; another one another", function()
  local first = storm_log(11, 1)
  assert(select(2, first:gsub("\n", "")) > 60, first)
  for line in first:gmatch("[^\n]+") do
    local entry = json.decode(line)
    assert(entry.class and entry.n and next(entry))
  end
  assert(first == storm_log(11, 1))
  assert(first == storm_log(11, 8), "what goes on at once has changed what is decided")
  assert(first ~= storm_log(12, 1))
end)

test("the same on the virtual clock", function()
  local first = storm_log(11, 8, true)
  assert(first == storm_log(11, 8, true))
  assert(first ~= storm_log(13, 8, true))
end)

test("serve --chaos --seed: two runs of a server write the same log", function()
  local folder <close> = fs.tmpdir()
  fs.write(folder.path .. "/chaos.lua", [[return {
    all = { answers = { [503] = 0.3 }, lost = 0.2, cut = 0.2 },
  }]])
  local function run(name)
    local path = folder.path .. "/" .. name
    local child = process.spawn({
      host.executable(), "serve", "--driver", "sim", "--no-state", "--listen", "127.0.0.1:0",
      "--chaos", folder.path .. "/chaos.lua", "--seed", "5", "--chaos-log", path,
    }, { stderr = "pipe", env = { PRIME_API_KEY = "test-key" } })
    local url = child.stderr:line():match("http://[%d.:]+")
    local running = { url = url, api_key = "test-key" }
    for n = 1, 20 do
      create(running, "n" .. n)
      call(running, "GET", "/api/v1/sandbox")
    end
    child:kill("TERM")
    assert(child:wait() == 0)
    return fs.read(path)
  end
  local first = run("one")
  assert(select(2, first:gsub("\n", "")) > 10, first)
  assert(first == run("two"))
end)
