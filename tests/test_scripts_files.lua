-- The scripts that move files, open ports and look for ways out, each as people
-- run it.

local encoding = require("sbx.encoding")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local scripts = dofile(here .. "scripts_support.lua")
local watch = dofile(here .. "leftover_support.lua")

local run_local = scripts.run_local

---@async
local function run_against(url, key, name, words)
  return scripts.run_against({ url = url, api_key = key }, name, words)
end

---Calls `fn(box, start)` with a sandbox that stays while `start(words)` runs
---sync_artifacts on it any number of times.
---@async
local function with_box(fn)
  scripts.with_box(function(box, server)
    fn(box, function(words)
      return scripts.run_against(server, "sync_artifacts",
        { "--sandbox", box.id, table.unpack(words) })
    end)
  end)
end

-- Rows of CSV as action .. " " .. name → row, and how many there are of each action.
local function by_name(result)
  local rows, actions = {}, {}
  for row in encoding.csv_rows(result.stdout, { header = true }) do
    rows[row.action .. " " .. row.name] = row
    actions[row.action] = (actions[row.action] or 0) + 1
  end
  return rows, actions
end

-- ----------------------------------------------------------- sync_artifacts

local EVERY_BYTE = {}
for i = 0, 255 do
  EVERY_BYTE[i + 1] = string.char(i)
end
EVERY_BYTE = table.concat(EVERY_BYTE)

test("sync_artifacts: files arrive as they are, and only what changed is sent again", function()
  local folder <close> = fs.tmpdir()
  local source, back = folder.path .. "/src", folder.path .. "/back"
  fs.mkdir(source .. "/sub folder/deep", { parents = true })
  local contents = {
    ["plain.txt"] = "text\n", ["empty"] = "", ["it's \"quoted\" $HOME.bin"] = EVERY_BYTE,
    ["sub folder/ü.txt"] = "umlaut", ["sub folder/deep/-n"] = "dash",
  }
  for name, bytes in pairs(contents) do
    fs.write(source .. "/" .. name, bytes)
  end

  with_box(function(box, start)
    local words = { "--push", source, "--remote", "/tmp/a b", "--pull", "**", "--into", back }
    local result = start(words)
    assert(result.code == 0, result.stderr)
    local _, actions = by_name(result)
    assert(actions.pushed == 5 and actions.pulled == 5, result.stdout)
    for name, bytes in pairs(contents) do
      assert(fs.read(back .. "/" .. name) == bytes, name)
    end

    fs.write(source .. "/plain.txt", "other text\n")
    result = start(words)
    local rows
    rows, actions = by_name(result)
    assert(result.code == 0 and actions.unchanged == 8, result.stdout)
    assert(actions.pushed == 1 and actions.pulled == 1, result.stdout)
    assert(fs.read(back .. "/plain.txt") == "other text\n")
    assert(rows["pushed plain.txt"].sha256 == hash.sha256("other text\n"))
    assert(box:exec("cat '/tmp/a b/plain.txt'").stdout == "other text\n")
  end)
end)

