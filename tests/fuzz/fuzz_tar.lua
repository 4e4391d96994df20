-- Fuzzes the reader of tar archives and what unpacks them, with archives that a
-- hostile sandbox might send: odd names and links, changed headers, damaged bytes.
-- Whatever comes, it ends by a result or by an error object; nothing outside of the
-- folder changes, and no link in it leads out. How it is run: `seeds.lua`.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local inside = require("sbx.sandbox.inside")
local seeds = require("tests.fuzz.seeds")
local tar = require("sbx.sandbox.tar")
local tar_reader = require("sbx.sandbox.tar_reader")
local unpack = require("sbx.sandbox.unpack")

local damage, pick = seeds.damage, seeds.pick

local fuzz = {}

local MOST_BYTES, MOST_ENTRIES = 1024 * 1024, 100
local OUTSIDE = "precious"

local NAMES = {
  "a", "b", "a/b", "a/b/c", "./a", "a/./b", "a//b", "d/", "l", "l/x", "a/l/x", "..",
  "../" .. OUTSIDE, "a/../../" .. OUTSIDE, "../new", "a/../../new/x", "/etc/passwd", "", ".",
  "/", "a\nb", "ü", "\255", ("n"):rep(99), ("n"):rep(100), ("n"):rep(101), ("n"):rep(300),
  ("d/"):rep(60) .. "x",
}
local TARGETS = {
  "a", "../a", "..", "../..", "../" .. OUTSIDE, "/", "/tmp", "a/../..", "l", "l/../..", "", ".",
  "./././..", ("../"):rep(50) .. "tmp", ("t"):rep(200),
}
local FLAGS = { "0", "\0", "1", "2", "3", "4", "5", "6", "7", "x", "g", "L", "K", "S", "V", "\255" }
local SIZES = { 0, 1, 511, 512, 513, 5000 }
-- A size in base 256: the first byte alone, -1, small and impossible.
local BINARY = {
  "\128", "\255", "7", ("\255"):rep(12), "\128" .. ("\0"):rep(9) .. "\2\0",
  "\128" .. ("\0"):rep(3) .. "\127" .. ("\255"):rep(7),
}
local NUMBERS = { "0", "-1", "1", "512", "9999999999999999999", "1e9", "", "x", "0x10", "1.5" }

