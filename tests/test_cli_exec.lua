-- `sbxlua exec` and `run`, against a real server with real sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require("sbx.json")
local support = dofile(here .. "cli_support.lua")
local task = require("sbx.task")

local ALL = {}
for byte = 0, 255 do
  ALL[#ALL + 1] = string.char(byte)
end
ALL = table.concat(ALL)

test("exec: bytes and words go there and back as they are", function()
  support.with_server(function(cli)
    local id = cli:create("-n", "box")
    local echo = cli:run({ "exec", "-i", "box", "--", "cat" }, { input = ALL .. ALL })
    assert(echo.code == 0 and echo.stdout == ALL .. ALL and echo.stderr == "", echo.stderr)
    local err = cli:run({ "exec", "-i", "box", "--", "sh", "-c", "cat >&2" }, { input = ALL })
    assert(err.code == 0 and err.stdout == "" and err.stderr == ALL)
    assert(cli:out({ "exec", "-i", id, "--", "wc", "-c" }, { input = "" }) == "0\n")
    -- A reader that goes away ends the command quietly.
    local pipe = cli:start({ "exec", id, "--", "yes" })
    support.await(pipe, "y\n")
    pipe.stdout:close()
    assert(pipe:wait() == 141 and pipe.stderr:read() == nil)
    assert(cli:out({ "exec", id, "--", "sh", "-c", "pgrep -x yes; true" }) == "")
    -- Without -i the command has no input, whatever ours is.
    assert(cli:out({ "exec", id, "--", "cat" }, { input = "not for it" }) == "")

    local words = { "a b", "*", "$HOME", "'", '"', "", "\\n", "-x", "--", "ü", "\1\255" }
    local script = 'for w; do printf "[%s]" "$w"; done'
    local out = cli:out({ "exec", id, "--", "sh", "-c", script, "sh", table.unpack(words) })
    assert(out == "[" .. table.concat(words, "][") .. "]", out)
    -- Options behind the command are the command's, with and without `--`.
    assert(cli:out({ "exec", id, "echo", "-n", "--", "-o", "json" }) == "-- -o json")
  end)
end)

test("exec: folder, variables, and what failed on which side", function()
  support.with_server(function(cli)
    local id = cli:create("-n", "box", "-e", "FROM=create")
    local out = cli:out({ "exec", "-w", "/tmp", "-e", "A=1 2", "-e", "B==x", id, "--", "sh", "-c",
      'echo "$PWD|$A|$B|$FROM"' })
    assert(out == "/tmp|1 2|=x|create\n", out)

    cli:fails(127, { "exec", "box", "--", "no-such-program" }, "no-such-program")
    cli:fails(126, { "exec", "box", "--", "/etc/passwd" }, "/etc/passwd")
    cli:fails(124, { "exec", "--deadline", "500ms", "box", "--", "sleep", "60" }, "0.5 s")
    cli:fails(125, { "exec", "nowhere", "--", "true" }, "no sandbox 'nowhere'")
    cli:fails(125, { "exec", "-t", "box", "--", "true" }, "no terminals")
    cli:fails(125, { "--url", "http://127.0.0.1:1", "exec", "box", "--", "true" }, "127.0.0.1:1")
    cli:fails(125, { "exec", "--local", "box", "--", "true" }, "sbxlua serve")
    cli:fails(2, { "exec", "box" }, "ARGV is missing", "Try 'sbxlua exec --help'")
    cli:fails(2, { "exec", "--wrokdir", "/", "box", "--", "true" }, "did you mean '--workdir'?")
    cli:fails(2, { "exec", "-e", "NOVALUE", "box", "--", "true" }, "KEY=VALUE")

    local failed = cli:fails(125, { "exec", "-o", "json", "nowhere", "--", "true" })
    local said = json.decode(failed.stderr)
    assert(said.v == 1 and said.exit_status == 125 and said.error.kind == "not_found")
    assert(failed.stdout == "")
  end)
end)

test("exec: signals go to the command, and its answer is ours", function()
  support.with_server(function(cli)
    local id = cli:create()
    local script = "trap 'echo got it; exit 42' %s; echo ready; "
      .. "i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done"
    task.map({ "INT", "TERM", "HUP" }, function(name)
      local child <close> = cli:start({ "exec", id, "--", "sh", "-c", script:format(name) })
      support.await(child, "ready\n")
      child:kill(name)
      assert(support.await(child, "got it\n"))
      local code = child:wait()
      assert(code == 42, name .. ": " .. tostring(code))
    end)
    -- One that has no handler dies of it: 128 and its number.
    local plain <close> = cli:start({ "exec", id, "--", "sh", "-c", "echo on; exec sleep 60" })
    support.await(plain, "on\n")
    plain:kill("TERM")
    assert(plain:wait() == 143)
    -- Who goes on when interrupted is asked to end by the second Ctrl-C.
    local deaf <close> = cli:start({ "exec", id, "--", "sh", "-c",
      "trap 'echo heard' INT; echo on; while :; do sleep 0.1; done" })
    support.await(deaf, "on\n")
    deaf:kill("INT")
    support.await(deaf, "heard\n")
    deaf:kill("INT")
    assert(deaf:wait() == 143)
  end)
end)

test("run: makes a sandbox, passes on what its command says, and deletes it", function()
  support.with_server(function(cli)
    local result = cli:run({ "run", "-i", "--no-network", "-e", "A=b", "debian", "--", "sh", "-c",
      "cat; echo $A; exit 9" }, { input = ALL })
    assert(result.code == 9 and result.stdout == ALL .. "b\n", result.stderr)
    assert(result.stderr == "", result.stderr)
    cli:fails(127, { "run", "debian", "--", "no-such-program" })
    cli:fails(124, { "run", "--deadline", "300ms", "debian", "--", "sleep", "60" })
    cli:fails(125, { "run", "--cpu", "100000", "debian", "--", "true" })
    cli:fails(2, { "run", "debian" }, "ARGV")
    assert(cli:out({ "ls", "-q" }) == "")
    local _, said = cli:out({ "run", "--keep", "debian", "--", "true" })
    local id = cli:out({ "ls", "-q" }):match("^(%S+)\n$")
    assert(said:find(id, 1, true), said)
  end)
end)

test("run: --local needs no server and leaves nothing", function()
  support.alone(function(cli)
    local result = cli:run({ "run", "--local", "debian", "--", "sh", "-c", "echo here; exit 3" })
    assert(result.code == 3 and result.stdout == "here\n", result.stderr)
  end)
end)
