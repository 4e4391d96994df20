-- Fuzzes every route of the local server through its listener, by raw sockets: requests
-- that are right but for something, and damaged ones. Each answer must be a whole one of
-- HTTP, its JSON an object that says what it should, no fault of ours (500) among them, and
-- afterwards the server goes on. The driver is a table. How it is run: `seeds.lua`.
--
-- Requests are kept as templates in corpus/fuzz_routes, in which words such as {ID} stand
-- for what differs from run to run. With FUZZ_CORPUS=FOLDER in the environment those that
-- get a new kind of answer are added there.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local limits = require("sbx.server.limits")
local net = require("sbx.core.net")
local seeds = require("tests.fuzz.seeds")
local server = require("sbx.server")
local task = require("sbx.task")
local memory_driver = require("tests.peers.memory_driver")

local damage, generator, pick = seeds.damage, seeds.generator, seeds.pick

local fuzz = {}

local FOLDER = "tests/fuzz/corpus/fuzz_routes"
-- How long a request that is not whole is left waiting for an answer.
local PATIENCE = 0.03
local ANSWER_SECONDS = 20
local REQUESTS = 24 -- of one seed

-- ------------------------------------------------------------------- what is asked

local NUMBERS = {
  "0", "1", "-1", "2147483648", "9223372036854775807", "9223372036854775808", "1e3", "0x10",
  "nan", "inf", "1.5", "", " 1", "00", "-0", "1e999", "٣",
}
local TEXTS = {
  "", "x", "\0", "\255\254", "../../etc/passwd", "/", "//", "%00", "%", "%zz", "%ff", "%2e%2e%2f",
  "é", ("y"):rep(300), "null", "true", "{ID}", "{OTHER}", "a b", "a+b", "a&b=c", "\u{1F600}", ";",
  "/sandbox-workspace", "/tmp/file", "relative", "\u{FEFF}", "u-local", "RUNNING", "-", "'\"<>",
}
local VALUES = {
  json.null, true, false, 0, -1, 1, 3.5, 1e300, -9223372036854775807, "", "x", "\0", "5", {},
  json.array {}, json.array { 1 }, json.array { "x" }, json.array { json.null },
  json.object { a = 1 }, json.array { json.array { json.array {} } }, ("z"):rep(5000),
  json.array { "{ID}" }, json.array { "{ID}", "{ID}" }, "{ID}", json.object { ["=\0"] = "x" },
}
local FIELDS = {
  "name", "docker_image", "start_command", "cpu_cores", "memory_gb", "disk_size_gb", "gpu_count",
  "gpu_type", "network_access", "vm", "network_allowlist", "network_denylist", "timeout_minutes",
  "idle_timeout_minutes", "environment_vars", "secrets", "labels", "team_id", "region",
  "advanced_configs", "registry_credentials_id", "guaranteed", "idempotency_key", "sandbox_ids",
  "user_id", "all_users", "allowlist", "denylist", "port", "protocol", "command", "working_dir",
  "env", "timeout", "user", "ttl_seconds", "image", "jobs", "sandbox_id", "image_name",
  "image_tag", "source_image", "mode", "updates", "public_key", "session_id", "context_uploaded",
}
local QUERIES = {
  "page", "per_page", "team_id", "user_id", "status", "labels", "is_active", "path", "sandbox_id",
  "offset", "length", "limit", "search", "teamId", "ownerScope", "\255", "",
}

