-- Commands that run on their own in a real sandbox: their bytes, their input, their
-- output as it comes, their end before its time.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sandbox_exec_support.lua")
local task = require("sbx.task")

local bytes = {}
for code = 1, 255 do
  bytes[code] = string.char(code)
end
local ALL = table.concat(bytes) -- all but NUL
-- The lock of a start that may come later stays, empty; so does that of an upload.
local LOCKS = "%.sbx%-[%x.in]+\n"
local SPOOL = { spool = true }

local function failure(...)
  return support.api.failure(...)
end

test("spool: all byte values on both streams, and every exit code", function()
  support.with_box(function(box)
    local write = [[python3 -c 'import sys
sys.stdout.buffer.write(bytes(range(256)) * 3)
sys.stderr.buffer.write(bytes(range(255, -1, -1)))']]
    local result = box:exec(write, { binary = true })
    assert(result.stdout == ("\0" .. ALL):rep(3), #result.stdout)
    assert(result.stderr == ALL:reverse() .. "\0", #result.stderr)
    assert(result.outcome == "exited" and result.duration >= 0 and not result.stdout_truncated)
    task.map({ 0, 1, 2, 5, 63, 64, 75, 76, 126, 127, 128, 129, 137, 143, 254, 255 }, function(code)
      assert(box:exec("exit " .. code, SPOOL).exit_code == code)
    end, { limit = 4 })
    assert(box:exec("kill -9 $$", SPOOL).exit_code == 137)
    assert(box:exec("kill -s KILL 0", SPOOL).exit_code == 137) -- its whole group
    support.await_nothing(box)
  end)
end)

test("plain: exit codes 0 to 255 come back as they are", function()
  support.with_box(function(box)
    for code = 0, 255 do
      assert(box:exec("exit " .. code).exit_code == code)
    end
  end)
end)

test("exec: all bytes but NUL in words, variables and folders, both ways", function()
  support.with_box(function(box)
    local folder = "/tmp/" .. ALL:gsub("/", ""):sub(1, 250) .. "\n\n"
    assert(box:exec({ "mkdir", folder }).exit_code == 0)
    local code = "import os,sys; o = sys.stdout.buffer; o.write(os.fsencode(sys.argv[1])"
      .. " + b'|' + os.environb[b'A'] + b'|' + os.environb[b'B'] + b'|' + os.getcwdb())"
    for _, spool in ipairs({ false, true }) do
      local result = box:exec({ "sh", "-c", 'python3 -c "$0" "$1" | base64', code, ALL .. "\n" }, {
        env = { A = ALL, B = "ü 'x' $y\n" }, working_dir = folder, spool = spool,
      })
      local text = require("sbx.encoding").base64_decode((result.stdout:gsub("%s", "")))
      assert(text == ALL .. "\n|" .. ALL .. "|ü 'x' $y\n|" .. folder, result.stderr)
    end
    local text = "printf %s '" .. ALL:gsub("'", "") .. "'"
    local result = box:exec(text, { binary = true })
    assert(result.stdout == (ALL:gsub("'", "")), result.stderr)
    box:exec({ "rm", "-r", folder })
    support.await_nothing(box)
  end)
end)

test("exec: words are a program's, not the shell's", function()
  support.with_box(function(box)
    assert(box:exec({ "echo", "-e", "a\\nb" }).stdout == "a\nb\n") -- the program's, not dash's
    assert(box:exec({ "printf", "%s,", "$HOME", "*", "a b", "", "-n" }).stdout
      == "$HOME,*,a b,,-n,")
    assert(box:exec({ "no-such-program" }).exit_code == 127)
    assert(box:exec({ "env", "A=1" }, { spool = true }).stdout:find("A=1", 1, true))
  end)
end)

test("exec: standard input, small and large, from all sources, and its end", function()
  support.with_box(function(box)
    local file <close> = fs.tmpfile()
    fs.write(file.path, ("f"):rep(100000))
    local big = ("\0\xff%s\\'\n"):rep(50000)
    local pieces = 0
    local function source()
      pieces = pieces + 1
      return pieces <= 100 and ("p"):rep(1000) or nil
    end
    local sum = { binary = true, check = true }
    local function count(stdin, options)
      return tonumber(box:exec("wc -c", { stdin = stdin, spool = options }).stdout)
    end
    assert(count(nil) == 0 and count(nil, true) == 0)
    assert(count("") == 0 and count("", true) == 0)
    assert(count("abc") == 3 and count("abc", true) == 3)
    assert(count(big) == #big and count({ path = file.path }) == 100000)
    assert(count(source) == 100000)
    sum.stdin = "\0" .. ALL
    assert(box:exec("cat", sum).stdout == "\0" .. ALL)
    -- Small input without a spool has the same bytes.
    local result = box:exec("base64 -w0", { stdin = "\0" .. ALL .. "%s%%\\" })
    assert(result.stdout == require("sbx.encoding").base64("\0" .. ALL .. "%s%%\\"))
    -- A command that does not read it, and one with a status.
    assert(box:exec("exit 3", { stdin = "abc" }).exit_code == 3)
    assert(box:exec("true", { stdin = big }).exit_code == 0)
    assert(box:exec({ "cat" }, { stdin = "words" }).stdout == "words")
    support.await_nothing(box)
  end)
end)

test("exec: output as it comes, in order and once, in little memory", { timeout = 180 }, function()
  support.with_box(function(box)
    local size, pieces, largest = 0, 0, 0
    collectgarbage()
    local before = collectgarbage("count")
    local most = 0
    local result = box:exec("head -c 67108864 /dev/zero; echo end >&2", {
      timeout = 80,
      on_stdout = function(part)
        size, pieces, largest = size + #part, pieces + 1, math.max(largest, #part)
        assert(part:find("^\0*$"))
        collectgarbage()
        most = math.max(most, collectgarbage("count") - before)
      end,
    })
    assert(size == 67108864 and result.stdout == "" and result.stderr == "end\n", size)
    assert(pieces >= 16 and largest <= 4 * 1024 * 1024, pieces)
    assert(most < 32 * 1024, most .. " KiB")

    local seen, errs = {}, {}
    box:exec("mkfifo /tmp/go1 /tmp/go2 /tmp/go3")
    result = box:exec("for i in 1 2 3; do echo $i; echo e$i >&2; read l < /tmp/go$i; done", {
      on_stdout = function(part)
        seen[#seen + 1] = part
        -- The command goes on only now: nothing of it was held back.
        for n in part:gmatch("%d") do
          box:exec("echo > /tmp/go" .. n)
        end
      end,
      on_stderr = function(part) errs[#errs + 1] = part end,
    })
    assert(result.exit_code == 0)
    assert(table.concat(seen) == "1\n2\n3\n" and table.concat(errs) == "e1\ne2\ne3\n")
  end)
end)

test("exec: max_output keeps the beginning and says so; check raises the tail", function()
  support.with_box(function(box)
    for _, spool in ipairs({ false, true }) do
      local result = box:exec("printf 0123456789; printf abc >&2", {
        max_output = 4, spool = spool,
      })
      assert(result.stdout == "0123" and result.stdout_truncated)
      assert(result.stderr == "abc" and not result.stderr_truncated)
      local err = failure(box.exec, box, "echo no such thing >&2; exit 7", {
        check = true, spool = spool,
      })
      assert(err.kind == "command_failed" and err.exit_code == 7 and err.outcome == "exited")
      assert(err.message:find("status 7: no such thing", 1, true), err.message)
      assert(err.result.stderr == "no such thing\n")
      assert(box:exec("true", { check = true, spool = spool }).exit_code == 0)
    end
  end)
end)

local STUBBORN = [[trap '' TERM
(trap '' TERM; setsid sh -c 'sleep 4711 & sleep 4711' &)
(sh -c "trap '' TERM; sleep 4712 & sleep 4712" &)
echo begun
while :; do sleep 4713; done]]

test("exec: a deadline kills all that was started, whatever it ignores", function()
  support.with_box(function(box)
    local seen = ""
    local err = failure(box.exec, box, STUBBORN, {
      deadline = 3, on_stdout = function(part) seen = seen .. part end,
    })
    assert(err.kind == "command_timeout" and err.outcome == "exited" and err.timeout == 3)
    assert(seen == "begun\n")
    support.await_nothing(box)

    err = failure(box.exec, box, "echo partly; sleep 4711", { timeout = 3, spool = true })
    assert(err.kind == "command_timeout" and err.stdout == "partly\n")
    support.await_nothing(box)
    -- What a command leaves behind on purpose lives on.
    assert(box:exec("sleep 4711 & echo $!", SPOOL).stdout:find("^%d+\n$"))
    assert(box:exec("pkill -x sleep || kill $(grep -la '^sleep' /proc/[0-9]*/cmdline"
      .. " | tr -dc '0-9\\n')").exit_code == 0)
    support.await_nothing(box)
  end)
end)

test("exec: cancelled at any moment, nothing is left in the sandbox", { timeout = 180 }, function()
  support.with_box(function(box)
    for _, seconds in ipairs({ 0, 0.001, 0.003, 0.01, 0.02, 0.04, 0.4 }) do
      local in_time = task.move_on(seconds, box.exec, box, STUBBORN, {
        on_stdout = function() end, stdin = ("x"):rep(20000),
      })
      assert(not in_time)
    end
    support.await_nothing(box, LOCKS)
    local left = box:exec("find /tmp -type f | xargs -r head -c 100").stdout
    assert(left == "", left)
    -- Also while the listener holds it up.
    task.move_on(0.5, box.exec, box, STUBBORN, { on_stdout = function() task.sleep(60) end })
    support.await_nothing(box, LOCKS)
    local ok, err = pcall(box.exec, box, STUBBORN, { on_stdout = function() error("mine", 0) end })
    assert(not ok and err == "mine")
    support.await_nothing(box, LOCKS)
  end)
end)

test("exec: variables that would break the scripts reach the command alone", function()
  support.with_box(function(box)
    local result = box:exec("echo $PATH $IFS $LD_X $OTHER", {
      spool = true,
      env = { PATH = "/nowhere", LD_X = "1", IFS = "x", ENV = "/x", OTHER = "o" },
    })
    assert(result.stdout:find("^/nowhere") and result.stdout:find("1 o\n", 1, true),
      result.stdout .. result.stderr)
  end)
end)

test("exec: misuse names the option", function()
  support.with_box(function(box)
    for _, case in ipairs({
      { {}, nil, "command: expected a string or a list" }, { 4, nil, "command: expected" },
      { { "a", 3 }, nil, "command%[2%]" }, { { "a\0" }, nil, "command%[1%]: has a NUL" },
      { { "a", x = "b" }, nil, "list of words" }, { { "" }, nil, "command%[1%]: is empty" },
      { "a\0", nil, "command: has a NUL" }, { "x", { stdin = 4 }, "stdin: expected" },
      { "x", { stdin = { path = 4 } }, "stdin.path" }, { "x", { deadline = 0 }, "deadline" },
      { "x", { on_stdout = "f" }, "on_stdout: expected a function" },
      { "x", { spool = false, deadline = 5 }, "spool: false does not go with deadline" },
      { "x", { max_output = -1 }, "max_output" }, { "x", { check = 1 }, "check" },
      { "x", { env = { ["a.b"] = "\xff" } }, "env: a value" }, { "x", { spol = true }, "spol" },
    }) do
      local ok, err = pcall(box.exec, box, case[1], case[2])
      assert(not ok and type(err) == "string" and err:find(case[3]), tostring(err))
    end
  end)
end)
