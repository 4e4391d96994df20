-- The programs of one virtual machine by their names: a pid, a tag, or the id of their
-- session, which newer clients make up so that a start may be sent again. By that id one
-- is found for some time after its end, too: whoever lost the connection learns how it
-- ended.

local connect = require("sbx.server.rpc.connect")
local sync = require("sbx.sync")
local time = require("sbx.core.time")

local registry = {}

local MAX_PROGRAMS = 256 -- at once
local MAX_ENDED = 256
local ENDED_SECONDS = 300
local MAX_NAME = 256 -- bytes of a tag or an id

---@class sbx.server.rpc.Registry
---@field running sbx.server.rpc.Program[]  in the order of their start
---@field private ended sbx.server.rpc.Program[]  the oldest first; only those with an id
---@field private starting table<string, {lock: sbx.sync.Mutex, users: integer}>  by id
---@field lacks_bash? boolean  its image has none
---@field private places integer                how many are about to start
local Registry = {}
Registry.__index = Registry

local of_sandbox = setmetatable({}, { __mode = "k" })

---@param record sbx.server.Sandbox
---@return sbx.server.rpc.Registry
function registry.of(record)
  local found = of_sandbox[record]
  if not found then
    found = setmetatable({ running = {}, ended = {}, starting = {}, places = 0 }, Registry)
    of_sandbox[record] = found
  end
  return found
end

local function check_name(name, what)
  if name == nil or (name ~= "" and #name <= MAX_NAME) then return end
  connect.fail("invalid_argument", ("%s: expected 1 to %d bytes"):format(what, MAX_NAME))
end

---Raises `rpc` where a program cannot be called so.
---@param message { tag?: string, session_uuid?: string }
function Registry:check_names(message)
  check_name(message.tag, "tag")
  check_name(message.session_uuid, "session_uuid")
  if message.tag == nil then return end
  for _, one in ipairs(self.running) do
    if one.tag == message.tag then
      connect.fail("already_exists", ("tag: process %d has it"):format(one.pid))
    end
  end
end

---The program with an id, also for some time after its end.
---@param uuid string
---@return sbx.server.rpc.Program|nil
function Registry:by_uuid(uuid)
  for _, list in ipairs { self.running, self.ended } do
    for _, one in ipairs(list) do
      if one.uuid == uuid then return one end
    end
  end
  return nil
end

---The program that a selector names. Raises `rpc`.
---@param selector { pid?: integer, tag?: string, session_uuid?: string }|nil
---@param or_ended? boolean  also one that has ended, by its id
---@return sbx.server.rpc.Program
function Registry:find(selector, or_ended)
  if not selector or not (selector.pid or selector.tag or selector.session_uuid) then
    connect.fail("invalid_argument", "session: expected a pid, a tag or an id")
  end
  if selector.session_uuid then
    local one = self:by_uuid(selector.session_uuid)
    if one and (or_ended or not one.over) then return one end
  end
  for _, one in ipairs(self.running) do
    if one.pid == selector.pid or (selector.tag and one.tag == selector.tag) then return one end
  end
  connect.fail("not_found", "there is no such process")
end

---A place for one more program, for the time of its start. Raises `rpc`.
---@return table  to be closed
function Registry:take_place()
  if #self.running + self.places >= MAX_PROGRAMS then
    connect.fail("resource_exhausted",
      ("this sandbox has %d processes of its clients already"):format(MAX_PROGRAMS))
  end
  self.places = self.places + 1
  return setmetatable({}, { __close = function() self.places = self.places - 1 end })
end

---Calls `fn()` while no other start of the same id is under way.
---@async
---@param uuid string
---@param fn async fun(): any, any
---@return any, any
function Registry:alone(uuid, fn)
  local entry = self.starting[uuid]
    or { lock = sync.mutex("a start of the same session"), users = 0 }
  self.starting[uuid] = entry
  entry.users = entry.users + 1
  local _ <close> = setmetatable({}, {
    __close = function()
      entry.users = entry.users - 1
      if entry.users == 0 then self.starting[uuid] = nil end
    end,
  })
  local _ <close> = entry.lock:lock()
  return fn()
end

---@param one sbx.server.rpc.Program
function Registry:add(one)
  self.running[#self.running + 1] = one
end

local function forget_old(self)
  local now = time.now()
  while #self.ended > MAX_ENDED
    or (self.ended[1] and self.ended[1].ended_at + ENDED_SECONDS < now) do
    table.remove(self.ended, 1)
  end
end

---Takes a program that has ended out of those that run.
---@param one sbx.server.rpc.Program
function Registry:retire(one)
  for index, other in ipairs(self.running) do
    if other == one then
      table.remove(self.running, index)
      break
    end
  end
  one.ended_at = time.now()
  if one.uuid then self.ended[#self.ended + 1] = one end
  forget_old(self)
end

return registry
