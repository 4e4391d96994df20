-- What all commands have in common: help, manual page and docs from one source, output,
-- mistakes, exit statuses.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local fs = require("sbx.fs")
local json = require("sbx.json")
local net = require("sbx.net")
local pages = require("sbx.cli.pages")
local process = require("sbx.process")
local support = dofile(here .. "cli_support.lua")
local verbs = require("sbx.cli.verbs")

local function has(text, plain)
  assert(text:find(plain, 1, true), ("%q is not in: %s"):format(plain, text))
end

-- ------------------------------------------------------------------ one source

test("commands: docs/commands.md is what the tables say", function()
  local page = fs.read(here .. "../docs/commands.md")
  assert(page == pages.markdown(),
    "docs/commands.md is out of date: sbxlua man --markdown > docs/commands.md")
end)

test("commands: each has its words, options and examples in help, manual and docs", function()
  local man, markdown = pages.man("0"), pages.markdown()
  local program = pages.help()
  local cli = require("sbx.cli")
  local seen = {}
  for _, entry in ipairs(verbs.list) do
    assert(not seen[entry.name], entry.name .. " is there twice")
    seen[entry.name] = true
    local spec = verbs.spec(entry)
    cli.check({ name = "sbxlua", commands = { spec } })
    if not entry.hidden then
      has(program, "\n  " .. entry.name .. " ")
      has(man, ".SS sbxlua " .. entry.name .. "\n")
      has(markdown, "\n## sbxlua " .. entry.name .. "\n")
      assert(spec.example, entry.name .. " has no example")
      for _, option in ipairs(spec.options or {}) do
        if not option.hidden then
          local word = (option.type == "flag" and option.default and "--[no-]" or "--")
            .. option.name
          has(markdown, word)
          has(man, (word:gsub("%-", "\\-")))
          assert(option.help, entry.name .. " --" .. option.name .. " has no help")
        end
      end
    end
  end
end)

test("commands: the manual page is proper roff", function()
  if not process.which("mandoc") then skip("there is no mandoc") end
  local result = process.run({ "mandoc", "-T", "lint", "-W", "warning" },
    { input = pages.man("1.0") })
  local text = result.stdout .. result.stderr
  -- That a page names no date is no fault.
  for line in text:gmatch("[^\n]+") do
    assert(line:find("missing date", 1, true) or line:find("STYLE", 1, true), text)
  end
end)

test("commands: the list needs none of the verbs", function()
  support.alone(function(cli)
    local out = cli:out({ "-e", [[
      require("sbx.cli.pages").help()
      for name in pairs(package.loaded) do
        if name:find("^sbx%.cli%.verbs%.") or name == "sbx.sandbox" then print(name) end
      end]] })
    assert(out == "", out)
    -- And a script needs neither the list nor what belongs to it.
    out = cli:out({ "-e", [[
      for name in pairs(package.loaded) do
        if name:find("^sbx%.cli%.") and name ~= "sbx.cli.program" then print(name) end
      end]] })
    assert(out == "", out)
  end)
end)

-- ------------------------------------------------------------- help and mistakes

