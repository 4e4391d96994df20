-- The tar format: what others write is read, what we write others read, and what
-- nobody should have written is refused.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local inside = require("sbx.sandbox.inside")
local pack = require("sbx.sandbox.pack")
local process = require("sbx.process")
local tar = require("sbx.sandbox.tar")
local tar_reader = require("sbx.sandbox.tar_reader")
local test_ = require("sbx.test")

local function run(argv, options)
  local result = process.run(argv, options)
  assert(result.code == 0, result.stderr)
  return result.stdout
end

local function refused(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok and errors.is_error(err) and err.kind == "archive", tostring(err))
  return err.code
end

-- All entries as text, with the sizes of what was read of them.
local function listing(bytes)
  local archive, lines = tar_reader.new(bytes), {}
  for entry in function() return archive:next() end do
    local size = 0
    for piece in function() return archive:read() end do
      size = size + #piece
    end
    assert(size == entry.size)
    lines[#lines + 1] = ("%s %s %s %o %d %s"):format(
      entry.type, entry.path, entry.link, entry.mode, size, entry.mtime)
  end
  return lines
end

-- ----------------------------------------------------------------------- reading

local MAKE = [[
import io, sys, tarfile
name = "d/" + "n" * 200
with tarfile.open(sys.argv[1], "w", format=getattr(tarfile, sys.argv[2])) as t:
    def add(path, kind=tarfile.REGTYPE, data=b"", **more):
        info = tarfile.TarInfo(path)
        info.type, info.size, info.mode, info.mtime = kind, len(data), 0o640, 1234567890
        for key, value in more.items(): setattr(info, key, value)
        t.addfile(info, io.BytesIO(data))
    add("d", tarfile.DIRTYPE, mode=0o755)
    add(name, data=b"x" * 1000)
    add("d/short", data=b"y" * 512)
    add("d/l", tarfile.SYMTYPE, linkname="short")
    add("d/ll", tarfile.SYMTYPE, linkname="t" * 180)
    add("d/h", tarfile.LNKTYPE, linkname=name)
    add("d/gr\u00fc\u00dfe\n", data=b"")
    add("d/old", mtime=-5) if sys.argv[2] != "USTAR_FORMAT" else None
]]

