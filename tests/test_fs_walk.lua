-- Walking and finding, compared with what Python's os and glob say of the same
-- random trees.

local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local json = require("sbx.json")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

-- Runs `fn(path)` with a fresh directory.
---@async
local function with_dir(fn)
  local dir <close> = fs.tmpdir()
  return fn(dir.path)
end

-- Makes folders ("a/") and files in `dir`.
---@async
local function make(dir, names)
  for name in names:gmatch("%S+") do
    local full = dir .. "/" .. name
    if name:sub(-1) == "/" then
      fs.mkdir(full, { parents = true })
    else
      fs.mkdir(path.dirname(full), { parents = true })
      fs.write(full, "")
    end
  end
end

-- What a walk gives, in one text: paths below `dir`, folders with a slash.
---@async
local function walked(dir, options, each)
  local words = {}
  for full, entry in fs.walk(dir, options) do
    assert(full == entry.path and path.basename(full) == entry.name)
    assert(select(2, full:sub(#dir + 2):gsub("/", "")) + 1 == entry.depth)
    words[#words + 1] = full:sub(#dir + 2) .. (entry.type == "directory" and "/" or "")
    if each then each(entry) end
  end
  return table.concat(words, " ")
end

local function equal(got, wanted)
  assert(got == wanted, ("got %s, not %s"):format(got, wanted))
end

test("fs.walk: a folder, then what it holds, sorted by bytes", function()
  with_dir(function(dir)
    make(dir, "b/c/d b/a a-b a/x .h/y Z é/")
    equal(walked(dir), ".h/ .h/y Z a/ a/x a-b b/ b/a b/c/ b/c/d é/")
    equal(walked(dir, { hidden = false }), "Z a/ a/x a-b b/ b/a b/c/ b/c/d é/")
    equal(walked(dir, { depth = 1 }), ".h/ Z a/ a-b b/ é/")
    equal(walked(dir, { depth = 2, hidden = false }), "Z a/ a/x a-b b/ b/a b/c/ é/")
    equal(walked(dir, nil, function(entry)
      if entry.name == "b" then entry:skip() end
    end), ".h/ .h/y Z a/ a/x a-b b/ é/")
    local found = {}
    for full in fs.walk(dir .. "/", { depth = 1 }) do
      found[#found + 1] = full
    end
    equal(found[3], dir .. "/a")
  end)
end)

test("fs.walk: links are told of and not entered, unless asked", function()
  with_dir(function(dir)
    make(dir, "tree/a/f other/g")
    fs.symlink("../../other", dir .. "/tree/a/link")
    fs.symlink("../..", dir .. "/tree/a/up")
    fs.symlink("nowhere", dir .. "/tree/broken")
    fs.symlink("loop", dir .. "/tree/loop")
    fs.symlink("a/f", dir .. "/tree/z")
    local types = {}
    equal(walked(dir .. "/tree", nil, function(entry)
      types[entry.name] = entry.type
      assert(not entry.link)
    end), "a/ a/f a/link a/up broken loop z")
    assert(types.link == "symlink" and types.broken == "symlink" and types.f == "file")
    equal(walked(dir .. "/tree", { follow = true }, function(entry)
      types[entry.name] = entry.type
      assert(entry.link == (entry.name == "link" or entry.name == "up" or entry.name == "z"
        or entry.name == "tree/a"), entry.name)
    end), "a/ a/f a/link/ a/link/g a/up/ a/up/other/ a/up/tree/ broken loop z")
    assert(types.z == "file" and types.broken == "symlink" and types.loop == "symlink")
    fs.symlink("tree", dir .. "/root")
    equal(walked(dir .. "/root", { depth = 1 }), "a/ broken loop z")
  end)
end)

-- Twelve folders, each with links to all the others: as many ways through them as
-- there are orders, if each folder could be entered more than once.
test("fs.walk: however links are crossed, each folder is entered once", function()
  with_dir(function(dir)
    for i = 1, 12 do
      fs.mkdir(dir .. "/" .. i)
      for j = 1, 12 do
        fs.symlink("../" .. j, dir .. "/" .. i .. "/to" .. j)
      end
    end
    local count = 0
    for _ in fs.walk(dir, { follow = true }) do
      count = count + 1
    end
    assert(count == 12 + 144)
  end)
end)

test("fs.walk: the types of all there is", function()
  with_dir(function(dir)
    process.run({ "mkfifo", dir .. "/p" }, { check = true })
    local listener = require("sbx.net").listen_unix(dir .. "/s")
    fs.mkdir(dir .. "/d")
    fs.symlink("x", dir .. "/l")
    local types = {}
    for _, entry in fs.walk(dir) do
      types[#types + 1] = entry.type
    end
    listener:close()
    equal(table.concat(types, " "), "directory symlink fifo socket")
    for full, entry in fs.walk("/dev", { depth = 1 }) do
      if full == "/dev/null" then assert(entry.type == "device") end
    end
  end)
end)

test("fs.walk: names with any bytes", function()
  with_dir(function(dir)
    local names = { "a\nb", "\xFF\xFE", "x\"'\\", "\27[31m", ("n"):rep(255), " " }
    for _, name in ipairs(names) do
      fs.mkdir(dir .. "/" .. name)
      fs.write(dir .. "/" .. name .. "/f", name)
    end
    local left = #names
    for full, entry in fs.walk(dir) do
      if entry.type == "file" then
        assert(fs.read(full) == path.basename(path.dirname(full)))
        left = left - 1
      end
    end
    assert(left == 0)
    assert(#fs.glob(dir .. "/*/f") == #names and #fs.glob(dir .. "/?/f") == 1)
    assert(fs.glob(dir .. "/\xFF?/f")[1] == dir .. "/\xFF\xFE/f")
  end)
end)

test("fs.walk: folders that vanish, or become something else, are passed over", function()
  with_dir(function(dir)
    make(dir, "a/x b/x c/x d/x e")
    equal(walked(dir, nil, function(entry)
      if entry.name == "a" or entry.name == "b" or entry.name == "c" then
        fs.remove(entry.path, { recursive = true })
      end
      if entry.name == "b" then fs.write(entry.path, "") end
      if entry.name == "c" then fs.symlink("d", entry.path) end
    end), "a/ b/ c/ d/ d/x e")
    expect.code("ENOENT", fs.walk, dir .. "/nowhere")
    expect.code("ENOTDIR", fs.walk, dir .. "/e")
  end)
end)

test("fs.walk: a tree deeper than a path may be long", { timeout = 400 }, function()
  local where
  with_dir(function(dir)
    where = dir
    process.run({ "python3", "-c", [[
import os, sys
os.chdir(sys.argv[1])
for i in range(3000):
    os.mkdir("deep")
    os.chdir("deep")
open("bottom", "w").close()]], dir }, { check = true })
    local last, depth
    for _, entry in fs.walk(dir) do
      last, depth = entry.name, entry.depth
    end
    assert(last == "bottom" and depth == 3001)
    local longest
    for full, entry in fs.walk(dir, { depth = 1500 }) do
      longest = entry.depth == 1500 and full or longest
    end
    assert(#longest > 7000 and fs.list(longest)[1] == "deep")
    assert(#fs.glob("**/bottom", { root = dir }) == 1)
    -- And it is removed at the end.
  end)
  assert(not fs.exists(where))
end)

-- The longest time for which another task was held up while `fn` ran.
---@async
local function longest_hold(fn)
  local worst, before = 0, task.now()
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        task.yield()
        worst = math.max(worst, task.now() - before)
        before = task.now()
      end
    end)
    fn()
  end)
  return worst
end

test("fs: a hundred thousand entries hold up nobody", { timeout = 400 }, function()
  -- In memory, where there is such a place: the disk is not what this is about.
  local temporary <close> = fs.tmpdir({ dir = fs.is_dir("/dev/shm") and "/dev/shm" or nil })
  local dir = temporary.path
  process.run({ "python3", "-c", [[
import os, sys
os.chdir(sys.argv[1])
for i in range(100000):
  os.close(os.open("%06d.%s" % (i, "abc"[i % 3]), os.O_CREAT | os.O_WRONLY))]], dir },
    { check = true })
  -- Far from what is meant to be, near to a task that lets in nobody.
  local function each(name, fn)
    assert(longest_hold(fn) < 2, name)
  end
  each("list", function()
    local names = fs.list(dir)
    assert(#names == 100000 and names[1] == "000000.a" and names[100000] == "099999.a")
  end)
  each("walk", function()
    local count = 0
    for _ in fs.walk(dir) do
      count = count + 1
    end
    assert(count == 100000)
  end)
  each("glob", function()
    assert(#fs.glob(dir .. "/*[05].{a,b}") == 13333)
  end)
  each("copy", function()
    fs.mkdir(dir .. "/sub")
    for i = 1, 1000 do
      fs.copy(("%s/%06d.%s"):format(dir, i, ("abc"):sub(i % 3 + 1, i % 3 + 1)),
        dir .. "/sub/" .. i)
    end
  end)
  each("remove", function()
    fs.remove(dir, { recursive = true })
  end)
end)

test("fs.walk: cancelled anywhere, it goes on where it was", function()
  with_dir(function(dir)
    make(dir, "a/b/c/d a/b/e f/g h")
    for turns = 0, 12 do
      local words, walk = {}, fs.walk(dir)
      for try = 1, 200 do
        local full
        task.scope(function(scope)
          scope:spawn(function()
            full = walk() or "end"
          end)
          for _ = 1, turns do
            task.yield()
          end
          task.sleep(try % 4 / 1000)
          scope:cancel()
        end)
        if full then words[#words + 1] = full:sub(#dir + 2) end
        if full == "end" then break end
      end
      equal(table.concat(words, " "), "a a/b a/b/c a/b/c/d a/b/e f f/g h ")
    end
  end)
end)

test("fs.walk: misuse", function()
  expect.misuse("path: expected a string", fs.walk)
  expect.misuse("unknown option 'deep'", fs.walk, "/", { deep = 1 })
  expect.misuse("depth: expected a whole number of at least 1", fs.walk, "/", { depth = 0 })
  expect.misuse("follow: expected true or false", fs.walk, "/", { follow = 1 })
  expect.misuse("on_error: expected a function", fs.walk, "/", { on_error = 1 })
end)

-- ------------------------------------------------------------------------ glob

local function glob(pattern, options)
  return table.concat(fs.glob(pattern, options), " ")
end

-- The paths below `dir`, in one text.
local function below(dir, paths)
  local names = {}
  for i, full in ipairs(paths) do
    assert(full:sub(1, #dir + 1) == dir .. "/")
    names[i] = full:sub(#dir + 2)
  end
  return table.concat(names, " ")
end

test("fs.glob: finds what matches, in the order of a walk", function()
  with_dir(function(dir)
    make(dir, "src/a.lua src/b.c src/sub/c.lua src/sub/.d.lua .git/x.lua e.lua src-x/f.lua")
    local function found(pattern, options)
      local given = { root = dir }
      for name, value in pairs(options or {}) do
        given[name] = value
      end
      return below(dir, fs.glob(pattern, given))
    end
    equal(found("*.lua"), "e.lua")
    equal(found("**/*.lua"), "e.lua src/a.lua src/sub/c.lua src-x/f.lua")
    equal(found("**/*.lua", { hidden = true }),
      ".git/x.lua e.lua src/a.lua src/sub/.d.lua src/sub/c.lua src-x/f.lua")
    equal(found("src/**"), "src/a.lua src/b.c src/sub src/sub/c.lua")
    equal(found("src/*/"), "src/sub")
    equal(found("src/sub/.*"), "src/sub/.d.lua")
    equal(found("{src,e}{/a,}.{lua,c}"), "e.lua src/a.lua")
    equal(found("{src/sub,.git}/*"), ".git/x.lua src/sub/c.lua")
    equal(found("src/a.lua"), "src/a.lua")
    equal(found("src/a.lua/"), "")
    equal(found("src/"), "src")
    equal(found("nowhere/*"), "")
    equal(found("e.lua/*"), "")
    equal(found("src/../e*"), "src/../e.lua")
    equal(found("./e*"), "./e.lua")
    equal(found("\\e.lua"), "e.lua")
    equal(glob(dir .. "/e.*"), dir .. "/e.lua")
    equal(glob(dir .. "/e.*", { root = "/nowhere" }), dir .. "/e.lua")
    equal(glob("/"), "/")
  end)
end)

test("fs.glob: without a root, from the current directory on", function()
  local names = fs.list("tests")
  local wanted = {}
  for _, name in ipairs(names) do
    if name:find("^test_fs.*%.lua$") then wanted[#wanted + 1] = "tests/" .. name end
  end
  equal(glob("tests/test_fs*.lua"), table.concat(wanted, " "))
  equal(glob("test[s]/test_fs*.lua"), table.concat(wanted, " "))
end)

test("fs.glob: links count as they are, and as folders where folders are asked for", function()
  with_dir(function(dir)
    make(dir, "real/f")
    fs.symlink("real", dir .. "/link")
    fs.symlink("nowhere", dir .. "/broken")
    local function found(pattern, options)
      return below(dir, fs.glob(dir .. "/" .. pattern, options))
    end
    equal(found("*"), "broken link real")
    equal(found("*/"), "link real")
    equal(found("*/f"), "real/f")
    equal(found("link/*"), "link/f")
    equal(found("*/f", { follow = true }), "link/f")
    equal(found("broken"), "broken")
  end)
end)

-- Random trees and patterns, as Python's glob finds them. It enters links, so
-- there are none; what it adds for "**" at the end, the folder itself, is left out.
test("fs.glob: as Python's glob finds it", { timeout = 400 }, function()
  if not pcall(process.run, { "python3", "--version" }) then skip("no python3 here") end
  with_dir(function(dir)
    local names = { "a", "b", "ab", ".a", "a.b", "é" }
    for _ = 1, 60 do
      local parts = {}
      for i = 1, math.random(1, 4) do
        parts[i] = names[math.random(#names)]
      end
      pcall(make, dir, table.concat(parts, "/") .. (math.random(2) == 1 and "/" or ""))
    end
    local pieces = { "*", "**", "a*", "?", "[!a]*", "a", "b", "[ab]", ".*", "*.b", "??", "é" }
    local patterns = {}
    for i = 1, 300 do
      local parts = {}
      for j = 1, math.random(1, 4) do
        parts[j] = pieces[math.random(#pieces)]
      end
      patterns[i] = table.concat(parts, "/")
    end
    local result = process.run({ "python3", "-c", [[
import glob, json, sys
print(json.dumps([
    sorted({p for p in glob.glob(q, root_dir=sys.argv[1], recursive=True) if p[-1:] != "/"},
           key=lambda p: [n.encode() for n in p.split("/")])
    for q in json.load(sys.stdin)]))]], dir }, { input = json.encode(patterns), check = true })
    local matches = 0
    for i, wanted in ipairs(json.decode(result.stdout)) do
      local found = {}
      for j, full in ipairs(fs.glob(patterns[i], { root = dir })) do
        found[j] = full:sub(#dir + 2)
      end
      -- Of "a/**" Python also says "a".
      local kept = {}
      for _, name in ipairs(wanted) do
        if path.match(patterns[i], name) or not patterns[i]:find("%*%*$") then
          kept[#kept + 1] = name
        end
      end
      equal(patterns[i] .. ": " .. table.concat(found, " "),
        patterns[i] .. ": " .. table.concat(kept, " "))
      matches = matches + #found
    end
    assert(matches > 100)
  end)
end)

test("fs.glob: misuse", function()
  expect.misuse("pattern: is empty", fs.glob, "")
  expect.misuse("pattern: '[' is never closed in \"a[\"", fs.glob, "/x/a[")
  expect.misuse("pattern: expected a string", fs.glob)
  expect.misuse("unknown option 'dot'", fs.glob, "*", { dot = true })
  expect.misuse("root: expected a string", fs.glob, "*", { root = 1 })
end)
