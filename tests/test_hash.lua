local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local task = require("sbx.task")

local EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
local ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

test("hash: sha256 gives the published digests", function()
  assert(hash.sha256("") == EMPTY and hash.sha256("abc") == ABC)
  assert(hash.sha256(("a"):rep(1000000))
    == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
end)

test("hash: a running digest can be read at any time", function()
  local h = hash.sha256_new()
  assert(h:hex() == EMPTY)
  assert(h:update("a"):update("bc") == h)
  assert(h:hex() == ABC and h:hex() == ABC)
  h:update("\0")
  assert(h:hex() == hash.sha256("abc\0"))
end)

test("hash: a running digest is collected while idle, and closed only once", function()
  for _ = 1, 1000 do
    hash.sha256_new():update("x")
  end
  collectgarbage()
  local h = hash.sha256_new()
  getmetatable(h).__gc(h)
  getmetatable(h).__gc(h)
  local ok, err = pcall(h.update, h, "x")
  assert(not ok and err:find("closed"), err)
end)

test("hash: sha256_file reads a file in pieces", function()
  local dir <close> = fs.tmpdir { prefix = "hash" }
  local path = dir.path .. "/data"
  local data = ("0123456789abcdef"):rep(50000) .. "end"
  fs.write(path, data)
  local digest, size = hash.sha256_file(path)
  assert(digest == hash.sha256(data) and size == #data)
  fs.write(path, "")
  digest, size = hash.sha256_file(path)
  assert(digest == EMPTY and size == 0)
end)

test("hash: sha256_file raises for a file that is not there", function()
  local ok, err = pcall(hash.sha256_file, "/nonexistent/file")
  assert(not ok and errors.is_error(err) and err.code == "ENOENT", tostring(err))
end)

test("hash: sha256_file of a file without end stops when its time is up", function()
  local ok, err = pcall(task.timeout, 0.05, hash.sha256_file, "/dev/zero")
  assert(not ok and errors.is_error(err) and err:is("timeout"), tostring(err))
end)

test("hash: random_hex never repeats", function()
  local seen = {}
  for _ = 1, 1000 do
    local text = hash.random_hex(16)
    assert(#text == 32 and not text:find("[^0-9a-f]") and not seen[text])
    seen[text] = true
  end
  assert(#hash.random_hex(4096) == 8192)
  for _, count in ipairs { 0, -1, 4097, math.maxinteger } do
    assert(not pcall(hash.random_hex, count))
  end
end)

test("hash: base64 gives the published texts and takes them back", function()
  local texts = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==",
    fooba = "Zm9vYmE=", foobar = "Zm9vYmFy", ["\xFB\xFF\0"] = "+/8A" }
  for bytes, text in pairs(texts) do
    assert(hash.base64(bytes) == text and hash.base64_decode(text) == bytes, text)
  end
  math.randomseed(3, 1)
  for length = 0, 300 do
    local bytes = {}
    for i = 1, length do
      bytes[i] = string.char(math.random(0, 255))
    end
    local whole = table.concat(bytes)
    assert(hash.base64_decode(hash.base64(whole)) == whole)
  end
end)

test("hash: base64_decode refuses what base64 never writes", function()
  for _, text in ipairs {
    "Z", "Zg", "Zg=", "Zg===", "====", "=", "Z===", "Zm9v\n", " Zm9v", "Zm9v ", "Zm 9", "Z=9v",
    "Zg==Zg==", "Zm-v", "Zm_v", "Zm9\0", "Zm9v\0\0\0\0", "Zm9\xFF",
  } do
    local ok, err = pcall(hash.base64_decode, text)
    assert(not ok and errors.is_error(err) and err.kind == "base64", text)
  end
end)

test("hash: equal compares all bytes", function()
  assert(hash.equal("", "") and hash.equal("a\0b", "a\0b"))
  assert(not hash.equal("a\0b", "a\0c") and not hash.equal("a", "ab") and not hash.equal("", "a"))
end)

test("hash: misuse raises a plain error", function()
  for _, name in ipairs { "sha256", "base64", "base64_decode", "random_hex", "equal" } do
    local ok, err = pcall(hash[name], nil)
    assert(not ok and type(err) == "string", name)
  end
  assert(not pcall(hash.sha256_new().update, {}, "x"))
end)
