-- A file of a sandbox, read piece by piece. Where the connection breaks it goes on
-- from there, if the gateway can give the rest of a file.

local check = require("sbx.check")
local errors = require("sbx.errors")
local failure = require("sbx.sandbox.failure")
local gateway = require("sbx.sandbox.gateway")
local reader = require("sbx.reader")
local task = require("sbx.task")
local wire = require("sbx.sandbox.wire")

local download = {}

local PAUSES = { 0.25, 1, 2, 4 } -- seconds after breaks in a row
local PROGRESS = 1024 * 1024 -- bytes after which a break is the first one again
local MAX_RESTARTS = 3
local MAX_TAG = 200 -- bytes

---@class sbx.sandbox.DownloadPlan
---@field op string
---@field sandbox_id string
---@field path string  in the sandbox
---@field timeout number  seconds for each request
---@field idle? boolean  `timeout` is for the silence between bytes instead
---@field at? integer  bytes that are here already (default 0)
---@field size? integer  bytes of the whole file, if it is known
---@field restart? async fun()  forgets what is here: the file is another one now

---An open download. A `<close>` value.
---@class sbx.sandbox.Download
---@field size integer|nil  bytes of the whole file, where the gateway tells
---@field private client sbx.sandbox.Client
---@field private plan sbx.sandbox.DownloadPlan
---@field private at integer       bytes taken so far
---@field private skip integer     bytes to drop: they were given out before
---@field private version table|nil  what changes when the file does: `tag`, `date`
---@field private call table|nil
---@field private response sbx.http.Stream|nil
---@field private breaks integer   in a row
---@field private fresh integer    bytes since the last break
---@field private restarts integer
---@field private last_break sbx.Error|nil
---@field private reader sbx.Reader
local Download = {}
Download.__name = "sbx.sandbox.Download"

local function let_go(self)
  if self.response then self.response:close() end
  self.response = nil
end

local function changed(self, why)
  errors.raise({
    kind = "api",
    code = "CHANGED",
    op = self.plan.op,
    sandbox_id = self.plan.sandbox_id,
    path = self.plan.path,
    message = ("%s %s: %s changed while it was being read%s"):format(self.plan.op,
      failure.clean(self.plan.sandbox_id, nil, 100), failure.clean(self.plan.path), why or ""),
  })
end

