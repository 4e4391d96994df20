---@meta sbx.core.stream

-- A connected socket or one end of a pipe. One task may read while another
-- writes; a second reader or writer raises. Failures are error objects: EPIPE,
-- ECONNRESET, and EBADF for who waits on a stream that is closed.

---@class sbx.core.stream
---@field methods table<string, function>  of all streams; sbx.stream adds to them
local stream = {}

---@class sbx.Stream
local Stream = {}

---A stream on an open pipe, terminal or socket, such as standard input. A socket
---becomes non-blocking for all who share it.
---@param fd integer
---@return sbx.Stream
function stream.open(fd) end

---Two streams, each the other's peer.
---@return sbx.Stream, sbx.Stream
function stream.pair() end

---What has arrived, as soon as there is something. A cancelled read loses nothing.
---@async
---@param max? integer  bytes (at most and by default 64 KiB)
---@return string|nil bytes  nil at the end
function Stream:read(max) end

---Returns once the kernel has taken all. When it is cancelled in the middle the
---peer has a part, and every further write raises EPIPE.
---@async
---@param bytes string
function Stream:write(bytes) end

---Ends our side: the peer reads the end. Again is harmless.
---@async
function Stream:shutdown() end

---Ends both directions at once; again is harmless. The end of a `<close>`
---variable and the collector do the same.
function Stream:close() end

---The descriptor's number; it stays the stream's.
---@return integer
function Stream:fileno() end

return stream
