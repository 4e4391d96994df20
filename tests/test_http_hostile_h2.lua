-- HTTP/2 against a server that breaks off or breaks the rules.

local certificates = dofile("tests/peers/certificates.lua")
local fs = require("sbx.fs")
local hostile = dofile("tests/peers/hostile.lua")
local http = require("sbx.http")
local task = require("sbx.task")

---@async
---@return table peer  closable; `url`, `options` and `asked(path)`, how often it was
local function start(folder)
  local ca, certificate, key = certificates.make(folder)
  local peer = hostile.start("hostile_h2_peer.py", "h2, hyperframe", certificate, key)
  peer.options = { ca_file = ca, version = 2, max_body = 2 << 20 }
  peer.asked = function(path)
    local text = http.get(peer.url .. "/count", peer.options).body
    return tonumber(text:match("'" .. path:gsub("%-", "%%-") .. "': (%d+)")) or 0
  end
  return peer
end

---@async
local function expect_all(cases)
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  hostile.keeps_turning(5, function()
    for _, case in ipairs(cases) do hostile.expect(peer.url, case, peer.options) end
  end)
end

test("http/2 hostile: GOAWAY in the middle ends the answer, or lets it end", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  hostile.answers(peer.url, "goaway-kind", 200, "first, second", peer.options)
  for _, case in ipairs({
    { "goaway-rude", kind = "http", code = "EOF", phase = "receive", again = true },
    { "goaway-before", kind = "http", code = "EOF", phase = "wait", again = true },
  }) do
    hostile.expect(peer.url, case, peer.options)
    -- Nothing ran twice, though libcurl may send again what was not looked at.
    assert(peer.asked(case[1]) == 3, case[1] .. ": " .. peer.asked(case[1]))
  end
end)

test("http/2 hostile: a stream that is reset or cut is told by where it was", function()
  expect_all({
    { "cut", kind = "http", code = "EOF", phase = "receive", again = true },
    { "cut-head", kind = "http", code = "EOF", phase = "wait", again = true },
    { "reset-internal", kind = "http", code = "ECONNRESET", phase = "wait", again = true },
    { "reset-cancel", kind = "http", code = "ECONNRESET", phase = "wait", again = true },
    { "reset-answered", kind = "http", code = "ECONNRESET", phase = "receive", again = true },
    { "reset-refused", kind = "http", code = "EOF", phase = "wait", again = true },
  })
end)

test("http/2 hostile: a refused POST is not sent again by itself", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  for _, path in ipairs({ "reset-refused", "goaway-before", "cut-head" }) do
    local ok, err = pcall(http.post, peer.url .. "/" .. path, peer.options)
    assert(not ok and err.sent and not err.retryable, tostring(err))
    assert(peer.asked(path) == 1, path .. ": " .. peer.asked(path))
  end
end)

test("http/2 hostile: an answer against the rules is refused", function()
  local cases = {}
  for _, path in ipairs({ "length-more", "length-less", "length-word", "no-status", "upper-case",
    "connection", "line-break" }) do
    cases[#cases + 1] = { path, kind = "http", code = "EPROTO", phase = "receive" }
  end
  expect_all(cases)
end)

test("http/2 hostile: bombs and floods come to an end", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  hostile.keeps_turning(5, function()
    hostile.expect(peer.url, { "endless", kind = "limit", code = "EFBIG", phase = "receive" },
      peer.options)
    for path, kind in pairs({ ["many-headers"] = "limit", ["endless-headers"] = "limit",
      pings = "http", settings = "http", garbage = "http" }) do
      local given = { timeout = 60 }
      for name, value in pairs(peer.options) do given[name] = value end
      local ok, err = pcall(http.get, peer.url .. "/" .. path, given)
      assert(not ok and err.kind == kind and err.sent, path .. ": " .. tostring(err))
      hostile.works(peer.url, peer.options, path)
    end
  end)
end)

test("http/2 hostile: a connection that broke is not used again, though it looks alive", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  for _ = 1, 3 do
    local ok, err = pcall(http.get, peer.url .. "/settings-burst", peer.options)
    assert(not ok and err.kind == "http" and err.sent, tostring(err))
    local res = http.post(peer.url .. "/ok", peer.options)
    assert(res.body == "ok" and not res.timing.reused)
  end
end)

test("http/2 hostile: a server that takes its time runs into a clock", function()
  expect_all({
    { "slow-body", kind = "timeout", code = "ETIMEDOUT", phase = "total", again = true,
      timeout = 1.5 },
    { "silent", kind = "timeout", code = "ETIMEDOUT", phase = "total", again = true,
      timeout = 1.5 },
    { "silent", kind = "timeout", code = "ETIMEDOUT", phase = "idle", again = true,
      options = { idle_timeout = 1.5 } },
  })
end)

test("http/2 hostile: a connection that swallows requests gets no more of them", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  hostile.works(peer.url, peer.options) -- the connection that all will share
  task.scope(function(scope)
    local stuck = {}
    for i = 1, 5 do
      stuck[i] = scope:pspawn(http.get, peer.url .. "/stuck", {
        ca_file = peer.options.ca_file, version = 2, timeout = i == 1 and 2 or 60,
      })
    end
    local ok, err = stuck[1]:pjoin()
    assert(not ok and err.kind == "timeout", tostring(err))
    -- The others are still on it; who comes now is not.
    hostile.works(peer.url, peer.options, "a silent connection")
    scope:cancel()
  end)
end)

test("http/2 hostile: one bad stream leaves the others of its connection alone", function()
  local dir <close> = fs.tmpdir()
  local peer <close> = start(dir.path)
  hostile.works(peer.url, peer.options)
  local list, paths = {}, { "ok", "reset-internal", "no-status" }
  for i = 1, 60 do list[i] = paths[i % 3 + 1] end
  local results = task.map(list, function(path)
    local ok, res = pcall(http.get, peer.url .. "/" .. path, peer.options)
    return ok and res.body or res.kind
  end, { limit = 20 })
  for i, path in ipairs(list) do
    assert(results[i] == (path == "ok" and "ok" or "http"), path .. ": " .. tostring(results[i]))
  end
end)
