-- The runner itself: it must fail what fails, and what leaves something behind.

local runner = require("runner_support")

local function expect(result, code, ...)
  local output = result.stdout .. "\n" .. result.stderr
  assert(result.code == code, ("status %s\n%s"):format(result.code, output))
  for _, text in ipairs({ ... }) do
    assert(output:find(text, 1, true), ("no %q in\n%s"):format(text, output))
  end
end

-- Runs one test with this body, which must fail and say why.
---@async
local function expect_failure(body, ...)
  local result = runner.run(('test("sample", function() %s end)'):format(body))
  expect(result, 1, "FAIL sample (test_sample.lua:1)\n", "0 passed, 1 failed\n", ...)
  return result.stdout
end

-- ------------------------------------------------------------------ verdicts

test("runner: says nothing of what passes but its number", function()
  local result = runner.run('test("one", function() end) test("two", function() end)')
  expect(result, 0)
  test.equal(result.stdout, "2 passed, 0 failed\n")
  test.equal(result.stderr, "")
end)

test("runner: --verbose has a line for each test", function()
  local result = runner.run('test("one", function() end) test("two", function() end)', "-v")
  expect(result, 0)
  assert(result.stdout:find("^ok   one %(%d+%.%d%d s%)\nok   two %(%d+%.%d%d s%)\n2 passed"))
end)

test("runner: --quiet has the closing line alone", function()
  local result = runner.run('test("one", error) test("two", function() end)', "-q")
  expect(result, 1)
  test.equal(result.stdout, "1 passed, 1 failed\n")
end)

test("runner: a failure shows the error, its line and who called", function()
  local result = runner.run([[
    local function check_it(x)
      assert(x == 1)
    end
    test("sample", function()
      check_it(2)
    end)
  ]])
  expect(result, 1, "assertion failed!\n     at test_sample.lua:2: assert(x == 1)\n",
    "test_sample.lua:5: in function")
  assert(not result.stdout:find("sbx/", 1, true), result.stdout)
end)

test("runner: a failed claim shows what differs", function()
  expect_failure('test.equal({ a = { 1, 2 } }, { a = { 1, 3 } })',
    ".a[2]: got 2, expected 3\n     at test_sample.lua:1: test(")
end)

test("runner: an error object shows its fields and its cause", function()
  expect_failure('require("sbx.fs").read("/nowhere")',
    "open /nowhere: no such file or directory\n", "kind=io code=ENOENT")
  local result = runner.run([[
    local errors = require("sbx.errors")
    test("sample", function()
      local cause = errors.new { kind = "y", message = "inner" }
      errors.raise { kind = "x", message = "outer", cause = cause }
    end)
  ]])
  expect(result, 1, "outer\n", "caused by: inner\n")
end)

test("runner: any value can be what a test fails with", function()
  expect_failure("error({ a = { 1 } })", "raised a table: { a = { 1 } }")
  expect_failure("error()", "nil")
  expect_failure("error(setmetatable({}, { __tostring = error }))", "cannot be shown")
  expect_failure('error("two\\nlines", 0)', "     two\n     lines\n")
end)

test("runner: the failure of a task says where that was spawned", function()
  expect_failure([[
    require("sbx.task").spawn(function() error("broke in a task") end)
    require("sbx.task").sleep(60)
  ]], "broke in a task\n", "spawned at test_sample.lua:1")
end)

test("runner: a test past its deadline shows where its tasks are", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("slow", { timeout = 0.05 }, function()
      task.spawn(function()
        task.sleep(50)
      end)
      task.sleep(60)
    end)
    test("after it", function() end)
  ]])
  expect(result, 1, "FAIL slow", "timed out after 0.05 s\n",
    "waits on sleep\n        at test_sample.lua:6: task.sleep(60)\n",
    "waits on sleep\n        at test_sample.lua:4: task.sleep(50)\n", "1 passed, 1 failed\n")
end)

test("runner: a test that never waits is ended, too", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("busy", { timeout = 0.05 }, function()
      while true do
      end
    end)
    test("deaf", { timeout = 0.05 }, function()
      local function forever() while true do end end
      while true do pcall(forever) end
    end)
    test("yields", { timeout = 0.05 }, function()
      while true do task.yield() end
    end)
    test("task", { timeout = 0.05 }, function()
      task.spawn(function() while true do end end)
      task.sleep(60)
    end)
    test("virtual", { timeout = 0.05, clock = "virtual" }, function()
      while true do end
    end)
    test("generator", { timeout = 0.05 }, function()
      coroutine.wrap(function() while true do end end)()
    end)
    test("after it", function() end)
  ]])
  expect(result, 1, "FAIL busy", "a task goes on and on without waiting",
    "        at test_sample.lua:", "FAIL deaf", "FAIL yields", "FAIL task",
    "FAIL virtual", "FAIL generator", "1 passed, 6 failed\n")
