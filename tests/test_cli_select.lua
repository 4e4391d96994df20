-- Which sandboxes a command means: some of those named are missing, a server that filters not.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local json = require("sbx.json")
local support = dofile(here .. "cli_support.lua")

-- Runs `fn(cli, server)` with a server that shows all it has, whatever label was asked for.
local function with_deaf_server(fn)
  local server <close> = api.start({
    list = function(call)
      call.query.labels = nil
      return nil
    end,
  })
  support.alone(function(cli) fn(cli, server) end,
    { PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url })
end

test("rm, ls: a label counts where the sandbox itself carries it", function()
  with_deaf_server(function(cli, server)
    server:add("sbx-mine", { labels = { "ci", "x" } })
    server:add("sbx-other", { labels = { "prod" } })
    server:add("sbx-bare", { labels = json.array({}) })
    assert(cli:out({ "ls", "-q", "-l", "ci" }) == "sbx-mine\n")
    assert(cli:out({ "ls", "-q", "-l", "ci", "-l", "prod" }) == "")
    local out, said = cli:out({ "rm", "-l", "prod", "-l", "ci", "--yes" })
    assert(out == "" and said:find("3 sandboxes without the label", 1, true), said)
    assert(server:count("delete") == 0 and server:count("bulk_delete") == 0)
    out, said = cli:out({ "rm", "-l", "ci", "--yes" })
    assert(out == "sbx-mine\n" and said:find("2 sandboxes without the label", 1, true), said)
    out = cli:out({ "rm", "-l", "prod", "--yes", "-o", "json" })
    assert(#json.decode(out) == 1 and json.decode(out)[1].id == "sbx-other", out)
    assert(server:count("bulk_delete") == 0)
  end)
end)

test("get: shows what there is, and says what is missing", function()
  with_deaf_server(function(cli, server)
    for _, id in ipairs({ "sbx-a", "sbx-b", "sbx-two-1", "sbx-two-2" }) do
      server:add(id, { name = id:sub(5) })
    end
    local result = cli:fails(5, { "get", "a", "nope", "b", "none", "-q" },
      "sbxlua get: there is no sandbox 'nope', 'none'")
    assert(result.stdout == "sbx-a\nsbx-b\n", result.stdout)
    result = cli:fails(5, { "get", "a", "nope", "b" }, "'nope'")
    assert(select(2, result.stdout:gsub("\n", "")) == 3, result.stdout)

    -- A list where several were asked for, however many there are.
    for words, count in pairs({
      [{ "a", "nope", "b" }] = 2, [{ "a", "nope" }] = 1, [{ "nope", "none" }] = 0,
    }) do
      result = cli:fails(5, { "get", "-o", "json", table.unpack(words) })
      assert(#json.decode(result.stdout) == count, result.stdout)
      local said = json.decode(result.stderr)
      assert(said.error.kind == "not_found" and said.exit_status == 5, result.stderr)
    end
    result = cli:fails(5, { "get", "-o", "jsonl", "a", "nope" })
    assert(json.decode(result.stdout).id == "sbx-a")
    assert(cli:fails(5, { "get", "-o", "json", "nope" }).stdout == "")
    assert(#cli:json({ "get", "-o", "json", "a", "a" }) == 1)

    result = cli:fails(6, { "get", "a", "sbx-two", "-q" }, "'sbx-two' may be several")
    assert(result.stdout == "sbx-a\n")
    result = cli:fails(5, { "get", "nope", "sbx-two", "a", "-q" }, "'nope'", "may be several")
    assert(result.stdout == "sbx-a\n")
  end)
end)
