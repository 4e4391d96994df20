-- HTTP/1.1 against a server that breaks the rules: the right kind, code and phase
-- each time, nothing left behind, and the next request works. HTTP/2 and TLS have
-- files of their own.

local hostile = dofile("tests/peers/hostile.lua")
local expect = dofile("tests/expect.lua")
local http = require("sbx.http")
local task = require("sbx.task")

local failure = expect.failure

local SHORT = 1 -- seconds for what never ends
local MEBIBYTE = 1 << 20

---@async
local function start()
  return hostile.start("hostile_peer.py", "ssl")
end

---@async
local function expect_all(cases, options)
  local peer <close> = start()
  hostile.keeps_turning(5, function()
    for _, case in ipairs(cases) do hostile.expect(peer.url, case, options or {}) end
  end)
end

test("http hostile: a server that takes its time runs into a clock", function()
  local total = { kind = "timeout", code = "ETIMEDOUT", phase = "total", again = true }
  local idle = { kind = "timeout", code = "ETIMEDOUT", phase = "idle", again = true }
  local cases = {}
  for _, path in ipairs({ "slow-head", "silent", "slow-body", "slow-chunks", "too-long",
    "chunk-line" }) do
    cases[#cases + 1] = { path, timeout = SHORT, kind = total.kind, code = total.code,
      phase = total.phase, again = true }
  end
  for _, path in ipairs({ "silent", "too-long" }) do
    cases[#cases + 1] = { path, kind = idle.kind, code = idle.code, phase = idle.phase,
      again = true, options = { idle_timeout = 1 } }
  end
  expect_all(cases)
end)

test("http hostile: bytes now and then keep the idle clock from ending it", function()
  local peer <close> = start()
  for _, path in ipairs({ "slow-body", "slow-chunks" }) do
    local err = failure(http.get, peer.url .. "/" .. path, { idle_timeout = 1.5, timeout = 4 })
    assert(err.phase == "total", tostring(err))
  end
end)

