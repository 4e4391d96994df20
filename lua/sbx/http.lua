-- HTTP requests: pooled connections, four clocks, no surprises on failure.

local core = require("sbx.core.http")
local exchange = require("sbx.http.exchange")

---@class sbx.http
---@field get async fun(url: string, options?: sbx.http.Options): sbx.http.Response
---@field head async fun(url: string, options?: sbx.http.Options): sbx.http.Response
---@field delete async fun(url: string, options?: sbx.http.Options): sbx.http.Response
---@field post async fun(url: string, options?: sbx.http.Options): sbx.http.Response
---@field put async fun(url: string, options?: sbx.http.Options): sbx.http.Response
---@field patch async fun(url: string, options?: sbx.http.Options): sbx.http.Response
local http = {}

---@class sbx.http.Options
---@field headers? table<string, string|number|string[]>
---@field query? table<string, any>  appended to the URL; a list repeats the name
---@field bearer? string        sent as `Authorization: Bearer …`
---@field basic? { [1]: string, [2]: string }  user and password
---@field cookies? sbx.http.Cookies
---@field body? string|async fun(): string|nil  bytes, or an iterator that may wait
---@field content_length? integer  bytes that the iterator will give (default: sent in chunks)
---@field body_path? string     a file to send, read as it is sent
---@field json? any             sent as JSON
---@field form? table<string, any>  sent as a browser sends a form
---@field multipart? sbx.http.Part[]
---@field save? string          where the body of a status below 400 is written
---@field timeout? number|false seconds in all, from admission on
---@field connect_timeout? number|false  seconds for name, TCP and TLS (default 10)
---@field idle_timeout? number|false     seconds without a byte (default 300 without `timeout`)
---@field queue_timeout? number|false    seconds until admission
---@field max_body? integer     bytes (default 64 MiB in memory, no limit for `save`)
---@field decompress? boolean   ask for compression, and undo it (default true)
---@field follow? integer|sbx.http.Follow  redirects to follow (default 0)
---@field retry? integer|sbx.retry.Options  tries in all, where another is safe
---@field raise? boolean        a status of 400 or more raises (default false)
---@field at_most_once? boolean never send twice (default: for methods that are not idempotent)
---@field unix? string          path of a socket to connect to
---@field connect_to? string    "host:port" to connect to in place of the URL's
---@field proxy? string|false   a URL, or false for none (default: the environment's)
---@field version? 1|2          2: HTTP/2 over TLS, where the server has it
---@field verify? boolean       the server's certificate (default true)
---@field ca_file? string       certificates to trust, PEM
---@field cert? string          our certificate, PEM; with its key in it, or in `key`
---@field key? string
---@field tls_min? "1.2"|"1.3"  (default "1.2")
---@field pinned_key? string    the server's public key: a file, or "sha256//…;sha256//…"
---@field limit? integer        requests at once for this host and group (default 128)
---@field group? string         requests with the same name share a queue of their own

---@class sbx.http.Follow
---@field most? integer       redirects (default 10)
---@field downgrade? boolean  from https to http as well (default false)
---@field headers? string[]   that go on to other servers too

---@class sbx.http.Part
---@field name string
---@field filename? string  default: the last part of `path`
---@field type? string      media type (default application/octet-stream for files)
---@field data? string|async fun(): string|nil
---@field size? integer     bytes that the function will give
---@field path? string      a file, read as it is sent

---Sends a request and waits for the whole answer. A status of 400 or more is an
---answer, unless `raise` is set. Raises an error object of kind `timeout` (with
---`phase` queue, connect, idle or total), `dns`, `connect`, `tls`, `http` (the
---connection broke), `limit` or `io`; its `sent` is false when provably no byte
---of the request went out, `retryable` says that another try is safe and may work.
---@async
---@param method string
---@param url string
---@param options? sbx.http.Options
---@return sbx.http.Response
function http.request(method, url, options)
  return (exchange.send(method, url, options, false, 2))
end

for _, name in ipairs { "get", "head", "delete", "post", "put", "patch" } do
  local method = name:upper()
  http[name] = function(url, options)
    return (exchange.send(method, url, options, false, 2))
  end
end

---Sends a request and waits for the head of the answer; its body is then read
---piece by piece, and unread bytes hold up the server. Close what you open:
---`local res <close> = http.stream("GET", url)`. Raises as http.request does.
---@async
---@param method string
---@param url string
---@param options? sbx.http.Options
---@return sbx.http.Stream
function http.stream(method, url, options)
  return (exchange.send(method, url, options, true, 2))
end

---Makes a client: a base URL and defaults for its requests. Options of a request
---win over them; headers are merged. With `limit` the client has a queue of its
---own before each host.
---@param options? sbx.http.ClientOptions
---@return sbx.http.Client
function http.client(options)
  return require("sbx.http.client").new(options)
end

---Makes an empty cookie jar, for the option `cookies` of requests and clients.
---@return sbx.http.Cookies
function http.cookies()
  return require("sbx.http.cookies").new()
end

---Opens a WebSocket: see sbx.http.websocket.
---@async
---@param url string  ws://… or wss://…
---@param options? sbx.http.WebSocketOptions
---@return sbx.WebSocket
function http.websocket(url, options)
  return require("sbx.http.websocket").open(url, options)
end

---What each host's queue looks like: `limit active queued connections started
---failed`, and `p50 p90 p99` in seconds; and the number of name look-ups so far.
---@return table<string, table> hosts
---@return integer lookups
function http.stats()
  return core.stats()
end

---Closes the connections that no request uses.
function http.close_idle()
  core.close_idle()
end

return http