-- Another byte or field in a header, with a checksum that is right again.
local function changed(head, at, bytes)
  head = head:sub(1, at - 1) .. bytes .. head:sub(at + #bytes)
  local sum = 256
  for i = 1, 512 do
    if i < 149 or i > 156 then sum = sum + head:byte(i) end
  end
  return head:sub(1, 148) .. ("%06o\0 "):format(sum) .. head:sub(157)
end

local function pax(random)
  local key = pick(random, { "path", "linkpath", "size", "mtime", "GNU.sparse.map", "comment" })
  local value = key == "path" and pick(random, NAMES) or key == "linkpath" and pick(random, TARGETS)
    or pick(random, NUMBERS)
  local rest = (" %s=%s\n"):format(key, value)
  local length = #rest + 2
  if #tostring(length) > 2 then length = length + 1 end
  local record = length .. rest
  if random(1, 10) == 1 then record = damage(random, record) end
  local head = tar.header({
    type = "file", path = "pax", size = #record, mode = 0, mtime = 0,
  })
  return changed(head, 157, pick(random, { "x", "x", "x", "g" })) .. record .. tar.padding(#record)
end

local function entry(random)
  local kind = pick(random, { "file", "file", "file", "symlink", "symlink", "directory" })
  local size = kind == "file" and pick(random, SIZES) or 0
  local bytes = tar.header({
    type = kind, path = pick(random, NAMES), size = size,
    link = kind == "symlink" and pick(random, TARGETS) or nil,
    mode = random(0, 4095), mtime = random(-5, 5000),
  })
  local head, before = bytes:sub(-512), bytes:sub(1, -513)
  local how = random(1, 8)
  if how == 1 then head = changed(head, 157, pick(random, FLAGS)) end
  if how == 2 then head = changed(head, 157, "1") end -- a hard link
  if how == 3 then head = changed(head, random(1, 512), string.char(random(0, 255))) end
  if how == 4 then head = changed(head, 125, pick(random, BINARY)) end
  return before .. head .. ("z"):rep(size) .. tar.padding(size)
end

local function archive(random)
  local parts = {}
  for _ = 1, random(1, 12) do
    if random(1, 5) == 1 then parts[#parts + 1] = pax(random) end
    parts[#parts + 1] = entry(random)
  end
  if random(1, 10) > 1 then parts[#parts + 1] = tar.ending end
  local bytes = table.concat(parts)
  for _ = 1, random(1, 3) == 1 and random(1, 4) or 0 do
    bytes = damage(random, bytes)
  end
  return bytes
end

-- In pieces of any size, as a connection brings them.
local function in_pieces(random, bytes)
  local at = 1
  return function()
    if at > #bytes then return nil end
    local count = random(1, pick(random, { 1, 20, 512, 5000 }))
    local piece = bytes:sub(at, at + count - 1)
    at = at + count
    return piece
  end
end

local function expect_error_object(ok, failure, seed_bytes)
  if ok then return end
  local known = errors.is_error(failure)
    and (failure.kind == "archive" or failure.kind == "limit" or failure.kind == "io")
  assert(known, tostring(failure) .. " for an archive of " .. #seed_bytes .. " bytes")
end

-- The reader alone: every entry in turn, its bytes as many as announced.
local function read_all(random, bytes)
  local reader = tar_reader.new(in_pieces(random, bytes))
  for found in function() return reader:next() end do
    local size = 0
    for piece in function() return reader:read() end do
      size = size + #piece
    end
    assert(size == found.size, "an entry of another size than announced")
  end
end

-- Whether a link at `name` leads out of the folder, going by the text alone.
local function leads_out(name, target)
  if target:sub(1, 1) == "/" then return true end
  local depth = select(2, name:gsub("/", ""))
  for part in target:gmatch("[^/]+") do
    if part == ".." then depth = depth - 1 elseif part ~= "." then depth = depth + 1 end
    if depth < 0 then return true end
  end
  return false
end

-- Nothing in the folder leads out of it, nothing beside it has changed.
local function check(folder, root)
  assert(fs.read(folder .. "/" .. OUTSIDE) == OUTSIDE, "a file outside has changed")
  assert(#fs.list(folder) == 2, "something was made outside")
  for path, found in fs.walk(root) do
    if found.type == "symlink" then
      assert(not leads_out(path:sub(#root + 2), fs.readlink(path)), "a link leads out: " .. path)
      local real = errors.try(fs.realpath, path)
      assert(not real or (real .. "/"):find(root .. "/", 1, true) == 1, "out by links: " .. path)
    else
      assert(found.type == "file" or found.type == "directory", found.type)
    end
  end
end

---One seed: an archive, read, then unpacked. Raises what must not be.
---@async
---@param seed integer
function fuzz.run(seed)
  local random = seeds.generator(seed)
  local bytes = archive(random)
  local ok, failure = pcall(read_all, random, bytes)
  expect_error_object(ok, failure, bytes)

  local folder <close> = fs.tmpdir({})
  local root = folder.path .. "/root"
  fs.mkdir(root)
  fs.write(folder.path .. "/" .. OUTSIDE, OUTSIDE)
  ok, failure = pcall(unpack, in_pieces(random, bytes), root, {
    filter = inside.filter({}), skip_unsafe = random(0, 1) == 1, max_bytes = MOST_BYTES,
    max_entries = MOST_ENTRIES,
  })
  expect_error_object(ok, failure, bytes)
  check(folder.path, root)
end

seeds.main("fuzz_tar", fuzz.run)

return fuzz
