-- GET /metrics, read with the official client's parser.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local kept_driver = dofile(here .. "peers/kept_driver.lua")

local errors = require("sbx.errors")
local figures = require("sbx.server.metrics_text")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local keys = require("sbx.server.keys")
local process = require("sbx.process")
local task = require("sbx.task")

local PYTHON = "/usr/bin/python3"

-- { types = {family = type}, value = fn(name, labels) } of a text.
local function parse(text)
  if process.run({ PYTHON, "-c", "import prometheus_client" }).code ~= 0 then
    skip("no prometheus_client for Python here: `./dev deps test` installs it")
  end
  local result = process.run({ PYTHON, here .. "peers/metrics.py" }, { input = text })
  assert(result.code == 0, result.stderr .. text)
  local read = json.decode(result.stdout)
  function read.value(name, labels)
    for _, sample in ipairs(read.samples) do
      local fits = sample[1] == name
      for label, value in pairs(labels or {}) do
        fits = fits and sample[2][label] == value
      end
      if fits then return sample[3] end
    end
  end
  return read
end

local function check(read, name, labels, expected)
  local got = read.value(name, labels)
  assert(got == expected, ("%s %s: %s, expected %s"):format(name, json.encode(json.object(labels)),
    tostring(got), tostring(expected)))
end