local ROUTES = {
  { "POST", "/sandbox", '{"name":"n","docker_image":"i"}' }, { "GET", "/sandbox" },
  { "DELETE", "/sandbox", '{"sandbox_ids":["{ID}"]}' }, { "GET", "/sandbox/expose/all" },
  { "POST", "/sandbox/status:batchGet", '{"sandbox_ids":["{ID}","{OTHER}"]}' },
  { "POST", "/sandbox/background-jobs/status:batchGet",
    '{"jobs":[{"sandbox_id":"{ID}","job_id":"0123abcd"}]}' },
  { "GET", "/sandbox/{ID}" }, { "DELETE", "/sandbox/{OTHER}" }, { "GET", "/sandbox/{ID}/logs" },
  { "POST", "/sandbox/{ID}/auth" }, { "GET", "/sandbox/{ID}/error-context" },
  { "GET", "/sandbox/{ID}/egress-policy" },
  { "PUT", "/sandbox/{ID}/egress-policy", '{"allowlist":[],"denylist":null}' },
  { "POST", "/sandbox/{ID}/expose", '{"port":8000,"name":"web","protocol":"HTTP"}' },
  { "GET", "/sandbox/{ID}/expose" }, { "DELETE", "/sandbox/{ID}/expose/exp-1" },
  { "POST", "/sandbox/{ID}/ssh-session", "{}" }, { "DELETE", "/sandbox/{ID}/ssh-session/s-1" },
  { "GET", "/template/registry-credentials" },
  { "POST", "/template/check-docker-image", '{"image":"x"}' }, { "GET", "/images" },
  { "POST", "/images/build", '{"image_name":"a","image_tag":"b"}' }, { "PATCH", "/images", "{}" },
  { "GET", "/images/build/b-1" },
}
local GATEWAY_ROUTES = {
  { "POST", "/exec", '{"command":"true","working_dir":null,"env":{},"sandbox_id":"{ID}"}' },
  { "POST", "/upload?path=/tmp/file", "multipart" }, { "GET", "/download?path=/tmp/file" },
  { "GET", "/read-file?path=/tmp/file" },
  { "POST", "/command_session.CommandSession/Start", "\0\0\0\0\4\10\2\8\1" },
  { "POST", "/command_session.CommandSession/Connect", "\0\0\0\0\0" },
  { "POST", "/command_session.CommandSession/List", "" },
  { "POST", "/command_session.CommandSession/SendInput", "\10\2\8\1" },
}
local OTHER_ROUTES = {
  { "GET", "/" }, { "GET", "/page/app.js" }, { "GET", "/metrics" }, { "GET", "/nothing" },
  { "OPTIONS", "*" }, { "GET", "/page/..%2f..%2finit.lua" }, { "CONNECT", "127.0.0.1:1" },
}
local METHODS = { "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW", "get" }
local HEADERS = {
  "Range: bytes=0-3", "Range: bytes=-9999999999999", "Range: bytes=5-1", "Range: bytes=a-b",
  "If-Range: x", "Expect: 100-continue", "Expect: 200-ok", "Accept-Encoding: gzip",
  "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16",
  "Origin: http://evil.example", "Origin: null", "Upgrade: websocket", "Connection: upgrade",
  "Transfer-Encoding: identity", "X: " .. ("h"):rep(3000), "Cookie: a=b", "If-None-Match: *",
  "Connect-Protocol-Version: 1", "Connect-Timeout-Ms: -5", "Content-Encoding: gzip",
  "Content-Type: application/connect+proto", "Content-Type: application/proto",
  "Last-Event-ID: 1", "Content-Length: 5", "Host: evil.example", "X-Forwarded-For: ::1",
}

-- One member more, or another value for one that is there.
local function bend_json(random, text)
  local ok, object = pcall(json.decode, text)
  if not ok or type(object) ~= "table" then return text end
  for _ = 1, random(1, 3) do
    object[pick(random, FIELDS)] = pick(random, VALUES)
  end
  local encoded, bent = pcall(json.encode, object)
  return encoded and bent or text
end

local function form(random)
  local name = pick(random, { "file", "file", "other", "" })
  local filename = random(0, 3) > 0 and '; filename="f"' or ""
  local content = pick(random, { "", "content", ("c"):rep(20000), "\r\n--bb", "\0\255" })
  return ('--bb\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n--bb--\r\n'):format(
    name, filename, content)
end

local function bend_query(random, path)
  if random(1, 3) > 1 then return path end
  local parts = {}
  for index = 1, random(1, 3) do
    local value = random(0, 1) == 0 and pick(random, NUMBERS) or pick(random, TEXTS)
    value = value:gsub("[%c \128-\255#&]", function(char)
      return ("%%%02X"):format(char:byte())
    end)
    parts[index] = pick(random, QUERIES) .. "=" .. value
  end
  return path .. (path:find("?", 1, true) and "&" or "?") .. table.concat(parts, "&")
end

