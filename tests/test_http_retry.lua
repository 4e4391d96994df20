local expect = dofile("tests/expect.lua")
local http = require("sbx.http")
local net = require("sbx.net")
local retry = require("sbx.retry")
local escape = require("sbx.url").escape
local task = require("sbx.task")
local peer = dofile("tests/peers/http_peer.lua")

local failure = expect.failure
local misuse = expect.misuse

local FAST = { attempts = 3, pause = 0 }

local function seen(server, key)
  return tonumber(http.get(server.url .. "/seen?of=" .. key).body)
end

test("http retry: a status that may pass is asked for again", function()
  local server <close> = peer.start()
  for _, code in ipairs { 408, 425, 429, 502, 503, 504 } do
    local res = http.get(("%s/status?code=%d&key=get%d"):format(server.url, code, code),
      { retry = FAST })
    -- When the tries run out, the last answer is the answer.
    assert(res.status == code and res.attempts == 3, code)
    assert(seen(server, "get" .. code) == 3, code)
  end
  for _, code in ipairs { 400, 401, 404, 500, 501 } do
    local res = http.get(("%s/status?code=%d&key=get%d"):format(server.url, code, code),
      { retry = FAST })
    assert(res.status == code and res.attempts == 1 and seen(server, "get" .. code) == 1, code)
  end
end)

test("http retry: what may have run is sent again only if it may run twice", function()
  local server <close> = peer.start()
  local function tries(key, method, path, options)
    options = options or {}
    options.retry = FAST
    pcall(http.request, method, ("%s%skey=%s"):format(server.url, path, key), options)
    return seen(server, key)
  end
  local keyed = { ["Idempotency-Key"] = "1" }
  assert(tries("post", "POST", "/status?code=503&") == 1)
  assert(tries("patch", "PATCH", "/status?code=503&") == 1)
  assert(tries("busy", "POST", "/status?code=429&") == 3) -- nothing was done
  assert(tries("keyed", "POST", "/status?code=503&", { headers = keyed }) == 3)
  assert(tries("asked", "POST", "/status?code=503&", { at_most_once = false }) == 3)
  assert(tries("once", "GET", "/status?code=503&", { at_most_once = true }) == 1)
  assert(tries("put", "PUT", "/status?code=503&", { body = "x" }) == 3)
  assert(tries("delete", "DELETE", "/status?code=503&") == 3)
  -- The connection breaks before the answer; libcurl sends again on its own, too.
  assert(tries("cut-post", "POST", "/drop?") == 1)
  assert(tries("cut-get", "GET", "/drop?") >= 3)
  assert(tries("cut-keyed", "POST", "/drop?", { headers = keyed }) >= 3)
end)

test("http retry: a later try that succeeds is the answer", function()
  local server <close> = peer.start()
  local res = http.put(server.url .. "/drop-once?key=later", { body = "x", retry = FAST })
  assert(res.body == "at last" and seen(server, "later") == 2)
end)

test("http retry: what was never sent is tried again, whatever the method", function()
  local listener = net.listen("127.0.0.1", 0)
  local url = ("http://127.0.0.1:%d/"):format(listener.port)
  listener:close()
  local told = {}
  local asked = 0
  local err = failure(http.post, url, {
    body = function() asked = asked + 1 end,
    retry = {
      attempts = 4, pause = 0.01, on_retry = function(e, n) told[#told + 1] = e.code .. n end,
    },
  })
  assert(err.code == "ECONNREFUSED" and err.attempts == 4 and asked == 0, tostring(err))
  assert(table.concat(told, " ") == "ECONNREFUSED1 ECONNREFUSED2 ECONNREFUSED3")
end)

test("http retry: Retry-After is honoured, and too long a one ends the tries", function()
  local server <close> = peer.start()
  local start = task.now()
  local res = http.get(server.url .. "/status?code=429&after=0.4&key=after",
    { retry = { attempts = 2, pause = 0 } })
  assert(res.status == 429 and task.now() - start >= 0.4 and seen(server, "after") == 2)
  res = http.get(server.url .. "/status?code=503&after=100&key=long", { retry = FAST })
  assert(res.status == 503 and res.retry_after == 100 and seen(server, "long") == 1)
end)

test("http retry: raise raises the last status with the number of tries", function()
  local server <close> = peer.start()
  local err = failure(http.get, server.url .. "/status?code=503&key=raise",
    { retry = FAST, raise = true })
  assert(err.status == 503 and err.attempts == 3 and seen(server, "raise") == 3, tostring(err))
end)

test("http retry: a number is the tries in all, when and a budget can forbid them", function()
  local server <close> = peer.start()
  local url = server.url .. "/status?code=503&key="
  task.timeout(60, http.get, url .. "two", { retry = 2 })
  assert(seen(server, "two") == 2)
  local function when(answer)
    return { attempts = 3, pause = 0, when = function() return answer end }
  end
  http.get(url .. "when", { retry = when(false) })
  assert(seen(server, "when") == 1)
  local budget = retry.budget { ratio = 0, burst = 1 }
  http.get(url .. "budget", { retry = { attempts = 5, pause = 0, budget = budget } })
  assert(seen(server, "budget") == 2)
  -- A caller cannot make it unsafe with `when`.
  http.post(url .. "unsafe", { retry = when(true) })
  assert(seen(server, "unsafe") == 1)
end)

test("http retry: each step of a redirect has its own tries", function()
  local server <close> = peer.start()
  local to = escape("/status?code=503&key=target")
  local res = http.post(("%s/lead?code=303&key=source&to=%s"):format(server.url, to),
    { follow = 1, retry = FAST })
  assert(res.status == 503 and seen(server, "source") == 1 and seen(server, "target") == 3)
end)

test("http retry: a stream is tried until its head is good", function()
  local server <close> = peer.start()
  local client = http.client { base = server.url, retry = FAST }
  local res <close> = client:stream("GET", "/status?code=503&key=stream")
  assert(res.status == 503 and res.attempts == 3 and res:all():find("as you asked"))
  local good <close> = client:stream("PUT", "/drop-once?key=good", { body = "x" })
  assert(good:all() == "at last")
  for key, host in pairs((http.stats())) do assert(host.active == 0, key) end
end)

test("http retry: cancelling ends the pause between two tries", function()
  local server <close> = peer.start()
  local url = server.url .. "/status?code=503&after=20"
  assert(not task.move_on(0.2, http.get, url, { retry = 3 }))
  assert(not task.move_on(0.2, http.stream, "GET", url, { retry = 3 }))
  for key, host in pairs((http.stats())) do assert(host.active == 0, key) end
end)

test("http retry: misuse names the argument", function()
  local url = "http://127.0.0.1:1/"
  misuse("retry: expected a number of tries, or a table", http.get, url, { retry = true })
  misuse("attempts: expected", http.get, url, { retry = 0 })
  misuse("unknown option 'atempts'", http.get, url, { retry = { atempts = 1 } })
end)
