-- Serves HTTP: takes requests from a listener and gives each to the handler
-- whose route fits, in a task of its own.

local check = require("sbx.check")
local core = require("sbx.core.server")
local errors = require("sbx.errors")
local json = require("sbx.json")
local log = require("sbx.log")
local task = require("sbx.task")
local time = require("sbx.core.time")

---@class sbx.server.http
local http = {}

-- method, pattern, handler
---@alias sbx.server.Handler async fun(request: sbx.core.Request, params: table<string, string>)
---@alias sbx.server.Route {[1]: string, [2]: string, [3]: sbx.server.Handler}

---`ended(request, route, seconds)` comes with the pattern of the route, or nil.
---@class sbx.server.Observer
---@field began fun()
---@field ended fun(request: sbx.core.Request, route: string|nil, seconds: number)

---@class sbx.server.http.Options
---@field routes sbx.server.Route[]
---@field host? string             a numeric address (default "127.0.0.1")
---@field port? integer            default: any free one
---@field scope? sbx.Scope         where the tasks belong (default: the current one)
---@field max_header? integer      bytes of a request's line and headers
---@field max_connections? integer
---@field observe? sbx.server.Observer  told of each request; must neither wait nor raise
---@field max_per_peer? integer    of them from one address
---@field head_timeout? number     seconds for a request's line and headers in all
---@field tls? {cert: string, key: string}  PEM text; default: plain HTTP

