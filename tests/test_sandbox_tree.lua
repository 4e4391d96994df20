-- Copying trees: up and down again, by what tools there are, and what goes wrong.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local expect = dofile(here .. "expect.lua")
local folder_box = dofile(here .. "peers/folder_box.lua")

local core = require("sbx.core.fs")
local fs = require("sbx.fs")
local process = require("sbx.process")
local task = require("sbx.task")
local temporary = dofile(here .. "temporary_support.lua")
local test_ = require("sbx.test")

local failure = folder_box.failure

local function octal(text) return tonumber(text, 8) end

-- A tree with something of everything that may be in one.
local function grow(root)
  fs.mkdir(root .. "/sub/deep", { parents = true })
  fs.mkdir(root .. "/empty")
  fs.write(root .. "/script", "#!/bin/sh\necho hi\n")
  fs.chmod(root .. "/script", octal("755"))
  fs.write(root .. "/secret", "x")
  fs.chmod(root .. "/secret", octal("400"))
  fs.write(root .. "/" .. ("n"):rep(220), ("long name "):rep(100))
  fs.write(root .. "/sub/new\nline grüße", ("x"):rep(100000))
  fs.write(root .. "/sub/deep/-dash", "")
  fs.write(root .. "/.hidden", "h")
  fs.symlink("../script", root .. "/sub/link")
  fs.symlink("sub", root .. "/folder link")
  fs.symlink("nowhere", root .. "/dangling")
  fs.mkdir(root .. "/locked")
  fs.write(root .. "/locked/in", "in")
  fs.chmod(root .. "/locked", octal("555"))
end