test("commands: help is asked for in three ways, and unknown words get a hint", function()
  support.alone(function(cli)
    local text = cli:out({ "help", "exec" })
    assert(text == cli:out({ "exec", "--help" }) and text == cli:out({ "exec", "-h" }))
    has(text, "usage: sbxlua exec [options] SANDBOX ARGV...")
    assert(cli:out({ "help" }) == cli:out({ "--help" }))
    has(cli:out({ "help", "jobs", "start" }), "usage: sbxlua jobs start")
    has(cli:out({ "serve", "--help" }), "usage: sbxlua serve")
    has(cli:out({ "help", "image", "import" }), "sbxlua image import")

    cli:fails(2, { "craete" }, "did you mean 'create'?")
    cli:fails(2, { "help", "exce" }, "did you mean 'exec'?")
    cli:fails(2, { "api", "/sandbox" }, "did you mean `sbxlua api GET /sandbox`?")
    cli:fails(2, { "api", "/sandbox", "-d", "{}" }, "METHOD is missing")
    cli:fails(2, { "api", "get", "/sandbox" }, "got 'get'")
    cli:fails(2, { "api", "GET" }, "PATH is missing")
    for _, words in ipairs({ { "help" }, { "completion", "bash" }, { "man" }, { "serve" } }) do
      table.move({ "-o", "json" }, 1, 2, #words + 1, words)
      local said = json.decode(cli:fails(2, words).stderr)
      assert(said.error.message:find("one form of output only", 1, true), said.error.message)
    end
    cli:fails(2, { "wait", "x", "--deadline", "3s" }, "did you mean '--timeout'?")
    cli:fails(2, { "exec", "--timeout", "3s", "x", "--", "true" }, "did you mean '--deadline'?")
    cli:fails(2, { "rm", "-f", "x" }, "did you mean '--yes'?")
    cli:fails(2, { "ls", "--lable", "x" }, "unknown option '--lable'; did you mean '--label'?")
    cli:fails(2, { "ls", "--trace", "f" }, "goes before the command: sbxlua --trace FILE ls")
    cli:fails(2, { "jobs", "ls", "--record=f" }, "--record goes before the command")
    cli:fails(2, { "jobs", "strat" }, "did you mean 'start'?")
    cli:fails(2, { "jobs" }, "a command is missing")
    cli:fails(2, { "get" }, "SANDBOX is missing")
    cli:fails(2, { "ls", "--older-than", "soon" }, "--older-than", "10m")
    cli:fails(2, { "ls", "-o", "yaml" }, "table, wide, json, jsonl or name")
    cli:fails(2, { "-o", "json", "-e", "" }, "-o: goes with a command")
    cli:fails(2, { "--url" }, "--url: its value is missing")
    cli:fails(2, { "ls", "--url" }, "--url: its value is missing")
  end)
end)

test("commands: a key is refused on the command line, and never shown", function()
  support.alone(function(cli)
    local secret = "sk-do-not-show-me"
    for _, words in ipairs({
      { "ls", "--key", secret }, { "ls", "--key=" .. secret }, { "--key", secret, "ls" },
      { "--key", secret, "-e", "" },
    }) do
      local result = cli:fails(2, words, "--key-file")
      assert(not (result.stderr .. result.stdout):find(secret, 1, true))
    end
    local file = cli.home .. "/key"
    fs.write(file, secret .. "\n", { mode = 384 })
    cli:fails(8, { "--key-file", file, "--url", "http://127.0.0.1:1", "ls" })
    cli:fails(2, { "create", "--secret", "A=" .. secret, "debian", "--url", "http://127.0.0.1:1" },
      "--secret")
  end)
end)

test("commands: mistakes are one JSON object on stderr where JSON was asked for", function()
  support.alone(function(cli)
    for _, words in ipairs({
      { "ls", "-o", "json", "--nonsense" }, { "-ojson", "get" }, { "--output=jsonl", "ls", "x" },
      { "rm", "-o", "json" },
    }) do
      local result = cli:fails(2, words)
      local said = json.decode(result.stderr)
      assert(said.v == 1 and said.exit_status == 2 and said.error.kind == "usage", result.stderr)
      assert(#said.error.message > 5 and result.stdout == "")
    end
  end)
end)

test("commands: a name of a command is the command, whatever file is called so", function()
  support.alone(function(cli)
    fs.write(cli.home .. "/version", "print('hijacked')")
    fs.write(cli.home .. "/mine", "print('mine', ...)")
    local options = { cwd = cli.home }
    has(cli:out({ "version" }, options), "sbxlua ")
    assert(cli:out({ "./version" }, options) == "hijacked\n")
    assert(cli:out({ "--", "version" }, options) == "hijacked\n")
    -- What is no command is a script, and its words are its own.
    assert(cli:out({ "mine", "-o", "json", "--url", "x" }, options)
      == "mine\t-o\tjson\t--url\tx\n")
  end)
end)

-- ---------------------------------------------------------------------- output

test("commands: version in every form", function()
  support.alone(function(cli)
    local number = cli:out({ "version", "-q" }):match("^(%d+%.%d+%.%d+)\n$")
    assert(cli:out({ "version" }) == cli:out({ "version", "-o", "wide" }))
    has(cli:out({ "version" }), "sbxlua " .. number)
    local row = cli:json({ "-o", "json", "version" })
    assert(row.v == 1 and row.version == number)
    local line = cli:out({ "version", "-ojsonl" })
    assert(select(2, line:gsub("\n", "")) == 1 and json.decode(line).version == number)
    assert(cli:out({ "version", "-o", "name" }) == number .. "\n")
  end)
end)

-- A server whose answer to every get is this one.
local function with_answer(status, body, headers, fn)
  local server <close> = api.start({
    get = function() return status, body, headers end,
    batch = function() return 404, { detail = "no such route" } end,
  })
  support.alone(fn, { PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url })
end

test("commands: each kind of failure has its exit status, and JSON has its fields", function()
  for status, expected in pairs({
    [401] = 4, [403] = 4, [402] = 7, [409] = 6, [429] = 7, [500] = 1, [422] = 5, [404] = 5,
  }) do
    -- A name that the server does not take is looked for among all.
    local is_missing = status == 422 or status == 404
    local server <close> = api.start({
      get = function() return status, { detail = "because" }, { ["Retry-After"] = "900" } end,
      list = function()
        if is_missing then return nil end
        return status, { detail = "because" }, { ["Retry-After"] = "900" }
      end,
    })
    support.alone(function(cli)
      local result = cli:fails(expected, { "get", "sbx-1", "-o", "json" })
      local said = json.decode(result.stderr)
      assert(said.exit_status == expected and result.stdout == "")
      assert(is_missing or said.error.status == status, result.stderr)
      if not is_missing then has(cli:fails(expected, { "ls" }).stderr, "because") end
      if status == 401 then has(result.stderr, "context show --show-origin") end
      assert(not result.stderr:find(api.KEY, 1, true))
    end, { PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url })
  end
end)

test("commands: no key is 4, no server 8, no answer in time 124", function()
  support.alone(function(cli)
    cli:fails(4, { "ls" }, "PRIME_API_KEY", "--key-file", "--context")
    local port
    do
      local listener <close> = net.listen("127.0.0.1", 0)
      port = listener.port
    end
    local key = cli.home .. "/key"
    fs.write(key, "k\n", { mode = 384 })
    cli:fails(8, { "ls", "--key-file", key, "--url", "http://127.0.0.1:" .. port }, "refused",
      "is --url or PRIME_API_BASE_URL right?")
    fs.chmod(key, 420)
  end)
  with_answer(200, api.object("sbx-1", { status = "PENDING" }), nil, function(cli)
    cli:fails(124, { "wait", "sbx-1", "--for", "gone", "--timeout", "200ms" }, "sbx-1")
    cli:fails(124, { "wait", "sbx-1", "--timeout", "200ms" }, "sbx-1")
  end)
end)

test("commands: what a peer calls things cannot move the cursor or forge a row", function()
  local evil = "\27[2Jevil\nsbx-2  forged"
  local server <close> = api.start({
    list = function()
      return 200, { sandboxes = { api.object("sbx-1", { name = evil }) }, total = 1, page = 1,
        per_page = 100, has_next = false }
    end,
  })
  support.alone(function(cli)
    for _, format in ipairs({ "table", "wide" }) do
      local out = cli:out({ "ls", "-o", format })
      assert(not out:find("\27", 1, true) and select(2, out:gsub("\n", "")) == 2, out)
    end
    assert(cli:json({ "ls", "-o", "json" })[1].name == evil)
  end, { PRIME_API_KEY = api.KEY, PRIME_API_BASE_URL = server.url })
end)
