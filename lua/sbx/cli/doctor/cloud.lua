-- The API as this machine sees it: its name, its certificate, whether it answers and takes
-- the key, its clock, and what else one list of sandboxes tells. Nothing is created there.

local addresses = require("sbx.server.addresses")
local errors = require("sbx.errors")
local finding = require("sbx.cli.doctor.finding")
local host = require("sbx.core.host")
local http = require("sbx.http")
local json = require("sbx.json")
local log = require("sbx.log")
local net = require("sbx.net")
local process = require("sbx.process")
local rate_headers = require("sbx.sandbox.rate_headers")
local settings = require("sbx.cli.doctor.settings")
local task = require("sbx.task")
local time = require("sbx.time")
local url = require("sbx.url")

local cloud = {}

local STEP_SECONDS = 20
local NAME_SECONDS = 5
local CONNECT_SECONDS = 6
local ANSWER_SECONDS = 12
local OPENSSL_SECONDS = 5
local SOON = 14 * 86400 -- seconds before its end that a certificate is worth a word
local FAR_OFF = 60 -- seconds between two clocks that still do no harm
local PAGE = 20 -- sandboxes that are looked at
local MOST_ANSWER = 4 * 1024 * 1024
local MOST_REDIRECTS = 5

local ok, weak, missing, skipped = finding.ok, finding.weak, finding.missing, finding.skipped

local NO_KEY = "set PRIME_API_KEY, or `sbxlua context add`; or use --local, which needs none"

-- ------------------------------------------------------------------------ time

local MONTHS = {
  Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6,
  Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12,
}

-- Seconds since 1970, or nil.
local function moment(year, month, day, clock)
  if not year or not MONTHS[month] then return nil end
  local text = ("%s-%02d-%02dT%sZ"):format(year, MONTHS[month], tonumber(day), clock)
  return (errors.try(time.parse_iso, text))
end

-- Of a header: "Sun, 06 Nov 1994 08:49:37 GMT".
local function header_date(text)
  local day, month, year, clock = (text or ""):match(
    "^%a+, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d:%d%d:%d%d) GMT$")
  return moment(year, month, day, clock)
end

-- Of openssl: "Nov  6 08:49:37 1994 GMT".
local function certificate_date(text)
  local month, day, clock, year = text:match(
    "notAfter=(%a%a%a) +(%d+) (%d%d:%d%d:%d%d) (%d%d%d%d) GMT")
  return moment(year, month, day, clock)
end

local function day_of(at)
  return time.iso(at):sub(1, 10)
end

-- ----------------------------------------------------------------- one request

-- What is known of the server: `response`, or `err`; and `at`, this machine's clock then.
---@async
local function ask(known)
  local query = { page = 1, per_page = PAGE }
  local team, user = known.team_id(), known.user_id()
  if team and team ~= "" then query.team_id = team end
  if user and user ~= "" then query.user_id = user end
  local response, err = errors.try(http.get, known.base_url .. "/api/v1/sandbox", {
    query = query,
    headers = {
      authorization = "Bearer " .. known.api_key, ["content-type"] = "application/json",
      ["user-agent"] = "sbxlua/" .. tostring(host.version),
    },
    timeout = ANSWER_SECONDS, connect_timeout = CONNECT_SECONDS, max_body = MOST_ANSWER,
    follow = MOST_REDIRECTS, proxy = known.proxy,
  })
  return { response = response, err = err, at = time.wall() }
end

-- Why there is no answer, for steps that have need of one; or nil.
local function silence(asked)
  return not asked.response and skipped("the server did not answer") or nil
end

-- The list of sandboxes in an answer of 200; nil when it is something else.
local function sandboxes_of(response)
  if response.status ~= 200 then return nil end
  local decoded, document = pcall(json.decode, response.body or "")
  if not decoded or type(document) ~= "table" then return nil end
  return type(document.sandboxes) == "table" and document.sandboxes or nil
end

-- ----------------------------------------------------------------------- steps

local function try_address(known)
  return ok(("%s, from %s"):format(log.clean(known.base_url, 120), known.origins.url))
end

