-- Reads lines and measured pieces from a source that hands out bytes as they
-- come: the one buffer behind files, pipes, sockets and HTTP bodies.

local check = require("sbx.check")
local errors = require("sbx.errors")

local find, sub = string.find, string.sub

---@class sbx.Reader
---@field private source async fun(): string|nil
---@field private buffer string      bytes taken from the source and not yet read
---@field private at integer         where in the buffer the next byte is
---@field private ended boolean      the source has no more
---@field private held string[]|nil  what a call took that then failed or was cancelled
---@field private max_line integer   bytes
---@field private reading boolean    a task is in the source
---@field private guard table        tells when it is no more
local Reader = {}
Reader.__index = Reader
Reader.__name = "sbx.Reader"

local MAX_LINE = 16 * 1024 * 1024
local PIECE = 64 * 1024 -- bytes asked of what has `read`

local Guard = {}

function Guard:__close()
  self.reader.reading = false
end

-- Every reading method begins here: what an earlier call had gathered when its
-- source raised is put back, so that nothing is lost. Returns the new list.
local function start(self)
  if self.reading then check.fail("read: another task is reading") end
  local held = self.held
  if held and #held > 0 then
    held[#held + 1] = sub(self.buffer, self.at)
    self.buffer, self.at = table.concat(held), 1
  end
  held = {}
  self.held = held
  return held
end

-- Takes one more piece from the source behind the unread bytes. False at the end.
---@async
local function fill(self)
  if self.ended then return false end
  local _ <close> = self.guard
  self.reading = true
  local piece = self.source()
  if piece == nil then
    self.ended = true
    return false
  end
  check.string(piece, "what the source returned")
  if self.at > #self.buffer then
    self.buffer, self.at = piece, 1
  else
    self.buffer, self.at = sub(self.buffer, self.at) .. piece, 1
  end
  return true
end

local function too_long(self)
  errors.raise {
    kind = "limit",
    op = "read",
    message = ("read a line: it is longer than %d bytes"):format(self.max_line),
  }
end

local function finish(self, parts)
  self.held = nil
  return table.concat(parts)
end

-- The bytes at hand, at most `n`; takes a piece from the source if there are
-- none. nil at the end.
local function take(self, n)
  while self.at > #self.buffer do
    if not fill(self) then return nil end
  end
  local buffer, at = self.buffer, self.at
  local stop = n and math.min(at + n - 1, #buffer) or #buffer
  self.at = stop + 1
  if at == 1 and stop == #buffer then return buffer end -- a copy costs time
  return sub(buffer, at, stop)
end

---The next line, or nil at the end. A last line without its line feed counts.
---Raises kind `limit` for a line over the reader's `max_line`.
---@async
---@param keep? boolean  with its line feed (default: without)
---@return string|nil
function Reader:line(keep)
  local at = self.at
  local here = not self.held and find(self.buffer, "\n", at, true)
  if here and here - at <= self.max_line then
    self.at = here + 1
    return sub(self.buffer, at, keep and here or here - 1)
  end
  -- A long line arrives in many pieces: they are joined once, at its end.
  local parts, size = start(self), 0
  while true do
    local stop = find(self.buffer, "\n", self.at, true)
    local rest = sub(self.buffer, self.at, stop and stop - 1)
    size = size + #rest
    if size > self.max_line then too_long(self) end
    parts[#parts + 1] = rest
    if stop then
      self.at = stop + 1
      if keep then parts[#parts + 1] = "\n" end
      return finish(self, parts)
    end
    self.buffer, self.at = "", 1
    if not fill(self) then
      if size == 0 then
        self.held = nil
        return nil
      end
      return finish(self, parts)
    end
  end
end

---Up to `n` bytes, as soon as there are any; nil at the end.
---@async
---@param n? integer  default: whatever is at hand
---@return string|nil
function Reader:some(n)
  if n ~= nil then n = check.integer(n, "some", 0) end
  start(self)
  return take(self, n)
end

---Exactly `n` bytes; fewer only where the source ends, nil where it had ended.
---`bytes(0)` is "" while there is more, else nil.
---@async
---@param n integer
---@return string|nil
function Reader:bytes(n)
  n = check.integer(n, "bytes", 0)
  local parts, missing = start(self), n
  repeat
    local piece = take(self, missing)
    if not piece then break end
    parts[#parts + 1] = piece
    missing = missing - #piece
  until missing == 0
  if #parts == 0 then return nil end
  return finish(self, parts)
end

---All that is left; "" at the end. Raises kind `limit` beyond `max` bytes.
---@async
---@param max? integer
---@return string
function Reader:all(max)
  if max ~= nil then check.number(max, "all", 0) end
  local parts, size = start(self), 0
  while true do
    local piece = take(self)
    if not piece then return finish(self, parts) end
    parts[#parts + 1] = piece
    size = size + #piece
    if max and size > max then
      errors.raise {
        kind = "limit",
        op = "read",
        message = ("read all: more than %d bytes"):format(max),
      }
    end
  end
end

---The bytes that were taken from the source and not read yet; they stay.
---@return string
function Reader:peek()
  start(self)
  return sub(self.buffer, self.at)
end

---Puts bytes back before those not read yet.
---@param bytes string
function Reader:unread(bytes)
  check.string(bytes, "unread")
  start(self)
  self.buffer, self.at = bytes .. sub(self.buffer, self.at), 1
end

---An iterator over the lines that are left, for a generic `for`.
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Reader:lines(keep)
  return function()
    return self:line(keep)
  end
end

local reader = {}

---Makes a reader of `source`, a function that returns the next bytes (it may
---wait), or nil at the end; after that it is not called again.
---@param source async fun(): string|nil
---@param options? { max_line?: integer }  bytes (default 16 MiB)
---@return sbx.Reader
function reader.new(source, options)
  check.fn(source, "source")
  local given = check.options(options, { max_line = MAX_LINE })
  check.integer(given.max_line, "max_line", 1)
  local self = setmetatable({
    source = source, buffer = "", at = 1, ended = false, max_line = given.max_line, reading = false,
  }, Reader)
  self.guard = setmetatable({ reader = self }, Guard)
  return self
end

local function can_read(source, kind)
  if kind == "userdata" then
    local meta = getmetatable(source)
    return meta and meta.__index and source.read
  end
  return kind == "table" and source.read
end

---Makes a reader of what bytes can come from: a string, a function as for `new`,
---or what has a method `read`, such as a file or a stream. A reader is returned
---as it is, and keeps its own `max_line`.
---@param source string|sbx.Reader|(async fun(): string|nil)|{ read: function }
---@param options? { max_line?: integer }
---@param level? integer  whose line an error names (default 1: the caller's)
---@return sbx.Reader
function reader.of(source, options, level)
  local kind = type(source)
  if kind == "table" and getmetatable(source) == Reader then return source end
  if kind == "string" then
    local rest = source
    source = function()
      local piece = rest
      rest = nil
      return piece
    end
  elseif can_read(source, kind) then
    local from = source
    source = function() return from:read(PIECE) end
  end
  if not check.is_callable(source) then
    error("source: expected a string, a function or what has `read`, got a " .. kind,
      (level or 1) + 1)
  end
  return (reader.new(source, options))
end

return reader
