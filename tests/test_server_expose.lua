-- Exposed ports of the local server: a web server in a sandbox, seen from here.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local errors = require("sbx.errors")
local http = require("sbx.http")
local json = require("sbx.json")
local net = require("sbx.core.net")
local task = require("sbx.task")
local with_server = support.with_server

local function with_web(fn)
  with_server(function(api)
    local object, box = api:running { network_access = false }
    box:exec("mkdir -p /tmp/www && echo hello > /tmp/www/index.html && cd /tmp/www"
      .. " && nohup python3 -m http.server 8000 > /dev/null 2>&1 &")
    fn(api, object, box)
  end)
end

-- Until the web server has come up, what answers is a 502.
local function get_when_up(url)
  return task.timeout(60, function()
    while true do
      local res = http.get(url, { timeout = 60 })
      if res.status ~= 502 then return res end
      task.sleep(0.05)
    end
  end)
end

test("expose: a web server in a sandbox without network answers here", function()
  with_web(function(api, object)
    local path = "/sandbox/" .. object.id .. "/expose"
    local status, made = api:call("POST", path, { port = 8000, name = "web" })
    assert(status == 200 and made.port == 8000 and made.name == "web")
    assert(made.sandbox_id == object.id and made.protocol == "HTTP" and made.tls_socket == "")
    assert(made.url:match("^http://127%.0%.0%.1:%d+/$") and made.external_port == json.null)

    assert(get_when_up(made.url).body == "hello\n")
    local many = task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
      return http.get(made.url .. "index.html").status
    end)
    assert(#many == 8 and many[8] == 200)

    local _, listed = api:call("GET", path)
    assert(#listed.exposures == 1 and listed.exposures[1].exposure_id == made.exposure_id)
    local _, all = api:call("GET", "/sandbox/expose/all")
    assert(#all.exposures == 1)

    local closed, answer = api:call("DELETE", path .. "/" .. made.exposure_id)
    assert(closed == 200 and answer.success == true)
    local ok, failure = pcall(http.get, made.url, { timeout = 60 })
    assert(not ok and errors.is_error(failure))
    assert(api:call("DELETE", path .. "/" .. made.exposure_id) == 404)
    _, all = api:call("GET", "/sandbox/expose/all")
    assert(#all.exposures == 0)
  end)
end)

test("expose: a port where nothing listens is 502", function()
  with_web(function(api, object)
    local _, made = api:call("POST", "/sandbox/" .. object.id .. "/expose", { port = 8001 })
    assert(made.name == json.null)
    assert(http.get(made.url, { timeout = 60 }).status == 502)
  end)
end)

test("expose: odd requests are refused", function()
  with_server(function(api)
    local object = api:running()
    local path = "/sandbox/" .. object.id .. "/expose"
    for _, body in ipairs {
      json.object {}, { port = "80" }, { port = 0 }, { port = 70000 }, { port = 80.5 },
      { port = 80, protocol = "UDP" }, { port = 80, name = string.rep("x", 51) },
    } do
      assert(api:call("POST", path, body) == 422, json.encode(body))
    end
    local status, tcp = api:call("POST", path, { port = 5432, protocol = "TCP" })
    assert(status == 200 and tcp.external_endpoint == "127.0.0.1:" .. tcp.external_port)
    api:call("DELETE", "/sandbox/" .. object.id)
    assert(api:call("POST", path, { port = 8000 }) == 409)
  end)
end)

test("expose: an open connection ends with the exposure, and with the sandbox", function()
  with_web(function(api, object)
    local path = "/sandbox/" .. object.id
    local function connected()
      local _, made = api:call("POST", path .. "/expose", { port = 8000 })
      get_when_up(made.url)
      local stream = net.connect("127.0.0.1", tonumber(made.url:match(":(%d+)/")))
      stream:write("GET / HTTP/1.1\r\nHost: here\r\n\r\n")
      assert(stream:read():find("^HTTP/1"))
      return stream, made
    end
    local function read_to_the_end(stream)
      return task.timeout(60, function()
        repeat until not stream:read()
      end)
    end

    local first <close>, made = connected()
    assert(api:call("DELETE", path .. "/expose/" .. made.exposure_id) == 200)
    pcall(read_to_the_end, first)
    assert(not pcall(first.write, first, ("x"):rep(1000000)) or not first:read())
    local second <close> = connected()
    assert(api:call("DELETE", path) == 200)
    read_to_the_end(second)
  end)
end)
