-- The server over TLS: as a library and by `sbxlua serve`, with good certificates, wrong
-- ones, and peers that do not speak it.

local core = require("sbx.core.server")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local net = require("sbx.core.net")
local process = require("sbx.process")
local server = require("sbx.server")
local task = require("sbx.task")
local certificates = dofile("tests/peers/certificates.lua")
local memory_driver = dofile("tests/peers/memory_driver.lua")

local NAMES = "IP:127.0.0.1,DNS:localhost,DNS:sandboxes.example"

-- Calls fn(folder, ca, cert, key) with paths.
local function with_certificates(fn)
  local folder <close> = fs.tmpdir()
  fn(folder.path, certificates.make(folder.path, NAMES))
end

local function started(cert, key, more)
  local options = {
    driver = memory_driver.open(), api_key = hash.random_hex(16), notice = function() end,
    tls = { cert = fs.read(cert), key = fs.read(key) },
  }
  for name, value in pairs(more or {}) do
    options[name] = value
  end
  return server.start(options)
end

local function call(running, ca, method, path, options)
  local opts = options or {}
  opts.headers = { Authorization = "Bearer " .. (opts.token or running.api_key) }
  opts.token, opts.ca_file, opts.timeout = nil, ca, 30
  local url = path:find("^https?:") and path or running.url .. path
  local res = http.request(method, url, opts)
  return res.status, res.body
end

-- What a peer gets that says `bytes`, until the server closes.
local function say(port, bytes)
  local stream <close> = net.connect("127.0.0.1", port)
  local got = ""
  pcall(function()
    stream:write(bytes)
    repeat
      local piece = stream:read()
      got = got .. (piece or "")
    until not piece
  end)
  return got
end

