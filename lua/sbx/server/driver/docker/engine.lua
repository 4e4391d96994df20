-- A container engine's API, that of Docker, which Podman speaks too: calls over its
-- unix socket. The version that is spoken is the engine's own, as its answer to a
-- ping says.

local errors = require("sbx.errors")
local hijack = require("sbx.server.driver.docker.hijack")
local http = require("sbx.http")
local json = require("sbx.json")
local net = require("sbx.net")
local task = require("sbx.task")

---@class sbx.server.driver.docker.engine
local engine = {}

engine.DEFAULT_SOCKET = "/var/run/docker.sock"

local PING_SECONDS = 10
local CALL_SECONDS = 60
local MAX_WORDS = 600 -- bytes of the engine's message that are passed on

---@class sbx.server.driver.docker.Engine
---@field socket string       path
---@field podman? string      the version of Podman, when it is that, once it is known
---@field private client sbx.http.Client
---@field private version? string  "1.41", once it is known
local Engine = {}
Engine.__index = Engine

---The socket to use: `argument`, or that of DOCKER_HOST, or the usual one. Raises
---kind `usage` for what is none.
---@param argument? string  a path, or unix://PATH
---@return string
function engine.socket_path(argument)
  local origin = argument and "--driver docker=" .. argument
  if not argument then
    argument = os.getenv("DOCKER_HOST")
    if not argument or argument == "" then return engine.DEFAULT_SOCKET end
    origin = "DOCKER_HOST=" .. argument
  end
  local path = argument:match("^unix://(.+)$") or argument
  if path:sub(1, 1) == "/" and #path <= 107 then return path end
  errors.raise {
    kind = "usage",
    message = origin .. ": expected the path of the engine's unix socket (at most 107 bytes),"
      .. " such as " .. engine.DEFAULT_SOCKET
      .. "; an engine elsewhere is reached through ssh -L LOCAL.sock:" .. engine.DEFAULT_SOCKET,
  }
end

---Connects to nothing yet.
---@param socket string
---@return sbx.server.driver.docker.Engine
function engine.open(socket)
  return setmetatable({
    socket = socket,
    client = http.client {
      base = "http://engine", unix = socket, timeout = CALL_SECONDS, proxy = false,
      -- Calls that wait must not keep others from the engine.
      limit = 256, group = "engine " .. socket,
    },
  }, Engine)
end

local ADVICE = {
  ENOENT = "there is no such socket: install and start a container engine (for Docker: systemctl"
    .. " start docker), or name its socket: --driver docker=/run/podman/podman.sock",
  EACCES = "this user may not talk to the engine: join its group (usermod -aG docker USER, then log"
    .. " in anew), run a rootless engine and name its socket with --driver docker=SOCKET, or run as"
    .. " root",
  ECONNREFUSED = "the engine is not running: start it (for Docker: systemctl start docker)",
  ENOTSOCK = "that is not a socket: name the engine's with --driver docker=SOCKET",
}

-- The reason why there is no connection, which curl does not tell.
local function unreachable(self, failure)
  local stream, cause = errors.try(task.timeout, PING_SECONDS, net.connect_unix, self.socket)
  local code = errors.is_error(failure) and failure.code
  if stream then
    stream:close()
  elseif errors.is_error(cause) and cause.code then
    code = cause.code
  end
  local advice = ADVICE[code] or tostring(failure)
  errors.raise {
    kind = "process", code = code, op = "engine", cause = failure,
    message = ("container engine at %s: %s"):format(self.socket, advice),
  }
end

local function is_answerless(failure)
  if not errors.is_error(failure) then return false end
  return failure.kind == "connect" or failure.kind == "http" or failure.kind == "io"
end

-- Docker: {message}; Podman: {cause, message, response}. Proxies: anything.
local function words_of(body)
  local ok, document = pcall(json.decode, body)
  local said = ok and type(document) == "table" and (document.message or document.cause)
  if type(said) ~= "string" or said == "" then said = body end
  said = said:gsub("%c+", " "):gsub("%s+$", ""):sub(1, MAX_WORDS)
  return said ~= "" and said or "it does not say why"
end

---Raises what the engine has answered, when that is a refusal.
---@param what string  what was tried
---@param status integer
---@param body string
function engine.refuse(what, status, body)
  local words = words_of(body)
  errors.raise {
    kind = "process", op = "engine", status = status, detail = words,
    message = ("%s: the engine says: %s (%d)"):format(what, words, status),
  }
end

local function send(self, method, path, options, streamed)
  local ok, res = pcall(streamed and self.client.stream or self.client.request, self.client,
    method, path, options)
  if ok then return res end
  if is_answerless(res) then unreachable(self, res) end
  error(res, 0)
end

---Asks whether the engine answers; learns the version that it speaks.
---@async
---@return table headers  of its answer
function Engine:ping()
  local res = send(self, "GET", "/_ping", { timeout = PING_SECONDS })
  if res.status ~= 200 then engine.refuse("ping " .. self.socket, res.status, res.body) end
  local version = res.headers["api-version"] or ""
  self.version = version:match("^%d+%.%d+$")
  self.podman = res.headers["libpod-api-version"]
  if not self.version then
    errors.raise {
      kind = "process", op = "engine",
      message = ("container engine at %s: it does not say which API version it speaks; is that a "
        .. "Docker or Podman socket?"):format(self.socket),
    }
  end
  return res.headers
end

---Whether it is Podman that speaks Docker's API.
---@async
---@return boolean
function Engine:is_podman()
  if not self.version then self:ping() end
  return self.podman ~= nil
end

---The path of an endpoint in the version that the engine speaks.
---@async
---@param path string  "/info"
---@return string
function Engine:path(path)
  if not self.version then self:ping() end
  return "/v" .. self.version .. path
end

---@class sbx.server.driver.docker.Call: sbx.http.Options
---@field what string  for errors: "start the container"
---@field accept? table<integer, boolean>  statuses of 400 and more that are answers

---One call. Raises `process` errors with the engine's words and `status`.
---@async
---@param method string
---@param path string
---@param options sbx.server.driver.docker.Call
---@return sbx.http.Response
function Engine:call(method, path, options)
  local given, what, accept = {}, options.what, options.accept or {}
  for name, value in pairs(options) do
    if name ~= "what" and name ~= "accept" then given[name] = value end
  end
  local res = send(self, method, self:path(path), given)
  if res.status >= 400 and not accept[res.status] then engine.refuse(what, res.status, res.body) end
  return res
end

---The document at `path`; nil where there is no such thing (404).
---@async
---@param path string
---@param what string
---@param query? table
---@return table|nil
function Engine:get(path, what, query)
  local res = self:call("GET", path, { what = what, query = query, accept = { [404] = true } })
  if res.status == 404 then return nil end
  return res:json()
end

---A call whose answer is read as it comes, whatever its status.
---@async
---@param method string
---@param path string
---@param options sbx.http.Options
---@return sbx.http.Stream
function Engine:stream(method, path, options)
  return send(self, method, self:path(path), options, true)
end

---A POST that turns its connection into a stream of raw bytes.
---@async
---@param path string  with its query
---@param what string
---@return sbx.server.driver.docker.Hijacked
function Engine:hijack(path, what)
  local target = self:path(path)
  local ok, stream = pcall(net.connect_unix, self.socket)
  if not ok then unreachable(self, stream) end
  local asked, status, body = pcall(task.timeout, PING_SECONDS, hijack.ask, stream, target)
  if asked and not body then return hijack.new(stream, status) end
  stream:close()
  if not asked then error(status, 0) end
  engine.refuse(what, status, body)
end

return engine
