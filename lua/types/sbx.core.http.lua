---@meta sbx.core.http

---@class sbx.core.http
local http = {}

---Sends one request and waits for the answer. Times are seconds, 0 is none.
---Fields: method url headers={name, value, …} body|body_path|parts save unix proxy
---ca_file group limit timeout connect_timeout idle_timeout queue_timeout max_body
---follow at_most_once verify http2.
---@async
---@param request table
---@return table answer  status reason headers body or saved, size url label timing …
function http.request(request) end

---@return table<string, table> hosts
---@return integer lookups  name look-ups so far
function http.stats() end

---Closes the connections that no request uses.
function http.close_idle() end

return http
