---@meta sbx.core.http
-- Requests as the wire knows them; times are seconds, 0 is none.

---@class sbx.core.http
local http = {}

---@class sbx.core.http.Request
---@field method string
---@field url string
---@field headers? string[]     name, value, name, value, ...
---@field body? string          at most one of body, body_path, feed and parts
---@field body_path? string
---@field feed? integer         bytes that will be fed, or -1
---@field parts? table[]        { name, filename?, type?, data | path | feed }
---@field save? string
---@field timeout? number
---@field connect_timeout? number
---@field idle_timeout? number
---@field queue_timeout? number
---@field max_body? integer
---@field redirects? boolean    a status that leads elsewhere is not saved
---@field at_most_once? boolean
---@field decode? boolean       undo compression (default true)
---@field unix? string
---@field proxy? string
---@field connect_to? string    "host:port"
---@field http2? boolean
---@field verify? boolean
---@field ca_file? string
---@field tls? { cert?: string, key?: string, pinned_key?: string, only_1_3?: boolean }
---@field cookies? sbx.core.http.Cookies
---@field cookie? string        sent besides those of the jar
---@field limit? integer
---@field group? string

---A request in progress. One task may wait for what comes, one for room to send.
---@class sbx.core.http.Exchange
local Exchange = {}

---The whole answer of one that is not streamed.
---@async
---@return table answer
function Exchange:answer() end

---The head of a streamed one: an answer but for its body.
---@async
---@return table answer
function Exchange:head() end

---The next bytes of a streamed body, or nothing at the end.
---@async
---@param most? integer  bytes (at most and by default 256 KiB)
---@return string|nil
function Exchange:read(most) end

---Waits until libcurl asks for the bytes of the body (0), or of a part.
---@async
---@param part integer
---@return boolean  false: it will not any more
function Exchange:wanted(part) end

---Hands over more bytes and waits for room for the next.
---@async
---@param part integer
---@param bytes string
---@return boolean  false: nobody wants them any more
function Exchange:feed(part, bytes) end

---Says that there are no more bytes of the body or part.
---@param part integer
function Exchange:finish(part) end

---@return sbx.http.Timing
function Exchange:timing() end

---Ends the transfer wherever it is; who waits gets EBADF.
function Exchange:close() end

---@class sbx.core.http.Cookies
local Cookies = {}

---@return string[]  lines of a cookie file
function Cookies:lines() end

---Adds a line of a cookie file; what is none is left out.
---@param line string
function Cookies:add(line) end

---Forgets all cookies.
function Cookies:clear() end

---Sends a request and waits for the whole answer.
---@async
---@param request sbx.core.http.Request
---@return table answer  status reason headers body or saved, size url label timing …
function http.request(request) end

---Sends a request and returns at once.
---@param request sbx.core.http.Request
---@param streamed boolean
---@return sbx.core.http.Exchange
function http.start(request, streamed) end

---@return sbx.core.http.Cookies
function http.cookies() end

---@return table<string, table> hosts
---@return integer lookups  name look-ups so far
function http.stats() end

---Closes the connections that no request uses.
function http.close_idle() end

return http
