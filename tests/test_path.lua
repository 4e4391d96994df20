-- Where the semantics agree, Python's posixpath, pathlib and fnmatch say what is
-- right, for random inputs.

local expect = dofile("tests/expect.lua")
local core = require("sbx.core.fs")
local fs = require("sbx.fs")
local json = require("sbx.json")
local path = require("sbx.path")
local process = require("sbx.process")
local task = require("sbx.task")

-- What the Python function `body`, of the parameters a and b, says of each pair.
---@async
local function python(body, pairs_of_text)
  if not pcall(process.run, { "python3", "--version" }) then skip("no python3 here") end
  local code = "import fnmatch, json, posixpath, sys\nfrom pathlib import PurePosixPath\n"
    .. "def answer(a, b):\n    " .. body .. "\n"
    .. "print(json.dumps([answer(*p) for p in json.load(sys.stdin)]))"
  local result = process.run({ "python3", "-c", code }, {
    input = json.encode(pairs_of_text), check = true,
  })
  return json.decode(result.stdout)
end

-- `count` texts of up to `most` pieces out of `pieces`.
local function random_texts(pieces, most, count)
  local texts = {}
  for i = 1, count do
    local parts = {}
    for j = 1, math.random(0, most) do
      parts[j] = pieces[math.random(#pieces)]
    end
    texts[i] = table.concat(parts)
  end
  return texts
end

local PIECES = { "/", "/", ".", "..", "a", "b", "a.b", ".c", "é", "d.tar.gz", "..." }

-- Expects that `fn` says of random paths, without two slashes in front (which mean
-- nothing special here), what Python says.
---@async
local function agrees(body, fn, make_pair)
  local given = {}
  for _, text in ipairs(random_texts(PIECES, 9, 3000)) do
    local pair
    if make_pair then
      pair = make_pair(text)
    else
      pair = { (text:gsub("^/+", "/")), "" }
    end
    if pair then given[#given + 1] = pair end
  end
  assert(#given > 300)
  for i, wanted in ipairs(python(body, given)) do
    local a, b = given[i][1], given[i][2]
    local got = fn(a, b)
    assert(got == wanted, ("of %q %q: %s, Python says %s"):format(a, b, got, wanted))
  end
end

test("path.normalize: as posixpath does", function()
  agrees("return posixpath.normpath(a)", path.normalize)
end)

test("path: dirname and basename, as posixpath does without slashes at the end", function()
  local bare = "a = a.rstrip('/') or a[:1]\n    "
  agrees(bare .. "return posixpath.dirname(a) or '.'", path.dirname)
  agrees(bare .. "return '/' if a == '/' else posixpath.basename(a)", path.basename)
end)

test("path: stem and extension, as posixpath does", function()
  local name = "a = posixpath.basename(a.rstrip('/')) or a[:1]\n    "
  agrees(name .. "return posixpath.splitext(a)[1]", path.extension)
  agrees(name .. "return posixpath.splitext(a)[0]", path.stem)
end)

test("path.split: as pathlib does; join puts it together again", function()
  agrees("return '|'.join(PurePosixPath(a).parts)", function(text)
    return table.concat(path.split(text), "|")
  end)
  for _, text in ipairs(random_texts(PIECES, 9, 500)) do
    local joined = path.join(table.unpack(path.split(text)))
    assert(path.normalize(joined) == path.normalize(text), text)
  end
end)

test("path.join: as posixpath does for relative parts", function()
  agrees("return posixpath.join(a, b)", path.join, function(text)
    local a, b = text:match("^(.-a)(.*)$")
    if not a or b == "" or b:sub(1, 1) == "/" then return nil end
    return { (a:gsub("^/+", "/")), b }
  end)
end)

test("path.relative: leads from the one to the other, as posixpath says", function()
  agrees("return posixpath.relpath(a, b)", function(a, b)
    local way = path.relative(b, a)
    assert(path.normalize(path.join(b, way)) == path.normalize(a))
    return way
  end, function(text)
    local cut = #text // 2
    if text == "" or utf8.len(text) ~= #text then return nil end
    return { (("/" .. text:sub(1, cut)):gsub("^/+", "/")), "/x" .. text:sub(cut + 1) }
  end)
  assert(path.relative("a/b", "a/c/d") == "../c/d")
  assert(path.relative("../a", "../b") == "../b" and path.relative("a", "../b") == "../../b")
  assert(path.relative("a", "a") == "." and path.relative("", "a") == "a")
  expect.misuse("relative: '../a' lies above what is known of 'b'", path.relative, "../a", "b")
  expect.misuse("relative: one path is absolute", path.relative, "/a", "b")
end)

test("path.inside: as commonpath says of absolute paths", function()
  agrees("return posixpath.commonpath([posixpath.normpath(a), posixpath.normpath(b)])"
    .. " == posixpath.normpath(a)", path.inside, function(text)
    local cut = #text // 2
    if utf8.len(text) ~= #text then return nil end
    return { (("/" .. text:sub(1, cut)):gsub("^/+", "/")), "/a/" .. text:sub(cut + 1) }
  end)
end)

test("path.inside: what an archive may contain", function()
  for text, wanted in pairs({
    ["out"] = true, ["out/a"] = true, ["out/./a//b"] = true, ["out/a/../b"] = true,
    ["./out/x"] = true, ["out/..a"] = true, ["out/..."] = true,
    ["out/.."] = false, ["out/../x"] = false, ["out/a/../../x"] = false,
    ["../out/a"] = false, ["/out/a"] = false, ["/etc/passwd"] = false,
    ["outer"] = false, [""] = false, ["out/a\0b"] = false,
  }) do
    assert(path.inside("out", text) == wanted, text)
  end
  assert(path.inside(".", "a") and path.inside("", "a") and not path.inside(".", "../a"))
  assert(path.inside("..", "a") and path.inside("../..", "../x"))
  assert(not path.inside("../a", "a") and not path.inside("..", "../../a"))
  assert(path.inside("/", "/a") and path.inside("/", "/../a") and not path.inside("/", "a"))
end)

test("path.join: parts never start over, empty ones do not count", function()
  assert(path.join("a", "/b") == "a/b" and path.join("a//", "//b") == "a/b")
  assert(path.join("/", "a") == "/a" and path.join("", "a", "") == "a")
  assert(path.join("/", "/", "b") == "/b" and path.join() == "" and path.join("", "/a") == "/a")
  expect.misuse("part 2: expected a string, got nothing", path.join, "a", nil, "b")
end)

test("path.absolute and expand_user", function()
  assert(path.absolute("x/../y") == path.normalize(core.cwd() .. "/y"))
  assert(core.cwd() == fs.realpath("."))
  assert(path.absolute("../y", "/a/b") == "/a/y" and path.absolute("/z/.", "/a") == "/z")
  expect.misuse("base: expected an absolute path, got 'a'", path.absolute, "x", "a")
  local home = os.getenv("HOME") or core.homedir()
  assert(path.expand_user("~") == home)
  assert(path.expand_user("~/a/b") == path.join(home, "a/b"))
  assert(path.expand_user("~root/x") == "~root/x" and path.expand_user("a/~") == "a/~")
  assert(path.is_absolute("/a") and not path.is_absolute("a"))
end)

test("path.match: as fnmatch does for names", function()
  local pieces = { "*", "*", "?", "[ab]", "[!a]", "[b-d]", "[]x]", "[!]]", "a", "b", "c", "é", "]" }
  local names = { "a", "b", "c", "d", "x", "é", "]", "-", "!" }
  local given, patterns = {}, random_texts(pieces, 7, 4000)
  for i, name in ipairs(random_texts(names, 6, 4000)) do
    given[i] = { name, (patterns[i]:gsub("%*+", "*")) }
  end
  local matched = 0
  for i, wanted in ipairs(python("return fnmatch.fnmatchcase(a, b)", given)) do
    local name, pattern = given[i][1], given[i][2]
    local got = path.match(pattern, name)
    assert(got == wanted, ("%q for %q: %s"):format(pattern, name, got))
    matched = matched + (got and 1 or 0)
  end
  assert(matched > 100)
end)

-- Each row: a pattern, then what it matches, nil, what it does not.
local MATCHES = {
  { "*.lua", { "a.lua", "é.lua" }, { ".lua", "a.luac", "d/a.lua", "a.lua/" } },
  { ".*", { ".a", "." }, { "a" } },
  { "*.*", { "a.b", "a." }, { ".b", "a" } },
  { "**/*.a", { "b.a", "c/b.a" }, { "c/.a", ".a" } },
  { "{*,.}.a", { "b.a", "..a" }, { ".a" } },
  { "*{.a,a}", { "a", "ba", "b.a" }, { ".a" } },
  { "**/.a", { ".a", "b/.a" }, { "b.a" } },
  { "[.]a", {}, { ".a" } },
  { "[!b]a", { "aa" }, { ".a", "/a", "ba" } },
  { "a?b", { "a.b", "aéb" }, { "a/b", "ab" } },
  { "a/*", { "a/b" }, { "a/.b", "a/b/c" } },
  { "**", { "a", "a/b", "a/b/c" }, { "", ".a", "a/.b", "a/", "/a" } },
  { "**/b", { "b", "a/b", "a/a/b" }, { "ab", "a/bb", ".a/b", "/b" } },
  { "a/**", { "a/b", "a/b/c" }, { "a", "a/", "b/a" } },
  { "a/**/b", { "a/b", "a/x/b", "a/x/y/b" }, { "ab", "a/xb", "a/.x/b" } },
  { "/**/b", { "/b", "/a/b" }, { "b" } },
  { "a**b", { "ab", "axb" }, { "a/b" } },
  { "***", { "a" }, { "a/b" } },
  { "{a,b}c", { "ac", "bc" }, { "abc", "c", "{a,b}c" } },
  { "{a,b{c,d}}{,e}", { "a", "bc", "bde", "ae" }, { "b", "bcd" } },
  { "{a/b,c}/d", { "a/b/d", "c/d" }, { "a/d" } },
  { "{**/,}x", { "x", "a/b/x" }, { "ax" } },
  { "{a,**}/x", { "a/x", "b/c/x" }, { "x" } },
  { "{}", { "" }, { "{}" } },
  { "\\*\\{", { "*{" }, { "x{" } },
  { "[\\]-]", { "]", "-" }, { "\\" } },
  { "[a-]", { "a", "-" }, { "b" } },
  { "[z-a]", {}, { "a", "z", "m" } },
  { "[à-ü]", { "é", "ü" }, { "e", "\xC3" } },
  { "a}b,c", { "a}b,c" }, { "a" } },
  { "?", { "\xFF", "\xE2\x82\xAC" }, { "\xE2\x82", "" } },
  { "", { "" }, { "a" } },
}

test("path.match: patterns and what they match", function()
  for _, row in ipairs(MATCHES) do
    for _, name in ipairs(row[2]) do
      assert(path.match(row[1], name), ("%q does not match %q"):format(row[1], name))
    end
    for _, name in ipairs(row[3]) do
      assert(not path.match(row[1], name), ("%q matches %q"):format(row[1], name))
    end
  end
  assert(path.match("*", ".a", { hidden = true }) and not path.match("*", ".a"))
  assert(path.match("**/[.]b", ".a/.b", { hidden = true }))
end)

test("path.escape: matches the text and nothing else", function()
  local pieces = { "*", "?", "[", "]", "{", "}", ",", "\\", "!", "-", "a", "/", ".", "é" }
  local texts = random_texts(pieces, 8, 500)
  for i, text in ipairs(texts) do
    assert(path.match(path.escape(text), text), text)
    local other = texts[i % #texts + 1]
    assert(other == text or not path.match(path.escape(text), other))
  end
end)

-- Patterns and paths that take a backtracking matcher longer than anyone can wait.
test("path.match: its time does not explode", function()
  local name = ("a"):rep(2000)
  assert(not path.match(("*a"):rep(200) .. "b", name))
  assert(not path.match(("{a,aa}"):rep(50) .. "b", ("a"):rep(60)))
  assert(not path.match(("**/"):rep(100) .. "b", ("a/"):rep(500) .. "c"))
  assert(not path.match(("{*,?}"):rep(50) .. "b", name))
  -- No two of them are the same: what is kept has a bound.
  local parts = {}
  for i = 1, 5000 do
    parts[i] = utf8.char(0x4E00 + i)
  end
  assert(path.match("*" .. parts[5000], table.concat(parts)))
  -- Long names take time in line with their length.
  local long = ("a"):rep(100000)
  assert(path.basename(long .. "/" .. long) == long and path.extension(long .. ".x") == ".x")
  assert(path.dirname(("/"):rep(100000) .. "a" .. ("/"):rep(100000)) == "/")
  assert(#path.join("a" .. ("/"):rep(100000) .. "b", "c") == 100004)
end)

test("path.match: a broken pattern is refused", function()
  for pattern, problem in pairs({
    ["[a"] = "'[' is never closed", ["[]"] = "'[' is never closed", ["[!"] = "never closed",
    ["{a,b"] = "'{' is never closed", ["a\\"] = "nothing follows the last backslash",
    ["[\\"] = "nothing follows", [("{"):rep(60)] = "braces are nested too deep",
  }) do
    expect.misuse("pattern: ", path.match, pattern, "a")
    expect.misuse(problem, path.match, pattern, "a")
  end
  expect.misuse("name: expected a string", path.match, "a", nil)
  expect.misuse("unknown option 'hiden'", path.match, "a", "a", { hiden = true })
  expect.misuse("path: expected a string, got 1", path.basename, 1)
end)

test("path.match: forgets old patterns and goes on", function()
  for i = 1, 300 do
    assert(path.match("a" .. i .. "*", "a" .. i .. "x"))
    task.checkpoint()
  end
end)
