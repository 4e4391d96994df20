-- Gateway tokens on disk: what one process fetched, the user's others use too. One
-- file for each account, of a line for each sandbox after a first one with its
-- generation, which changes when the tokens are cleared.
--
-- After a rest a change is written at once; then changes gather, the longer the more
-- there are, so that a thousand tokens are a few rewrites. What a process that is
-- killed has not written is fetched again.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local log = require("sbx.log")
local observe = require("sbx.observe")
local run = require("sbx.run")
local state = require("sbx.sandbox.state")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.core.time")
local url = require("sbx.url")

local token_store = {}

local MAGIC = "sbxlua-tokens 1 "
local LOOK_EVERY = 0.25 -- seconds between two looks at whether the file has changed
local LOCK_SECONDS = 2 -- that another process may hold the file
local SHORT_LOCK_SECONDS = 0.1 -- the same while a call waits
local FIRST_GATHER, LONGEST_GATHER = 0.5, 5 -- seconds that changes gather
local REST = 10 -- seconds without a write after which they need not
local AT_ONCE = 5000 -- lines, until other tasks get their turn
local MAX_LINE = 64 * 1024
local LONGEST_LIFE = 30 * 86400 -- seconds; a token that lasts longer is a mistake

---@class sbx.sandbox.TokenStore
---@field private config sbx.sandbox.Config
---@field private on_clear fun()          another process has cleared the tokens
---@field private path string|false|nil   nil: not looked for yet
---@field private generation string|nil   of the file as it was read
---@field private lines table<string, string>  id → line of the file
---@field private seen string|nil         how the file looked when it was read
---@field private looked number           when that was
---@field private changes table<string, string|false>  id → new line, or false: dropped
---@field private gather number         seconds from one write to the next
---@field private written_at number
---@field private writer boolean        a task writes, or is about to
local Store = {}
Store.__index = Store

local stores = {} -- those with something to write at the end of the run
local registered = false

---@async
local function finish()
  registered = false
  for store in pairs(stores) do
    store:flush()
  end
end

local function register()
  if registered then return end
  registered = true
  run.defer(finish, "writing down gateway tokens")
end

---@param config sbx.sandbox.Config
---@param on_clear fun()
---@return sbx.sandbox.TokenStore
function token_store.new(config, on_clear)
  local self = setmetatable({
    config = config,
    on_clear = on_clear,
    turn = sync.mutex("token file"), lines = {}, changes = {}, flying = {},
    looked = -math.huge, gather = FIRST_GATHER, written_at = -math.huge, writer = false,
  }, Store)
  local apart = config.is_local or config.api_key == "" or observe.detached
  if apart then self.path = false end
  -- Ahead of what deletes sandboxes, and so after it.
  if self.path == nil then register() end
  return self
end

---@async
local function path_of(self)
  if self.path == nil then
    self.path = state.file("tokens", self.config) or false
  end
  return self.path
end

-- ---------------------------------------------------------------------- reading