local function scrape(api)
  local res = http.get(api.server.url .. "/metrics", {
    headers = { Authorization = "Bearer " .. api.server.api_key },
  })
  assert(res.status == 200, res.body)
  assert(res.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
  return parse(res.body)
end

local function with_fake_server(fn, options)
  local home <close> = fs.tmpdir()
  local driver = kept_driver.open { folder = home.path }
  local opts = { driver = driver }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  return support.with_server(function(api)
    return fn(api, driver)
  end, opts)
end

test("metrics: text that the official parser reads as it was meant", function()
  local counter = figures.family("counter", "c_total", "back\\slash\nand line", { "a", "b" })
  local strange = { 'quote " and \\', "line\nbreak", "ü", "", "}{=," }
  for index, value in ipairs(strange) do
    counter:add(index, value, "x")
    counter:add(0.5, value, "x")
  end
  local histogram = figures.histogram("h_seconds", "Times.", { 0.1, 1, 10 }, { "of" })
  for _, value in ipairs({ 0.05, 0.1, 0.2, 5, 100 }) do
    histogram:observe(value, "t")
  end
  local gauge = figures.family("gauge", "g", "One.")
  gauge:set(math.huge)
  local large = figures.family("gauge", "large", "Large.")
  large:set(1 << 53)
  local empty = figures.family("counter", "none_total", "Never counted.", { "a" })
  local read = parse(figures.render({ counter, histogram, gauge, large, empty }))
  for index, value in ipairs(strange) do
    check(read, "c_total", { a = value, b = "x" }, index + 0.5)
  end
  check(read, "h_seconds_bucket", { of = "t", le = "0.1" }, 2)
  check(read, "h_seconds_bucket", { of = "t", le = "1" }, 3)
  check(read, "h_seconds_bucket", { of = "t", le = "10" }, 4)
  check(read, "h_seconds_bucket", { of = "t", le = "+Inf" }, 5)
  check(read, "h_seconds_count", { of = "t" }, 5)
  check(read, "large", {}, 1 << 53)
  check(read, "g", {}, "inf")
  assert(read.types.h_seconds == "histogram" and read.types.c == "counter")
  assert(read.types.g == "gauge" and not read.types.none)
end)

test("metrics: how sandboxes stand and how they ended", function()
  local blocked
  with_fake_server(function(api, driver)
    driver.boot = function(spec)
      if spec.image == "broken" then error("no such thing", 0) end
      if spec.image == "gone" then
        errors.raise { kind = "image_pull", message = "no such image" }
      end
      if spec.image == "slow" then blocked:wait() end
    end
    blocked = task.waiter("the test")
    local boxes = {}
    for index = 1, 5 do
      boxes[index] = api:running({})
    end
    api:call("DELETE", "/sandbox/" .. boxes[1].id)
    driver.boxes[boxes[2].id].listener("died", nil)
    driver.boxes[boxes[3].id].listener("killed", "OOM_KILLED")
    local fleet = api.server.fleet
    fleet:finish(fleet.store:get(boxes[4].id), "TIMEOUT", "lifetime is over")
    api:await(api:create({ docker_image = "broken" }).id, "ERROR")
    api:await(api:create({ docker_image = "gone" }).id, "ERROR")
    api:await(api:create({ docker_image = "slow" }).id, "PROVISIONING")
    local read = scrape(api)
    local function ended(status, cause)
      return { status = status, cause = cause }
    end
    check(read, "sbxlua_sandboxes_created_total", {}, 8)
    check(read, "sbxlua_sandboxes", { status = "RUNNING" }, 1)
    check(read, "sbxlua_sandboxes", { status = "PROVISIONING" }, 1)
    check(read, "sbxlua_sandboxes", { status = "PENDING" }, 0)
    check(read, "sbxlua_sandboxes_ended_total", ended("TERMINATED", "DELETED"), 1)
    check(read, "sbxlua_sandboxes_ended_total", ended("TIMEOUT", "TIMEOUT"), 1)
    check(read, "sbxlua_sandboxes_ended_total", ended("ERROR", "SANDBOX_DIED"), 1)
    check(read, "sbxlua_sandboxes_ended_total", ended("ERROR", "OOM_KILLED"), 1)
    check(read, "sbxlua_sandboxes_ended_total", ended("ERROR", "BOOT_FAILED"), 1)
    check(read, "sbxlua_sandboxes_ended_total", ended("ERROR", "IMAGE_PULL_FAILED"), 1)
    check(read, "sbxlua_sandbox_boot_seconds_count", {}, 5)
    check(read, "sbxlua_sandbox_wait_seconds_count", {}, 8)
    blocked:wake()
  end)
end)

test("metrics: requests, bytes, refusals, commands, exposed ports, the process", function()
  with_fake_server(function(api, driver)
    driver.commands.bad = { exit_code = 1 }
    driver.commands.late = { timed_out = true, exit_code = 137 }
    local _, gateway = api:running({})
    gateway:exec("good")
    gateway:exec("bad")
    gateway:exec("late")
    driver.commands.gone = function()
      errors.raise { kind = "io", code = "ENOENT", message = "no such directory" }
    end
    gateway:exec("gone")
    local until_seen = task.waiter("the test")
    driver.commands.long = function()
      until_seen:wait()
    end
    local long = task.spawn(gateway.exec, gateway, "long")
    local other = api:running({})
    for index = 1, 3 do
      api:call("POST", "/sandbox/" .. other.id .. "/expose", { port = 8000 + index })
    end
    local _, list = api:call("GET", "/sandbox/" .. other.id .. "/expose")
    api:call("DELETE", "/sandbox/" .. other.id .. "/expose/" .. list.exposures[1].exposure_id)
    for _ = 1, 4 do
      api:call("GET", "/sandbox/expose/all")
    end
    local url = api.server.url
    http.get(url .. "/no/such/path")
    http.request("BREW", url .. "/pot")
    http.get(url .. "/api/v1/sandbox")
    local body = http.get(url .. "/page/icon.svg").body

    local read = scrape(api)
    local function requests(method, route, code, expected)
      local labels = { method = method, route = route, code = code }
      check(read, "sbxlua_http_requests_total", labels, expected)
    end
    local exec = "/gw/{ns}/{job}/exec"
    requests("POST", exec, "200", 2)
    requests("POST", exec, "408", 1)
    requests("POST", exec, "422", 1)
    requests("GET", "/api/v1/sandbox", "401", 1)
    requests("GET", "/api/v1/sandbox/expose/all", "200", 2)
    requests("GET", "/api/v1/sandbox/expose/all", "429", 2)
    check(read, "sbxlua_limits_hit_total", { route = "/api/v1/sandbox/expose/all" }, 2)
    requests("GET", "other", "404", 1)
    requests("other", "other", "404", 1)
    check(read, "sbxlua_http_request_seconds_count", { method = "POST", route = exec }, 4)
    check(read, "sbxlua_http_sent_bytes_total", { route = "/page/{file}" }, #body)
    local created = { method = "POST", route = "/api/v1/sandbox" }
    assert(read.value("sbxlua_http_received_bytes_total", created) > 0)
    check(read, "sbxlua_http_requests_under_way", {}, 2) -- the long one, and this
    check(read, "sbxlua_execs_running", {}, 1)
    check(read, "sbxlua_execs_total", { result = "success" }, 1)
    check(read, "sbxlua_execs_total", { result = "failure" }, 1)
    check(read, "sbxlua_execs_total", { result = "timeout" }, 1)
    check(read, "sbxlua_execs_total", { result = "error" }, 1)
    check(read, "sbxlua_exec_seconds_count", {}, 4)
    check(read, "sbxlua_exposures", {}, 2)
    check(read, "sbxlua_build_info", { driver = "kept", profile = "container" }, 1)
    for _, name in ipairs({
      "process_resident_memory_bytes", "process_open_fds", "process_max_fds", "sbxlua_tasks",
      "process_cpu_seconds_total", "process_start_time_seconds", "sbxlua_uptime_seconds",
    }) do
      assert((read.value(name) or 0) > 0, name)
    end
    local age = os.time() - read.value("process_start_time_seconds")
    assert(age > -5 and age < 3600, age)

    until_seen:wake()
    long:join()
    api:call("DELETE", "/sandbox/" .. other.id)
    read = scrape(api)
    check(read, "sbxlua_exposures", {}, 0)
    check(read, "sbxlua_execs_running", {}, 0)
  end, { limits = { expose_all = { count = 2, seconds = 60 } } })
end)

test("metrics: commands of virtual machines", function()
  support.with_server(function(api)
    local client <close> = require("sbx.sandbox").client {
      base_url = api.server.url, api_key = api.server.api_key,
    }
    local box <close> = client:create { name = "vm", docker_image = "debian:12", vm = true }
    box:wait()
    assert(box:exec("exit 4").exit_code == 4)
    local read = scrape(api)
    check(read, "sbxlua_execs_total", { result = "failure" }, 1)
    check(read, "sbxlua_execs_running", {}, 0)
    local _, activity = api:call("GET", "/sandbox/" .. box.id .. "/activity")
    local last = activity.execs[#activity.execs]
    assert(last.exit_code == 4 and last.command == "exit 4", json.encode(last))
  end, { profile = "both" })
end)

test("metrics: nothing is counted anew", function()
  with_fake_server(function(api)
    api:running({})
    local function never()
      error("looked at every sandbox", 0)
    end
    local fleet = api.server.fleet
    local living, list = fleet.living, fleet.store.list
    fleet.living = setmetatable({}, { __pairs = never })
    fleet.store.list = never
    local read = scrape(api)
    fleet.living, fleet.store.list = living, list
    check(read, "sbxlua_sandboxes", { status = "RUNNING" }, 1)
  end)
end)

test("metrics: for the server's own key alone, unless they are open", function()
  local function status(api, key)
    return http.get(api.server.url .. "/metrics", {
      headers = { Authorization = key and "Bearer " .. key },
    }).status
  end
  with_fake_server(function(api)
    local hash = require("sbx.hash")
    api.server.keys:replace({ { hash = hash.sha256("anns"), name = "ann" } })
    assert(api.server.keys:find("anns").name ~= keys.OWNER)
    assert(status(api) == 401 and status(api, "wrong") == 401)
    assert(status(api, "anns") == 403 and status(api, api.server.api_key) == 200)

    -- Nor do others see what is not theirs.
    local made = api:running({})
    local function ask(path, key)
      local res = http.get(api.server.url .. "/api/v1" .. path, {
        headers = { Authorization = "Bearer " .. key },
      })
      return res.status, json.decode(res.body)
    end
    local _, mine = ask("/events?after=0", api.server.api_key)
    local _, hers = ask("/events?after=0", "anns")
    assert(#mine.sandboxes == 1 and #hers.sandboxes == 0 and #hers.events == 0)
    assert(hers.after == mine.after)
    assert(ask("/sandbox/" .. made.id .. "/activity", "anns") == 404)
  end)
  with_fake_server(function(api)
    assert(status(api) == 200)
    local foreign = { headers = { Host = "x.example" } }
    assert(http.get(api.server.url .. "/metrics", foreign).status == 403)
  end, { metrics_open = true })
end)

test("serve: says where the page is; --metrics-open", { timeout = 180 }, function()
  local home <close> = fs.tmpdir()
  local child <close> = process.spawn({
    host.executable(), "serve", "--driver", "sim", "--listen", "127.0.0.1:0", "--no-state",
    "--key-file", home.path .. "/key", "--metrics-open",
  }, { stderr = "pipe" })
  local url
  for line in child.stderr:lines() do
    url = line:match("in a browser at (http://%S+)/$")
    if url then break end
  end
  assert(http.get(url .. "/").body:find("<title>sbxlua</title>", 1, true))
  check(parse(http.get(url .. "/metrics").body), "sbxlua_build_info", { driver = "sim" }, 1)
end)
