-- Contexts, and which address and key count.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")
local json = require("sbx.json")
local support = dofile(here .. "cli_support.lua")

local SECRET = "sk-never-to-be-shown"

local function private(cli, name, text)
  local path = cli.home .. "/" .. name
  fs.write(path, text, { mode = 384 })
  return path
end

-- "url|origin of the url|state of the key|origin of the key".
local function settings(cli, words, env)
  local argv = { "context", "show", "--show-origin", "-o", "json" }
  table.move(words or {}, 1, #(words or {}), #argv + 1, argv)
  local result = cli:run(argv, { env = env })
  assert(result.code == 0, result.stderr)
  assert(not result.stdout:find(SECRET, 1, true))
  local rows = json.decode(result.stdout)
  return table.concat({ rows[1].value, rows[1].origin, rows[2].value, rows[2].origin }, "|")
end

test("context: add, ls, use, show, rm in every form", function()
  support.alone(function(cli)
    assert(cli:out({ "context", "ls" }) == "")
    assert(cli:out({ "context", "ls", "-o", "json" }) == "[]\n")
    local key = private(cli, "key", SECRET .. "\n")
    assert(cli:out({ "context", "add", "one", "--url", "http://127.0.0.1:1", "--key-path", key })
      == "one\n")
    cli:out({ "context", "add", "two", "--url", "http://127.0.0.1:2/api/v1/", "--team", "t" })
    local text = cli:out({ "context", "ls" })
    assert(text:find("^CURRENT +NAME +URL +KEY\n%* +one +http://127.0.0.1:1 "), text)
    assert(cli:out({ "context", "ls", "-q" }) == "one\ntwo\n")
    assert(cli:out({ "context", "use", "two" }) == "two\n")
    local rows = cli:json({ "context", "ls", "-o", "json" })
    assert(rows[2].current and rows[2].team_id == "t" and not rows[1].current and rows[1].v == 1)
    assert(cli:out({ "context", "show" }):find("url +http://127.0.0.1:2\n"))

    cli:fails(6, { "context", "add", "one", "--url", "http://x" }, "--replace")
    cli:fails(2, { "context", "add", "three" }, "--url is missing")
    cli:fails(2, { "context", "add", "a/b", "--url", "http://x" }, "NAME")
    cli:fails(2, { "context", "add", "three", "--url", "ftp://x" }, "expected http://")
    -- It would be a context without a key, and nobody would know.
    cli:fails(2, { "context", "add", "three", "--url", "http://x", "--key-file", key },
      "--key-path", "--keep-key")
    cli:fails(2, { "--key-file", key, "context", "add", "three", "--url", "http://x" },
      "--key-path")
    cli:fails(5, { "context", "use", "three" }, "no context 'three'")
    cli:fails(5, { "context", "rm", "three" })
    cli:fails(2, { "ls", "--context", "three" }, "no context 'three'")
    cli:out({ "context", "rm", "two" })
    assert(cli:out({ "context", "ls", "-o", "name" }) == "one\n")
    cli:out({ "context", "use", "one" })
    cli:out({ "context", "use", "-" })
    assert(settings(cli) == "https://api.primeintellect.ai|default|none|none")
  end)
end)

test("context: keys are kept for their owner only, and shown nowhere", function()
  support.alone(function(cli)
    local file = cli.home .. "/.config/sbxlua/contexts.json"
    local words = { "context", "add", "kept", "--url", "http://127.0.0.1:1", "--keep-key" }
    local added = cli:run(words,
      { env = { PRIME_API_KEY = SECRET } })
    assert(added.code == 0 and fs.stat(file).mode & 511 == 384, added.stderr)
    assert(fs.read(file):find(SECRET, 1, true))
    assert(not cli:out({ "context", "ls", "-o", "json" }):find(SECRET, 1, true))
    assert(settings(cli) == "http://127.0.0.1:1|context kept|set|context kept")
    fs.chmod(file, 420)
    cli:fails(2, { "context", "show" }, "chmod 600")
    fs.chmod(file, 384)

    local open = cli.home .. "/open"
    fs.write(open, SECRET, { mode = 420 })
    words = { "context", "add", "open", "--url", "http://127.0.0.1:1", "--key-path", open, "--use" }
    cli:out(words)
    local failed = cli:fails(2, { "context", "show" }, "644", "chmod 600")
    assert(not failed.stderr:find(SECRET, 1, true))
    for _, text in ipairs({ "no json", "[]", '{"v": 2, "contexts": {}}',
      '{"v": 1, "contexts": {"a": {"url": 5}}}' }) do
      fs.write(file, text)
      cli:fails(2, { "context", "ls" }, "contexts.json")
    end
  end)
end)

test("context: command line, environment, context, file, in this order", function()
  support.alone(function(cli)
    local key = private(cli, "key", SECRET .. "-of-context\n")
    local other = private(cli, "other", SECRET .. "-of-file-option\n")
    fs.mkdir(cli.home .. "/.prime")
    fs.write(cli.home .. "/.prime/config.json",
      json.encode({ base_url = "http://127.0.0.1:9", api_key = SECRET .. "-of-config" }))
    assert(settings(cli)
      == "http://127.0.0.1:9|~/.prime/config.json|set|~/.prime/config.json")
    cli:out({ "context", "add", "one", "--url", "http://127.0.0.1:1", "--key-path", key })
    cli:out({ "context", "add", "bare", "--url", "http://127.0.0.1:2" })
    assert(settings(cli) == "http://127.0.0.1:1|context one|set|context one")
    local env = { PRIME_API_BASE_URL = "http://127.0.0.1:3", PRIME_API_KEY = SECRET }
    assert(settings(cli, {}, env)
      == "http://127.0.0.1:3|PRIME_API_BASE_URL|set|PRIME_API_KEY")
    assert(settings(cli, { "--context", "one" }, env)
      == "http://127.0.0.1:1|context one|set|context one")
    local all = { "--url", "http://127.0.0.1:4", "--context", "one", "--key-file", other }
    assert(settings(cli, all, env) == "http://127.0.0.1:4|--url|set|--key-file")
    -- The key of one address is not for another.
    assert(not settings(cli, { "--url", "http://127.0.0.1:4" }):find("context"))
    assert(not settings(cli, {}, { PRIME_API_BASE_URL = "http://127.0.0.1:3" }):find("context"))
    assert(settings(cli, { "--context", "bare" }) == "http://127.0.0.1:2|context bare|none|none")
  end)
end)

test("context: commands and scripts use it, before and behind the verb", function()
  support.with_server(function(cli)
    cli:out({ "context", "add", "here", "--url", cli.url, "--key-path", cli.key_file })
    cli.env = { XDG_CONFIG_HOME = cli.home .. "/.config" }
    assert(cli:out({ "ls", "-o", "json" }) == "[]\n")
    cli:out({ "context", "use", "-" })
    cli:fails(4, { "ls" }, "PRIME_API_KEY")
    assert(cli:out({ "--context", "here", "ls", "-o", "json" }) == "[]\n")
    assert(cli:out({ "-o", "json", "ls", "--context=here" }) == "[]\n")
    local code = 'print(#require("sbx.sandbox").client():list(), ...)'
    assert(cli:out({ "--context", "here", "-e", code, "x", "--url" }) == "0\tx\t--url\n")
    assert(cli:out({ "--url", cli.url, "--key-file", cli.key_file, "-e", code, "x" }) == "0\tx\n")
    cli:fails(4, { "-e", code })
    cli:fails(2, { "--context", "nowhere", "-e", code }, "no context 'nowhere'")
  end)
end)
