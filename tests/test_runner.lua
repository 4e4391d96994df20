-- The runner itself: it must fail what fails, and what leaves something behind.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")

-- Runs the runner on a file with this text; returns its exit code and output.
---@async
local function run_file(text, ...)
  local folder <close> = fs.tmpdir({ prefix = "runner-" })
  local path = folder.path .. "/test_sample.lua"
  fs.write(path, text)
  local argv = { host.executable(), "tests/run.lua", path, ... }
  local result = process.run(argv, { timeout = 30 })
  return result.code, result.stdout
end

-- Asserts that a test with this body fails and that the report says why.
---@async
local function expect_failure(body, reason)
  local code, output = run_file(('test("sample", function() %s end)'):format(body))
  assert(code == 1, output)
  assert(output:find("FAIL sample", 1, true), output)
  assert(output:find(reason, 1, true), output)
  assert(output:find("0 passed, 1 failed\n$"), output)
end

test("runner: reports what passed and exits with 0", function()
  local code, output = run_file('test("one", function() end) test("two", function() end)')
  assert(code == 0, output)
  assert(output:find("^ok   one") and output:find("2 passed, 0 failed\n$"), output)
end)

test("runner: -k selects by pattern and --list runs nothing", function()
  local text = 'test("one", function() end) test("two", error)'
  local code, output = run_file(text, "-k", "^o")
  assert(code == 0 and output:find("1 passed, 0 failed\n$"), output)
  code, output = run_file(text, "--list")
  assert(code == 0 and output == "one\ntwo\n", output)
end)

test("runner: fails when no test was selected", function()
  local code, output = run_file('test("one", function() end)', "-k", "nothing")
  assert(code == 1 and output == "0 passed, 0 failed\n", output)
end)

test("runner: shows an error with its traceback", function()
  expect_failure('error("this one broke")', "test_sample.lua:1: this one broke")
  expect_failure('error("this one broke")', "stack traceback")
end)

test("runner: fails a test past its deadline", function()
  local text = 'test("slow", { timeout = 0.05 }, function() require("sbx.task").sleep(60) end)'
  local code, output = run_file(text)
  assert(code == 1 and output:find("FAIL slow", 1, true), output)
end)

test("runner: fails a test that leaves a global behind", function()
  expect_failure("leaked = 1", "globals left behind: leaked")
end)

test("runner: fails a test that leaves an open file behind", function()
  expect_failure('package.loaded.keep = io.open("/dev/null")', "descriptors left behind")
end)

test("runner: fails a test that leaves a child process behind", function()
  expect_failure(
    'package.loaded.keep = require("sbx.process").spawn({ "sleep", "20" })',
    "children left behind"
  )
end)

test("runner: fails a test that leaves a sandbox behind", function()
  expect_failure(
    [[
      local server = require("sbx.local_server").start({})
      local options = { base_url = server.url, api_key = server.api_key }
      local client <close> = require("sbx.sandbox").client(options)
      client:create({ name = "a", docker_image = "python:3.11-slim" })
      server.stop()
    ]],
    "1 sandboxes left behind"
  )
end)