test("tls: the whole API, both planes, files of some size", function()
  with_certificates(function(_, ca, cert, key)
    local running <close> = started(cert, key)
    assert(running.url:find("^https://127%.0%.0%.1:%d+$"))
    local status, body = call(running, ca, "POST", "/api/v1/sandbox",
      { json = { name = "x", docker_image = "y" } })
    assert(status == 201, body)
    local id = json.decode(body).id
    repeat
      status, body = call(running, ca, "GET", "/api/v1/sandbox/" .. id)
    until status == 200 and json.decode(body).status == "RUNNING"
    status, body = call(running, ca, "POST", "/api/v1/sandbox/" .. id .. "/auth")
    local auth = json.decode(body)
    assert(status == 200 and auth.gateway_url == running.url .. "/gw")
    local base = ("%s/%s/%s"):format(auth.gateway_url, auth.user_ns, auth.job_id)
    local content = hash.random_hex(1024 * 1024) -- 2 MiB
    status = call(running, ca, "POST", base .. "/upload?path=/tmp/big", {
      token = auth.token, multipart = { { name = "file", filename = "f", data = content } },
    })
    assert(status == 200)
    status, body = call(running, ca, "GET", base .. "/download?path=/tmp/big",
      { token = auth.token })
    assert(status == 200 and body == content)
    status, body = call(running, ca, "POST", base .. "/exec",
      { token = auth.token, json = { command = ("x"):rep(100000) } })
    assert(status == 200 and #json.decode(body).stdout == 100000)
  end)
end)

test("tls: many connections at once, and many requests on one", function()
  with_certificates(function(_, ca, cert, key)
    local running <close> = started(cert, key)
    local list = {}
    for index = 1, 60 do
      list[index] = index
    end
    task.map(list, function()
      for _ = 1, 3 do
        assert(call(running, ca, "GET", "/api/v1/sandbox") == 200)
      end
    end, { limit = 20 })
  end)
end)

test("tls: clients that do not trust the certificate do not get to say their key", function()
  with_certificates(function(folder, _, cert, key)
    local running <close> = started(cert, key)
    fs.mkdir(folder .. "/other")
    local other = certificates.make(folder .. "/other")
    local ok, failure = pcall(call, running, other, "GET", "/api/v1/sandbox")
    assert(not ok and failure.kind == "tls", tostring(failure))
  end)
end)

test("tls: only TLS 1.2 and later", function()
  with_certificates(function(_, _, cert, key)
    local running <close> = started(cert, key)
    local function offered(...)
      local result = process.run({
        "openssl", "s_client", "-connect", "127.0.0.1:" .. running.port, ...,
      }, { input = "", timeout = 60 })
      return result.code == 0
    end
    assert(offered("-tls1_2") and offered("-tls1_3"))
    assert(not offered("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"))
  end)
end)

test("tls: what is no TLS gets no answer and does no harm", function()
  with_certificates(function(_, ca, cert, key)
    local running <close> = started(cert, key)
    for _, bytes in ipairs {
      "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ("\0"):rep(5000),
      "\22\3\1\255\255" .. ("x"):rep(70000),
      "\21\3\1\0\2\2\40", "SSH-2.0-x\r\n",
    } do
      local got = say(running.port, bytes)
      assert(not got:find("HTTP/1", 1, true))
    end
    assert(call(running, ca, "GET", "/api/v1/sandbox") == 200)
  end)
end)

test("tls: a handshake that never ends is cut", function()
  with_certificates(function(_, _, cert, key)
    local listener <close> = core.listen {
      tls_cert = fs.read(cert), tls_key = fs.read(key), head_timeout = 0.2,
    }
    task.timeout(60, say, listener.port, "\22\3\1\2\0\1\0\1\252\3\3")
  end)
end)

test("tls: certificates and keys that cannot be used are told", function()
  with_certificates(function(folder, _, cert, key)
    local other_cert = certificates.sign(folder, "another")
    local good = { tls_cert = fs.read(cert), tls_key = fs.read(key) }
    for name, options in pairs {
      swapped = { tls_cert = good.tls_key, tls_key = good.tls_cert },
      ["not PEM"] = { tls_cert = "x", tls_key = "y" },
      ["another's key"] = { tls_cert = fs.read(other_cert), tls_key = good.tls_key },
      empty = { tls_cert = "", tls_key = "" },
    } do
      local ok, failure = pcall(core.listen, options)
      assert(not ok and errors.is_error(failure) and failure.kind == "tls", name)
      assert(not tostring(failure):find("PRIVATE", 1, true))
    end
    local ok, failure = pcall(core.listen, { tls_cert = good.tls_cert })
    assert(not ok and failure:find("go together", 1, true))
  end)
end)

test("tls: beyond loopback there is no server without it", function()
  local ok, failure = pcall(server.start, {
    driver = memory_driver.open(), api_key = "k", host = "0.0.0.0",
  })
  assert(not ok and tostring(failure):find("need tls", 1, true))
end)

test("tls: origins are those of https", function()
  with_certificates(function(_, ca, cert, key)
    local running <close> = started(cert, key)
    for origin, wanted in pairs {
      [running.url] = 200, [running.url:gsub("^https", "http")] = 403,
      ["https://evil.example"] = 403,
    } do
      local res = http.get(running.url .. "/api/v1/sandbox", {
        headers = { Authorization = "Bearer " .. running.api_key, Origin = origin }, ca_file = ca,
      })
      assert(res.status == wanted, origin .. " " .. res.status)
    end
  end)
end)

-- ------------------------------------------------------------------ sbxlua serve

local function serve(args)
  local argv = { host.executable(), "serve", "--no-state" }
  table.move(args, 1, #args, 4, argv)
  return process.run(argv, { timeout = 60, env = { PRIME_API_KEY = "k" } })
end

test("serve: refuses to be reached from elsewhere without being told, and without TLS", function()
  with_certificates(function(folder, _, cert, key)
    fs.write(folder .. "/open.key", fs.read(key), { mode = 420 })
    local TLS = { "--tls-cert", cert, "--tls-key", key }
    local function with_tls(...)
      return table.move(TLS, 1, 4, select("#", ...) + 1, { ... })
    end
    fs.chmod(key, 384)
    for words, args in pairs {
      ["--allow-remote with --tls-cert"] = { "--listen", "0.0.0.0:0" },
      ["--tls-cert and"] = { "--listen", "0.0.0.0:0", "--allow-remote" },
      ["is not a loopback"] = with_tls("--listen", "0.0.0.0:0"),
      ["--host-name"] = with_tls("--listen", "0.0.0.0:0", "--allow-remote"),
      ["go together"] = { "--tls-cert", cert },
      ["chmod 600"] = { "--tls-cert", cert, "--tls-key", folder .. "/open.key" },
      ["no PEM text"] = { "--tls-cert", "/dev/null", "--tls-key", key },
      ["no such file"] = { "--tls-cert", folder .. "/none", "--tls-key", key },
      ["without a port"] = { "--host-name", "a:80" },
      ["ask for no key"] = { "--expose-on", "0.0.0.0" },
      ["numeric address"] = { "--expose-on", "example.org" },
      ["2m to 1d"] = { "--token-lifetime", "60s" },
      ["unknown class"] = { "--limit", "nothing=1/1s" },
    } do
      local result = serve(args)
      assert(result.code == 2, words)
      assert(result.stderr:find(words, 1, true), words .. ": " .. result.stderr)
    end
  end)
end)

test("serve: listens on all addresses with TLS and a name, and tells its URL", function()
  with_certificates(function(_, ca, cert, key)
    fs.chmod(key, 384)
    local child <close> = process.spawn({
      host.executable(), "serve", "--no-state", "--listen", "0.0.0.0:0", "--allow-remote",
      "--tls-cert", cert, "--tls-key", key, "--host-name", "sandboxes.example",
      "--limit", "list=2/60s",
    }, { stderr = "pipe", stdout = "null", env = { PRIME_API_KEY = "k-4711" } })
    local text = ""
    task.timeout(60, function()
      while not text:find("Ctrl-C", 1, true) do
        text = text .. assert(child.stderr:read(), text)
      end
    end)
    local port = text:match("https://sandboxes%.example:(%d+)")
    assert(port and not text:find("k-4711", 1, true), text)
    local function list(name)
      return http.get(("https://%s:%s/api/v1/sandbox"):format(name, port), {
        headers = { Authorization = "Bearer k-4711" }, ca_file = ca, timeout = 60,
        connect_to = name ~= "127.0.0.1" and "127.0.0.1:" .. port or nil,
      }).status
    end
    assert(list("sandboxes.example") == 200 and list("127.0.0.1") == 200)
    assert(list("sandboxes.example") == 429)
    child:kill("TERM")
    assert(task.timeout(60, child.wait, child) == 0)
  end)
end)