end)

test("runner: a finalizer that never waits is ended, too", function()
  for _, clock in ipairs({ "real", "virtual" }) do
    local result = runner.run(([[
      require("sbx.core.task").cleanup_seconds(0.2)
      local options = { timeout = 0.05, clock = "%s" }
      local busy = setmetatable({}, { __close = function() while true do end end })
      test("in time", options, function()
        local _ <close> = busy
      end)
      test("too late", options, function()
        local _ <close> = busy
        require("sbx.process").run({ "sleep", "60" })
      end)
      test("after it", function() end)
    ]]):format(clock))
    expect(result, 1, "FAIL in time", "FAIL too late", "1 passed, 2 failed\n")
  end
end)

test("runner: --timeout is for tests that name none", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("slow", function() task.sleep(60) end)
    test("has time", { timeout = 30 }, function() task.sleep(0.1) end)
  ]], "--timeout", "50ms")
  expect(result, 1, "FAIL slow", "timed out after 0.05 s", "1 passed, 1 failed\n")
end)

test("runner: a deadlock fails its test at once", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("stuck", function()
      task.waiter("godot"):wait()
    end)
    test("after it", function() task.sleep(0) end)
  ]])
  expect(result, 1, "deadlock: every task waits for another one\n", "waits on godot\n",
    "at test_sample.lua:3: task.waiter", "1 passed, 1 failed\n")
end)

test("runner: os.exit fails the test that calls it, not the run", function()
  expect_failure("os.exit(0)", "called os.exit(0)")
  expect_failure("pcall(os.exit)", "called os.exit()")
  local result = runner.run('test("a", function() os.exit() end) test("b", function() end)')
  expect(result, 1, "1 passed, 1 failed\n")
end)

test("runner: a test that hides its cancellation fails all the same", function()
  local result = runner.run([[
    test("deaf", { timeout = 0.05 }, function()
      for _ = 1, 3 do pcall(require("sbx.task").sleep, 60) end
    end)
  ]])
  expect(result, 1, "FAIL deaf", "timed out after 0.05 s")
end)

-- --------------------------------------------------------- skipped, left out

test("runner: what is skipped or to be written is counted apart", function()
  local result = runner.run([[
    test("one", function() test.skip("no printer") end)
    test("two", { skip = "broken on Mondays" }, error)
    test("three", { skip = true }, error)
    test("four", function() require("sbx.task").spawn(function() skip("in a task") end) end)
    test.todo("five")
    test("six", function() end)
  ]], "-v")
  expect(result, 0, "skip one (", "no printer", "broken on Mondays", "in a task",
    "todo five (", "1 passed, 0 failed, 5 skipped\n")
end)

test("runner: a test that was skipped may still leave nothing behind", function()
  expect_failure('leaked = 1 test.skip("no reason")', "globals left behind: leaked")
end)

test("runner: `only` leaves the others out and says so", function()
  local result = runner.run([[
    test("one", error)
    test("two", { only = true }, function() end)
  ]])
  expect(result, 0, "1 passed, 0 failed\n", "1 tests are left out")
end)

test("runner: -k selects by pattern and --list runs nothing", function()
  local text = 'test("one", function() end) test("two", error)'
  local result = runner.run(text, "-k", "^o")
  expect(result, 0, "1 passed, 0 failed\n")
  result = runner.run(text, "--list")
  expect(result, 0)
  test.equal(result.stdout, "one\ntwo\n")
  result = runner.run({ ["test_a.lua"] = text, ["test_b.lua"] = "= broken" }, "--list")
  expect(result, 1, "sbxlua test: test_b.lua: ", "unexpected symbol")
  test.equal(result.stdout, "one\ntwo\n")
end)

test("runner: fails when no test was found", function()
  local result = runner.run('test("one", function() end)', "-k", "nothing")
  expect(result, 1, "no tests were found")
  test.equal(result.stdout, "0 passed, 0 failed\n")
  expect(runner.run({ ["other.lua"] = "" }), 1, "no tests were found")
end)

test("runner: --fail-fast stops at the first failure", function()
  local text = 'test("a", function() end) test("b", error) test("c", function() end)'
  expect(runner.run(text, "--fail-fast"), 1, "1 passed, 1 failed\n")
end)

