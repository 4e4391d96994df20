-- Unpacking what a hostile sandbox made. Whatever the archive says, nothing outside
-- of the folder changes, and what it raises is an error object.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local inside = require("sbx.sandbox.inside")
local process = require("sbx.process")
local reader = require("sbx.reader")
local tar = require("sbx.sandbox.tar")
local task = require("sbx.task")
local test_ = require("sbx.test")
local unpack = require("sbx.sandbox.unpack")

local MEBIBYTE = 1024 * 1024

local function entry(kind, path, more)
  local fields = { type = kind, path = path, mode = 420, mtime = 1000, size = 0 }
  for name, value in pairs(more or {}) do
    fields[name] = value
  end
  local data = fields.data or ""
  fields.size, fields.data = more and more.size or #data, nil
  return tar.header(fields) .. data .. tar.padding(#data)
end

local function file(path, data, more)
  local fields = more or {}
  fields.data = data or "data"
  return entry("file", path, fields)
end

local function link(path, target) return entry("symlink", path, { link = target }) end

-- Writing makes no hard links and devices: their headers are changed afterwards.
local function flagged(bytes, flag)
  local head = bytes:sub(1, 156) .. flag .. bytes:sub(158)
  local sum = 256
  for i = 1, 512 do
    if i < 149 or i > 156 then sum = sum + head:byte(i) end
  end
  return head:sub(1, 148) .. ("%06o\0 "):format(sum) .. head:sub(157)
end

local function hard(path, target) return flagged(link(path, target), "1") end

-- A folder for one archive, with something beside it that must stay as it is.
local function place()
  local folder = fs.tmpdir({})
  fs.write(folder.path .. "/precious", "precious")
  fs.mkdir(folder.path .. "/root")
  folder.root = folder.path .. "/root"
  function folder.check()
    assert(fs.read(folder.path .. "/precious") == "precious")
    test_.equal(fs.list(folder.path), { "precious", "root" })
  end
  return folder
end

local function run(bytes, root, options)
  local opts = {
    filter = inside.filter({}), skip_unsafe = false, max_bytes = 10 * MEBIBYTE, max_entries = 1000,
  }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  local source = type(bytes) == "string" and reader.of(bytes) or reader.new(bytes)
  return unpack(function() return source:some(10000) end, root, opts)
end

-- Unpacks in a new place and returns the error, if there was one.
local function try(bytes, options)
  local folder <close> = place()
  local ok, result = pcall(run, bytes .. tar.ending, folder.root, options)
  folder.check()
  if ok then return nil, result end
  assert(errors.is_error(result), tostring(result))
  return result
end

test("unpack: files, folders and links with modes and times", function()
  local folder <close> = place()
  local result = run(entry("directory", ".", { mode = 448 })
    .. entry("directory", "./d", { mode = 365 })
    .. file("./d/f", "hello", { mode = tonumber("4755", 8), mtime = 12345.5 })
    .. file("deep/er/x", "", { mode = 256 }) .. link("l", "d/f") .. link("d/up", "../deep")
    .. hard("h", "./d/f") .. link("dangling", "nowhere") .. tar.ending, folder.root)
  test_.equal({ result.files, result.folders, result.links, result.bytes }, { 2, 3, 4, 5 })
  local facts = fs.lstat(folder.root .. "/d/f")
  assert(facts.mode == tonumber("755", 8) and facts.mtime == 12345 and facts.size == 5)
  assert(fs.lstat(folder.root .. "/deep/er/x").mode == 256, "set-user-id goes, the rest stays")
  assert(fs.readlink(folder.root .. "/l") == "d/f" and fs.read(folder.root .. "/d/up/er/x") == "")
  fs.write(folder.root .. "/h", "both")
  assert(fs.read(folder.root .. "/d/f") == "both", "two names of one file")
  assert(result.made["d"].mode == 365 and result.made[""].mode == 448 and result.made["deep"])
end)

test("unpack: the umask has its say", function()
  local folder <close> = place()
  local before = fs.lstat(folder.root).mode
  run(file("f", "", { mode = 511 }) .. tar.ending, folder.root)
  assert(fs.lstat(folder.root .. "/f").mode == 511 & before)
end)

test("unpack: names that lead outside", function()
  for _, path in ipairs({
    "../precious", "/etc/sbx-hostile", "a/../../precious", "..", "a/..", "./../x", "//x",
    ("../"):rep(50) .. "tmp/x", ("a/"):rep(3000) .. "x",
  }) do
    local err = try(file(path))
    assert(err and err.kind == "archive" and err.code == "UNSAFE", path)
    err = try(entry("directory", path))
    assert(err and err.kind == "archive", path)
    assert(try(file(path), { skip_unsafe = true }).code == "UNSAFE", "never merely left out")
  end
  assert(try(file(".")).code == "UNSAFE" and try(link("./", "x")).code == "UNSAFE")
end)

test("unpack: links that lead outside are refused, or left out", function()
  for _, archive in ipairs({
    link("l", "/etc"), link("l", ".."), link("l", "../precious"), link("a/b", "../../precious"),
    link("l", "x/../../precious"), link("l", ""), link("q/l", "..") .. link("z", "q/l/../precious"),
    hard("l", "../precious"), hard("l", "/etc/passwd"), hard("l", "none"), hard("l", ""),
    entry("directory", "d") .. hard("l", "d"), link("d/s", "../f") .. hard("h", "d/s"),
    flagged(file("dev", ""), "3"), flagged(file("dev", ""), "4"), flagged(file("fifo", ""), "6"),
  }) do
    local err = try(archive)
    assert(err and err.kind == "archive" and err.code == "UNSAFE", tostring(err))
    local none, result = try(archive .. file("good"), { skip_unsafe = true })
    assert(none == nil and #result.skipped == 1 and result.files == 1)
  end
end)

test("unpack: nothing is written through a link", function()
  for _, archive in ipairs({
    link("l", "d") .. entry("directory", "d") .. file("l/x"),
    entry("directory", "d") .. link("d/l", ".") .. file("d/l/x"),
    file("l/x") .. link("l", "d"),
    link("l", "d") .. entry("directory", "l"),
    entry("directory", "l") .. link("l", "d"),
    link("l", "f") .. file("l", "through"),
    file("l", "first") .. link("l", "f"),
    link("l", "a") .. link("l/m", "b"),
    link("l", "a") .. link("l", "b"),
    file("f") .. link("l", "f") .. hard("l", "f"),
    file("f") .. file("f/g"), file("f") .. entry("directory", "f"), file("f") .. file("f"),
    file("f") .. hard("f", "f"), entry("directory", "f") .. file("f"),
  }) do
    local err = try(archive)
    assert(err and err.kind == "archive" and err.code == "DUPLICATE", tostring(err))
  end
  -- What is said of a folder twice is no harm.
  local none, result = try(file("d/x") .. entry("directory", "d") .. entry("directory", "./d/"))
  assert(none == nil and result.folders == 1)
end)

test("unpack: links through other links end inside, too", function()
  local folder <close> = place()
  run(link("one", "two") .. link("two", "d") .. file("d/x", "in") .. link("d/self", "self")
    .. link("loop", "loop/x") .. tar.ending, folder.root)
  assert(fs.read(folder.root .. "/one/x") == "in")
  for path in fs.walk(folder.root) do
    local real = errors.try(fs.realpath, path)
    assert(not real or real:sub(1, #folder.root) == fs.realpath(folder.root), path)
  end
end)

test("unpack: bounds on bytes, entries and names", function()
  assert(try(file("x", "", { size = 1 << 50 })).kind == "limit")
  assert(try(file("x", ("x"):rep(100)), { max_bytes = 99 }).kind == "limit")
  local two = file("x", ("x"):rep(60)) .. file("y", ("y"):rep(60))
  assert(try(two, { max_bytes = 119 }).kind == "limit" and try(two, { max_bytes = 120 }) == nil)
  assert(try(file("x", ("x"):rep(100)), { max_bytes = 100 }) == nil)
  local many = {}
  for i = 1, 11 do
    many[i] = file("f" .. i)
  end
  assert(try(table.concat(many), { max_entries = 10 }).kind == "limit")
  assert(try(table.concat(many), { max_entries = 11 }) == nil)
  assert(try(file(("d/"):rep(20) .. "x"), { max_entries = 10 }).kind == "limit", "made on the way")
  local left_out = { filter = inside.filter({ "x" }), max_bytes = 99 }
  assert(try(file("x", ("x"):rep(100)), left_out).kind == "limit", "also of what is left out")
end)

test("unpack: endless names fill no memory", function()
  local folder <close> = place()
  local count = 0
  local name = ("d"):rep(200) .. "/" .. ("e"):rep(200) .. "/" .. ("f"):rep(200)
  local ok, err = pcall(run, function()
    count = count + 1
    return link(count .. name, ("t"):rep(3000))
  end, folder.root, { max_entries = 1000000 })
  assert(not ok and err.kind == "limit" and count < 30000, tostring(err))
  folder.check()
end)

test("unpack: an endless file is stopped by its bound, an endless header by its own", function()
  local folder <close> = place()
  local started = false
  local ok, err = pcall(run, function()
    if started then return ("x"):rep(65536) end
    started = true
    return flagged(entry("file", "x", { size = 1 << 40 }), "x")
  end, folder.root)
  assert(not ok and err.kind == "archive", tostring(err))
end)

test("unpack: cancelled halfway it stops at once", function()
  local folder <close> = place()
  local head = file("x", "", { size = 5 * MEBIBYTE })
  local given = false
  local done = task.move_on(0.1, run, function()
    if given then task.sleep(60) end
    given = true
    return head
  end, folder.root)
  assert(not done)
  folder.check()
end)

-- ------------------------------------------------------------------------ fuzzing

local MAKE = [[
import io, sys, tarfile
for format in ("USTAR", "GNU", "PAX"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=getattr(tarfile, format + "_FORMAT")) as t:
        def add(path, kind=tarfile.REGTYPE, data=b"", **more):
            info = tarfile.TarInfo(path)
            info.type, info.size = kind, len(data)
            for key, value in more.items(): setattr(info, key, value)
            t.addfile(info, io.BytesIO(data))
        add("d", tarfile.DIRTYPE, mode=0o755)
        add("d/f", data=b"x" * 700)
        add("d/l", tarfile.SYMTYPE, linkname="../e/g")
        add("d/h", tarfile.LNKTYPE, linkname="d/f")
        add("e/g", data=b"")
        if format != "USTAR": add("n" * 120 + "/" + "m" * 120, data=b"y" * 10)
    data = out.getvalue()
    with open(sys.argv[1] + "/" + format, "wb") as f: f.write(data.rstrip(b"\0") + b"\0" * 2048)
]]

local INTERESTING = {
  "\0", "/", ".", "7", "\xff", "\x80", "5", "2", "1", "x", "L", "../", "/\0",
}

-- Changes a few bytes, mostly in headers; and sets their checksums right, mostly.
local function mutate(bytes)
  local blocks = {}
  for at = 1, #bytes, 512 do
    blocks[#blocks + 1] = bytes:sub(at, at + 511)
  end
  for _ = 1, math.random(3) do
    local i = math.random(#blocks)
    local kind = math.random(8)
    if kind == 1 then
      table.remove(blocks, i)
    elseif kind == 2 then
      table.insert(blocks, math.random(#blocks), blocks[i])
    else
      local at = math.random(#blocks[i])
      local put = math.random(4) == 1 and string.char(math.random(0, 255))
        or INTERESTING[math.random(#INTERESTING)]
      if math.random(3) == 1 then at = 157 end -- the type
      blocks[i] = (blocks[i]:sub(1, at - 1) .. put .. blocks[i]:sub(at + #put)):sub(1, 512)
      if math.random(5) > 1 and #blocks[i] == 512 then
        blocks[i] = flagged(blocks[i], blocks[i]:sub(157, 157))
      end
    end
    if #blocks == 0 then break end
  end
  local whole = table.concat(blocks)
  return math.random(10) == 1 and whole:sub(1, math.random(#whole)) or whole
end

test("unpack: changed archives of Python's, thousands of them", { timeout = 240 }, function()
  local folder <close> = place()
  local seeds = {}
  do
    local made <close> = fs.tmpdir({})
    local result = process.run({ "python3", "-c", MAKE, made.path })
    assert(result.code == 0, result.stderr)
    for i, name in ipairs(fs.list(made.path)) do
      seeds[i] = fs.read(made.path .. "/" .. name)
    end
  end
  local kinds = {}
  for round = 1, 1500 do
    local bytes = mutate(seeds[round % #seeds + 1])
    local ok, err = pcall(run, bytes, folder.root, { skip_unsafe = round % 2 == 0 })
    assert(ok or errors.is_error(err), tostring(err))
    local kind = ok and "ok" or err.kind
    kinds[kind] = (kinds[kind] or 0) + 1
    if kind == "io" then
      -- Names that the disk does not take.
      assert(err.code == "ENAMETOOLONG" or err.code == "ENOTDIR", tostring(err))
    end
    folder.check()
    for path in fs.walk(folder.root) do
      local facts = fs.lstat(path)
      assert(facts.type == "file" or facts.type == "directory" or facts.type == "symlink")
      assert(facts.type ~= "symlink" or inside.link(path:sub(#folder.root + 2), fs.readlink(path)))
      assert(facts.mode & ~511 == 0)
    end
    fs.remove(folder.root, { recursive = true })
    fs.mkdir(folder.root)
  end
  assert(kinds.ok and kinds.archive, "some are taken, some are not")
end)
