---@meta sbx.core.server

-- The HTTP listener. It speaks HTTP/1.0 and 1.1, with keep-alive, chunked
-- bodies and `Expect: 100-continue`; the 100 is sent when the handler first
-- reads the body. Malformed requests are refused before a handler sees them.
-- A client that shuts its side down before the answer counts as gone.

---@class sbx.core.server
local server = {}

---@class sbx.core.ListenOptions
---@field host? string             a numeric address, or "localhost" (default "127.0.0.1")
---@field port? integer            0, the default, finds a free one
---@field max_header? integer      bytes of a request's line and headers (default 32768)
---@field max_connections? integer more wait to be accepted (default 4096)
---@field max_per_peer? integer    of them from one address, more are cut (default 0: no limit)
---@field head_timeout? number     seconds for a request's line and headers in all (default 30)
---@field tls_cert? string         PEM text of the certificate and those above it; default: plain HTTP
---@field tls_key? string          PEM text of its key, without a passphrase

---Binds, listens and begins to take in requests. Raises `io` errors, and
---`tls` when the certificate and key cannot be used.
---@param options sbx.core.ListenOptions
---@return sbx.core.Listener
function server.listen(options) end

---@class sbx.core.Listener
---@field port integer|nil  nil once closed
local Listener = {}

---The next request, in the order of their arrival. One task at a time. Raises
---EBADF once the listener is closed.
---@async
---@return sbx.core.Request
function Listener:accept() end

---Closes the socket and every connection. Answers that were given are sent as
---far as that needs no waiting; tasks that wait for a client get ECONNRESET.
function Listener:close() end

---A request keeps its listener open. One that is collected or closed without an
---answer is answered 500; a stream that is left unfinished is cut off.
---@class sbx.core.Request
---@field method string
---@field path string       decoded, without the query
---@field raw_path string   the same as it was sent
---@field raw_query string  as it was sent, "" without one
---@field query table<string, string[]>   decoded; + is a space
---@field headers table<string, string>   by lower-case name; repeated ones joined
---@field remote string     the client's address
---@field gone boolean      the client has closed its side, or the connection broke
local Request = {}

---The next bytes of the body, or nil at its end. After `form` also the part's
---name, its file name and its number from 1; a part comes in as many pieces as
---it takes. Unread bytes hold the client back. Raises `http` ECONNRESET when
---the client is gone, EPROTO for a malformed form.
---@async
---@return string|nil bytes
---@return string|nil part_name
---@return string|nil filename
---@return integer|nil part
function Request:read() end

---The rest of the body. Raises `limit` when it is longer than `max` bytes.
---@async
---@param max integer
---@return string
function Request:read_all(max) end

---Reads the body as multipart/form-data from now on; asked before any read.
---Raises `http` EINVAL when the content type is another one. Empty parts of one
---name that follow each other may come as one.
function Request:form() end

---Gives the whole answer. The listener sets Content-Length, Transfer-Encoding
---and Date. What was not read of the body is thrown away first, up to 1 GiB.
---@param status integer  200 to 599
---@param headers? table<string, string|number>
---@param body? string
function Request:respond(status, headers, body) end

---Begins a streamed answer of `length` bytes, or of as many as will come.
---@param status integer
---@param headers? table<string, string|number>
---@param length? integer
function Request:start(status, headers, length) end

---Returns once the connection has taken all bytes. Raises `http` ECONNRESET
---once the client is gone.
---@async
---@param bytes string
function Request:write(bytes) end

---Ends the streamed answer.
function Request:finish() end

---What became of it so far, also once it is closed: the status of the answer, bytes of
---the request's body that came in, bytes that were given for the answer's.
---@return integer|nil status
---@return integer received
---@return integer sent
function Request:account() end

---Breaks the connection off in place of an answer, after as many of `bytes` as it takes
---at once; they are sent as they are, and not at all where the connection is encrypted.
---@param bytes? string
function Request:cut(bytes) end

---Lets go of the request.
function Request:close() end

return server
