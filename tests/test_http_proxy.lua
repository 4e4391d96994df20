local certificates = dofile("tests/peers/certificates.lua")
local expect = dofile("tests/expect.lua")
local fs = require("sbx.fs")
local http = require("sbx.http")
local process = require("sbx.process")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure

local exe = os.getenv("SBXLUA") or "/proc/self/exe"

local function with_login(url)
  return (url:gsub("//", "//user:hunter2@"))
end

local function logins(server)
  return http.get(server.url .. "/logins"):json()
end

local function tunnels(server)
  return tonumber(http.get(server.url .. "/seen?of=CONNECT").body)
end

test("http proxy: https goes through a tunnel, and the login stays with the proxy", function()
  local dir <close> = fs.tmpdir()
  local ca, certificate, key = certificates.make(dir.path)
  local server <close> = peer.start("--tls", certificate, key)
  local proxy <close> = peer.start()
  local options = { ca_file = ca, proxy = with_login(proxy.url) }
  local seen = http.post(server.url .. "/echo", {
    ca_file = ca, proxy = options.proxy, body = "x", headers = { ["X-A"] = "1" },
  }):json()
  assert(seen.text == "x" and seen.headers["proxy-authorization"] == nil)
  assert(seen.headers["x-a"] == "1")
  assert(tunnels(proxy) == 1 and logins(proxy)[1] == "Basic dXNlcjpodW50ZXIy")
  local res <close> = http.stream("GET", server.url .. "/bytes?n=1000000", options)
  assert(#res:all() == 1000000)
  assert(http.get(server.url .. "/echo", { ca_file = ca, proxy = false }).status == 200)
  assert(tunnels(proxy) == 1)
end)

test("http proxy: a refusal is told apart, and shows no password", function()
  local proxy <close> = peer.start()
  local options = { proxy = with_login(proxy.url) }
  local err = failure(http.get, "https://refused.invalid/", options)
  assert(err.kind == "connect" and err.code == "EPROXY" and err.sent == false, tostring(err))
  assert(tostring(err) == "GET https://refused.invalid/: the proxy answered 403", tostring(err))
  options = { proxy = "http://user:hunter2@127.0.0.1:1" }
  err = failure(http.get, "http://nowhere.invalid/", options)
  assert(err.kind == "connect" and not tostring(err):find("hunter2"), tostring(err))
  err = failure(http.get, "http://nowhere.invalid/", { proxy = "nonsense://user:hunter2@x" })
  for name, value in pairs(err) do assert(not tostring(value):find("hunter2"), name) end
end)

test("http proxy: the environment's is used, but not for whom NO_PROXY names", function()
  local proxy <close> = peer.start()
  local script = [[
    local http = require "sbx.http"
    local function try(url, options)
      options = options or {}
      options.connect_timeout = 5
      local ok, res = pcall(http.get, url, options)
      print(ok and res.status or res.kind)
    end
    try "http://one.invalid/status?code=201"
    try "http://two.invalid/status?code=201"
    try "http://sub.two.invalid/status?code=201"
    try("http://one.invalid/status?code=201", { proxy = false })
    local res <close> = http.stream("GET", "http://one.invalid/bytes?n=10")
    print(#res:all())
  ]]
  local function run(env)
    return process.run({ exe, "-e", script }, { env = env, timeout = 60 }).stdout
  end
  local text = run({ http_proxy = with_login(proxy.url), NO_PROXY = "two.invalid" })
  assert(text == "201\ndns\ndns\ndns\n10\n", text)
  text = run({ http_proxy = proxy.url, no_proxy = ".two.invalid,other" })
  assert(text == "201\ndns\ndns\ndns\n10\n", text)
  text = run({ all_proxy = proxy.url })
  assert(text == "201\n201\n201\ndns\n10\n", text)
end)