test("http hostile: a head without bounds is cut off", function()
  local cases = {}
  for _, path in ipairs({ "long-line", "long-status", "many-lines", "many-interim",
    "endless-trailers" }) do
    cases[#cases + 1] = { path, kind = "limit", code = "EMSGSIZE", phase = "receive" }
  end
  expect_all(cases)
end)

test("http hostile: a head that makes no sense is refused", function()
  local cases = {}
  for _, path in ipairs({ "zero-byte", "no-colon", "http09", "http3", "status-0", "status-99",
    "status-1000", "status-word", "switch", "garbage" }) do
    cases[#cases + 1] = { path, kind = "http", code = "EPROTO", phase = "receive" }
  end
  expect_all(cases)
end)

test("http hostile: a length that is none, or two, is refused", function()
  local cases = {}
  for _, path in ipairs({ "length-negative", "length-word", "length-huge", "length-most",
    "length-twice", "length-list" }) do
    cases[#cases + 1] = { path, kind = "http", code = "EPROTO", phase = "receive" }
  end
  expect_all(cases)
end)

test("http hostile: an endless body stops at its limit", function()
  local cases = {}
  for _, path in ipairs({ "endless", "endless-chunks", "endless-gzip" }) do
    cases[#cases + 1] = { path, kind = "limit", code = "EFBIG", phase = "receive" }
  end
  expect_all(cases, { max_body = 2 * MEBIBYTE })
end)

test("http hostile: a connection that ends early is told by where it ended", function()
  local broken = { drop = "wait", ["head-cut"] = "receive", ["line-cut"] = "receive",
    cut = "receive", ["chunk-cut"] = "receive", ["chunk-no-last"] = "receive",
    ["chunk-most"] = "receive" }
  local cases = {}
  for path, phase in pairs(broken) do
    cases[#cases + 1] = { path, kind = "http", code = "EOF", phase = phase, again = true }
  end
  local reset = { reset = "wait", ["reset-head"] = "receive", ["reset-body"] = "receive",
    ["reset-chunk"] = "receive" }
  for path, phase in pairs(reset) do
    cases[#cases + 1] = { path, kind = "http", code = "ECONNRESET", phase = phase, again = true,
      -- Of a connection that was kept it cannot be told from one that had ended.
      code_of_post = phase == "wait" and "EOF" or nil }
  end
  expect_all(cases)
end)

test("http hostile: chunks that are none are refused", function()
  local cases = {}
  for _, path in ipairs({ "chunk-word", "chunk-negative", "chunk-huge", "chunk-no-end" }) do
    cases[#cases + 1] = { path, kind = "http", code = "EPROTO", phase = "receive" }
  end
  expect_all(cases)
end)

test("http hostile: a body that cannot be decoded is refused", function()
  local cases = {}
  for _, path in ipairs({ "gzip-none", "gzip-damaged", "gzip-crc", "gzip-behind", "deflate-none",
    "unknown", "gzip-6" }) do
    cases[#cases + 1] = { path, kind = "http", code = "EPROTO", phase = "receive" }
  end
  expect_all(cases)
  local peer <close> = start()
  local raw = http.get(peer.url .. "/gzip-none", { decompress = false })
  assert(raw.body == "this is no gzip" and raw.headers["content-encoding"] == "gzip")
end)

test("http hostile: what is odd but clear is an answer", function()
  local peer <close> = start()
  for _, case in ipairs({
    { "folded", 200, "ok" },
    { "bare-lf", 200, "ok" },
    { "too-short", 200, "good" },
    { "length-and-chunks", 200, "body" },
    { "length-twins", 200, "ok" },
    { "gzip-3", 200, ("x"):rep(100) },
    { "gzip-empty", 200, "" },
    { "until-end", 200, "all of it" },
    { "interim", 200, "ok" },
    { "to-file", 302, "" },
  }) do
    hostile.answers(peer.url, case[1], case[2], case[3], {})
  end
end)

test("http hostile: trailers are nobody's headers", function()
  local peer <close> = start()
  local res = http.get(peer.url .. "/trailer")
  assert(res.status == 200 and res.body == "ok" and res.headers["content-type"] == nil)
  assert(res.headers["transfer-encoding"] == "chunked")
  hostile.answers(peer.url, "trailer", 200, "ok", {})
end)

test("http hostile: an answer before the whole request counts, also before a reset", function()
  local peer <close> = start()
  local body = ("x"):rep(8 * MEBIBYTE)
  for _, path in ipairs({ "refuse-upload", "refuse-and-reset" }) do
    local res = http.post(peer.url .. "/" .. path, { body = body })
    assert(res.status == 413 and res.body == "no!", path)
    local stream <close> = http.stream("POST", peer.url .. "/" .. path, { body = body })
    assert(stream.status == 413 and stream:all() == "no!", path)
    hostile.works(peer.url, {}, path)
  end
  local err = failure(http.post, peer.url .. "/reset", { body = body })
  assert(err.kind == "http" and (err.phase == "send" or err.phase == "wait"), tostring(err))
  assert(err.sent and not err.retryable)
end)

test("http hostile: what an idle connection says is no answer", function()
  local peer <close> = start()
  for _ = 1, 3 do
    assert(http.get(peer.url .. "/left-behind").body == "first")
    task.sleep(1) -- meanwhile the server says something that nobody asked for
    local res = http.post(peer.url .. "/ok", { body = "x" })
    assert(res.status == 200 and res.body == "ok", res.body)
  end
end)

test("http hostile: redirects lead round in circles only so long", function()
  local peer <close> = start()
  for path, code in pairs({ loop = "ELOOP", ["to-file"] = "EPROTO" }) do
    for _, ask in ipairs({ http.get, function(...) return http.stream("GET", ...) end }) do
      local err = failure(ask, peer.url .. "/" .. path, { follow = 5 })
      assert(err.kind == "http" and err.code == code and err.phase == "receive", tostring(err))
      assert(err.sent and not err.retryable)
      hostile.works(peer.url, {}, path)
    end
  end
end)

test("http hostile: a file is saved whole or not at all", function()
  local peer <close> = start()
  hostile.saves_nothing(peer.url, { "cut", "reset-body", "chunk-cut", "chunk-word", "gzip-damaged",
    "endless", "endless-chunks", "endless-gzip", "endless-trailers", "length-twice" },
    { max_body = 2 * MEBIBYTE })
end)

test("http hostile: many at once, good and bad, and the good ones are good", function()
  local peer <close> = start()
  local paths = { "ok", "cut", "reset-body", "ok", "chunk-word", "gzip-damaged", "many-lines", "ok",
    "endless", "drop", "trailer", "long-line" }
  local list = {}
  for i = 1, 240 do list[i] = paths[i % #paths + 1] end
  local results = task.map(list, function(path)
    local ok, res = pcall(http.get, peer.url .. "/" .. path, { max_body = MEBIBYTE, timeout = 60 })
    return ok and res.body or false
  end, { limit = 40 })
  for i, path in ipairs(list) do
    local good = path == "ok" or path == "trailer"
    assert(results[i] == (good and "ok"), path .. ": " .. tostring(results[i]))
  end
end)