-- All of a tree as text; without the times of folders where a tool does not set them.
local function describe(root, untimed)
  local lines = {}
  for path in fs.walk(root) do
    local facts = fs.lstat(path)
    local name = path:sub(#root + 2)
    local what
    if facts.type == "file" then
      what = ("%o %d %s"):format(facts.mode, math.floor(facts.mtime), fs.read(path))
    elseif facts.type == "symlink" then
      what = fs.readlink(path)
    else
      what = ("%o %d"):format(facts.mode, untimed and 0 or math.floor(facts.mtime))
    end
    lines[#lines + 1] = ("%s %s %s"):format(name, facts.type, what)
  end
  return table.concat(lines, "\n")
end

local function start(handlers)
  local box = folder_box.start(handlers)
  box.tree, box.to = box.outer.path .. "/tree", box.outer.path .. "/to"
  fs.mkdir(box.tree)
  function box.down(_, options)
    return box.client:copy_tree_down(box.id, box.path .. "/in", box.to, options)
  end
  function box.up(_, options)
    return box.client:copy_tree_up(box.id, box.tree, box.path .. "/in", options)
  end
  return box
end

-- How many files this sandbox has left in /tmp.
local function archives(box)
  local asked = {}
  for _, call in ipairs(box.server.calls) do
    asked[#asked + 1] = { call.body or false, call.query or false }
  end
  return #temporary.left_by(asked)
end

local function await(condition)
  task.timeout(60, function()
    while not condition() do
      task.sleep(0.05)
    end
  end)
end

local function busybox_tools(box)
  local bin = box.outer.path .. "/bin-busybox"
  fs.mkdir(bin)
  for _, name in ipairs({
    "sh", "cat", "mv", "rm", "chmod", "wc", "stat", "readlink", "mkdir", "head", "tar", "sha256sum",
    "sleep", "tail", "tr", "base64", "grep", "setsid",
  }) do
    fs.symlink("/bin/busybox", bin .. "/" .. name)
  end
  return bin
end

test("tree: up and down again is the same tree", function()
  local box <close> = start()
  grow(box.tree)
  local seen = {}
  local up = box:up({ progress = function(done) seen[#seen + 1] = done end })
  test_.equal({ up.files, up.folders, up.links, up.bytes, #up.skipped },
    { 7, 4, 3, 1018 + 100000 + 4, 0 })
  assert(describe(box.path .. "/in") == describe(box.tree) and seen[#seen] > 100000)
  local down = box:down({ progress = function(done, total) seen = { done, total } end })
  test_.equal({ down.files, down.folders, down.links, down.bytes }, { 7, 4, 3, up.bytes })
  assert(describe(box.to) == describe(box.tree) and seen[1] == seen[2])
  assert(archives(box) == 0)
  assert(box:count("upload") == 1 and box:count("download") == 1)
end)

test("tree: by python3 where there is no tar, by busybox, and by neither", function()
  local box <close> = start()
  grow(box.tree)
  for _, tools in ipairs({ { "python3" }, "busybox" }) do
    box.tools = tools
    if tools == "busybox" then
      if not fs.exists("/bin/busybox") then break end
      local bin = busybox_tools(box)
      box.handlers.exec = function(_, command)
        local result = process.run({ "/bin/busybox", "sh", "-c", command }, {
          env = { PATH = bin },
        })
        return 200, { stdout = result.stdout, stderr = result.stderr, exit_code = result.code }
      end
    end
    box:up()
    local untimed = tools == "busybox"
    assert(describe(box.path .. "/in", untimed) == describe(box.tree, untimed))
    box:down()
    assert(describe(box.to, untimed) == describe(box.tree, untimed))
    fs.remove(box.to, { recursive = true })
    fs.remove(box.path .. "/in", { recursive = true })
  end
  box.tools, box.handlers.exec = {}, nil
  local err = failure(box.up, box)
  assert(err.kind == "unsupported" and err.code == "NO_TOOL", tostring(err))
  fs.mkdir(box.path .. "/in", { parents = true })
  assert(failure(box.down, box).kind == "unsupported" and not fs.exists(box.to))
end)

test("tree: in parts where it is large", function()
  local box <close> = start()
  grow(box.tree)
  box:up({ part_size = 20000 })
  assert(describe(box.path .. "/in") == describe(box.tree) and box:count("upload") > 5)
end)

test("tree: what is excluded goes neither way", function()
  local box <close> = start()
  grow(box.tree)
  box:up({ exclude = { "sub/deep", ".*", "locked" } })
  for _, name in ipairs({ "sub/deep", ".hidden", "locked" }) do
    assert(not fs.exists(box.path .. "/in/" .. name), name)
  end
  assert(fs.exists(box.path .. "/in/sub/link"))
  fs.write(box.path .. "/in/sub/large", ("x"):rep(1000000))
  fs.mkdir(box.path .. "/in/[odd")
  local total
  box:down({ exclude = { "large", "n*", "\\[odd" }, progress = function(_, all) total = all end })
  test_.equal(fs.list(box.to), { "dangling", "empty", "folder link", "script", "secret", "sub" })
  assert(total < 500000, "it was not even packed")
end)

test("tree: what has two names in the sandbox comes, whatever name is excluded", function()
  local box <close> = start()
  local from = box.path .. "/in"
  fs.mkdir(from .. "/sub", { parents = true })
  fs.write(from .. "/a.log", "data")
  fs.symlink("b", from .. "/link")
  core.link(from .. "/a.log", from .. "/b")
  core.link(from .. "/link", from .. "/second link")
  for _, tools in ipairs({ {}, { "python3" } }) do
    box.tools = tools[1] and tools or nil
    test_.equal(box:down().links, 3)
    assert(describe(box.to, true) == describe(from, true))
    fs.remove(box.to, { recursive = true })
    for _, case in ipairs({
      { "*.log", "lin[k]", "b", "second link" }, { "[b]", "second*", "a.log", "link" },
    }) do
      box:down({ exclude = { case[1], case[2] } })
      test_.equal(fs.list(box.to), { case[3], case[4], "sub" })
      assert(fs.read(box.to .. "/" .. case[3]) == "data")
      assert(fs.readlink(box.to .. "/" .. case[4]) == "b")
      fs.remove(box.to, { recursive = true })
    end
  end
end)

test("tree: links that lead outside are refused on both sides, or left out", function()
  local box <close> = start()
  fs.write(box.tree .. "/a", "a")
  fs.symlink("/etc/passwd", box.tree .. "/evil")
  local err = failure(box.up, box)
  assert(err.kind == "io" and err.code == "EXDEV" and #box.server.calls == 0, tostring(err))
  test_.equal(box:up({ unsafe = "skip" }).skipped, { "evil" })
  fs.symlink("../../..", box.path .. "/in/out")
  process.run({ "mkfifo", box.path .. "/in/fifo" })
  err = failure(box.down, box)
  assert(err.kind == "archive" and err.code == "UNSAFE" and err.sandbox_id == box.id)
  assert(err.op == "copy_tree_down" and tostring(err):find("^copy_tree_down sbx%-1: "))
  assert(not fs.exists(box.to) and not box:names():find("%.sbx"))
  local skipped = box:down({ unsafe = "skip" }).skipped
  table.sort(skipped)
  test_.equal(skipped, { "fifo", "out" })
  test_.equal(fs.list(box.to), { "a" })
end)

-- ------------------------------------------------------------------ local target

test("tree: into a folder that is there", function()
  local box <close> = start()
  grow(box.tree)
  box:up()
  fs.mkdir(box.to)
  fs.chmod(box.to, octal("750"))
  box:down()
  assert(describe(box.to) == describe(box.tree) and fs.stat(box.to).mode == octal("750"))
  local asked = #box.server.calls
  local err = failure(box.down, box)
  assert(err.kind == "io" and err.code == "EEXIST" and #box.server.calls == asked)

  fs.write(box.to .. "/own", "own")
  fs.write(box.to .. "/script", "changed")
  fs.remove(box.to .. "/sub", { recursive = true })
  fs.mkdir(box.to .. "/sub")
  fs.chmod(box.to .. "/sub", octal("700"))
  fs.write(box.to .. "/sub/mine", "mine")
  box:down({ overwrite = true })
  assert(fs.read(box.to .. "/own") == "own" and fs.read(box.to .. "/sub/mine") == "mine")
  assert(fs.read(box.to .. "/script") == fs.read(box.tree .. "/script"))
  assert(fs.stat(box.to .. "/sub").mode == octal("700"), "what was there stays what it was")
  assert(fs.is_dir(box.to .. "/sub/deep"))
  for _, name in ipairs(fs.list(box.to)) do
    assert(not name:find("^%.sbx"), name)
  end
end)

test("tree: overwriting follows no link and swaps no folder for a file", function()
  local box <close> = start()
  fs.mkdir(box.path .. "/in/d", { parents = true })
  fs.write(box.path .. "/in/d/x", "new")
  fs.mkdir(box.outer.path .. "/elsewhere")
  fs.mkdir(box.to)
  fs.symlink(box.outer.path .. "/elsewhere", box.to .. "/d")
  local err = failure(box.down, box, { overwrite = true })
  assert(err.kind == "io" and err.code == "ENOTDIR", tostring(err))
  assert(#fs.list(box.outer.path .. "/elsewhere") == 0)
  fs.remove(box.to .. "/d")
  fs.mkdir(box.to .. "/d/x", { parents = true })
  err = failure(box.down, box, { overwrite = true })
  assert(err.kind == "io" and err.code == "EISDIR", tostring(err))
  fs.remove(box.to .. "/d/x")
  fs.write(box.outer.path .. "/elsewhere/f", "old")
  fs.symlink("../../elsewhere/f", box.to .. "/d/x")
  box:down({ overwrite = true })
  assert(fs.read(box.to .. "/d/x") == "new" and fs.lstat(box.to .. "/d/x").type == "file")
  assert(fs.read(box.outer.path .. "/elsewhere/f") == "old")
end)

test("tree: a target that is no folder, or lies behind a link", function()
  local box <close> = start()
  fs.mkdir(box.path .. "/in/d", { parents = true })
  fs.write(box.to, "a file")
  local err = failure(box.down, box)
  assert(err.kind == "io" and err.code == "ENOTDIR" and #box.server.calls == 0)
  fs.remove(box.to)
  fs.mkdir(box.outer.path .. "/real")
  fs.symlink("real", box.to)
  box:down()
  assert(fs.is_dir(box.outer.path .. "/real/d") and fs.lstat(box.to).type == "symlink")
  fs.remove(box.to)
  box.to = box.outer.path .. "/many/levels/down"
  box:down()
  test_.equal(fs.list(box.to), { "d" })
end)

-- ---------------------------------------------------------------- what goes wrong

test("tree: folders that are not there", function()
  local box <close> = start()
  local err = failure(box.down, box)
  assert(err.kind == "file_not_found" and tostring(err):find("no such folder"), tostring(err))
  assert(not fs.exists(box.to))
  fs.remove(box.tree)
  box.server.calls = {}
  err = failure(box.up, box)
  assert(err.kind == "io" and err.code == "ENOENT" and #box.server.calls == 0)
  fs.write(box.tree, "a file")
  assert(failure(box.up, box).code == "ENOTDIR")
  fs.remove(box.tree)
  fs.mkdir(box.tree)
  fs.write(box.path .. "/in", "a file")
  assert(failure(box.up, box).code == "COMMAND_FAILED")
end)

test("tree: a damaged archive, a cut one, and one that is none", function()
  local box <close> = start()
  grow(box.path .. "/in")
  local damage
  box.handlers.download = function(call)
    return 200, damage(fs.read(call.query.path[1]))
  end
  for _, how in ipairs({
    function(bytes) return bytes:sub(1, #bytes // 2) end,
    function(bytes) return bytes:sub(1, 700) .. "X" .. bytes:sub(702) end,
    function() return ("nothing "):rep(1000) end,
    function() return "" end,
  }) do
    damage = how
    local err = failure(box.down, box)
    assert(err.kind == "archive" and not fs.exists(box.to), tostring(err))
  end
  test_.equal(fs.list(box.outer.path), { "box", "tree" })
end)

test("tree: more than is allowed", function()
  local box <close> = start()
  grow(box.path .. "/in")
  for _, options in ipairs({ { max_bytes = 1000 }, { max_entries = 3 } }) do
    local err = failure(box.down, box, options)
    assert(err.kind == "limit" and not fs.exists(box.to), tostring(err))
  end
end)

test("tree: cancelled halfway, nothing stays on either side", function()
  local box <close> = start({
    download = function(call)
      local bytes = fs.read(call.query.path[1])
      call.request:start(200, {}, #bytes)
      call.request:write(bytes:sub(1, #bytes // 2))
      return folder_box.HANG
    end,
  })
  grow(box.path .. "/in")
  expect.cancelled_once(function() return box:count("download") == 1 end, box.down, box)
  await(function() return archives(box) == 0 end)
  test_.equal(fs.list(box.outer.path), { "box", "tree" })
  box.handlers.upload = function(call)
    if call.n == 3 then return folder_box.HANG end
  end
  grow(box.tree)
  expect.cancelled_once(function() return box:count("upload") >= 3 end, box.up, box,
    { part_size = 20000 })
  await(function() return archives(box) == 0 end)
end)

test("tree: misuse is named", function()
  local box <close> = start()
  local function misuse(text, fn)
    local ok, err = pcall(fn)
    assert(not ok and type(err) == "string" and err:find(text, 1, true), tostring(err))
  end
  local client, id = box.client, box.id
  misuse("remote_dir: expected an absolute path", function() client:copy_tree_up(id, "x", "y") end)
  misuse("local_dir: is empty", function() client:copy_tree_up(id, "", "/y") end)
  misuse("local_dir: expected a string", function() client:copy_tree_down(id, "/y") end)
  misuse("unsafe: expected", function() client:copy_tree_up(id, "x", "/y", { unsafe = true }) end)
  misuse("exclude[1]: ", function() client:copy_tree_up(id, "x", "/y", { exclude = { "[" } }) end)
  misuse("exclude: expected a table", function()
    client:copy_tree_down(id, "/y", "x", { exclude = "x" })
  end)
  misuse("unknown option 'overwrite'", function()
    client:copy_tree_up(id, "x", "/y", { overwrite = true })
  end)
  misuse("max_bytes: expected a whole number", function()
    client:copy_tree_down(id, "/y", "x", { max_bytes = "1" })
  end)
  assert(#box.server.calls == 0)
end)