local function decode(segment)
  return (segment:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- The leaf of the tree of segments for `pattern`, made as needed. A node has
-- `literals` by segment, and perhaps `any`, where a {parameter} stands.
local function leaf_of(root, pattern)
  local node, names = root, {}
  for segment in pattern:gmatch("[^/]+") do
    local name = segment:match("^{([%w_]+)}$")
    local next_node = name and node.any or not name and node.literals[segment]
    if not next_node then
      next_node = { literals = {} }
      if name then node.any = next_node else node.literals[segment] = next_node end
    end
    if name then names[#names + 1] = name end
    node = next_node
  end
  return node, names
end

-- The leaf for segments[at], …; values of parameters go into `values`. A
-- literal goes before a parameter, which is tried when that leads nowhere.
local function find_leaf(node, segments, at, values)
  local segment = segments[at]
  if not segment then return node.methods and node or nil end
  local literal = node.literals[segment]
  local found = literal and find_leaf(literal, segments, at + 1, values)
  if found or not node.any then return found end
  local count = #values
  values[count + 1] = segment
  found = find_leaf(node.any, segments, at + 1, values)
  if not found then values[count + 1] = nil end
  return found
end

local function allowed_methods(methods)
  local names = {}
  for method in pairs(methods) do
    names[#names + 1] = method
  end
  table.sort(names)
  return table.concat(names, ", ")
end

---The path of a request as logs may have it: where its last part is a secret, without that.
---@param path string
---@return string
function http.shown_path(path)
  return (path:gsub("^(/+image%-context/+)[^/]+", "%1***"))
end

---Makes a function that finds the route for a method and a path as it was sent:
---it returns the handler, the parameters and the pattern, or nil and, where only the
---method is wrong, the value of an Allow header. A `{name}` in a pattern stands for one
---whole segment; literal segments are tried first, whatever the order of the
---routes. Doubled and trailing slashes do not matter, and GET answers HEAD.
---@param routes sbx.server.Route[]
---@return fun(method: string, path: string): sbx.server.Handler|nil, table|string|nil, string|nil
function http.router(routes)
  local root = { literals = {} }
  for _, route in ipairs(routes) do
    local leaf, names = leaf_of(root, check.string(route[2], "pattern"))
    leaf.methods = leaf.methods or {}
    leaf.methods[route[1]] = {
      handler = check.fn(route[3], route[2]), names = names, pattern = route[2],
    }
  end

  return function(method, path)
    local segments, values = {}, {}
    for segment in path:gmatch("[^/]+") do
      segments[#segments + 1] = decode(segment)
    end
    local leaf = find_leaf(root, segments, 1, values)
    if not leaf then return nil end
    local route = leaf.methods[method] or method == "HEAD" and leaf.methods.GET
    if not route then return nil, allowed_methods(leaf.methods) end
    local params = {}
    for i, name in ipairs(route.names) do
      params[name] = values[i]
    end
    return route.handler, params, route.pattern
  end
end

---Answers with `object` as JSON.
---@param request sbx.core.Request
---@param status integer
---@param object any
---@param headers? table<string, string>  besides the content type
function http.respond_json(request, status, object, headers)
  local all = { ["Content-Type"] = "application/json" }
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  request:respond(status, all, json.encode(object))
end

-- An answer that both planes of the sandbox API can read.
local function respond_problem(request, status, code, text, headers)
  local object = { detail = text, error = code, message = text, code = status }
  http.respond_json(request, status, object, headers)
end

local function dispatch(find, request, seen)
  local handler, found, route = find(request.method, request.raw_path)
  seen.route = route
  if handler then
    handler(request, found)
  elseif found then
    respond_problem(request, 405, "method_not_allowed", "Method Not Allowed", { Allow = found })
  else
    respond_problem(request, 404, "not_found", "Not Found")
  end
end

-- One request from beginning to end. What a handler raises is told in the log;
-- the client learns only that something failed. A handler that returns without
-- an answer gets the listener's own 500, and a stream it left open is cut.
local function handle(find, request, observer)
  local began, seen = time.now(), {}
  observer.began()
  -- Closed last, when the request has its answer, whoever gave it.
  local _ <close> = setmetatable({}, {
    __close = function()
      observer.ended(request, seen.route, time.now() - began)
    end,
  })
  local req <close> = request
  local ok, failure = pcall(dispatch, find, req, seen)
  if ok then return end
  local known = errors.is_error(failure)
  if known and failure.kind == "cancelled" then error(failure, 0) end
  if not (known and failure.kind == "http" and req.gone) then
    log.error("request failed", {
      method = req.method, path = http.shown_path(req.path), error = failure,
    })
  end
  -- Raises when the handler has answered already, which is as good.
  pcall(respond_problem, req, 500, "internal", "Internal Server Error")
end

local UNOBSERVED = { began = function() end, ended = function() end }

local function accept_all(listener, find, observer)
  while true do
    local ok, request = pcall(listener.accept, listener)
    if not ok then
      if errors.is_error(request) and request.code == "EBADF" then return end
      error(request, 0)
    end
    task.spawn(handle, find, request, observer)
  end
end

---Listens and serves in the background, until the scope ends or the listener
---is closed; requests that are being handled then lose their client. Raises
---what the listener raises, such as EADDRINUSE.
---@param options sbx.server.http.Options
---@return sbx.core.Listener listener  its `port` is the one in use
function http.serve(options)
  local opts = check.options(options, {
    routes = check.none,
    host = "127.0.0.1",
    port = 0,
    scope = check.none,
    max_header = check.none,
    max_connections = check.none,
    observe = UNOBSERVED,
    max_per_peer = check.none,
    head_timeout = check.none,
    tls = check.none,
  })
  local find = http.router(check.table(opts.routes, "routes"))
  local listener = core.listen {
    host = opts.host,
    port = opts.port,
    max_header = opts.max_header,
    max_connections = opts.max_connections,
    max_per_peer = opts.max_per_peer,
    head_timeout = opts.head_timeout,
    tls_cert = opts.tls and opts.tls.cert,
    tls_key = opts.tls and opts.tls.key,
  }
  if opts.scope then
    opts.scope:daemon(accept_all, listener, find, opts.observe)
  else
    task.daemon(accept_all, listener, find, opts.observe)
  end
  return listener
end

return http
