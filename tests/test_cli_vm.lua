-- `sbxlua exec` in virtual machines: a terminal, output as it comes, signals.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "cli_support.lua")
local terminal = dofile(here .. "peers/terminal.lua")

local ALL = {}
for byte = 0, 255 do
  ALL[#ALL + 1] = string.char(byte)
end
ALL = table.concat(ALL)

local PROFILE = { "--profile", "vm" }

test("exec, vm: bytes, codes, folder and variables", function()
  support.with_server(function(cli)
    local id = cli:create("--vm", "-n", "box")
    assert(cli:out({ "get", "box", "-o", "json" }):find('"vm": true', 1, true))
    local echo = cli:run({ "exec", "-i", id, "--", "cat" }, { input = ALL })
    assert(echo.code == 0 and echo.stdout == ALL and echo.stderr == "", echo.stderr)
    local out = cli:run({ "exec", "-w", "/tmp", "-e", "A=b c", "box", "--", "sh", "-c",
      'echo "$PWD $A"; printf "\\377" >&2; exit 255' })
    assert(out.code == 255 and out.stdout == "/tmp b c\n" and out.stderr == "\255")
    cli:fails(127, { "exec", "box", "--", "no-such-program" })
    cli:fails(124, { "exec", "--deadline", "500ms", "box", "--", "sleep", "60" })
    cli:fails(125, { "exec", "-u", "root", "box", "--", "true" })
  end, PROFILE)
end)

test("exec, vm: signals", function()
  support.with_server(function(cli)
    local id = cli:create("--vm")
    local script = "trap 'echo got it; exit 42' %s; echo ready; "
      .. "i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done"
    for _, name in ipairs({ "INT", "TERM", "HUP" }) do
      local child <close> = cli:start({ "exec", id, "--", "sh", "-c", script:format(name) })
      support.await(child, "ready\n")
      child:kill(name)
      support.await(child, "got it\n")
      local code = child:wait()
      assert(code == 42, name .. ": " .. tostring(code))
    end
  end, PROFILE)
end)

test("exec, vm: -t gives the command a terminal, of the size of ours", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  support.with_server(function(cli)
    local id = cli:create("--vm")
    local started <close> = terminal.start({ "exec", "-it", id, "--", "sh" }, {
      env = cli:environment(), columns = 60, rows = 15,
    })
    started:type("stty size; test -t 0 && echo a terminal\n")
    started:await("15 60")
    started:await("\na terminal")
    started:type("trap 'echo interrupted' INT; echo now; cat\n")
    started:await("\nnow") -- from here on only `cat` and what is typed are on the screen
    started:type("typed\n")
    started:await("typed\ntyped")
    started:type("\3")
    started:await("^Cinterrupted")
    started:resize(70, 20) -- what is typed after it finds the new size
    started:type("stty size\n")
    started:await("20 70")
    started:type("exit 5\n")
    assert(started:finish().status == 5)
  end, PROFILE)
end)
