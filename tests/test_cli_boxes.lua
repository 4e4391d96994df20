-- The commands that make, show, await and delete sandboxes, against a real server.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")
local support = dofile(here .. "cli_support.lua")

local function has(text, plain)
  assert(text:find(plain, 1, true), ("%q is not in: %s"):format(plain, text))
end

local function lines(text)
  return select(2, text:gsub("\n", ""))
end

test("create, ls, get: in every form; names, ids and beginnings of ids", function()
  support.with_server(function(cli)
    assert(cli:out({ "ls" }) == "" and cli:out({ "ls", "-o", "json" }) == "[]\n")
    local out, said = cli:out({ "create", "-n", "web", "-l", "ci", "-e", "TOKEN=hush-hush",
      "--lifetime", "90m", "--no-network", "debian" })
    local id = out:match("^(sbx%-%S+)\n$")
    assert(id and said == "", out .. said)
    local other = cli:json({ "create", "--no-wait", "-o", "json", "debian" })
    assert(other.v == 1 and other.name:find("^cli%-%x+$") and other.labels[2] == "sbxlua-keep")

    -- A table, its wide form, and what scripts read.
    local text = cli:out({ "ls" })
    assert(text:find("^ID +NAME +STATUS +IMAGE +AGE\n") and lines(text) == 3, text)
    has(cli:out({ "ls", "--output", "wide", "-l", "ci" }), "sbxlua-run=")
    assert(cli:out({ "ls", "-q", "-l", "ci" }) == id .. "\n")
    assert(cli:out({ "ls", "-o", "name", "-l", "ci" }) == id .. "\n")
    local rows = cli:json({ "ls", "-o", "json", "-l", "ci" })
    assert(#rows == 1 and rows[1].v == 1 and rows[1].id == id and rows[1].network_access == false)
    assert(rows[1].timeout_minutes == 90)
    assert(rows[1].created_at:find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.?%d*Z$"))
    local each = cli:out({ "ls", "-o", "jsonl" })
    assert(lines(each) == 2 and json.decode(each:match("^[^\n]+")).v == 1)
    assert(cli:out({ "ls", "--older-than", "1h" }) == "")
    assert(lines(cli:out({ "ls", "--older-than", "0s", "-q" })) == 2)
    assert(cli:out({ "ls", "--status", "terminated" }) == "")

    -- One sandbox, by whatever it is called.
    for _, word in ipairs({ id, "web", id:sub(1, -3) }) do
      local row = cli:json({ "get", word, "-o", "json" })
      assert(row.id == id and row.name == "web" and row.status == "RUNNING")
      assert(row.environment_names[1] == "TOKEN")
    end
    local shown = cli:out({ "get", "web" })
    has(shown, "docker_image           debian")
    assert(not (shown .. cli:out({ "get", "web", "-o", "json" })):find("hush", 1, true))
    assert(cli:out({ "get", "web", "-q" }) == id .. "\n")
    assert(#cli:json({ "get", "web", other.id, "-o", "json" }) == 2)
    cli:fails(5, { "get", "nowhere" }, "no sandbox 'nowhere'")
    cli:fails(5, { "get", ".." }, "'..'")
    cli:fails(6, { "get", "sbx-" }, "several", "web")
  end)
end)

test("create: one whose id nobody gets is not left", function()
  support.with_server(function(cli)
    local function to(place, ...)
      return process.run({ "sh", "-c", '"$@" ' .. place, "sh", host.executable(), ... },
        { env = cli:environment(), timeout = 60 })
    end
    for _, option in ipairs({ "--wait", "--no-wait" }) do
      local full = to("> /dev/full", "create", option, "debian")
      assert(full.code == 1, full.code .. full.stderr)
      has(full.stderr, "sbxlua create: write to stdout: No space left on device")
      -- The reader is gone before there is anything to read.
      to("| true", "create", option, "debian")
    end
    assert(cli:out({ "ls", "-q" }) == "", "one was left")
    -- A command that fails anyway says it, too.
    fs.write(cli.home .. "/bad.lua", "x = = 1")
    has(to("> /dev/full", "check", cli.home .. "/bad.lua").stderr, "No space left on device")
  end)
end)

test("create: what cannot be is refused, and one that does not start is not left", function()
  support.with_server(function(cli)
    cli:fails(2, { "create" }, "IMAGE is missing")
    cli:fails(2, { "create", "--gpu", "H100", "debian" }, "vm")
    -- What failed is called as the command is: that is said once.
    local refused = cli:fails(1, { "create", "--cpu", "10000", "debian" }, "sbxlua create: ")
    assert(not refused.stderr:find("create: create:", 1, true), refused.stderr)
    cli:fails(2, { "create", "-n", ("x"):rep(101), "debian" }, "name")
    cli:fails(2, { "create", "--local", "debian" }, "sbxlua serve")
    cli:fails(2, { "create", "--secret", "SBX_NO_SUCH", "debian" }, "SBX_NO_SUCH")
    cli:fails(124, { "create", "--timeout", "0s", "debian" })
    assert(cli:out({ "ls", "-q" }) == "", "one was left")

    -- Secrets come from here, and reach only the inside.
    local options = { env = { SBX_HIDDEN = "do-not-show-this" } }
    local id = cli:out({ "create", "--secret", "SBX_HIDDEN", "debian" }, options):gsub("\n", "")
    assert(cli:out({ "exec", id, "--", "sh", "-c", "echo $SBX_HIDDEN" }) == "do-not-show-this\n")
    assert(not cli:out({ "get", id, "-o", "json" }):find("do%-not%-show"))
    local file = cli.home .. "/env"
    fs.write(file, "# comment\nA=1=2\n\nB=x y\n")
    local words = { "exec", "--env-file", file, id, "--", "sh", "-c", "echo $A,$B" }
    assert(cli:out(words) == "1=2,x y\n")
    fs.write(file, "A=1\nnonsense-secret\n")
    local failed = cli:fails(125, { "exec", "--env-file", file, id, "--", "true" }, "line 2")
    assert(not failed.stderr:find("nonsense", 1, true))
  end)
end)

test("create: what it makes stays, gc leaves it alone, rm finds it by its label", function()
  support.with_server(function(cli)
    local id = cli:create()
    local _, said = cli:out({ "gc", "--yes" })
    has(said, "nothing is left of dead runs")
    assert(cli:out({ "gc", "-o", "json" }) == "[]\n")
    assert(cli:out({ "rm", "-l", "sbxlua-keep" }) == id .. "\n")
    assert(cli:out({ "ls", "-q" }) == "")
    has(cli:out({ "ls", "-a" }), "TERMINATED")
  end)
end)

test("wait: for ready and for gone, with a deadline", function()
  support.with_server(function(cli)
    local id = cli:out({ "create", "--no-wait", "-n", "a", "debian" }):gsub("\n", "")
    assert(cli:out({ "wait", "a", "-q" }) == id .. "\n")
    local row = cli:json({ "wait", id, "-o", "json" })[1]
    assert(row.id == id and row.state == "ready" and row.v == 1)
    cli:fails(124, { "wait", "a", "--for", "gone", "--timeout", "100ms" },
      "not gone within 100ms", id)
    local waiting <close> = cli:start({ "wait", "a", "--for=gone" })
    cli:out({ "rm", "a" })
    has(support.await(waiting, "gone"), id)
    assert(waiting:wait() == 0)
    has(cli:out({ "wait", id, "--for=gone" }), "gone")
    cli:fails(1, { "wait", id }, "TERMINATED")
    cli:fails(5, { "wait", "nowhere" })
    cli:fails(2, { "wait", id, "--for", "ever" }, "ready or gone")
  end)
end)

test("rm: one at once, more only when they were seen", function()
  support.with_server(function(cli)
    for _, name in ipairs({ "a", "b", "c", "d" }) do
      cli:out({ "create", "--no-wait", "-n", name, "-l", "all", "debian" })
    end
    local result = cli:fails(2, { "rm", "a", "b" }, "ID", "a", "nothing was deleted", "--yes")
    assert(result.stdout == "" and lines(cli:out({ "ls", "-q" })) == 4)
    cli:fails(2, { "rm", "-l", "all", "-o", "json" })
    cli:fails(2, { "rm" }, "which?")
    -- `-l "$NOT_SET"` must not be all that there are.
    cli:fails(2, { "rm", "-l", "", "--yes" }, "--label: is empty")
    cli:fails(2, { "rm", "-l", "all", "--label=", "--yes" }, "--label: is empty")
    cli:fails(2, { "ls", "--label=" }, "--label: is empty")
    cli:fails(2, { "create", "--no-wait", "-l", "", "debian" }, "--label: is empty")
    assert(lines(cli:out({ "ls", "-q" })) == 4)
    cli:fails(2, { "rm", "a", "--all" }, "not both")
    cli:fails(5, { "rm", "nowhere" })
    assert(cli:out({ "rm", "nowhere", "--ignore-missing" }) == "")
    assert(lines(cli:out({ "rm", "a" })) == 1)
    local rows = cli:json({ "rm", "b", "c", "--yes", "-o", "json" })
    assert(#rows == 2 and rows[1].deleted == true and rows[1].v == 1)
    assert(cli:out({ "rm", "--all", "--older-than", "1h" }) == "")
    assert(lines(cli:out({ "rm", "--all", "-q" })) == 1)
    assert(cli:out({ "ls", "-q" }) == "")
  end)
end)
