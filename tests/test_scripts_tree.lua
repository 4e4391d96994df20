-- scripts/build_tree.lua and scripts/big_file.lua, as people run them.

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local scripts = dofile(here .. "scripts_support.lua")
local watch = dofile(here .. "leftover_support.lua")
local run_local, run_against = scripts.run_local, scripts.run_against

-- --------------------------------------------------------------- build_tree

test("build_tree: a tree goes up, is built, and the result comes back", function()
  local folder <close> = fs.tmpdir()
  local source, out = folder.path .. "/src", folder.path .. "/out"
  scripts.write_tree(source, { ["a b"] = "text\n", ["sub/run.sh"] = "echo ran\n", [".git/x"] = "" })
  fs.write(folder.path .. "/in", "from stdin\n")
  local result = run_local("build_tree", {
    source, "--into", out, "--result", "dist", "-x", ".git", "--stdin", folder.path .. "/in",
    "-e", "WHO=it's me", "--", "sh", "-c",
    'ls -A >&2; mkdir -p dist/deep; cat > dist/in; sh sub/run.sh; printf %s "$WHO" > dist/deep/who;'
      .. 'cp "a b" dist; ln -s in dist/link',
  })
  assert(result.code == 0, result.stderr)
  assert(result.stderr:find("ran\n", 1, true) and not result.stderr:find(".git", 1, true))
  local rows = scripts.rows(result.stdout)
  assert(#rows == 3, result.stdout)
  for _, row in ipairs(rows) do
    local digest, size = hash.sha256_file(out .. "/" .. row.file)
    assert(row.sha256 == digest and tonumber(row.bytes) == size, row.file)
  end
  assert(fs.read(out .. "/deep/who") == "it's me" and fs.read(out .. "/a b") == "text\n")
  assert(fs.read(out .. "/link") == "from stdin\n")
end)

test("build_tree: a build that fails, or takes too long, brings nothing back", function()
  local folder <close> = fs.tmpdir()
  local source, out = folder.path .. "/src", folder.path .. "/out"
  scripts.write_tree(source, { a = "" })
  local result = run_local("build_tree", { source, "--into", out, "--", "sh", "-c", "exit 7" })
  assert(result.code == 1 and result.stdout == "" and result.stderr:find("exit code 7\n", 1, true))
  result = run_local("build_tree", {
    source, "--into", out, "--deadline", "1s", "--", "sh", "-c", "echo begun; sleep 600",
  })
  assert(result.code == 1 and result.stderr:find("begun\n", 1, true), result.stderr)
  assert(result.stderr:find("killed after 1s\n", 1, true) and not fs.exists(out), result.stderr)
end)

test("build_tree: what cannot work is seen before anything is made", function()
  local folder <close> = fs.tmpdir()
  local source = folder.path .. "/src"
  scripts.write_tree(source, { a = "" })
  for _, words in ipairs({
    { source, "--into", source, "--", "true" }, -- not empty
    { source, "--into", folder.path .. "/o", "--result", "../..", "--", "true" },
    { source, "--", "true" }, { folder.path .. "/none", "--into", "o", "--", "true" },
  }) do
    local result = run_local("build_tree", words)
    assert(result.code == 2 and result.stderr:find("^build_tree: %S"), result.stderr)
    assert(not result.stderr:find("created", 1, true), result.stderr)
  end
end)

test("build_tree: Ctrl-C in the build leaves nothing", function()
  local folder <close> = fs.tmpdir()
  scripts.write_tree(folder.path .. "/src", { a = "" })
  watch.run(function(start, look)
    local going <close> = start(scripts.argv("build_tree", {
      folder.path .. "/src", "--into", folder.path .. "/out", "--",
      "sh", "-c", "echo begun; sleep 600",
    }))
    going:await("stderr", "begun\n") -- while it runs: output is shown as it comes
    assert(look(going.pid) >= 4)
    going:kill("INT")
    assert(going:finish() == 130 and not fs.exists(folder.path .. "/out"), going.text.stderr)
  end)
end)

-- ----------------------------------------------------------------- big_file

test("big_file: in parts, from a file and from a pipe, and back as it was", function()
  local folder <close> = fs.tmpdir()
  local bytes = hash.random_bytes(700000) .. "end"
  local digest = hash.sha256(bytes)
  local from, to = folder.path .. "/from", folder.path .. "/to"
  fs.write(from, bytes)
  scripts.with_box(function(box, server)
    local there = box.id .. ":/tmp/a b/big"
    local words = { "--part", "100KiB", "--mode", "750", from, there }
    local result = run_against(server, "big_file", words)
    assert(result.code == 0 and result.stdout == "700003\t" .. digest .. "\n", result.stderr)
    assert(box:exec("stat -c '%a %s' '/tmp/a b/big'").stdout == "750 700003\n")

    result = run_against(server, "big_file", { "--part", "100KiB", "-", box.id .. ":/tmp/piped" },
      { input = bytes })
    assert(result.code == 0 and result.stdout == "700003\t" .. digest .. "\n", result.stderr)
    assert(box:exec("cmp /tmp/piped '/tmp/a b/big'").exit_code == 0)

    -- What an earlier try left is gone on with.
    fs.write(to .. ".part", bytes:sub(1, 500000))
    result = run_against(server, "big_file", { there, to })
    assert(result.code == 0 and result.stdout == "700003\t" .. digest .. "\n", result.stderr)
    assert(fs.read(to) == bytes and not fs.exists(to .. ".part"))

    result = run_against(server, "big_file", { there, "-" })
    assert(result.code == 0 and result.stdout == bytes, result.stderr)
    result = run_against(server, "big_file", { box.id .. ":/tmp/none", to })
    assert(result.code == 5 and result.stderr:find("/tmp/none", 1, true), result.stderr)
    assert(fs.read(to) == bytes)
  end)
end)

test("big_file: one side is in a sandbox, the other is not", function()
  for _, words in ipairs({
    { "a", "b" }, { "x:/a", "y:/b" }, { "a", "x:b" }, { "--mode", "u+x", "a", "x:/b" },
  }) do
    local result = run_local("big_file", words)
    assert(result.code == 2 and result.stderr:find("^big_file: %S"), result.stderr)
  end
end)
