-- Commands at the limits of what a sandbox can do: images without the usual programs,
-- commands longer than one argument may be.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "sandbox_exec_support.lua")
local api = support.api

-- A relay to a sandbox whose scripts find these programs only.
local function with_programs(names, fn)
  local function poor(call)
    call.body.command = "PATH=/var/tmp/poor; export PATH\n" .. call.body.command
  end
  support.with_relay(poor, function(client, box)
    box:exec("mkdir /var/tmp/poor; for t in " .. names
      .. "; do ln -s $(command -v $t) /var/tmp/poor/$t; done", { check = true })
    fn(client, box)
  end)
end

test("poor image: without tail nothing is started, and the error says what is missing", function()
  with_programs("sh mkdir mv rm sleep wc head od", function(client, box)
    local err = api.failure(client.execute_command, client, "sbx-1", "touch /var/tmp/ran",
      { spool = true })
    assert(err.kind == "unsupported" and err.code == "NO_TOOL", tostring(err))
    assert(err.outcome == "not_started" and err.message:find("there is no tail;", 1, true))
    err = api.failure(client.start_background_job, client, "sbx-1", "touch /var/tmp/ran")
    assert(err.code == "NO_TOOL" and err.outcome == "not_started")
    err = api.failure(client.get_background_job, client, "sbx-1", "0badcafe")
    assert(err.code == "NO_TOOL" and err.outcome == nil)
    assert(box:exec("test -e /var/tmp/ran").exit_code == 1)
    support.await_nothing(box)
  end)
end)

test("poor image: tr, grep, setsid and base64 are not needed, not even to kill", function()
  with_programs("sh mkdir mv rm sleep wc head tail od", function(client, box)
    local result = client:execute_command("sbx-1", "printf '\\377\\000a\\n%2000s' x; exit 3",
      { binary = true })
    assert(result.stdout == "\xff\0a\n" .. (" "):rep(1999) .. "x" and result.exit_code == 3)
    local err = api.failure(client.execute_command, client, "sbx-1",
      "trap '' TERM; (trap '' TERM; /usr/bin/setsid sleep 4711 &); sleep 4711",
      { deadline = 0.5 })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    support.await_nothing(box)
  end)
end)

test("poor image: busybox is enough", function()
  if not require("sbx.process").which("busybox") then skip("no busybox") end
  local function poor(call)
    call.body.command = ("PATH=/var/tmp/poor; export PATH; exec busybox sh -c %s"):format(
      require("sbx.encoding").quote_shell(call.body.command))
  end
  support.with_relay(poor, function(client, box)
    box:exec("mkdir /var/tmp/poor; for t in busybox sh mkdir mv rm sleep wc head tail od "
      .. "base64 setsid grep tr cat; do ln -s $(command -v busybox) /var/tmp/poor/$t; done",
      { check = true })
    local result = client:execute_command("sbx-1", "printf '\\377\\000a\\n'; exit 3",
      { binary = true })
    assert(result.stdout == "\xff\0a\n" and result.exit_code == 3)
    local err = api.failure(client.execute_command, client, "sbx-1",
      "trap '' TERM; (trap '' TERM; setsid sleep 4711 &); sleep 4711", { deadline = 0.5 })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    support.await_nothing(box)
  end)
end)

test("poor image: a tail that brings nothing is an error, not an endless wait", function()
  with_programs("sh mkdir mv rm sleep wc head od", function(client, box)
    box:exec("ln -s /bin/true /var/tmp/poor/tail", { check = true })
    local err = api.failure(client.execute_command, client, "sbx-1", "echo a", { spool = true })
    assert(err.code == "BAD_STATE" and err.message:find("tail", 1, true), tostring(err))
    err = api.failure(client.run_background_job, client, "sbx-1", "echo a")
    assert(err.code == "BAD_STATE" and err.job.sandbox_id == "sbx-1", tostring(err))
  end)
end)

test("exec: a deadline reaches children without the mark and the session, too", function()
  support.with_box(function(box)
    local err = api.failure(box.exec, box,
      "trap '' TERM; env -i setsid sh -c \"trap '' TERM; sleep 4711; sleep 4712\" & sleep 4713",
      { deadline = 0.5 })
    assert(err.kind == "command_timeout" and err.outcome == "exited", tostring(err))
    support.await_nothing(box)
  end)
end)

local LONG = "# " .. ("it's long "):rep(30000) .. "\nwc -c; echo \"$0 $A\"; exit 5"

test("long commands: 300 KB run in every way", { timeout = 180 }, function()
  support.with_box(function(box, client)
    for _, options in ipairs({
      { stdin = "abc" }, { stdin = ("x"):rep(100000) }, { spool = true }, { timeout = 100 },
      { on_stdout = function() end },
    }) do
      options.env = { A = "ü" }
      local result = box:exec(LONG, options)
      assert(result.exit_code == 5 and result.stderr == "", result.stderr)
      if not options.on_stdout then
        local size = options.stdin and #options.stdin or 0
        assert(result.stdout:find("^" .. size .. "\n%S*sh ü\n$"), result.stdout)
      end
    end
    local words = { "printf", "%s" }
    for i = 1, 4 do words[#words + 1] = ("\xff"):rep(70000) .. i end
    assert(#box:exec(words, { binary = true }).stdout == 280004)
    local status = box:run_background_job(LONG)
    assert(status.exit_code == 5 and status.stdout:find("^0\n"), status.stderr)
    support.await_nothing(box, "job_[%w.]+\n")
    assert(client)
  end)
end)

test("long commands: what no program takes is refused before anything is sent", function()
  support.with_relay(function() end, function(client, _, server)
    local word = ("x"):rep(131072)
    for _, case in ipairs({
      { "command%[2%]: 131072 bytes", { "echo", word } },
      { "env.A: 131074 bytes", "true", { env = { A = word } } },
      { "without spool = false", LONG, { spool = false } },
    }) do
      local before = server:count("exec")
      local err = api.failure(client.execute_command, client, "sbx-1", case[2], case[3])
      assert(err.kind == "limit" and err.outcome == "not_started", tostring(err))
      assert(err.message:find(case[1]) and server:count("exec") == before, err.message)
    end
    local err = api.failure(client.start_background_job, client, "sbx-1", { "echo", word })
    assert(err.kind == "limit" and server:count("exec") == 0)
  end)
end)

test("long commands: one that cannot be uploaded is not_started", function()
  support.with_box(function()
    local server <close> = api.start({ upload = function() return 413, { message = "no" } end })
    server:add("sbx-1")
    local client <close> = server:client()
    local err = api.failure(client.execute_command, client, "sbx-1", LONG)
    assert(err.kind == "file_too_large" and err.outcome == "not_started", tostring(err))
    err = api.failure(client.start_background_job, client, "sbx-1", LONG)
    assert(err.outcome == "not_started")
  end)
end)

test("exec: input and a PATH without a shell go together", function()
  support.with_box(function(box)
    local result = box:exec("while read -r l; do echo \"$l\"; done; exit 4",
      { stdin = "a\nb\n", env = { PATH = "/nowhere" } })
    assert(result.stdout == "a\nb\n" and result.exit_code == 4, result.stderr)
  end)
end)