-- -------------------------------------------------------------- left behind

test("runner: fails a test that leaves a global behind", function()
  expect_failure("leaked = 1", "globals left behind: leaked")
  expect_failure("print = error", "globals left behind: print")
end)

test("runner: fails a test that leaves an open file behind, and names it", function()
  expect_failure('package.loaded.keep = io.open("/dev/null")', "descriptors left behind: ",
    " (/dev/null)")
end)

test("runner: fails a test that leaves a child process behind, and names it", function()
  expect_failure('package.loaded.keep = require("sbx.process").spawn({ "sleep", "20" })',
    "children left behind: ", " (sleep 20)")
end)

test("runner: a test that yields inside an open scope fails, the next runs", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test("keeps a scope", function()
      package.loaded.keep = coroutine.wrap(function()
        local scope <close> = task.open_scope()
        scope:spawn(task.sleep, 60)
        coroutine.yield()
      end)
      package.loaded.keep()
    end)
    test("after it", function() task.sleep(0) end)
  ]])
  expect(result, 1, "attempt to yield inside a scope", "1 passed, 1 failed\n")
end)

test("runner: fails a test that leaves a listener behind", function()
  expect_failure('package.loaded.keep = require("sbx.core.net").listen("127.0.0.1", 0)',
    "descriptors left behind: ", "(socket:")
end)

test("runner: fails a test that leaves a server running", function()
  expect_failure([[
    local server = require("sbx.core.server")
    package.loaded.keep = server.listen({ host = "127.0.0.1", port = 0 })
  ]], "handles left behind: ", "descriptors left behind: ")
end)

test("runner: fails a test that leaves a sandbox behind", function()
  expect_failure([[
    local server = require("sbx.local_server").start({})
    local options = { base_url = server.url, api_key = server.api_key }
    local client <close> = require("sbx.sandbox").client(options)
    client:create({ name = "a", docker_image = "python:3.11-slim" })
    server.stop()
  ]], "sandboxes left behind: 1")
end)

test("runner: only the test that leaves something behind is blamed", function()
  local result = runner.run([[
    test("a", function() end)
    test("b", function() leaked = io.open("/dev/null") end)
    test("c", function() end)
  ]], "-v")
  expect(result, 1, "ok   a (", "FAIL b (", "ok   c (", "2 passed, 1 failed\n")
end)

-- ---------------------------------------------------------- files and folders

test("runner: a folder stands for the test files in it", function()
  local result = runner.run({
    ["tests/test_a.lua"] = 'test("a", function() end)',
    ["tests/deep/b_test.lua"] = 'test("b", function() end)',
    ["tests/regress_12_c.lua"] = 'test("c", function() end)',
    ["tests/helper.lua"] = "error()",
    ["tests/.hidden/test_d.lua"] = "error()",
    ["elsewhere/test_e.lua"] = "error()",
  }, "--list")
  expect(result, 0)
  test.equal(result.stdout, "b\nc\na\n")
end)

test("runner: without a folder `tests` it looks here, and a file counts once", function()
  local files = { ["x/test_a.lua"] = 'test("a", function() end)' }
  expect(runner.run(files), 0, "1 passed, 0 failed\n")
  expect(runner.run(files, "x", "x/test_a.lua"), 0, "1 passed, 0 failed\n")
end)

test("runner: a folder named like the command is no script", function()
  local files = { ["test/test_a.lua"] = 'test("a", function() end)' }
  expect(runner.run(files, "test"), 0, "1 passed, 0 failed\n")
end)

test("runner: modules beside a test file are found", function()
  expect(runner.run({
    ["tests/test_a.lua"] = 'local help = require("help") test("a", function() help() end)',
    ["tests/help.lua"] = "return function() end",
  }), 0, "1 passed, 0 failed\n")
end)

test("runner: a file that cannot be loaded fails, the others run", function()
  for problem, text in pairs({
    ["unexpected symbol near '='"] = "x = = 1",
    ["broke\n     at test_bad.lua:1: "] = 'error("broke")',
    ["makes globals: leaked"] = "leaked = 1",
    ["deadlock: every task"] = 'require("sbx.task").waiter("x"):wait()',
    ["called os.exit(0)"] = "os.exit(0)",
    ["skip outside a test: why"] = 'skip("why")',
    ["name: expected a string"] = "test(1, print)",
    ["test: expected a function"] = 'test("a")',
    ["unknown option 'tiemout'"] = 'test("a", { tiemout = 1 }, print)',
    ['expected "real" or "virtual"'] = 'test("a", { clock = "slow" }, print)',
  }) do
    local result = runner.run({
      ["test_bad.lua"] = text, ["test_good.lua"] = 'test("good", function() end)',
    }, "-k", "good")
    expect(result, 1, "FAIL test_bad.lua", problem, "1 passed, 1 failed\n")
  end
end)