test("sync_artifacts: pulls what matches, also after a command that failed", function()
  local folder <close> = fs.tmpdir()
  local result = run_local("sync_artifacts", {
    "--run", "mkdir -p out/deep; echo 1 > out/a.log; echo 2 > out/deep/b.log; echo 3 > c; exit 9",
    "--pull", "out/**", "--pull", "*.txt", "--into", folder.path,
  })
  assert(result.code == 1 and result.stderr:find("exit code 9", 1, true), result.stderr)
  local _, actions = by_name(result)
  assert(actions.pulled == 2, result.stdout)
  assert(fs.read(folder.path .. "/out/deep/b.log") == "2\n")
  assert(#fs.list(folder.path) == 1)
end)

test("sync_artifacts: a name with a line break is refused, and so is a deleted sandbox", function()
  with_box(function(box, start)
    box:exec("touch \"$(printf 'a\\nb')\"", { working_dir = "/tmp" })
    local result = start({ "--remote", "/tmp", "--pull", "**" })
    assert(result.code == 1, result.stdout)
    assert(result.stderr:find("a file name that cannot be synced", 1, true), result.stderr)

    box:delete()
    result = start({ "--pull", "**" })
    assert(result.code ~= 0 and result.stderr:find("not running", 1, true), result.stderr)
  end)
end)

test("sync_artifacts: a sandbox that lies about names or contents gets nothing past it", function()
  local folder <close> = fs.tmpdir()
  local into = folder.path .. "/into"
  local digest = hash.sha256("as promised")
  local listing
  local server <close> = api.start({
    exec = function() return 200, { stdout = listing, stderr = "", exit_code = 0 } end,
    download = function() return 200, "something else" end,
  })
  server:add("sbx-1")
  for _, name in ipairs({ "../evil", "a/../../evil", "/etc/evil", "a//b", "./a", "" }) do
    listing = digest .. "  ./" .. name .. "\n"
    local words = { "--sandbox", "sbx-1", "--pull", "**", "--into", into }
    local result = run_against(server.url, api.KEY, "sync_artifacts", words)
    assert(result.code == 1, name)
    assert(result.stderr:find("cannot be synced", 1, true), result.stderr)
    assert(server:count("download") == 0)
  end
  listing = digest .. "  ./honest\n"
  local words = { "--sandbox", "sbx-1", "--pull", "**", "--into", into }
  local result = run_against(server.url, api.KEY, "sync_artifacts", words)
  assert(result.code == 1 and result.stderr:find("honest did not arrive as it was", 1, true))
  assert(#fs.list(into) == 0)

  fs.write(folder.path .. "/up", "x")
  words = { "--sandbox", "sbx-1", "--push", folder.path }
  result = run_against(server.url, api.KEY, "sync_artifacts", words)
  assert(result.code == 1 and result.stderr:find("up did not arrive as it was", 1, true))
end)

-- ---------------------------------------------------------------- smoke_web

test("smoke_web: pages that answer as they should, and a folder of one's own", function()
  local folder <close> = fs.tmpdir()
  fs.mkdir(folder.path .. "/sub")
  fs.write(folder.path .. "/sub/page.html", "hello")
  local result = run_local("smoke_web", {
    "--folder", folder.path, "/", "/sub/page.html", "/missing=404", "/?a=b",
  })
  assert(result.code == 0, result.stderr)
  local _, fine = result.stdout:gsub("\nok ", "")
  assert(fine == 4, result.stdout)
  assert(result.stdout:find("\nok +404 +[%d.]+  /missing\n"), result.stdout)
end)

test("smoke_web: a page that answers otherwise fails; the port is closed again", function()
  local server <close> = api.start({
    expose = function(call, server)
      return 200, {
        exposure_id = "exp-7", sandbox_id = call.id, port = call.body.port,
        url = server.url .. "/", -- which has no pages: 404
      }
    end,
  })
  local words = { "--wait", "300ms", "--port", "81", "/", "/absent=404" }
  local result = run_against(server.url, api.KEY, "smoke_web", words)
  assert(result.code == 1, result.stdout)
  assert(result.stdout:find("\nok +404 +[%d.]+  /absent\n"), result.stdout)
  assert(result.stdout:find("\nFAIL +404 +[%d.]+  /  wanted 200\n"), result.stdout)
  assert(server:count("expose") == 1 and server:count("unexpose") == 1)
  assert(server:count("delete") == 1)
end)

test("smoke_web: of a service that does not start, its last words are shown", function()
  local result = run_local("smoke_web", {
    "--wait", "300ms", "--start", "echo cannot start; false", "/", "/missing=404",
  })
  assert(result.code == 1, result.stdout)
  assert(select(2, result.stdout:gsub("\nFAIL +502 ", "")) == 2, result.stdout)
  assert(result.stderr:find("0 of 2 pages as expected\ncannot start\n", 1, true), result.stderr)
end)

test("smoke_web: Ctrl-C while it waits for the service leaves nothing", function()
  watch.run(function(start, look)
    local words = { "--start", "sleep 600", "--wait", "10m", "/" }
    local going <close> = start(scripts.argv("smoke_web", words))
    going:await("stdout", "RESULT")
    assert(look(going.pid) >= 3)
    going:kill("INT")
    assert(going:finish() == 130, going.text.stderr)
  end)
end)

-- ---------------------------------------------------------- check_isolation

test("check_isolation: a sandbox of this machine passes, and what is in reach fails", function()
  local result = run_local("check_isolation", { "--target", "[::1]:9" })
  assert(result.code == 0, result.stdout .. result.stderr)
  assert(not result.stdout:find("FAIL", 1, true), result.stdout)
  local _, passed = result.stdout:gsub("%f[^\0\n]PASS  ", "")
  assert(passed >= 11, result.stdout)
  assert(result.stdout:find("PASS  the API: 127.0.0.1:%d+: "), result.stdout)

  -- Its own server is in reach, so as a target it must be found out.
  result = run_local("check_isolation", { "--target", "127.0.0.1:8000" })
  assert(result.code == 1, result.stdout)
  assert(result.stdout:find("FAIL  target: 127.0.0.1:8000: connected\n", 1, true), result.stdout)
  assert(result.stderr:find("1 checks failed", 1, true), result.stderr)
end)

test("check_isolation: a server that does not promise isolation is not even tried", function()
  local server <close> = api.start({
    create = function(call)
      return 201, api.object("sbx-9", { name = call.body.name, networkAccess = true })
    end,
  })
  server:add("sbx-9")
  local result = run_against(server.url, api.KEY, "check_isolation", {})
  assert(result.code == 1 and result.stdout == "", result.stdout)
  assert(result.stderr:find("did not confirm network_access = false", 1, true), result.stderr)
  assert(server:count("delete") == 1)
end)
