-- What an upload sends, cut into parts that can be sent again. A file and a string
-- are read where they are; what has to be read in order goes through temporary
-- files, one for each part on its way, so that it never has to be held in memory.
-- A file is opened once: whatever takes its name meanwhile, one file is sent.

local core = require("sbx.core.file")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local sync = require("sbx.sync")
local task = require("sbx.task")

local source = {}

local CHUNK = 256 * 1024
local LARGE_CHUNK = 1024 * 1024
local CLEANUP_SECONDS = 5

-- ----------------------------------------------------------------------- parts

---@class sbx.sandbox.Part
---@field index integer
---@field size integer  bytes
---@field last boolean  none follows
---@field private whole? table  `data` or `path` of a multipart part that is all of it
---@field private read async fun(offset: integer, n: integer): string|nil
---@field private close? async fun()
---@field private unchanged? async fun()  raises when what was read is no more
local Part = {}
Part.__index = Part

local function stale(what)
  errors.raise({
    kind = "io", code = "ESTALE", op = "read",
    message = ("upload: the local file %s while it was being sent"):format(what),
  })
end

---The content for one attempt, as sbx.http takes it. `on_bytes(count)` hears of
---each piece that is handed over.
---@param on_bytes? fun(count: integer)
---@return table
function Part:body(on_bytes)
  if self.size == 0 then return { data = "" } end
  if self.whole and not on_bytes then return { data = self.whole.data, path = self.whole.path } end
  local at = 0
  return {
    size = self.size,
    data = function()
      if at >= self.size then return nil end
      local bytes = self.read(at, math.min(CHUNK, self.size - at))
      if not bytes then stale("became shorter") end
      at = at + #bytes
      if on_bytes then on_bytes(#bytes) end
      return bytes
    end,
  }
end

---To be called once it is sent. Raises kind `io`, code ESTALE, when the content was
---changed meanwhile.
---@async
function Part:check()
  if self.unchanged then self.unchanged() end
end

function Part:__close()
  if self.close then self.close() end
end

-- ------------------------------------------------------- strings and files

---@class sbx.sandbox.Source
---@field size integer|nil  bytes, where it is known
---@field next async fun(self, limit: integer): sbx.sandbox.Part  at most `limit` bytes
---@field digest async fun(self): string  SHA-256 of all; of a stream once all is taken
local Windows = {}
Windows.__index = Windows

function Windows:__close()
  if self.close then self.close() end
end

function Windows:next(limit)
  local offset = self.at
  local size = math.min(limit, self.size - offset)
  self.at, self.count = offset + size, self.count + 1
  local part = self.window(offset, size)
  part.index, part.size, part.last = self.count, size, self.at == self.size
  return setmetatable(part, Part)
end

function Windows:digest()
  return self.sum()
end

---@param size integer
---@param window fun(offset: integer, size: integer): table  the makings of a part
---@param sum async fun(): string
local function windows(size, window, sum)
  return setmetatable({ size = size, at = 0, count = 0, window = window, sum = sum }, Windows)
end

---@param bytes string
---@return sbx.sandbox.Source  a `<close>` value
function source.bytes(bytes)
  return windows(#bytes, function(offset, size)
    return {
      whole = size == #bytes and { data = bytes } or nil,
      read = function(at, n) return bytes:sub(offset + at + 1, offset + at + n) end,
    }
  end, function()
    local digest = hash.sha256_new()
    for at = 1, #bytes, CHUNK do
      digest:update(bytes:sub(at, at + CHUNK - 1))
      if at // CHUNK % 16 == 0 then task.yield() end
    end
    return digest:hex()
  end)
end

---Opens a file. It is sent as long as it is now: what grows, such as a log, goes up
---to here. Raises kind `io`.
---@async
---@param path string  of a regular file
---@return sbx.sandbox.Source  a `<close>` value
function source.file(path)
  local file = core.open(path, "r", 0)
  local turn = sync.semaphore(1) -- one task at a time uses a file
  local function use(name, ...)
    local _ <close> = turn:acquire()
    return file[name](file, ...)
  end
  local first = use("stat")
  local total = first.size
  local function read_at(at, n)
    return use("read", n, at) or stale("became shorter")
  end
  local function unchanged()
    local now = use("stat")
    if now.size < total then stale("became shorter") end
    if now.size == total and now.mtime ~= first.mtime then stale("changed") end
  end
  local self = windows(total, function(offset)
    return {
      read = function(at, n) return read_at(offset + at, n) end,
      unchanged = unchanged,
    }
  end, function()
    local digest, at = hash.sha256_new(), 0
    while at < total do
      local bytes = read_at(at, math.min(LARGE_CHUNK, total - at))
      digest:update(bytes)
      at = at + #bytes
    end
    return digest:hex()
  end)
  self.close = function() file:close() end
  return self
end

-- --------------------------------------------------------------------- streams

local Stream = {}
Stream.__index = Stream

local function wrong_length(self)
  errors.raise({
    kind = "usage",
    code = "ELENGTH",
    op = "upload_stream",
    message = ("upload_stream: the source was to give %d bytes, it gave %s%d"):format(
      self.size, self.taken > self.size and "at least " or "", self.taken),
  })
end

-- Moves up to `limit` bytes into a temporary file: the file and their number.
---@async
local function spool(self, limit)
  local held = fs.tmpfile({ prefix = "sbxlua-upload-" })
  self.held[held] = true
  local size = 0
  while size < limit do
    local bytes = self.reader:some(math.min(CHUNK, limit - size))
    if not bytes then break end
    held.file:write(bytes)
    self.running:update(bytes)
    size = size + #bytes
    self.taken = self.taken + #bytes
    if self.size and self.taken > self.size then wrong_length(self) end
  end
  return held, size
end

function Stream:next(limit)
  local held, size = spool(self, limit)
  self.count = self.count + 1
  local last = size < limit or self.reader:peek() == "" and self:ended()
  if last and self.size and self.taken ~= self.size then wrong_length(self) end
  return setmetatable({
    index = self.count, size = size, last = last,
    whole = { path = held.path },
    read = function(at, n) return held.file:read_at(at, n) end,
    close = function()
      held:close()
      self.held[held] = nil
    end,
  }, Part)
end

-- Whether nothing follows; a byte that does is put back.
---@async
function Stream:ended()
  local bytes = self.reader:some()
  if bytes then self.reader:unread(bytes) end
  return bytes == nil
end

function Stream:digest()
  return self.running:hex()
end

-- Parts that nobody came to send.
function Stream:__close()
  for held in pairs(self.held) do
    pcall(task.shield, CLEANUP_SECONDS, held.close, held)
  end
end

---@param reader sbx.Reader
---@param size? integer  bytes that it has to give
---@return sbx.sandbox.Source  a `<close>` value
function source.stream(reader, size)
  return setmetatable({
    reader = reader, size = size, taken = 0, count = 0, held = {}, running = hash.sha256_new(),
  }, Stream)
end

return source
