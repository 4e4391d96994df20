-- What shells propose: by the shells themselves, against a real server.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")
local support = dofile(here .. "cli_support.lua")

local function set_of(text)
  local set = {}
  for line in text:gmatch("[^\n]+") do
    set[line:match("^[^\t]*")] = true
  end
  return set
end

local function expect(set, words)
  for _, word in ipairs(words) do
    if not set[word] then
      local all = {}
      for one in pairs(set) do
        all[#all + 1] = one
      end
      error(("%q is not proposed: %s"):format(word, table.concat(all, " | ")), 2)
    end
  end
end

-- The scripts call the program by the name that was typed: give it a short one.
local function with_shell(name, fn)
  if not process.which(name) then skip("there is no " .. name) end
  support.with_server(function(cli)
    local bin = cli.home .. "/bin"
    fs.mkdir(bin)
    fs.symlink(host.executable(), bin .. "/sbxlua")
    cli.env.PATH = bin .. ":" .. os.getenv("PATH")
    fs.write(cli.home .. "/script", (cli:out({ "completion", name })))
    local id = cli:create("-n", "web")
    fn(function(argv)
      local result = process.run(argv, {
        env = cli:environment(), cwd = cli.home, timeout = 60, check = true,
      })
      return set_of(result.stdout), result.stderr
    end, id, cli)
  end)
end

-- In all shells: { words before, what is typed, what is proposed, what is not }.
local function cases(id)
  return {
    { {}, "ex", { "exec", "expose" }, "ls" },
    { { "ls" }, "--st", { "--status" }, "--label" },
    { { "wait", id, "--for" }, "", { "ready", "gone" } },
    { { "exec" }, "", { id } },
    { { "rm", id }, "sbx-", { id } },
    { { "-o" }, "j", { "json", "jsonl" }, "table" },
    { { "jobs" }, "", { "start", "wait", "cancel" } },
    { { "jobs", "wait", "-q" }, id:sub(1, 8), { id } },
    { { "completion" }, "", { "bash", "zsh", "fish" } },
    { { "help" }, "con", { "context" } },
    { { "serve" }, "--dri", { "--driver" } },
    { { "context", "use" }, "", { "here" } },
    { { "--context" }, "h", { "here" } },
    -- The command in the sandbox is not ours to complete.
    { { "exec", id, "ls" }, "--w", {}, "--workdir" },
    { { "exec", "--", id }, "--w", {}, "--workdir" },
    { { "exec", id }, "--w", { "--workdir" } },
  }
end

local function add_context(cli)
  cli:out({ "context", "add", "here", "--url", cli.url, "--key-path", cli.key_file })
end

local function check_all(ask, id)
  for _, case in ipairs(cases(id)) do
    local set = ask(case[1], case[2])
    expect(set, case[3])
    assert(not set[case[4] or ""], ("%s is proposed after %s"):format(tostring(case[4]),
      table.concat(case[1], " ")))
  end
end

test("completion: bash", function()
  with_shell("bash", function(run, id, cli)
    add_context(cli)
    local code = [[
      source ./script
      COMP_WORDS=(sbxlua "$@"); COMP_CWORD=$(($# )); _sbxlua
      printf '%s\n' "${COMPREPLY[@]}"]]
    local function ask(words, typed)
      local argv = { "bash", "--norc", "-c", code, "bash" }
      table.move(words, 1, #words, #argv + 1, argv)
      argv[#argv + 1] = typed
      local set, said = run(argv)
      assert(said == "", said)
      return set
    end
    check_all(ask, id)
    -- bash splits words at = and :, and wants what stands behind them.
    expect(ask({ "ls", "--output", "=" }, "js"), { "json", "jsonl" })
    fs.write(cli.home .. "/fleet file.lua", "")
    expect(ask({}, "fl"), { "fleet file.lua" })
    expect(ask({ "cp", "fleet file.lua" }, "sbx-"), { id .. ":" })
  end)
end)

test("completion: zsh", function()
  with_shell("zsh", function(run, id, cli)
    add_context(cli)
    local code = [[
      compdef() { :; }
      _describe() { local -a list; list=("${(@P)4}"); print -rl -- "${list[@]%%:*}"; }
      compadd() { shift 3; print -rl -- "$@"; }
      _files() { print -r -- FILES; }
      source ./script
      words=(sbxlua "$@"); CURRENT=${#words}; _sbxlua]]
    local function ask(words, typed)
      local argv = { "zsh", "-f", "-c", code, "zsh" }
      table.move(words, 1, #words, #argv + 1, argv)
      argv[#argv + 1] = typed
      return (run(argv))
    end
    check_all(ask, id)
    expect(ask({ "cp" }, ""), { id .. ":", "FILES" })
  end)
end)

test("completion: fish", function()
  with_shell("fish", function(run, id, cli)
    add_context(cli)
    local function ask(words, typed)
      local line = table.concat({ "sbxlua", table.unpack(words) }, " ") .. " " .. typed
      return (run({ "fish", "--no-config", "-c", "source ./script; complete -C " .. "'" .. line
        .. "'" }))
    end
    check_all(ask, id)
    expect(ask({ "cp" }, "sbx-"), { id .. ":" })
  end)
end)

test("completion: without an API, a key or a sense it says nothing and does not fail", function()
  support.alone(function(cli)
    for _, words in ipairs({
      { "exec", "" }, { "--url", "http://127.0.0.1:1", "exec", "" },
      { "--context", "x", "ls", "-" }, { "nonsense", "--x", "" }, { "" }, { "exec", "--env", "" },
      { "--key-file", "/nowhere", "rm", "" },
    }) do
      local result = cli:run({ "complete", "--", table.unpack(words) })
      assert(result.code == 0 and result.stderr == "", result.stderr)
      assert(result.stdout:find(":%a+\n$"), result.stdout)
    end
    cli:fails(2, { "completion", "tcsh" }, "bash, zsh or fish")
    cli:fails(2, { "completion" }, "SHELL is missing")
  end)
end)