-- What changes when the file does. A tag may be a weak one: that is enough to tell
-- two versions apart.
local function version_of(response)
  local headers = response.headers
  local tag = headers.etag
  return { tag = tag and #tag < MAX_TAG and tag or nil, date = headers["last-modified"] }
end

-- A tag that was there stays; a date need not come with a part of the file.
local function is_same(old, new)
  if old == nil or new == nil then return old == new end
  if old.tag and (not new.tag or old.tag:gsub("^W/", "") ~= new.tag:gsub("^W/", "")) then
    return false
  end
  return not (old.date and new.date) or old.date == new.date
end

-- From the start, because the rest alone is not to be had.
---@async
local function start_over(self, size, version)
  self.restarts = self.restarts + 1
  local same = self.size == size and is_same(self.version, version)
  if self.restarts > MAX_RESTARTS then
    if self.last_break and same then error(self.last_break, 0) end
    changed(self, " again and again")
  end
  if self.plan.restart then
    self.plan.restart()
    self.skip = 0
  else
    -- What was given out cannot be taken back: only the same bytes may follow it.
    if not same then changed(self) end
    self.skip = self.at
  end
  self.at, self.size, self.version = 0, size, version
end

-- For `If-Range`, which takes strong validators only.
local function strong_tag(version)
  local tag = version and version.tag
  return tag and tag:find('^"[^"]*"$') and tag or nil
end

local function length_of(response)
  local text = response.headers["content-length"]
  return text and #text <= 18 and math.tointeger(tonumber(text)) or nil
end

-- Where a 206 begins, and the size of the whole file.
local function window_of(response)
  local from, total = (response.headers["content-range"] or "")
    :match("^bytes (%d+)%-%d+/([%d*]+)$")
  if not from or #from > 18 or #total > 18 then return nil end
  return math.tointeger(tonumber(from)), math.tointeger(tonumber(total))
end

-- Raises when what follows is not, byte for byte, what the file holds.
local function check_answer(self, response)
  local encoding = response.headers["content-encoding"]
  local what
  if response.status ~= 200 and response.status ~= 206 then
    what = "that is no file"
  elseif encoding and not encoding:lower():find("^%s*identity%s*$") then
    what = "nobody asked for a file in the encoding " .. failure.clean(encoding, nil, 50)
  end
  if what then error(failure.bad_answer(self.call, response, what), 0) end
end

---@async
local function take_head(self, response)
  check_answer(self, response)
  local version = version_of(response)
  if response.status ~= 206 then
    local size = length_of(response)
    if self.at > 0 then start_over(self, size, version) end
    self.size, self.version = size, version
    return
  end
  local from, total = window_of(response)
  if from ~= self.at or self.at == 0 then
    error(failure.bad_answer(self.call, response, "another part of the file was asked for"), 0)
  end
  local known = self.version
  if (self.size and total ~= self.size) or (known and not is_same(known, version)) then
    let_go(self)
    return start_over(self, nil, nil)
  end
  self.size, self.version = total, known or version
end

local function request_of(self)
  -- Said aloud: who says nothing may be sent anything.
  local headers = { ["accept-encoding"] = "identity" }
  local request = { decompress = false, headers = headers }
  if self.plan.idle then
    request.timeout, request.idle_timeout = false, self.plan.timeout
  end
  if self.at > 0 then
    headers["range"] = ("bytes=%d-"):format(self.at)
    headers["if-range"] = strong_tag(self.version)
  end
  return request
end

---@async
local function connect(self)
  local plan = self.plan
  self.call = {
    op = plan.op,
    operation = "download",
    method = "GET",
    sandbox_id = plan.sandbox_id,
    query = wire.query({ { "path", plan.path }, { "sandbox_id", plan.sandbox_id } }),
    request = function() return request_of(self) end,
    stream = true,
    timeout = plan.timeout,
    limit = plan.timeout,
    timeout_kind = "download_timeout",
    repeatable = true,
    file = true,
  }
  local ok, response = pcall(gateway.call, self.client, self.call)
  if ok then
    self.response = response
    return take_head(self, response)
  end
  local refused = self.at > 0 and errors.is_error(response) and response.status == 416
  if not refused then error(response, 0) end
  start_over(self, nil, nil) -- it is shorter now
end

-- Pauses before another try, or raises.
---@async
local function after_break(self, cause)
  if not errors.is_error(cause) or cause.kind == "cancelled" then error(cause, 0) end
  let_go(self)
  local err = failure.from_transport(self.call, cause)
  if cause.kind == "timeout" then
    error(self.plan.idle and err or gateway.name_limit(self.call, err), 0)
  end
  self.last_break = err
  if self.fresh >= PROGRESS then self.breaks = 0 end
  self.fresh, self.breaks = 0, self.breaks + 1
  local pause = cause.retryable and PAUSES[self.breaks]
  if not pause then error(err, 0) end
  task.sleep(pause)
end

local function cut_short(self)
  return errors.new({
    kind = "http",
    code = "EOF",
    retryable = true,
    message = ("the answer ended after %d of %d bytes"):format(self.at, self.size),
  })
end

-- The part of a piece that was not given out before, or nil.
local function unseen(self, bytes)
  self.at = self.at + #bytes
  self.fresh = self.fresh + #bytes
  if self.size and self.at > self.size then
    changed(self, ": there is more of it than was announced")
  end
  local drop = math.min(self.skip, #bytes)
  self.skip = self.skip - drop
  if drop == 0 then return bytes end
  return drop < #bytes and bytes:sub(drop + 1) or nil
end

-- The next bytes as they come, nil at the end.
---@async
local function next_piece(self)
  while true do
    while not self.response do
      connect(self)
    end
    local ok, bytes = pcall(self.response.read, self.response)
    if ok and bytes then
      bytes = unseen(self, bytes)
      if bytes then return bytes end
    elseif ok and (not self.size or self.at == self.size) then
      return nil
    else
      after_break(self, ok and cut_short(self) or bytes)
    end
  end
end

---Opens a download: raises what the gateway says of the file.
---@async
---@param client sbx.sandbox.Client
---@param plan sbx.sandbox.DownloadPlan
---@return sbx.sandbox.Download
function download.open(client, plan)
  local self = setmetatable({
    client = client, plan = plan, at = plan.at or 0, size = plan.size,
    skip = 0, breaks = 0, fresh = 0, restarts = 0,
  }, Download)
  self.reader = reader.new(function() return next_piece(self) end)
  while not self.response do
    connect(self)
  end
  return self
end

---Up to `n` bytes, as soon as there are any; nil at the end. All reading methods
---share one position.
---@async
---@param n? integer  default: what is at hand
---@return string|nil
function Download:read(n)
  if n ~= nil then check.integer(n, "n", 1) end
  return self.reader:some(n)
end

---The next line, or nil at the end. Raises kind `limit` for one over 16 MiB.
---@async
---@param keep? boolean  with its line feed (default: without)
---@return string|nil
function Download:line(keep)
  return self.reader:line(keep)
end

---An iterator over the lines that are left.
---@param keep? boolean  with their line feeds
---@return async fun(): string|nil
function Download:lines(keep)
  return self.reader:lines(keep)
end

---An iterator over what is left, in pieces as they come.
---@return async fun(): string|nil
function Download:chunks()
  return function() return self.reader:some() end
end

---All that is left. Raises kind `limit` beyond `max` bytes.
---@async
---@param max? integer  bytes (default 64 MiB)
---@return string
function Download:all(max)
  return self.reader:all(check.integer(max or 64 * 1024 * 1024, "max", 0))
end

local function refuse_reading()
  errors.raise({ kind = "io", op = "read", code = "EBADF", message = "the download is closed" })
end

---Lets go of the connection; again is harmless.
---@async
function Download:close()
  self.reader = reader.new(refuse_reading)
  let_go(self)
end

check.methods(Download, "download")
Download.__index = Download
Download.__close = function(self) self:close() end

return download
