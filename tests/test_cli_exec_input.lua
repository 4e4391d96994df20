-- What `sbxlua exec -i` does with its standard input, in containers and virtual machines.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local process = require("sbx.process")
local support = dofile(here .. "cli_support.lua")
local task = require("sbx.task")

local ALL = {}
for byte = 0, 255 do
  ALL[#ALL + 1] = string.char(byte)
end
ALL = table.concat(ALL)

local LARGE = 100 * 1024 * 1024
local LONGEST = 240 -- seconds for what moves much: only shows that it does not hang

-- Writes to a child's input until nobody reads it any more.
local function endless(child)
  local bytes = ("y\n"):rep(32768)
  repeat
    local ok = pcall(child.stdin.write, child.stdin, bytes)
  until not ok
end

-- Runs a command whose input never ends; what it wrote, and its status.
local function with_endless(cli, words)
  local child <close> = cli:start(words, { stdin = "pipe", stderr = "pipe" })
  return task.timeout(LONGEST, function()
    return task.scope(function(scope)
      scope:daemon(endless, child)
      local out, err = "", ""
      scope:spawn(function()
        for bytes in function() return child.stderr:read() end do err = err .. bytes end
      end)
      for bytes in function() return child.stdout:read() end do out = out .. bytes end
      return out, child:wait(), err
    end)
  end)
end

local function each_profile(fn)
  support.with_server(function(cli) fn(cli, cli:create("-n", "box")) end)
  support.with_server(function(cli) fn(cli, cli:create("--vm", "-n", "box")) end,
    { "--profile", "vm" })
end

test("exec -i: an endless input ends with the command", { timeout = LONGEST }, function()
  each_profile(function(cli, id)
    local out, code, err = with_endless(cli, { "exec", "-i", id, "--", "head", "-1" })
    assert(out == "y\n" and code == 0 and err == "", ("%q %s %s"):format(out, code, err))
    -- One that reads nothing, and has its own status.
    out, code, err = with_endless(cli, { "exec", "-i", id, "--", "sh", "-c", "sleep 1; exit 9" })
    assert(out == "" and code == 9 and err == "", ("%q %s %s"):format(out, code, err))
    out, code, err = with_endless(cli, { "exec", "-i", id, "--", "no-such-program" })
    assert(out == "" and code == 127 and err:find("no-such-program", 1, true), err)
    out, code, err = with_endless(cli, { "exec", "-i", id, "--", "sh", "-c", "kill -9 $$" })
    assert(out == "" and code == 137 and err == "", ("%q %s %s"):format(out, code, err))
    code = select(2, with_endless(cli,
      { "exec", "-i", "--deadline", "500ms", id, "--", "sleep", "60" }))
    assert(code == 124, tostring(code))
    -- Nothing of it stays there.
    local left = cli:out({ "exec", id, "--", "sh", "-c",
      "ls -d /tmp/.sbx-in-* 2>/dev/null; true" })
    assert(left == "", left)
  end)
end)

test("exec -i: what arrives is there at once, before the end", { timeout = LONGEST }, function()
  each_profile(function(cli, id)
    local child <close> = cli:start({ "exec", "-i", id, "--", "sh", "-c",
      'while read -r x; do echo "got $x"; done; echo end' }, { stdin = "pipe" })
    for i = 1, 20 do
      child.stdin:write(("line %d\n"):format(i))
      support.await(child, ("got line %d\n"):format(i))
    end
    child.stdin:close()
    support.await(child, "end\n")
    assert(child:wait() == 0)
  end)
end)

test("exec -i: every byte, none at all, and a hundred megabytes", { timeout = LONGEST }, function()
  local folder <close> = fs.tmpdir({ prefix = "input-" })
  local path = folder.path .. "/large"
  fs.write(path, ("0123456789abcde\n"):rep(LARGE // 16))
  local sum = hash.sha256_file(path)
  each_profile(function(cli, id)
    local echo = cli:run({ "exec", "-i", id, "--", "cat" }, { input = ALL:rep(40) })
    assert(echo.code == 0 and echo.stdout == ALL:rep(40) and echo.stderr == "", echo.stderr)
    assert(cli:out({ "exec", "-i", id, "--", "wc", "-c" }, { input = "" }) == "0\n")
    local words = { "sh", "-c", '"$@" < ' .. path, "sh", host.executable(), "exec", "-i", id, "--",
      "wc", "-c" }
    local counted = process.run(words, { env = cli:environment(), timeout = LONGEST })
    assert(counted.stdout == LARGE .. "\n", counted.stderr .. counted.stdout)
    -- Through a pipe, in pieces that are none of ours.
    local from <close> = fs.open(path)
    local said = cli:out({ "exec", "-i", id, "--", "sha256sum" }, {
      input = function() return from:read(300001) end, timeout = LONGEST,
    })
    assert(said:match("^%x+") == sum, said)
  end)
end)

test("exec -i: an input that cannot be read is no end for the command", { timeout = LONGEST },
function()
  support.with_server(function(cli)
    local id = cli:create()
    local words = { "sh", "-c", '"$@" < /tmp', "sh", host.executable(), "exec",
      "-i", id, "--", "sh", "-c", "cat; touch /workspace/it-ended" }
    local result = process.run(words, {
      env = cli:environment(), timeout = LONGEST,
    })
    assert(result.code == 125 and result.stderr:find("stdin", 1, true), result.stderr)
    cli:fails(1, { "exec", id, "--", "test", "-e", "/workspace/it-ended" })
  end)
end)

test("exec -i: signals go to the command, whose input goes on", { timeout = LONGEST }, function()
  each_profile(function(cli, id)
    local child <close> = cli:start({ "exec", "-i", id, "--", "sh", "-c",
      "trap 'echo caught' INT TERM; echo ready; while [ \"$x\" != end ]; do read -r x; "
        .. "echo \"got $x\"; done; exit 42" }, { stdin = "pipe" })
    support.await(child, "ready\n")
    for _, name in ipairs({ "INT", "TERM" }) do
      child:kill(name)
      support.await(child, "caught\n")
    end
    child.stdin:write("end\n")
    support.await(child, "got end\n")
    local code = child:wait()
    assert(code == 42, tostring(code))
  end)
end)
