-- What the tests of the local server share: a server with real sandboxes for
-- the length of one test, and its API by plain HTTP.

local bwrap = require("sbx.server.driver.bwrap")
local hash = require("sbx.hash")
local http = require("sbx.http")
local json = require("sbx.json")
local server = require("sbx.server")
local task = require("sbx.task")

local support = {}

---@class support.Api
local Api = {}
Api.__index = Api

---Any request with the API key: status, decoded body, whole answer.
---@async
function Api:call(method, path, body, options)
  local opts = options or {}
  local headers = opts.headers or {}
  headers.Authorization = headers.Authorization or "Bearer " .. self.server.api_key
  headers["Content-Type"] = "application/json"
  local res = http.request(method, self.server.url .. "/api/v1" .. path, {
    headers = headers, json = body, body = opts.body, timeout = opts.timeout or 30,
  })
  return res.status, json.decode(res.body), res
end

---Creates a sandbox; fields not given have short defaults. Returns its object.
---@async
function Api:create(fields)
  local body = { name = "test", docker_image = "python:3.11-slim" }
  for name, value in pairs(fields or {}) do
    body[name] = value
  end
  local status, object = self:call("POST", "/sandbox", body)
  assert(status == 201, json.encode(object))
  return object
end

---Waits until the sandbox has one of the given statuses.
---@async
function Api:await(id, ...)
  local wanted = {}
  for _, status in ipairs { ... } do
    wanted[status] = true
  end
  return task.timeout(60, function()
    while true do
      local _, object = self:call("GET", "/sandbox/" .. id)
      if wanted[object.status] then return object end
      task.sleep(0.01)
    end
  end)
end

---A sandbox that runs, and the gateway to it.
---@async
function Api:running(fields)
  local made = self:create(fields)
  local object = self:await(made.id, "RUNNING", "ERROR")
  assert(object.status == "RUNNING", object.errorMessage)
  return object, self:gateway(made.id)
end

---@class support.Gateway
local Gateway = {}
Gateway.__index = Gateway

---@async
function Api:gateway(id)
  local status, auth = self:call("POST", "/sandbox/" .. id .. "/auth", nil, { body = "" })
  assert(status == 200)
  local base = ("%s/%s/%s"):format(auth.gateway_url, auth.user_ns, auth.job_id)
  return setmetatable({ base = base, auth = auth, id = id }, Gateway)
end

---@async
function Gateway:request(method, path, options)
  options = options or {}
  options.headers = options.headers or {}
  options.headers.Authorization = "Bearer " .. (options.token or self.auth.token)
  options.token = nil
  options.timeout = options.timeout or 60
  return http.request(method, self.base .. path, options)
end

---Runs a command: status and decoded body.
---@async
function Gateway:exec(command, options)
  local opts = options or {}
  local res = self:request("POST", "/exec", {
    json = {
      command = command,
      working_dir = opts.working_dir or json.null,
      env = json.object(opts.env or {}),
      sandbox_id = self.id,
      timeout = opts.timeout or 30,
      user = opts.user,
    },
  })
  return res.status, json.decode(res.body)
end

local function escape(path)
  return (path:gsub("[^%w%-._~]", function(char)
    return ("%%%02X"):format(char:byte())
  end))
end

---@async
function Gateway:upload(path, part)
  part.name, part.filename = "file", "up.bin"
  local target = "/upload?sandbox_id=" .. self.id .. "&path=" .. escape(path)
  local res = self:request("POST", target, { multipart = { part } })
  return res.status, json.decode(res.body)
end

---@async
function Gateway:download(path, options)
  local target = "/download?sandbox_id=" .. self.id .. "&path=" .. escape(path)
  return self:request("GET", target, options)
end

---@async
function Gateway:read_file(path, window)
  local res = self:request("GET", "/read-file?path=" .. escape(path) .. (window or ""))
  return res.status, json.decode(res.body)
end

---The API of a running server: anything with a `url` and an `api_key`.
function support.api(running)
  return setmetatable({ server = running }, Api)
end

---Runs `fn(api)` against a fresh server and stops it afterwards.
---@async
function support.with_server(fn, options)
  local opts = { driver = bwrap.open(), api_key = hash.random_hex(16), notice = function() end }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  local running <close> = server.start(opts)
  return fn(support.api(running))
end

return support
