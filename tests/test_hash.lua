local core = require("sbx.core.hash")
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local expect = dofile("tests/expect.lua")
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

-- RFC 1321, RFC 3174, FIPS 180-4; HMAC by RFC 2202 and RFC 4231.
local ABCS = {
  md5 = "900150983cd24fb0d6963f7d28e17f72",
  sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d",
  sha256 = ABC,
  sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    .. "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
}

test("hash: each algorithm gives the published digest, at one go and in pieces", function()
  for algorithm, digest in pairs(ABCS) do
    assert(hash[algorithm]("abc") == digest, algorithm)
    local running = hash.new(algorithm):update("a")
    assert(running:hex() == hash[algorithm]("a"))
    assert(running:update("bc"):hex() == digest)
    assert(running:bytes() == encoding.hex_decode(digest))
  end
  assert(hash.new():hex() == EMPTY)
end)

test("hash: hmac gives the published codes", function()
  local cases = {
    { "md5", ("\x0b"):rep(16), "Hi There", "9294727a3638bb1c13f48ef8158bfc9d" },
    { "sha1", "Jefe", "what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79" },
    { "sha256", "Jefe", "what do ya want for nothing?",
      "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
    { "sha256", ("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First",
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54" },
    { "sha512", "Jefe", "what do ya want for nothing?",
      "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
      .. "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737" },
    { "sha256", "", "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad" },
  }
  for _, case in ipairs(cases) do
    assert(hash.hmac(case[1], case[2], case[3]) == case[4], case[1])
  end
end)

test("hash: file takes any algorithm, little memory, and lets others run", function()
  local dir <close> = fs.tmpdir { prefix = "hash" }
  local path = dir.path .. "/data"
  local data = ("0123456789abcdef"):rep(1 << 20) -- 16 MiB
  fs.write(path, data)
  local wanted = hash.sha512(data)
  data = nil
  collectgarbage()
  local most, turns = 0, 0
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        turns = turns + 1
        collectgarbage()
        most = math.max(most, collectgarbage("count"))
        task.sleep(0)
      end
    end)
    local before = collectgarbage("count")
    local digest, size = hash.file(path, "sha512")
    assert(digest == wanted and size == 1 << 24 and data == nil)
    assert(most < before + 2048, ("%.0f KiB more"):format(most - before))
  end)
  assert(turns > 5)
end)

test("hash: random bytes and UUIDs never repeat", function()
  local seen = {}
  for _ = 1, 1000 do
    local text, bytes, uuid = hash.random_hex(16), hash.random_bytes(16), hash.uuid()
    assert(#text == 32 and not text:find("[^0-9a-f]") and #bytes == 16)
    local hex, dash = "%x%x%x%x", "%-"
    assert(uuid:find("^" .. hex .. hex .. dash .. hex .. dash .. "4%x%x%x" .. dash .. "[89ab]%x%x%x"
      .. dash .. hex .. hex .. hex .. "$"))
    for _, value in ipairs { text, bytes, uuid } do
      assert(not seen[value] and value == value:lower() or #value == 16)
      seen[value] = true
    end
  end
  assert(#hash.random_hex(1048576) == 2097152 and #hash.random_bytes(1) == 1)
  for _, count in ipairs { 0, -1, 1048577, math.maxinteger, 1.5 } do
    expect.misuse("n: expected a whole number", hash.random_hex, count)
    expect.misuse("n: expected a whole number", hash.random_bytes, count)
  end
end)

test("hash: base64 is that of sbx.encoding", function()
  assert(hash.base64("foob") == "Zm9vYg==" and hash.base64_decode("Zm9vYg==") == "foob")
  assert(expect.failure(hash.base64_decode, "Zg=\n").kind == "syntax")
end)

test("hash: equal compares all bytes", function()
  assert(hash.equal("", "") and hash.equal("a\0b", "a\0b"))
  assert(not hash.equal("a\0b", "a\0c") and not hash.equal("a", "ab") and not hash.equal("", "a"))
end)

test("hash: misuse raises a plain error", function()
  for _, name in ipairs { "sha256", "sha512", "sha1", "md5" } do
    expect.misuse("bytes: expected a string", hash[name], 12)
  end
  expect.misuse("a: expected a string", hash.equal, nil, "")
  expect.misuse("key: expected a string", hash.hmac, "sha256", nil, "")
  expect.misuse("bytes: expected a string", hash.hmac, "sha256", "")
  expect.misuse("path: expected a string", hash.file, nil)
  for _, call in ipairs {
    function() local _ = hash.new("sha3") end,
    function() local _ = hash.new(256) end,
    function() local _ = hash.hmac("SHA256", "", "") end,
    function() local _ = hash.file("/dev/null", "crc32") end,
  } do
    expect.misuse("test_hash.lua", call)
    expect.misuse("algorithm: expected sha256, sha512, sha1 or md5, got", call)
  end
  expect.misuse("algorithm: unknown", core.digest, "sha3", "")
  assert(not pcall(hash.new().update, {}, "x"))
end)
