-- What the commands do at a terminal that they do nowhere else.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "cli_support.lua")
local terminal = dofile(here .. "peers/terminal.lua")

local function start(cli, words, env)
  return terminal.start(words, { env = cli:environment(env), columns = 80 })
end

test("rm: asks at a terminal before it deletes more than one", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  support.with_server(function(cli)
    for _, name in ipairs({ "a", "b" }) do
      cli:out({ "create", "--no-wait", "-n", name, "debian" })
    end
    do
      local asked <close> = start(cli, { "rm", "a", "b" })
      asked:await("delete 2 sandboxes? [y/N]")
      asked:type("\n")
      assert(asked:finish().status == 1)
    end
    assert(select(2, cli:out({ "ls", "-q" }):gsub("\n", "")) == 2)
    local asked <close> = start(cli, { "rm", "--all" })
    asked:await("[y/N]")
    asked:type("y\n")
    assert(asked:finish().status == 0)
    assert(cli:out({ "ls", "-q" }) == "")
  end)
end)

test("logs: names in colour at a terminal, in none elsewhere or where nobody wants it", function()
  if not terminal.is_there() then skip("python3 has no pyte") end
  support.with_server(function(cli)
    cli:create("-n", "one", "--start-command", "printf 'a\\033[2Jb\\n'")
    cli:create("-n", "two")
    local words = { "logs", "one", "two" }
    local function bytes(env)
      local started <close> = start(cli, words, env)
      local screen = started:finish()
      assert(screen.status == 0)
      return screen.bytes
    end
    local function coloured(env)
      local text = bytes(env)
      assert(not text:find("\27[2J", 1, true), "a log line moved the cursor")
      return text:find("\27[36mone", 1, true) ~= nil
    end
    assert(coloured())
    assert(not coloured({ NO_COLOR = "1" }))
    assert(not coloured({ CI = "true" }))
    assert(not coloured({ TERM = "dumb" }))
    assert(not cli:out(words):find("\27[36m", 1, true))
  end)
end)