test("runner: tests are added while their file is loaded, not later", function()
  expect_failure('test("inner", print)', "test: not inside a test that runs")
  expect_failure("test.before(print)", "test.before: not inside a test that runs")
end)

test("runner: a test file says how it is run", function()
  local result = require("run_support").run_code('require("sbx.test")("a", print)')
  assert(result.code == 1, result.code)
  test.contains(result.stderr, 'test: run this file with "sbxlua test FILE"')
end)

-- ------------------------------------------------------------ hooks and groups

test("runner: hooks run around each test of their group, the outer ones outside", function()
  local result = runner.run([[
    local function say(word) return function() io.write(word, " ") end end
    test.before(say("before"))
    test.group("inner", function()
      test.before(say("in"))
      test("a", say("a"))
      test.after(say("out"))
    end)
    test("b", function() test.after(say("1")) test.after(say("2")) io.write("b ") end)
    test.after(say("after"))
    test.after(say("late"))
  ]], "-v")
  expect(result, 0, "ok   inner: a (", "ok   b (",
    "before in a out late after ok", "before b 2 1 late after ok")
end)

test("runner: what runs after a test runs however it ended, and may wait", function()
  local result = runner.run([[
    local task = require("sbx.task")
    test.after(function() task.sleep(0.01) print("after") end)
    test("raises", function() error("x") end)
    test("too late", { timeout = 0.05 }, function() task.sleep(60) end)
    test("skipped", function() skip("x") end)
    test("stuck", function() task.waiter("x"):wait() end)
  ]])
  expect(result, 1, "0 passed, 3 failed, 1 skipped\n")
  test.equal(select(2, result.stdout:gsub("after\n", "")), 4)
end)

test("runner: a hook that fails fails the test, and another hook still runs", function()
  local result = runner.run([[
    test.group("a", function()
      test.after(function() print("first") end)
      test.after(function() error("hook broke") end)
      test("x", function() end)
    end)
    test.group("b", function()
      test.before(function() error("not ready") end)
      test("y", function() print("never") end)
    end)
  ]])
  expect(result, 1, "FAIL a: x", "hook broke", "first\n", "FAIL b: y", "not ready")
  assert(not result.stdout:find("never", 1, true), result.stdout)
end)

-- ------------------------------------------------------------------- command

test("runner: mistakes on the command line end with status 2", function()
  for _, words in ipairs({
    { "--nonsense" }, { "--seeds", "3" }, { "--seeds", "5..1" }, { "--seeds", "1..9999999" },
    { "--seed", "1", "--seeds", "1..2" }, { "--repeat", "0" }, { "-k", "(" }, { "nowhere.lua" },
  }) do
    local result = runner.run('test("a", function() end)', table.unpack(words))
    expect(result, 2, "sbxlua test: ")
    assert(result.stdout == "", result.stdout)
  end
  expect(runner.run("", "--help"), 0, "usage: sbxlua test")
end)

test("runner: Ctrl-C ends the test with its finalizers, and the run", function()
  local code, stdout, stderr = runner.interrupt([[
    local task = require("sbx.task")
    test("first", function()
      test.after(function() task.sleep(0.01) print("after") end)
      local _ <close> = setmetatable({}, {
        __close = function() task.sleep(0.01) print("close") end,
      })
      print("ready")
      task.sleep(60)
    end)
    test("second", function() print("never") end)
  ]], "ready\n")
  test.equal(code, 130)
  test.contains(stdout, "close\nafter\n")
  test.contains(stdout, "0 passed, 0 failed\n")
  assert(not stdout:find("never", 1, true), stdout)
  test.contains(stderr, "SIGINT")
end)

test("runner: Ctrl-C while files are loaded ends the run", function()
  local code, stdout = runner.interrupt([[
    print("ready")
    require("sbx.task").sleep(60)
    test("never", function() print("never") end)
  ]], "ready\n")
  test.equal(code, 130)
  assert(not stdout:find("never", 1, true), stdout)
end)

test("runner: --local has sandboxes on this machine", function()
  local result = runner.run([[
    local sandbox = require("sbx.sandbox")
    test("a", function()
      local client <close> = sandbox.client()
      test.equal(#client:list(), 0)
    end)
  ]], "--local")
  expect(result, 0, "1 passed, 0 failed\n")
end)
