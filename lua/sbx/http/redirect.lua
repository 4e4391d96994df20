-- Redirects, a request for each step: so every step has its queue, its clocks and
-- its cookies, and what is meant for one server goes to no other.

local errors = require("sbx.errors")
local headers = require("sbx.http.headers")
local options = require("sbx.http.options")
local urls = require("sbx.url")

---@class sbx.http.redirect
local redirect = {}

-- true: the method stays.
local STATUSES = { [301] = false, [302] = false, [303] = false, [307] = true, [308] = true }

-- What goes on to another server unless the caller names more: nothing here lets
-- anybody in anywhere.
local HARMLESS = {
  ["accept"] = true, ["accept-charset"] = true, ["accept-encoding"] = true,
  ["accept-language"] = true, ["cache-control"] = true, ["content-encoding"] = true,
  ["content-language"] = true, ["content-type"] = true, ["idempotency-key"] = true,
  ["if-match"] = true, ["if-modified-since"] = true, ["if-none-match"] = true,
  ["if-range"] = true, ["if-unmodified-since"] = true, ["pragma"] = true, ["prefer"] = true,
  ["range"] = true, ["user-agent"] = true,
}

---Checks the option `follow`.
---@param follow integer|table
---@param level integer
---@return { most: integer, downgrade: boolean, keep: table<string, boolean> }
function redirect.policy(follow, level)
  if type(follow) ~= "table" then return { most = follow, keep = HARMLESS } end
  options.check(follow, options.follow, level + 1)
  local keep = {}
  for name in pairs(HARMLESS) do
    keep[name] = true
  end
  for _, name in ipairs(follow.headers or {}) do
    keep[headers.lower(name, level + 1)] = true
  end
  return { most = follow.most or 10, downgrade = follow.downgrade, keep = keep }
end

local function refuse(answer, code, reason)
  errors.raise {
    kind = "http",
    op = "http",
    code = code,
    phase = "receive",
    method = answer.method,
    url = answer.label,
    status = answer.status,
    sent = true,
    retryable = false,
    message = ("%s %s: %d %s"):format(answer.method, answer.label, answer.status, reason),
  }
end

local function escape_byte(char)
  return ("%%%02X"):format(char:byte())
end

-- Where the answer sends us: the URL, and whether it is the same server. Users
-- and passwords are the caller's to give, and for the server it gave them to.
local function find_target(url, answer, policy)
  local location = answer.headers.location:gsub("[%z\1-\32\127]", escape_byte)
  local ok, there = pcall(function() return urls.parse(urls.join(url, location)) end)
  if not ok then refuse(answer, "EPROTO", "leads to what is no URL") end
  if there.scheme ~= "http" and there.scheme ~= "https" then
    refuse(answer, "EPROTO", "leads to neither http nor https")
  end
  local here = urls.parse(url)
  if here.scheme == "https" and there.scheme == "http" and not policy.downgrade then
    refuse(answer, "EPROTO", "leads from https to http, which follow.downgrade would allow")
  end
  local same = here.scheme == there.scheme and here.host == there.host and here.port == there.port
  there.user, there.password = same and here.user or nil, same and here.password or nil
  return urls.build(there), same
end

local function is_not_content(name)
  return name:sub(1, 8) ~= "content-"
end

-- The request without its body, as GET.
local function drop_body(wire, given)
  wire.method = "GET"
  wire.body, wire.body_path, wire.parts = nil, nil, nil
  wire.feed, wire.feeds, wire.begun = nil, nil, nil
  wire.headers = headers.filter(wire.headers, is_not_content)
  wire.at_most_once = given.at_most_once or false
end

-- The request without what is meant for the server that it went to.
local function leave(wire, policy)
  wire.headers = headers.filter(wire.headers, function(name) return policy.keep[name] end)
  wire.cookie, wire.connect_to = nil, nil
  if wire.tls then
    wire.tls = { pinned_key = wire.tls.pinned_key, only_1_3 = wire.tls.only_1_3 }
  end
end

local function next_step(wire, answer, policy, given)
  local step = {}
  for name, value in pairs(wire) do
    step[name] = value
  end
  local url, same = find_target(wire.url, answer, policy)
  step.url = url
  local keeps = STATUSES[answer.status]
    or (answer.status ~= 303 and wire.method ~= "POST") or wire.method == "HEAD"
  if not keeps then
    drop_body(step, given)
  elseif wire.feeds then
    refuse(answer, "EREWIND", "asks for the body again, and its iterator has run")
  end
  if not same then
    if wire.unix then refuse(answer, "EXDEV", "leads away from the socket") end
    leave(step, policy)
  end
  return step
end

-- What is left of the total time, which all steps share.
local function spend(wire, answer)
  if not wire.timeout then return end
  local timing = answer.timing
  wire.timeout = wire.timeout - math.max(timing.total, timing.first_byte)
  if wire.timeout > 0 then return end
  errors.raise {
    kind = "timeout", op = "http", code = "ETIMEDOUT", phase = "total", method = answer.method,
    url = answer.label, sent = true,
    message = ("%s %s: timed out on the way to where it leads (total)"):format(
      answer.method, answer.label),
  }
end

-- A step after the first has failed: what came before it has been done.
local function mark_failure(err, once)
  if errors.is_error(err) and err.kind ~= "cancelled" then
    err.sent = true
    if once then err.retryable = false end
  end
  error(err, 0)
end

---Sends a request, and another one wherever its answer leads.
---@async
---@param wire table
---@param given table   the options
---@param policy table  see redirect.policy
---@param transmit async fun(wire: table): sbx.http.Answer
---@return sbx.http.Answer
---@return boolean moved  there was a redirect
function redirect.follow(wire, given, policy, transmit)
  wire.redirects = true
  local once, answer, steps = wire.at_most_once, transmit(wire), 0
  while STATUSES[answer.status] ~= nil and answer.headers.location do
    if answer.close then answer:close() end
    if steps >= policy.most then
      refuse(answer, "ELOOP", ("and that is more than %d redirects"):format(policy.most))
    end
    steps = steps + 1
    wire = next_step(wire, answer, policy, given)
    local ok, result = pcall(function()
      spend(wire, answer)
      return transmit(wire)
    end)
    if not ok then mark_failure(result, once) end
    answer = result
  end
  return answer, steps > 0
end

return redirect
