-- `sbxlua logs`: what is new, what was asked for, and against a real server.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require("sbx.json")
local support = dofile(here .. "cli_support.lua")

local function has(text, plain)
  assert(text:find(plain, 1, true), ("%q is not in: %s"):format(plain, text))
end

test("logs: only what is new, also where the beginning has been dropped", function()
  local log_text = require("sbx.cli.log_text")
  local function fresh(before, now) return table.concat(log_text.fresh(before, now), ",") end
  assert(fresh("", "a\nb\n") == "a,b" and fresh("a\n", "a\nb\n") == "b")
  assert(fresh("a\n", "a\n") == "")
  assert(fresh("a\nb\nc\n", "b\nc\nd\n") == "d" and fresh("a\nb\n", "x\ny\n") == "x,y")
  assert(fresh("a\na\nb\n", "a\nb\nb\n") == "b" and fresh("a\nb\n", "") == "")
  local function chosen(text, tail, since)
    return table.concat(log_text.chosen(text, tail, since), ",")
  end
  local old, new = "2001-01-01T00:00:00Z a", require("sbx.time").iso() .. " b"
  assert(chosen(old .. "\n" .. new .. "\nmore\n", nil, 60) == new .. ",more")
  assert(chosen(old .. "\n" .. new .. "\n", 5, 60) == new and chosen("x\ny\n", 1) == "y")
  assert(chosen("x\n\ny\n") == "x,,y" and chosen("", 3) == "")
end)

test("logs: tail, since, several with their names, and on as they come", function()
  support.with_server(function(cli)
    local line = "for i in 1 2 3; do echo line $i; done; sleep 0.3; echo late; sleep 60"
    local id = cli:create("-n", "first", "--start-command", line)
    cli:create("-n", "second")
    local follow <close> = cli:start({ "logs", "-f", "first" })
    local seen = support.await(follow, "late\n")
    assert(select(2, seen:gsub("line 1\n", "")) == 1, seen)
    assert(cli:out({ "logs", "first", "--tail", "1" }):find("late\n$"))
    assert(cli:out({ "logs", "first", "--tail", "0" }) == "")
    has(cli:out({ "logs", "first", "--since", "1h" }), "line 3")
    local both = cli:out({ "logs", "first", "second" })
    assert(both:find("\nfirst  | ") and both:find("\nsecond | ") and not both:find("\27"))
    local row = json.decode(cli:out({ "logs", "first", "-o", "jsonl", "--tail", "1" }))
    assert(row.v == 1 and row.sandbox_id == id and row.line == "late")
    assert(row.time:find("^%d%d%d%d%-.*Z$"))
    cli:fails(5, { "logs", "nowhere" })
    -- Who watches does not make words at the end of it.
    local watched <close> = cli:start({ "logs", "-f", "first" })
    support.await(watched, "late\n")
    watched:kill("INT")
    assert(watched:wait() == 130 and watched.stderr:read() == nil)
    cli:out({ "rm", "first" })
    local rest = follow:wait()
    assert(rest == 0, "following ends with the sandbox")
  end)
end)
