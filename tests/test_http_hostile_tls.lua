-- HTTP over TLS against servers that are not who they should be, or break off.

local certificates = dofile("tests/peers/certificates.lua")
local fs = require("sbx.fs")
local hostile = dofile("tests/peers/hostile.lua")
local http = require("sbx.http")
local net = require("sbx.net")
local task = require("sbx.task")

test("http hostile: a certificate of another name is refused, nothing is sent", function()
  local dir <close> = fs.tmpdir()
  local ca, certificate, key = certificates.make(dir.path, "DNS:other.example,IP:127.0.0.2")
  local peer <close> = hostile.start("hostile_peer.py", "ssl", "--tls", certificate, key)
  for _, ask in ipairs({ http.get, http.post, function(...) return http.stream("GET", ...) end }) do
    for _, url in ipairs({ peer.url, (peer.url:gsub("127%.0%.0%.1", "localhost")) }) do
      local ok, err = pcall(ask, url .. "/ok?token=s3cret", { ca_file = ca, timeout = 60 })
      assert(not ok and err.kind == "tls" and err.phase == "connect", tostring(err))
      assert(err.sent == false and err.retryable == false)
      assert(tostring(err):find("SSL: no alternative certificate subject name", 1, true),
        tostring(err))
      assert(not tostring(err):find("s3cret"))
    end
  end
  -- The same server under its own name.
  hostile.works("https://other.example", { ca_file = ca, connect_to = "127.0.0.1:" .. peer.port })
end)

-- What a server says in place of its part of the handshake.
local HANDSHAKES = {
  { "", kind = "connect", code = "EOF", again = true },
  { "\x16\x03\x03\x40\x00" .. ("\0"):rep(1000), kind = "connect", code = "EOF", again = true },
  { "HTTP/1.1 400 Bad Request\r\n\r\n", kind = "tls" },
  { ("\0\1\2\3"):rep(10000), kind = "tls" },
  { "\x15\x03\x03\0\x02\x02\x28", kind = "tls" }, -- the alert handshake_failure
  { "\x15\x03\x03\0\x02\x02\x50", kind = "tls" }, -- internal_error
}

test("http hostile: a handshake that comes to nothing has sent nothing", function()
  for i, case in ipairs(HANDSHAKES) do
    local listener <close> = net.listen("127.0.0.1", 0)
    local server = task.daemon(function()
      while true do
        local stream <close> = listener:accept()
        stream:read()
        pcall(stream.write, stream, case[1])
        pcall(stream.shutdown, stream)
        repeat local ok, bytes = pcall(stream.read, stream) until not ok or not bytes
      end
    end)
    for _, ask in ipairs({ http.get, http.post }) do
      local ok, err = pcall(ask, "https://127.0.0.1:" .. listener.port, { timeout = 60 })
      local what = i .. ": " .. tostring(err)
      assert(not ok and err.kind == case.kind and err.code == case.code, what)
      assert(err.phase == "connect" and err.sent == false, what)
      assert(err.retryable == (case.again or false), what)
    end
    server:cancel()
    server:pjoin()
  end
end)

test("http hostile: over TLS the matrix is the same", function()
  local dir <close> = fs.tmpdir()
  local ca, certificate, key = certificates.make(dir.path)
  local peer <close> = hostile.start("hostile_peer.py", "ssl", "--tls", certificate, key)
  local options = { ca_file = ca, max_body = 2 << 20 }
  hostile.keeps_turning(5, function()
    for _, case in ipairs({
      { "slow-head", kind = "timeout", code = "ETIMEDOUT", phase = "total", again = true,
        timeout = 1.5 },
      { "slow-body", kind = "timeout", code = "ETIMEDOUT", phase = "total", again = true,
        timeout = 1.5 },
      { "many-lines", kind = "limit", code = "EMSGSIZE", phase = "receive" },
      { "long-line", kind = "limit", code = "EMSGSIZE", phase = "receive" },
      { "endless", kind = "limit", code = "EFBIG", phase = "receive" },
      { "endless-gzip", kind = "limit", code = "EFBIG", phase = "receive" },
      { "cut", kind = "http", code = "EOF", phase = "receive", again = true },
      { "line-cut", kind = "http", code = "EOF", phase = "receive", again = true },
      { "drop", kind = "http", code = "EOF", phase = "wait", again = true },
      { "chunk-cut", kind = "http", code = "EOF", phase = "receive", again = true },
      { "chunk-word", kind = "http", code = "EPROTO", phase = "receive" },
      { "length-twice", kind = "http", code = "EPROTO", phase = "receive" },
      { "gzip-damaged", kind = "http", code = "EPROTO", phase = "receive" },
    }) do
      hostile.expect(peer.url, case, options)
    end
  end)
  hostile.answers(peer.url, "until-farewell", 200, "all of it", options)
  assert(http.get(peer.url .. "/left-behind", options).body == "first")
  task.sleep(1)
  hostile.works(peer.url, options, "left-behind")
end)