-- A list of addresses is no use where a proxy asks for the name.
---@async
local function try_name(parts, asked)
  if parts.host:find(":", 1, true) or parts.host:find("^%d+%.%d+%.%d+%.%d+$") then
    return ok(parts.host .. " is an address")
  end
  local found, err = errors.try(task.timeout, NAME_SECONDS, net.resolve, parts.host)
  if found then
    return ok(("%s: %s"):format(parts.host, table.concat(found, ", ", 1, math.min(3, #found))))
  end
  if asked().response then return ok(parts.host .. " is not known here; a proxy knows it") end
  return missing(finding.line(err),
    "see that the address is spelt right, and that /etc/resolv.conf names a server that answers")
end

-- When the certificate ends, as far as openssl is here to tell.
---@async
local function certificate_end(parts)
  local name = parts.host:find(":", 1, true) and "[" .. parts.host .. "]" or parts.host
  local argv = { "openssl", "s_client", "-connect", ("%s:%d"):format(name, parts.port or 443) }
  if not parts.host:find("^[%d.:]+$") then
    argv[5], argv[6] = "-servername", parts.host
  end
  local options = {
    input = "", timeout = OPENSSL_SECONDS, cwd = "/", clear_env = true,
    env = { PATH = os.getenv("PATH") },
  }
  local result = errors.try(process.run, argv, options)
  local text = result and result.stdout:match(
    "%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-.-%-%-%-%-%-END CERTIFICATE%-%-%-%-%-")
  if not text then return nil end
  options.input = text .. "\n"
  result = errors.try(process.run, { "openssl", "x509", "-noout", "-enddate" }, options)
  return result and certificate_date(result.stdout)
end

local function distrust(err, ends)
  local why = finding.line(err)
  if ends and ends < time.wall() then
    return missing(("it ended on %s: %s"):format(day_of(ends), why),
      "the server needs another one; or this machine's clock is wrong")
  end
  return missing(why, "is it the right server? SSL_CERT_FILE names a file of certificates to trust")
end

---@async
local function try_certificate(parts, asked)
  if parts.scheme == "http" then
    if addresses.is_loopback(parts.host) then return skipped("no TLS, and no network between") end
    return weak("no TLS: the key can be read on its way", "an address with https://")
  end
  local ends = certificate_end(parts)
  local answer = asked()
  local err = answer.err
  if err and err.kind == "tls" then return distrust(err, ends) end
  if err then return silence(answer) end
  if not ends then return ok("trusted; openssl is not here to tell its end, or not let through") end
  if ends - time.wall() < SOON then
    return weak("trusted, until " .. day_of(ends), "the server needs another one soon")
  end
  return ok("trusted, until " .. day_of(ends))
end

local ADVICE = {
  dns = "see `name` above",
  tls = "see `certificate` above",
  connect = "see that the server runs at this address and that no firewall is between",
  timeout = "see that the server runs at this address and that no firewall is between",
}

local function try_server(asked)
  local response, err = asked.response, asked.err
  if not response then
    return missing(finding.line(err), ADVICE[err.kind] or "see the message, and try again")
  end
  local status = response.status
  if status >= 500 then
    return missing(("it answered %d"):format(status), "try again later; the API is in trouble")
  end
  local is_api = sandboxes_of(response) or status == 401 or status == 402 or status == 403
    or status == 429
  if not is_api then
    return missing(("it answered %d, and not as the sandbox API does"):format(status),
      "see that the address is that of the API, without a path such as /v1")
  end
  local took = response.timing and response.timing.total or 0
  return ok(("it answered in %d ms"):format(math.ceil(took * 1000)))
end

local function try_key(known, asked)
  local origin = known.origins.key
  local response = asked.response
  if not response then return skipped(("from %s; the server did not answer"):format(origin)) end
  local status = response.status
  if status == 401 then
    return missing(("from %s; the server refuses it (401)"):format(origin),
      "make a new key, and put it where this one is: " .. origin)
  elseif status == 403 then
    return missing(("from %s; it may not list sandboxes (403)"):format(origin),
      "give the key the right to use sandboxes, or choose its team: PRIME_TEAM_ID")
  elseif status == 402 then
    return missing(("from %s; it is right, but the account has to pay (402)"):format(origin),
      "top the account up")
  elseif sandboxes_of(response) then
    return ok(("from %s; the server takes it"):format(origin))
  end
  return skipped(("from %s; an answer of %d does not tell"):format(origin, status))
end

local function try_clock(asked)
  if not asked.response then return silence(asked) end
  local theirs = header_date(asked.response.headers.date)
  if not theirs then return skipped("the server does not tell its time") end
  local off = asked.at - theirs
  if math.abs(off) <= FAR_OFF then return ok("within a minute of the server's") end
  return weak(("%s %s the server's"):format(time.format_duration(math.floor(math.abs(off))),
    off > 0 and "ahead of" or "behind"),
    "set this machine's clock, as by timedatectl set-ntp true; or the server's is wrong")
end

local function try_kind(asked)
  if not asked.response then return silence(asked) end
  if asked.response.headers.server == "sbxlua" then
    return ok("sbxlua serve, without limits on requests")
  end
  return ok("another one, or sbxlua serve with limits on requests")
end

local function try_profile(asked)
  if not asked.response then return silence(asked) end
  local list = sandboxes_of(asked.response)
  if not list then return skipped("the server did not list sandboxes") end
  local machines, containers = 0, 0
  for i = 1, math.min(#list, PAGE) do
    local box = list[i]
    if type(box) == "table" and box.vm == true then
      machines = machines + 1
    else
      containers = containers + 1
    end
  end
  if machines + containers == 0 then return skipped("there are no sandboxes to tell it by") end
  return ok(("of the newest %d: %d containers, %d virtual machines"):format(
    machines + containers, containers, machines))
end

local function try_rate(asked)
  local response = asked.response
  if not response then return silence(asked) end
  local told = rate_headers(response.headers, time.wall())
  local parts = {}
  if told and told.limit then
    local window = told.window and (" in %g s"):format(told.window) or ""
    parts[#parts + 1] = ("%.0f requests%s"):format(told.limit, window)
  end
  if told and told.remaining then parts[#parts + 1] = ("%.0f are left"):format(told.remaining) end
  local text = #parts > 0 and table.concat(parts, ", ") or nil
  if response.status == 429 or (told and told.remaining == 0) then
    local pause = response.retry_after or told and told.reset
    return weak(text or "used up (429)",
      pause and ("wait %.0f s"):format(math.ceil(pause)) or "wait, and send less at once")
  end
  if text then return ok(text) end
  if response.headers.server == "sbxlua" then return ok("none") end
  return skipped("its headers do not tell; the client slows down when it is told to")
end

-- -------------------------------------------------------------------- together

local NAMES = {
  "name", "certificate", "server", "key", "clock", "kind of server", "profile", "rate limit",
}

local function all_skipped(steps, because)
  for _, name in ipairs(NAMES) do
    if name ~= "key" then
      steps[#steps + 1] = { name, function() return skipped(because) end }
    end
  end
end

local function add_requests(steps, known)
  local parts = url.parse(known.base_url)
  -- One request, which those wait for who have need of its answer.
  local request = task.spawn(ask, known)
  local function asked() return request:join() end
  local list = {
    { "name", function() return try_name(parts, asked) end, needed = true },
    { "certificate", function() return try_certificate(parts, asked) end, needed = true },
    { "server", function() return try_server(asked()) end, needed = true },
    { "key", function() return try_key(known, asked()) end, needed = true },
    { "clock", function() return try_clock(asked()) end },
    { "kind of server", function() return try_kind(asked()) end },
    { "profile", function() return try_profile(asked()) end },
    { "rate limit", function() return try_rate(asked()) end },
  }
  table.move(list, 1, #list, #steps + 1, steps)
end

-- The steps up to the files, by what is known of address and key.
local function steps_of(known, err, wanted)
  local steps = {}
  local function add(name, found, needed)
    steps[#steps + 1] = { name, function() return found end, needed = needed }
  end
  if not known then
    add("address", missing(finding.line(err), "mend what the message names"), true)
    add("key", skipped("see the address"))
    all_skipped(steps, "address and key are not known")
    return steps
  end
  add("address", try_address(known))
  if known.api_key ~= "" then
    add_requests(steps, known)
    return steps
  end
  local is_broken = known.problem ~= nil
  if wanted or is_broken then
    add("key", missing(is_broken and "none; not used: " .. finding.line(known.problem)
      or "there is none", NO_KEY), true)
  else
    add("key", skipped("there is none: the cloud is not set up", NO_KEY))
  end
  all_skipped(steps, "there is no key")
  return steps
end

---Tries all; `wanted`: that there is no key is a failure, too.
---@async
---@param wanted boolean
---@return sbx.cli.Finding[] findings
---@return boolean is_set_up  there is a key, or something that should have given one
function cloud.findings(wanted)
  local known, err = settings.load()
  return task.scope(function()
    local steps = steps_of(known, err, wanted)
    local files = settings.steps(known)
    table.move(files, 1, #files, #steps + 1, steps)
    local is_set_up = not known or known.api_key ~= "" or known.problem ~= nil
    return finding.take(steps, "cloud", STEP_SECONDS, #steps), is_set_up
  end)
end

return cloud