test("tar: reads what Python writes, in each of its formats", function()
  local folder <close> = fs.tmpdir({})
  for _, format in ipairs({ "USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT" }) do
    local path = folder.path .. "/x.tar"
    local script = MAKE
    if format == "USTAR_FORMAT" then
      -- It has room for a name in two halves, and for a link of 100 bytes.
      script = script:gsub('"n" %* 200', '"n" * 90 + "/" + "n" * 7'):gsub('"t" %* 180', '"t" * 80')
    end
    run({ "python3", "-c", script, path, format })
    local lines = listing(fs.read(path))
    local ustar = format == "USTAR_FORMAT"
    local long = ustar and ("n"):rep(90) .. "/nnnnnnn" or ("n"):rep(200)
    local far = ("t"):rep(ustar and 80 or 180)
    local wanted = {
      lines[1], -- Python ends its name with a slash, or not
      "file d/" .. long .. "  640 1000 1234567890", "file d/short  640 512 1234567890",
      "symlink d/l short 640 0 1234567890", "symlink d/ll " .. far .. " 640 0 1234567890",
      "hardlink d/h d/" .. long .. " 640 0 1234567890", "file d/grüße\n  640 0 1234567890",
    }
    if format ~= "USTAR_FORMAT" then wanted[#wanted + 1] = "file d/old  640 0 -5" end
    assert(lines[1]:find("^directory d/?  755 0 1234567890$"), lines[1])
    test_.equal(lines, wanted)
  end
end)

test("tar: reads what GNU tar writes, in each of its formats", function()
  local folder <close> = fs.tmpdir({})
  fs.mkdir(folder.path .. "/t/" .. ("d"):rep(90), { parents = true })
  fs.write(folder.path .. "/t/" .. ("d"):rep(90) .. "/" .. ("f"):rep(99), ("z"):rep(70000))
  fs.symlink("nowhere", folder.path .. "/t/link")
  for _, format in ipairs({ "v7", "oldgnu", "gnu", "ustar", "posix" }) do
    local path = folder.path .. "/x.tar"
    local result = process.run({
      "tar", "-C", folder.path .. "/t", "--format=" .. format, "-cf", path, ".",
    })
    local lines = table.concat(listing(fs.read(path)), "\n")
    assert(lines:find("directory ./ ", 1, true) and lines:find("symlink ./link nowhere", 1, true))
    -- The oldest cannot have long names; GNU tar says so.
    if format ~= "v7" then
      assert(result.code == 0 and lines:find("/" .. ("f"):rep(99) .. "  644 70000", 1, true), lines)
    end
  end
end)

test("tar: sizes and times beyond octal digits", function()
  local entry = {
    type = "file", path = "x", mode = 420, mtime = 1, size = 5 * 1024 * 1024 * 1024,
  }
  local archive = tar_reader.new(tar.header(entry))
  assert(archive:next().size == 5 * 1024 * 1024 * 1024)
  for _, size in ipairs({ 8 ^ 11 - 1, 8 ^ 11, 1 << 62 }) do
    entry.size = math.tointeger(size)
    assert(tar_reader.new(tar.header(entry)):next().size == size)
  end
  entry.size = 0
  for _, mtime in ipairs({ -1, -(1 << 40), 8 ^ 11, 0 }) do
    entry.mtime = math.tointeger(mtime)
    assert(tar_reader.new(tar.header(entry)):next().mtime == mtime)
  end
end)

-- A header of the given fields, with the checksum that it should have.
local function header(fields)
  local block = string.pack("c100c8c8c8c12c12c8c1c100c6c2c32c32c8c8c155c12",
    fields.path or "x", fields.mode or "0000644\0", "0000000\0", "0000000\0",
    fields.size or "00000000000\0", fields.mtime or "00000000000\0", (" "):rep(8),
    fields.flag or "0", fields.link or "", fields.magic or "ustar\0", "00", "", "", "", "",
    fields.prefix or "", "")
  local sum = 0
  for i = 1, 512 do
    sum = sum + block:byte(i)
  end
  return block:sub(1, 148) .. ("%06o\0 "):format(sum) .. block:sub(157)
end

local function pax(records)
  return header({ flag = "x", size = ("%011o\0"):format(#records) }) .. records
    .. tar.padding(#records)
end

local function first(bytes)
  return tar_reader.new(bytes .. tar.ending):next()
end

test("tar: fields of headers that other writers make", function()
  assert(first(header({ size = "          0 " })).size == 0)
  assert(first(header({ size = "0000000000\0 " })).size == 0)
  assert(first(header({ path = "a/", flag = "\0", magic = "" })).type == "directory")
  assert(first(header({ path = "b", prefix = "a" })).path == "a/b")
  assert(first(header({ path = "b", prefix = "a", magic = "ustar " })).path == "b")
  assert(first(header({ flag = "7" })).type == "file")
  assert(first(pax("9 path=y\n") .. header({})).path == "y")
  assert(first(pax("19 comment=a\nb=c\0d\n9 path=y\n") .. header({})).path == "y")
  assert(first(pax("16 mtime=12.625\n") .. header({})).mtime == 12.625)
  assert(tar_reader.new(tar.ending):next() == nil)
end)

test("tar: headers that are none", function()
  local good = header({})
  for name, bytes in pairs({
    damaged = good:sub(1, 10) .. "y" .. good:sub(12),
    text = ("no archive"):rep(60),
    ["not octal"] = header({ size = "0000000009x\0" }),
    ["negative octal"] = header({ size = "-0000000001\0" }),
    ["negative size"] = header({ size = "\xff" .. ("\xff"):rep(11) }),
    ["2^64 bytes"] = header({ size = "\x80\0\0\1" .. ("\0"):rep(8) }),
    ["2^63 bytes"] = header({ size = "\x80\0\0\0\x80" .. ("\0"):rep(7) }),
    ["odd base"] = header({ size = "\x90" .. ("\0"):rep(11) }),
    ["type S"] = header({ flag = "S" }), ["type M"] = header({ flag = "M" }),
    ["type V"] = header({ flag = "V" }), ["type ?"] = header({ flag = "?" }),
    ["a folder with content"] = header({ flag = "5", size = "00000000001\0" }),
    ["a link with content"] = header({ flag = "2", size = "00000000001\0" }),
    ["pax length"] = pax("99 path=y\n") .. good, ["pax length 0"] = pax("0 path=y\n") .. good,
    ["pax cut"] = pax("9 path=y") .. good, ["pax no line"] = pax("8 path=y\n") .. good,
    ["pax no name"] = pax("5 =y\n") .. good, ["pax text"] = pax("hello\n") .. good,
    ["pax size"] = pax("11 size=-1\n") .. good, ["pax size 2"] = pax("12 size=1e9\n") .. good,
    ["pax size 3"] = pax("28 size=99999999999999999999\n") .. good,
    ["pax size 4"] = pax("12 size=1.5\n") .. good,
    ["pax NUL"] = pax("11 path=a\0b\n") .. good,
    ["pax sparse"] = pax("22 GNU.sparse.major=1\n") .. good,
    ["pax twice"] = pax("9 path=y\n") .. pax("9 path=z\n") .. good,
    ["huge name"] = header({ flag = "L", size = ("%011o\0"):format(1 << 20) }) .. good,
    ["name and end"] = header({ flag = "L", size = "00000000001\0" }) .. "a" .. ("\0"):rep(511),
  }) do
    local ok, err = pcall(first, bytes)
    assert(not ok and errors.is_error(err) and err.kind == "archive", name)
  end
  local records = "9 path=y\n"
  local global = header({ flag = "g", size = ("%011o\0"):format(#records) }) .. records
    .. tar.padding(#records)
  assert(refused(first, global .. good) == "UNSUPPORTED")
end)

test("tar: an archive that ends too early, wherever that is", function()
  local entry = { type = "file", path = ("p"):rep(150), mode = 420, mtime = 1, size = 700 }
  local bytes = tar.header(entry) .. ("x"):rep(700) .. tar.padding(700) .. tar.ending
  test_.equal(#listing(bytes), 1)
  -- The second block of zeros may be missing.
  for cut = 0, #bytes - 2 * 512 - 1 do
    if cut % 7 == 0 or cut % 512 < 2 then
      assert(refused(listing, bytes:sub(1, cut)) == "TRUNCATED")
    end
  end
end)

test("tar: what is not read of an entry is passed over", function()
  local parts = {}
  for i = 1, 5 do
    parts[i] = tar.header({ type = "file", path = "f" .. i, mode = 420, mtime = 1, size = 600 * i })
      .. ("x"):rep(600 * i) .. tar.padding(600 * i)
  end
  local archive = tar_reader.new(table.concat(parts) .. tar.ending)
  for i = 1, 5 do
    assert(archive:next().path == "f" .. i)
    if i % 2 == 0 then assert(#archive:read() > 0) end
  end
  assert(archive:next() == nil and archive:next() == nil and archive:read() == nil)
end)

-- ----------------------------------------------------------------------- writing

local LIST = [[
import sys, tarfile
for m in tarfile.open(sys.argv[1]):
    print(repr(m.name), m.type.decode(), oct(m.mode), int(m.mtime), m.size, repr(m.linkname))
]]

local function packed(folder, options)
  local archive <close> = pack(folder, {
    filter = inside.filter(options and options.exclude or {}),
    skip_unsafe = options and options.skip or false,
  })
  local parts = {}
  for bytes in function() return archive:next() end do
    parts[#parts + 1] = bytes
  end
  return table.concat(parts), archive.result
end

test("tar: Python and GNU tar read what is packed", function()
  local folder <close> = fs.tmpdir({})
  local tree = folder.path .. "/t"
  local deep = tree .. "/" .. ("d"):rep(120) .. "/" .. ("e"):rep(120)
  fs.mkdir(deep, { parents = true })
  fs.write(deep .. "/grüße\n\xff", ("x"):rep(513))
  fs.write(tree .. "/-rf", "")
  fs.chmod(tree .. "/-rf", tonumber("4755", 8))
  fs.symlink(("e"):rep(120) .. "/grüße\n\xff", tree .. "/" .. ("d"):rep(120) .. "/l")
  fs.symlink(("no/"):rep(50) .. "where", tree .. "/far")
  fs.mkdir(tree .. "/empty")

  local bytes, result = packed(tree)
  test_.equal({ result.files, result.folders, result.links, result.bytes }, { 2, 3, 2, 513 })
  fs.write(folder.path .. "/x.tar", bytes)
  local seen = run({ "python3", "-c", LIST, folder.path .. "/x.tar" })
  assert(seen:find("'-rf' 0 0o4755", 1, true), seen)
  assert(seen:find("'empty' 5 0o755", 1, true))
  assert(seen:find("no/where'", 1, true) and seen:find("grüße\\n\\udcff' 0 0o644", 1, true))

  local out = folder.path .. "/out"
  fs.mkdir(out)
  run({ "tar", "-C", out, "-xpf", folder.path .. "/x.tar" })
  run({ "diff", "-r", "--no-dereference", tree, out })
  for path in fs.walk(tree) do
    local other = fs.lstat(out .. path:sub(#tree + 1))
    local own = fs.lstat(path)
    assert(own.mode == other.mode and own.type == other.type)
    assert(own.type == "symlink" or math.floor(own.mtime) == math.floor(other.mtime))
  end
end)

test("tar: packing leaves out, and refuses what leads outside", function()
  local folder <close> = fs.tmpdir({})
  local tree = folder.path
  for _, name in ipairs({
    "a/node_modules/x", "node_modules/y", "b/keep.c", "b/gone.o", "top/b/z",
  }) do
    fs.mkdir(tree .. "/" .. name:match("^(.*)/"), { parents = true })
    fs.write(tree .. "/" .. name, "")
  end
  local bytes = packed(tree, { exclude = { "node_modules", "*.o", "top/*" } })
  local paths = {}
  for _, line in ipairs(listing(bytes)) do
    paths[#paths + 1] = line:match("^%S+ (%S+)")
  end
  test_.equal(paths, { "a/", "b/", "b/keep.c", "top/" })

  fs.symlink("/etc/passwd", tree .. "/evil")
  run({ "mkfifo", tree .. "/fifo" })
  local ok, err = pcall(packed, tree)
  assert(not ok and err.kind == "io" and err.code == "EXDEV" and err.message:find("evil"))
  local _, result = packed(tree, { skip = true })
  test_.equal(result.skipped, { "evil", "fifo" })
  fs.remove(tree .. "/evil")
  ok, err = pcall(packed, tree)
  assert(not ok and err.code == "EINVAL" and err.message:find("fifo"))
end)

test("tar: a file that changes while it is packed", function()
  local folder <close> = fs.tmpdir({})
  local path = folder.path .. "/log"
  fs.write(path, ("x"):rep(600000))
  local archive <close> = pack(folder.path, { filter = inside.filter({}), skip_unsafe = false })
  assert(archive:next())
  fs.append(path, "more")
  local rest = {}
  for bytes in function() return archive:next() end do
    rest[#rest + 1] = bytes
  end
  assert(#table.concat(rest) < 600000, "what is added later stays out")

  local other <close> = pack(folder.path, { filter = inside.filter({}), skip_unsafe = false })
  assert(other:next())
  fs.write(path, "")
  local ok, err = pcall(function()
    while other:next() do end
  end)
  assert(not ok and err.kind == "io" and err.code == "ESTALE")
end)

test("tar: a file that became a link while its folder was packed is not followed", function()
  local folder <close> = fs.tmpdir({})
  local tree = folder.path .. "/tree"
  fs.mkdir(tree)
  fs.write(folder.path .. "/outside", "outside")
  fs.write(tree .. "/a", ("x"):rep(600000))
  fs.write(tree .. "/b", "b")
  local archive <close> = pack(tree, { filter = inside.filter({}), skip_unsafe = false })
  assert(archive:next())
  fs.remove(tree .. "/b")
  fs.symlink("../outside", tree .. "/b")
  local ok, err = pcall(function()
    while archive:next() do end
  end)
  assert(not ok and err.kind == "io" and err.code == "EXDEV")
end)

-- -------------------------------------------------------------- names and links

test("tree: names that stay inside, and those that do not", function()
  for name, path in pairs({
    ["./"] = "", ["."] = "", ["./a"] = "a", ["a//b/./c/"] = "a/b/c", ["..."] = "...",
    ["a/..b"] = "a/..b",
  }) do
    assert(inside.path(name) == path, name)
  end
  for _, name in ipairs({ "", "/", "/a", "..", "../a", "a/../b", "a/..", "./..", "a\0b" }) do
    assert(inside.path(name) == nil, name)
  end
end)

test("tree: links that stay inside whatever they pass, and those that may not", function()
  for _, pair in ipairs({
    { "l", "a" }, { "l", "./a/b" }, { "d/l", "../a" }, { "a/b/l", "../../c/d" }, { "l", "." },
    { "a/b/l", ".././../x" }, { "l", "a//b" }, { "l", "..." },
  }) do
    assert(inside.link(pair[1], pair[2]), pair[2])
  end
  for _, pair in ipairs({
    { "l", ".." }, { "l", "/a" }, { "l", "" }, { "d/l", "../../a" }, { "l", "a/../../b" },
    { "a/b/l", "../../../x" }, { "l", "a/.." }, { "d/l", "x/../.." }, { "l", "a\0" },
  }) do
    assert(not inside.link(pair[1], pair[2]), pair[2])
  end
end)

test("tree: patterns of names, and of paths", function()
  local filter = inside.filter({
    "node_modules", "*.pyc", "build/out", "/only/top", ".git/", "/one",
  })
  for _, path in ipairs({
    "node_modules", "a/node_modules", "a/node_modules/deep/x", "x.pyc", ".x.pyc", "a/b/c.pyc",
    "build/out", "build/out/x", "only/top", ".git", "sub/.git/config", "one",
  }) do
    assert(filter:leaves_out_below(path), path)
  end
  for _, path in ipairs({ "a/build/out", "build", "a/only/top", "node_module", "git", "a/one" }) do
    assert(not filter:leaves_out_below(path), path)
  end
  for _, patterns in ipairs({ { "" }, { 1 }, { "[a" } }) do
    local ok, err = pcall(inside.filter, patterns)
    assert(not ok and type(err) == "string" and err:find("exclude[1]", 1, true))
  end
end)