local function chunked(random, body)
  local parts, at = {}, 1
  while at <= #body do
    local size = random(1, 3000)
    local piece = body:sub(at, at + size - 1)
    parts[#parts + 1] = ("%x%s\r\n%s\r\n"):format(#piece, random(1, 9) == 1 and ";x=y" or "", piece)
    at = at + size
  end
  return table.concat(parts) .. "0\r\n" .. (random(1, 9) == 1 and "T: r\r\n" or "") .. "\r\n"
end

local function choose(random)
  local group = random(1, 10)
  if group <= 5 then
    return pick(random, ROUTES), "/api/v1", "{KEY}"
  elseif group <= 9 then
    return pick(random, GATEWAY_ROUTES), "/gw/local/{JOB}", "{TOKEN}"
  end
  return pick(random, OTHER_ROUTES), "", "{KEY}"
end

-- A request as a template, and whether it is whole.
local function compose(random)
  local route, prefix, secret = choose(random)
  local method = random(1, 12) == 1 and pick(random, METHODS) or route[1]
  local path = bend_query(random, route[2])
  if random(1, 8) == 1 then
    path = path:gsub("{ID}", pick(random, { "{OTHER}", "%%2e%%2e", "sbx-0" }))
  end
  if random(1, 12) == 1 then path = path:gsub("/", "//") end
  local target = random(1, 20) == 1 and "http://{HOST}" .. prefix .. path or prefix .. path
  local body = route[3]
  local head = { ("%s %s HTTP/1.1"):format(method, target), "Host: {HOST}" }
  if random(1, 12) > 1 then head[#head + 1] = "Authorization: Bearer " .. secret end
  if body == "multipart" then
    body = form(random)
    head[#head + 1] = "Content-Type: multipart/form-data; boundary=bb"
  elseif body and body:sub(1, 1) == "{" and random(1, 3) > 1 then
    body = bend_json(random, body)
  elseif body and route[2]:find("command_session", 1, true) and random(0, 1) == 0 then
    head[#head + 1] = "Content-Type: application/connect+proto"
  end
  if body and random(1, 6) == 1 then body = damage(random, body) end
  for _ = 1, random(0, 2) do
    head[#head + 1] = pick(random, HEADERS)
  end
  return head, body
end

-- The whole text. Lengths can only be told when the words have been put in.
local function finish(random, head, body, fill)
  local text = fill(body or "")
  local lines = { fill(table.concat(head, "\r\n")) }
  if body or random(1, 8) == 1 then
    if random(1, 5) == 1 then
      lines[#lines + 1] = "Transfer-Encoding: chunked"
      text = chunked(random, text)
    else
      lines[#lines + 1] = "Content-Length: " .. #text
    end
  end
  lines[#lines + 1] = "Connection: close"
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. text
end

-- ------------------------------------------------------------------ what is answered

local KNOWN = {}
for _, status in ipairs {
  100, 200, 201, 202, 206, 304, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 416, 417,
  422, 429, 431, 501, 502, 503, 504, 505, 507,
} do
  KNOWN[status] = true
end

local function check_json(status, body, what)
  local ok, object = pcall(json.decode, body)
  assert(ok and type(object) == "table", what .. ": no JSON object: " .. body:sub(1, 200))
  if status < 400 then return end
  local words = object.detail or object.message
  assert(type(words) == "string" and words ~= "", what .. ": no words")
  if status == 422 and object.detail then
    assert(object.errors and object.errors[1].param, what .. ": no errors")
  end
end

-- Looks at one answer; returns its kind for the corpus.
local function check_answer(text, method, secret)
  if text == "" then return "silence" end
  local version, digits, rest = text:match("^HTTP/1%.([01]) (%d%d%d) [^\r\n]*\r\n(.*)$")
  assert(version, "no answer of HTTP: " .. text:sub(1, 200))
  local status = math.tointeger(tonumber(digits))
  if status == 100 then return check_answer(rest:gsub("^.-\r\n", "", 1), method, secret) end
  assert(KNOWN[status], "status " .. status .. ": " .. text)
  assert(not text:find(secret, 1, true), "an answer gives the key away")
  local head, body = rest:match("^(.-\r\n)\r\n(.*)$")
  assert(head, "no end of the headers: " .. rest:sub(1, 200))
  assert(not head:find("[%z\1-\9\11\12\14-\31]"), "control bytes in the headers")
  local length = tonumber(("\n" .. head):match("\nContent%-Length: (%d+)"))
  local is_json = head:find("application/json", 1, true)
  local whole = method ~= "HEAD" and (not length or #body == length)
  if whole and is_json and body ~= "" and not head:find("chunked", 1, true) then
    check_json(status, body, digits)
  end
  local code = body:match('"error":"([%w_]+)"') or body:match('"detail":"([%w _]+)')
  return digits .. " " .. (code or "")
end

-- What comes back until the server closes.
local function exchange(port, text, patience)
  local stream <close> = net.connect("127.0.0.1", port)
  local parts = {}
  local ended = task.move_on(patience, function()
    pcall(stream.write, stream, text)
    pcall(function()
      while true do
        local bytes = stream:read()
        if not bytes then return end
        parts[#parts + 1] = bytes
      end
    end)
  end)
  return table.concat(parts), ended
end

-- ---------------------------------------------------------------------------- a seed

local corpus

local function load_corpus()
  corpus = {}
  for _, name in ipairs(errors.try(fs.list, FOLDER) or {}) do
    local head, body = fs.read(FOLDER .. "/" .. name):match("^(.-)\n\n(.*)$")
    local lines = {}
    for line in head:gmatch("[^\n]+") do
      lines[#lines + 1] = line
    end
    corpus[#corpus + 1] = { lines, body ~= "" and body or nil }
  end
end

local MAX_KEPT = 300
local seen, kept_count = {}, 0

-- One request for each route and status is enough.
local function keep(head, body, kind)
  local folder = os.getenv("FUZZ_CORPUS")
  if not folder or kept_count >= MAX_KEPT then return end
  local route = head[1]:gsub("%?.*", ""):gsub(" HTTP/.*", ""):gsub("//+", "/")
  local sign = route .. " " .. kind:sub(1, 3)
  if seen[sign] then return end
  seen[sign] = true
  kept_count = kept_count + 1
  local text = table.concat(head, "\n") .. "\n\n" .. (body or "")
  if #text > 2000 then return end
  fs.write(folder .. "/" .. hash.sha256(sign):sub(1, 24), text)
end

local function sandbox(running, call)
  local made = call("POST", "/api/v1/sandbox", '{"name":"n","docker_image":"i"}')
  local auth = call("POST", "/api/v1/sandbox/" .. made.id .. "/auth", "")
  task.timeout(ANSWER_SECONDS, function()
    while running.fleet.store:get(made.id).status ~= "RUNNING" do
      task.sleep(0.001)
    end
  end)
  return made.id, auth
end

local function caller(running)
  return function(method, path, body)
    local text = ("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
      .. "Content-Length: %d\r\nConnection: close\r\n\r\n%s"):format(
      method, path, running.api_key, #body, body)
    local answer = exchange(running.port, text, ANSWER_SECONDS)
    local status, payload = answer:match("^HTTP/1%.1 (20%d).-\r\n\r\n(.*)$")
    assert(status, "the server does not go on: " .. answer:sub(1, 300))
    return json.decode(payload)
  end
end

local function some_limits(random)
  local rules = {}
  if random(1, 4) > 1 then return rules end
  for _ = 1, random(1, 5) do
    rules[pick(random, limits.classes())] = { count = random(1, 3), seconds = 60 }
  end
  -- What the fuzzer itself needs.
  rules.create, rules.auth, rules.list = nil, nil, nil
  return rules
end

---One seed: a server, and requests at it one after the other and side by side.
---@async
---@param seed integer
function fuzz.run(seed)
  if not corpus then load_corpus() end
  local random = generator(seed)
  local running <close> = server.start {
    driver = memory_driver.open(), api_key = "key-" .. hash.random_hex(16), drain = 0,
    notice = function() end, limits = some_limits(random),
    profile = pick(random, { "container", "both", "vm" }),
    max_active = random(1, 6) == 1 and 3 or nil,
  }
  local call = caller(running)
  local id, auth = sandbox(running, call)
  local other = sandbox(running, call)
  local words = {
    ID = id, OTHER = other, JOB = auth.job_id, TOKEN = auth.token, KEY = running.api_key,
    HOST = "127.0.0.1:" .. running.port,
  }
  local function fill(text)
    return (text:gsub("{(%u+)}", words))
  end

  local list = {}
  for index = 1, REQUESTS do
    local head, body = compose(random)
    if #corpus > 0 and random(1, 3) == 1 then
      local kept = pick(random, corpus)
      head, body = kept[1], kept[2]
    end
    local text = finish(random, head, body, fill)
    local hurt = random(1, 3) == 1
    if hurt then text = damage(random, text) end
    -- A second length may promise more than comes.
    local waits = hurt or table.concat(head, "\n"):find("\nContent-Length:", 1, true) ~= nil
    list[index] = { text = text, hurt = hurt, waits = waits, head = head, body = body }
  end
  task.map(list, function(one)
    local text = exchange(running.port, one.text, one.waits and PATIENCE or ANSWER_SECONDS)
    local ok, kind = pcall(check_answer, text, one.text:match("^%a+"), running.api_key)
    if not ok then
      error(("%s\n--- asked:\n%s"):format(kind, one.text:sub(1, 2000)), 0)
    end
    if not one.hurt then keep(one.head, one.body, kind) end
  end, { limit = pick(random, { 1, 4 }) })

  running.limits = limits.new()
  call("GET", "/api/v1/sandbox", "")
  assert(running.fleet.store:get(id), "a sandbox is forgotten")
end

seeds.main("fuzz_routes", fuzz.run)

return fuzz
