-- The verb `api`: one request with the key, its answer as it is.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local http = require("sbx.http")
local input = require("sbx.cli.input")
local json = require("sbx.json")
local log = require("sbx.log")
local report = require("sbx.cli.report")
local sandbox = require("sbx.sandbox")

local verb = { uses = { client = true, output = true } }

local MOST_INPUT = 64 * 1024 * 1024
local MOST_ANSWER = 256 * 1024 * 1024

verb.spec = {
  example = {
    "sbxlua api GET /sandbox",
    "sbxlua api POST /sandbox -d '{\"name\": \"a\", \"docker_image\": \"debian\"}'",
    "sbxlua api DELETE /sandbox -d @ids.json",
  },
  notes = "PATH is below /api/v1, unless it begins with /api/. stdout gets the answer's body,"
    .. " whatever its status; the exit status tells about that. The request is sent once, and"
    .. " redirects are not followed. What -d says is seen by everybody on this machine: secrets go"
    .. " by a file, -d @FILE, or by stdin, -d -.",
  arguments = {
    { name = "method", type = "choice",
      choices = { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD" } },
    { name = "path", metavar = "PATH", help = "with its query" },
  },
  options = {
    { name = "data", short = "d", metavar = "JSON", help = "the body; @FILE and - read it" },
    { name = "include", short = "i", type = "flag", help = "first the status and the headers" },
    { name = "timeout", type = "duration", default = "30s", help = "for the answer" },
  },
}

---A path where the method is missing.
---@param words string[]  of the whole command line
---@param text string
---@return string|nil
function verb.mistake(words, text)
  if not text:find("^PATH is missing") and not text:find("^METHOD: .*'/") then return nil end
  for i = 2, #words do
    if words[i]:sub(1, 1) == "/" and not words[i - 1]:find("^%-") then
      return ("METHOD is missing; did you mean `sbxlua api GET %s`?"):format(
        log.clean(words[i], 200))
    end
  end
end

---@async
local function body_of(text)
  if not text then return nil end
  if text == "-" then
    local parts, size = {}, 0
    for bytes in input.source() do
      parts[#parts + 1], size = bytes, size + #bytes
      if size > MOST_INPUT then
        errors.raise({ kind = "usage", message = "-d -: stdin has more than 64 MiB" })
      end
    end
    text = table.concat(parts)
  elseif text:sub(1, 1) == "@" then
    text = fs.read(text:sub(2), { max = MOST_INPUT })
  end
  local ok, err = pcall(json.decode, text)
  if not ok then
    errors.raise({ kind = "usage", message = "-d: " .. tostring(err.message or err) })
  end
  return text
end

local function address(client, path)
  if path:find("[%s%c#]") or path:find("^%a+:") then
    errors.raise({ kind = "usage", message = "PATH: expected a path such as /sandbox?page=1" })
  end
  if path:sub(1, 1) ~= "/" then path = "/" .. path end
  if path:sub(1, 5) ~= "/api/" then path = "/api/v1" .. path end
  return client.base_url .. path
end

local function detail_of(response)
  local ok, document = pcall(json.decode, response.body)
  local detail = ok and type(document) == "table" and document.detail
  return type(detail) == "string" and ": " .. log.clean(detail, 500) or ""
end

---@async
function verb.run(given, out)
  local client <close> = sandbox.client()
  local settings = client.config
  if settings.api_key == "" then client:list({ page = 1 }) end -- says so
  local body = body_of(given.data)
  local response = http.request(given.method, address(client, given.path), {
    headers = {
      authorization = "Bearer " .. settings.api_key, ["content-type"] = "application/json",
      ["user-agent"] = client.user_agent,
    },
    body = body, timeout = given.timeout, follow = 0, at_most_once = true,
    max_body = MOST_ANSWER, proxy = settings.proxy,
  })
  if given.include then
    host.write(1, ("HTTP %d\n"):format(response.status))
    local names = {}
    for name in pairs(response.headers) do
      names[#names + 1] = name
    end
    table.sort(names)
    for _, name in ipairs(names) do
      host.write(1, ("%s: %s\n"):format(name, log.clean(tostring(response.headers[name]), 8192)))
    end
    host.write(1, "\n")
  end
  host.write(1, response.body or "")
  if host.isatty(1) and not (response.body or ""):find("\n$") then host.write(1, "\n") end
  if response.status < 300 then return 0 end
  local err = errors.new({
    kind = "api", status = response.status,
    request_id = response.headers["x-request-id"],
    message = ("%s %s: the server answered %d%s"):format(given.method,
      log.clean(given.path, 300), response.status, detail_of(response)),
  })
  out:failure(err, report.status(err))
  return report.status(err)
end

return verb
