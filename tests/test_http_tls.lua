local certificates = dofile("tests/peers/certificates.lua")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local nginx = dofile("tests/peers/nginx.lua")

local failure = expect.failure
local misuse = expect.misuse

-- A server each for: TLS 1.2 alone, both versions, and clients with a certificate.
local SERVERS = [[
  ssl_certificate @dir/server.pem; ssl_certificate_key @dir/server.key;
  server {
    listen 127.0.0.1:@1 ssl; ssl_protocols TLSv1.2;
    location / { return 200 "$ssl_protocol"; }
  }
  server {
    listen 127.0.0.1:@2 ssl; ssl_protocols TLSv1.2 TLSv1.3;
    location / { return 200 "$ssl_protocol $host $ssl_server_name"; }
  }
  server {
    listen 127.0.0.1:@3 ssl; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_client_certificate @dir/ca.pem; ssl_verify_client on;
    location / { return 200 "$ssl_client_s_dn"; }
  }
]]

---@async
local function start(dir, names)
  local ca = certificates.make(dir, names)
  local server = nginx.start(dir, SERVERS)
  local urls = {}
  for i, port in ipairs(server.ports) do urls[i] = "https://127.0.0.1:" .. port .. "/" end
  return server, urls, ca
end

test("http tls: tls_min refuses an older version", function()
  local dir <close> = fs.tmpdir()
  local started, urls, ca = start(dir.path)
  local _ <close> = started
  assert(http.get(urls[1], { ca_file = ca }).body == "TLSv1.2")
  assert(http.get(urls[1], { ca_file = ca, tls_min = "1.2" }).body == "TLSv1.2")
  local err = failure(http.get, urls[1], { ca_file = ca, tls_min = "1.3" })
  assert(err.kind == "tls" and err.sent == false, tostring(err))
  assert(http.get(urls[2], { ca_file = ca, tls_min = "1.3" }).body:find("^TLSv1.3"))
end)

test("http tls: a client certificate is shown where it is asked for", function()
  local dir <close> = fs.tmpdir()
  local started, urls, ca = start(dir.path)
  local _ <close> = started
  local cert, key = certificates.sign(dir.path, "client")
  local res = http.get(urls[3], { ca_file = ca, cert = cert, key = key })
  assert(res.status == 200 and res.body == "CN=test client", res.body)
  -- A connection that showed one serves nobody else.
  assert(http.get(urls[3], { ca_file = ca }).status == 400)
  fs.write(dir.path .. "/both", fs.read(cert) .. fs.read(key))
  assert(http.get(urls[3], { ca_file = ca, cert = dir.path .. "/both" }).status == 200)

  local err = failure(http.get, urls[3], { ca_file = ca, cert = dir.path .. "/none" })
  assert(err.kind == "tls" and err.sent == false, tostring(err))
  local _, other_key = certificates.sign(dir.path, "other")
  http.close_idle()
  err = failure(http.get, urls[3], { ca_file = ca, cert = cert, key = other_key })
  assert(err.kind == "tls", tostring(err))
end)

test("http tls: a peer that disliked our certificate is told as such", function()
  local dir <close> = fs.tmpdir()
  local ca, certificate, key = certificates.make(dir.path)
  local peer <close> = dofile("tests/peers/http_peer.lua").start("--tls", certificate, key, ca)
  local err = failure(http.post, peer.url .. "/echo", { ca_file = ca })
  assert(err.kind == "tls" and not err.retryable, tostring(err))
  local ours, our_key = certificates.sign(dir.path, "client")
  local options = { ca_file = ca, cert = ours, key = our_key }
  assert(http.post(peer.url .. "/echo", options).status == 200)
end)

test("http tls: a pinned key must be the server's, checked or not", function()
  local dir <close> = fs.tmpdir()
  local started, urls, ca = start(dir.path)
  local _ <close> = started
  local pin = certificates.pin(dir.path .. "/server.pem")
  local wrong = certificates.pin(ca)
  local function get(pinned, verify)
    return http.get(urls[2], {
      ca_file = verify ~= false and ca or nil, verify = verify, pinned_key = pinned,
    }).status
  end
  assert(get(nil) == 200) -- a connection to reuse
  assert(get(pin) == 200 and get(wrong .. ";" .. pin) == 200)
  assert(get(pin, false) == 200)
  for _, verify in ipairs { true, false } do
    local err = failure(get, wrong, verify)
    assert(err.kind == "tls" and err.sent == false and not err.retryable, tostring(err))
  end
  -- Nor is a connection that was made without the pin taken for a good one.
  assert(get(nil, false) == 200 and failure(get, wrong, false).kind == "tls")
end)

test("http tls: connect_to leads elsewhere under the URL's name", function()
  local dir <close> = fs.tmpdir()
  local started, urls, ca = start(dir.path, "DNS:box.invalid")
  local _ <close> = started
  local port = urls[2]:match(":(%d+)/")
  local there = "127.0.0.1:" .. port
  local res = http.get("https://box.invalid/", { ca_file = ca, connect_to = there })
  assert(res.body == "TLSv1.3 box.invalid box.invalid", res.body)
  assert(res.url == "https://box.invalid/")
  local err = failure(http.get, "https://other.invalid/", { ca_file = ca, connect_to = there })
  assert(err.kind == "tls", tostring(err))
  err = failure(http.get, "https://box.invalid/", { connect_to = "127.0.0.1:1" })
  assert(err.kind == "connect" and err.code == "ECONNREFUSED", tostring(err))
  err = failure(http.get, "http://box.invalid/", { connect_to = "no-such-host.invalid:80" })
  assert(err.kind == "dns" and tostring(err):find("no-such-host.invalid", 1, true), tostring(err))
  res = http.get("https://box.invalid/", { ca_file = ca, connect_to = "localhost:" .. port })
  assert(res.status == 200)
end)

test("http tls: many connections with options of their own", function()
  local dir <close> = fs.tmpdir()
  local started, urls, ca = start(dir.path)
  local _ <close> = started
  local list = {}
  for i = 1, 60 do list[i] = i end
  require("sbx.task").map(list, function(i)
    local options = i % 2 == 0 and { ca_file = ca } or { verify = false }
    assert(http.get(urls[1 + i % 2], options).status == 200)
    if i % 3 == 0 then assert(failure(http.get, urls[2]).kind == "tls") end
  end)
end)

test("http tls: misuse names the argument", function()
  local url = "https://127.0.0.1:1/"
  misuse('tls_min: expected "1.2" or "1.3"', http.get, url, { tls_min = "1.1" })
  misuse("key: needs cert as well", http.get, url, { key = "x" })
  misuse("cert: expected a string", http.get, url, { cert = true })
  misuse("connect_to: expected host:port", http.get, url, { connect_to = "host" })
  misuse("pinned_key: expected a", http.get, url, { pinned_key = 1 })
end)