-- The generation and the lines of those that have not expired. What makes no sense
-- is left out, as is a last line that was not finished.
---@async
local function read_lines(path)
  local bytes = state.is_private(path) and state.bytes(path) or ""
  local head, first = bytes:match("^([^\n]*)\n()")
  if not head or head:sub(1, #MAGIC) ~= MAGIC then return nil, {} end
  local lines, count, now = {}, 0, time.wall()
  for line in bytes:gmatch("([^\n]*)\n", first) do
    local good_until, id = line:match("^(%d+%.?%d*) (%S+) {")
    if id and #line <= MAX_LINE and tonumber(good_until) > now then
      lines[url.unescape(id)] = line
    end
    count = count + 1
    if count % AT_ONCE == 0 then task.yield() end
  end
  return head:sub(#MAGIC + 1), lines
end

---True and false as they are, nil for anything else.
---@param value any
---@return boolean|nil
function token_store.boolean(value)
  if type(value) == "boolean" then return value end
  return nil
end

local function is_plain(value)
  return type(value) == "string" and value ~= "" and not value:find("%c")
end

local function entry_of(line)
  local good_until, text = line:match("^(%d+%.?%d*) %S+ ({.*})$")
  local ok, fields = pcall(json.decode, text or "")
  if not ok or not is_plain(fields.token) or not is_plain(fields.base) then return nil end
  if not fields.base:find("^https?://[^/%s]") then return nil end
  local refresh_at = tonumber(good_until)
  if refresh_at > time.wall() + LONGEST_LIFE then return nil end
  return {
    token = fields.token, base = fields.base, refresh_at = refresh_at,
    is_vm = token_store.boolean(fields.is_vm),
  }
end

local function line_of(id, entry)
  local fields = { token = entry.token, base = entry.base, is_vm = entry.is_vm }
  return ("%.3f %s %s"):format(entry.refresh_at, url.escape(id), json.encode(fields))
end

local function looks_of(path)
  local facts = errors.try(fs.stat, path)
  return facts and ("%.9f %d"):format(facts.mtime, facts.size) or nil
end

-- Takes over what the file holds. A generation that changed means that the tokens
-- were cleared, and with them what is in memory.
local function adopt(self, generation, lines, looks)
  local cleared = self.generation ~= nil and generation ~= self.generation
  self.generation, self.lines, self.seen = generation, lines, looks
  if not cleared then return end
  self.changes = {}
  self.on_clear()
end

---Notices what other processes have done, at most a few times a second.
---@async
function Store:look()
  if self.path == false or time.now() - self.looked < LOOK_EVERY then return end
  local _ <close> = self.turn:lock()
  if time.now() - self.looked < LOOK_EVERY then return end
  local path = path_of(self)
  self.looked = time.now()
  if not path then return end
  local looks = looks_of(path)
  if looks == self.seen then return end
  local generation, lines = read_lines(path)
  adopt(self, generation, lines, looks)
end

---The token of a sandbox that some process has written down.
---@async
---@param id string
---@return sbx.sandbox.Token|nil
function Store:find(id)
  self:look()
  if self.changes[id] ~= nil then return nil end
  local line = self.lines[id]
  local entry = line and entry_of(line)
  return entry and entry.refresh_at > time.wall() and entry or nil
end

-- ---------------------------------------------------------------------- writing

-- The lines of the file with our changes.
local function merge(lines, changes)
  local merged, differs = {}, false
  for id, line in pairs(lines) do
    merged[id] = line
  end
  for id, line in pairs(changes) do
    local wanted = line or nil
    if merged[id] ~= wanted then merged[id], differs = wanted, true end
  end
  return merged, differs
end

---@async
local function write_lines(path, generation, lines)
  local parts = { MAGIC .. generation .. "\n" }
  for _, line in pairs(lines) do
    parts[#parts + 1] = line .. "\n"
  end
  fs.write_atomic(path, table.concat(parts), { mode = tonumber("600", 8) })
end

-- Reads the file once more under its lock, so that nobody's entries are lost.
---@async
local function write_changes(self, path, changes)
  local generation, lines = read_lines(path)
  if self.generation and generation ~= self.generation then
    return adopt(self, generation, lines, looks_of(path))
  end
  local merged, differs = merge(lines, changes)
  if differs then
    generation = generation or hash.random_hex(8)
    write_lines(path, generation, merged)
  end
  adopt(self, generation, merged, looks_of(path))
end

local function keep_for_later(self, changes, generation)
  if generation ~= self.generation then return end -- cleared meanwhile
  for id, line in pairs(changes) do
    if self.changes[id] == nil then self.changes[id] = line end
  end
end

-- What a write that failed means: perhaps it works another time, or never.
local function write_failed(self, changes, generation, err)
  local kind = errors.is_error(err) and err.kind
  if kind ~= "timeout" and kind ~= "cancelled" then
    log.debug("gateway tokens are not written down", { path = self.path, error = err })
    self.path = false
    return
  end
  keep_for_later(self, changes, generation)
  if kind == "cancelled" then error(err, 0) end
end

---Writes what has changed. A disk that does not take it is done without.
---@async
---@param patience? number  seconds that another process may hold the file (default 2)
function Store:flush(patience)
  local changes, generation = self.changes, self.generation
  local path = next(changes) ~= nil and path_of(self)
  self.changes = {}
  if path then
    self.flying = changes
    patience = patience or LOCK_SECONDS
    local ok, err = pcall(state.locked, path, patience, write_changes, self, path, changes)
    self.flying = {}
    if not ok then write_failed(self, changes, generation, err) end
  end
  if next(self.changes) == nil then stores[self] = nil end
end

local function due_in(self)
  return self.written_at + self.gather - time.now()
end

-- Each write makes the next one wait longer, up to a limit, until there is a rest.
---@async
local function write(self)
  local rested = due_in(self) < -REST
  self.gather = rested and FIRST_GATHER or math.min(LONGEST_GATHER, self.gather * 2)
  self.written_at = time.now()
  self:flush(SHORT_LOCK_SECONDS)
end

-- Writes when that is due, or with `wait` then. One task at a time does.
---@async
local function write_changes_due(self, wait)
  self.writer = true
  local _ <close> = setmetatable({}, { __close = function() self.writer = false end })
  while next(self.changes) ~= nil and self.path ~= false do
    local due = due_in(self)
    if due > 0 and not wait then return end
    if due > 0 then task.sleep(due) else write(self) end
  end
end

---Sees to it that changes are written soon. The task that does so belongs to whoever
---asks first; when it ends early, the next one who asks makes another.
function Store:nudge()
  if self.writer or next(self.changes) == nil or self.path == false then return end
  self.writer = true
  task.daemon(function()
    local ok, err = pcall(write_changes_due, self, true)
    if not ok and not errors.is_error(err) then error(err, 0) end
  end)
end

local function change(self, id, line)
  if self.path == false then return end
  local known = self.lines[id] or self.flying[id] or self.looked < 0
  if line == false and not known then line = nil end -- nothing to take back
  self.changes[id] = line
  if next(self.changes) == nil then return end
  stores[self] = true
  register()
end

---@async
---@param id string
---@param entry sbx.sandbox.Token
function Store:put(id, entry)
  change(self, id, line_of(id, entry))
  if not self.writer then write_changes_due(self, false) end
  self:nudge()
end

---@param id string
function Store:drop(id)
  change(self, id, false)
end

---Forgets all, in all processes.
---@async
function Store:clear()
  self.lines, self.changes = {}, {}
  local path = path_of(self)
  if not path then return end
  local generation = hash.random_hex(8)
  local _, err = errors.try(state.locked, path, LOCK_SECONDS, function()
    write_lines(path, generation, {})
    self.generation, self.seen = generation, looks_of(path)
  end)
  if err then log.warn("gateway tokens on disk are not cleared", { path = path, error = err }) end
end

return token_store
