-- What all streams, of sbx.net and sbx.process, have beyond the core: lines and
-- measured reads. What these take from a stream ahead of the script stays with
-- it, and `read` begins with it.

local core = require("sbx.core.stream")
local reader = require("sbx.reader")

---@class sbx.Stream
local Stream = core.methods
local read, close = Stream.read, Stream.close

-- Only the streams whose lines somebody reads have one.
local readers = setmetatable({}, { __mode = "k" })

local function reader_of(stream)
  local from = readers[stream]
  if not from then
    from = reader.new(function() return read(stream) end)
    readers[stream] = from
  end
  return from
end

---Some bytes, as soon as there are any; nil at the end. Those that reading lines took
---ahead come first.
---@async
---@param max? integer
---@return string|nil
function Stream:read(max)
  local from = readers[self]
  if not from or from:peek() == "" then return read(self, max) end
  return from:some(max)
end

---Closes it; once more is harmless.
function Stream:close()
  if readers[self] then readers[self] = nil end
  close(self)
end

---The next line, or nil at the end; a last line without its line feed counts.
---Raises kind `limit` for a line over 16 MiB.
---@async
---@param keep? boolean  with its line feed
---@return string|nil
function Stream:line(keep)
  return reader_of(self):line(keep)
end

---An iterator over the lines that are left.
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Stream:lines(keep)
  return reader_of(self):lines(keep)
end

---Exactly `n` bytes; fewer only where the stream ends, nil where it had ended.
---@async
---@param n integer
---@return string|nil
function Stream:bytes(n)
  return reader_of(self):bytes(n)
end

---All that is left; "" at the end. Raises kind `limit` beyond `max` bytes.
---@async
---@param max? integer
---@return string
function Stream:all(max)
  return reader_of(self):all(max)
end

return Stream
