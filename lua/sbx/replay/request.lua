-- A request as it is recorded, and as it is looked for in a recording.

local request = {}

---@class sbx.replay.Request
---@field method string
---@field url string    without secrets
---@field kind "none"|"text"|"bytes"|"upload"  only texts are compared
---@field body? string  of a text
---@field again boolean it may be sent twice

-- The API of sandboxes marks every sandbox with the run that made it, and every create with
-- a key of its own: nothing that two runs could have in common.
local function without_run(text)
  text = text:gsub('("idempotency_key":)"[^"]*"', '%1"*"')
  return (text:gsub('"sbxlua%-run[^"]*"', '"sbxlua-run"'))
end

local function body_of(wire, scrub)
  if wire.feeds or wire.body_path or wire.parts then return "upload" end
  if wire.body == nil or wire.body == "" then return "none" end
  local text = scrub:request(wire.body)
  if not text then return "bytes" end
  return "text", without_run(text)
end

---@param wire table
---@param scrub sbx.replay.Scrub
---@return sbx.replay.Request
function request.from(wire, scrub)
  local kind, body = body_of(wire, scrub)
  return {
    method = wire.method, url = scrub:url(wire.url), kind = kind, body = body,
    again = wire.method == "GET" or wire.method == "HEAD" or wire.at_most_once == false,
  }
end

---What comes behind the server's name.
---@param url string
---@return string
function request.path(url)
  return url:match("^%a[%w+.-]*://[^/?]*(.*)$") or url
end

return request
