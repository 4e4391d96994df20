-- What this run is about to make, has made and has deleted, written down before it
-- happens: should the process die at once, `sbxlua gc` finds what it left.
--
-- One file for each run and account, of one JSON object a line. Its first line
-- says whose it is; the process holds a lock on it as long as it lives. Neither
-- keys nor tokens are in it.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local log = require("sbx.log")
local process = require("sbx.process")
local state = require("sbx.sandbox.state")
local sync = require("sbx.sync")
local task = require("sbx.task")
local time = require("sbx.core.time")

local ledger = {}

ledger.FOLDER = "runs"
ledger.LABEL = "sbxlua-run=" -- and the run's name
ledger.KEEP = "sbxlua-keep" -- the label of what outlives its run on purpose

local OPEN_SECONDS = 10 -- that opening a ledger may hold off a cancellation

-- One run, whatever number of clients it has.
local run_id
local slots = 0

---The name of this run, also in the label of all that it makes.
---@return string
function ledger.run_id()
  if not run_id then
    local now = time.iso():gsub("%.%d+", ""):gsub("[-:Z]", ""):gsub("T", "-")
    run_id = now .. "-" .. hash.random_hex(4)
  end
  return run_id
end

---The label of the sandboxes of a run.
---@param run? string  default: this one
---@return string
function ledger.label(run)
  return ledger.LABEL .. (run or ledger.run_id())
end

---A new idempotency key, which no other run uses.
---@return string
function ledger.new_key()
  slots = slots + 1
  return ("%s-%d"):format(ledger.run_id(), slots)
end

---The labels to create with: the given ones and those of this run. What was copied
---from a sandbox of another run does not make this one a part of that.
---@param given string[]
---@param keep boolean
---@return string[]
function ledger.labels(given, keep)
  local labels = {}
  for _, label in ipairs(given) do
    local ours = label == ledger.KEEP or label:sub(1, #ledger.LABEL) == ledger.LABEL
    if not ours then labels[#labels + 1] = label end
  end
  labels[#labels + 1] = ledger.label()
  if keep then labels[#labels + 1] = ledger.KEEP end
  return json.array(labels)
end

local function first_line(path)
  local text = errors.try(fs.read, path, { max = 4096 })
  return text and text:match("^[^\n]+")
end

---Where this process runs: the machine's name, and what tells its kernel from
---others.
---@async
---@return string|nil host, string|nil boot
function ledger.place()
  return first_line("/proc/sys/kernel/hostname"), first_line("/proc/sys/kernel/random/boot_id")
end

---When a process began, in the kernel's own count; nil when none runs. With its number
---this names it, until the next boot.
---@async
---@param pid integer
---@return string|nil
function ledger.born(pid)
  local line = first_line(("/proc/%d/stat"):format(pid))
  -- The second field, the name of the program, may be anything; a dead one is Z or X.
  return line and line:match("^.*%) [^ZX]" .. (" %S+"):rep(18) .. " (%d+)")
end

---@class sbx.sandbox.Ledger
---@field path string
---@field private file sbx.fs.File
---@field private lock sbx.fs.Lock
---@field private turn sbx.sync.Mutex
---@field private pending string[]  lines that are not written yet
---@field private added integer     lines so far
---@field private written integer   of these, in the file
---@field private synced integer    of these, on disk
---@field unsure boolean|nil  there may be more than stands in it
---@field private marks boolean|nil  something was marked to be kept
---@field private keys table<string, boolean>  intents whose end is unknown
---@field private live table<string, boolean>  made, and neither gone nor kept
local Ledger = {}
Ledger.__index = Ledger

-- -------------------------------------------------------------------- opening

local opened = {} -- account → ledger, or false where there can be none
local opening = sync.mutex("opening the ledger")

-- The file has its lock before it has its name: nobody finds it without.
---@async
local function locked_file(folder, name)
  local path, unnamed = folder .. "/" .. name, folder .. "/." .. name
  local lock = fs.try_lock(unnamed)
  if not lock then
    errors.raise({ kind = "io", code = "EAGAIN", message = unnamed .. " is locked" })
  end
  local ok, file = pcall(function()
    fs.rename(unnamed, path)
    return fs.open(path, "a", { perm = tonumber("600", 8) })
  end)
  if ok then return path, lock, file end
  lock:close()
  error(file, 0)
end

---@async
local function open(config)
  local folder, problem = state.folder(ledger.FOLDER)
  if problem then error(problem, 0) end
  if not folder then return nil end
  local account = state.account(config)
  local name = ("%s.%s.jsonl"):format(ledger.run_id(), account:sub(1, 8))
  local path, lock, file = locked_file(folder, name)
  local self = setmetatable({
    path = path, lock = lock, file = file, turn = sync.mutex("ledger"),
    pending = {}, added = 0, written = 0, synced = 0, keys = {}, live = {},
  }, Ledger)
  local host, boot = ledger.place()
  self:add({
    v = 1, run = ledger.run_id(), at = time.wall(), host = host, boot = boot,
    pid = process.pid(), born = ledger.born(process.pid()),
    url = config.base_url:gsub("//[^/]*@", "//"), account = account,
    program = arg and arg[0] or nil,
  })
  return self
end

local function give_up(err)
  log.warn("no ledger: should this process be killed, sbxlua gc cannot find its sandboxes",
    { error = err })
end

---The ledger of this run for the client's account; nil where nothing outlives the
---run anyway, or there is no place for one.
---@async
---@param config sbx.sandbox.Config
---@return sbx.sandbox.Ledger|nil
function ledger.of(config)
  if config.is_local or config.api_key == "" then return nil end
  local account = state.account(config)
  if opened[account] == nil then
    local _ <close> = opening:lock()
    if opened[account] == nil then
      local ok, made = pcall(task.shield, OPEN_SECONDS, open, config)
      opened[account] = ok and made or false
      if not ok then give_up(made) end
    end
  end
  return opened[account] or nil
end

-- -------------------------------------------------------------------- writing

---@private
function Ledger:add(entry)
  self.pending[#self.pending + 1] = json.encode(entry) .. "\n"
  self.added = self.added + 1
end

-- Writes what is pending. What failed halfway is written once more: lines that
-- stand there twice do no harm, a line that was torn must not spoil the next.
---@async
local function write_out(self)
  local lines, last = self.pending, self.added
  if #lines == 0 then return end
  self.pending = {}
  local ok, err = pcall(self.file.write, self.file, table.concat(lines))
  if ok then
    self.written = last
    return
  end
  table.insert(lines, 1, "\n")
  self.pending = table.move(self.pending, 1, #self.pending, #lines + 1, lines)
  error(err, 0)
end

-- Waits until all lines so far are in the file, or on disk. While one task writes,
-- the lines of the others gather and go with the next one: one fsync for all.
---@async
---@param self sbx.sandbox.Ledger
---@param durably boolean
local function commit(self, durably)
  local mine = self.added
  local _ <close> = self.turn:lock()
  if (durably and self.synced or self.written) >= mine then return end
  write_out(self)
  if durably then
    local last = self.written
    self.file:sync()
    self.synced = last
  end
end

---Notes that a create with this idempotency key is about to be sent. Waits until
---the disk has it. Where it cannot be written, the run goes on without a ledger.
---@async
---@param key string
---@param keep boolean  whether the sandbox is to outlive the run
---@param team string|nil
function Ledger:intend(key, keep, team)
  if team == "" then team = nil end
  self:add({ e = "intend", key = key, at = time.wall(), keep = keep or nil, team = team })
  self.keys[key] = true
  if self.broken then return end
  local done, err = errors.try(function()
    commit(self, true)
    return true
  end)
  if done or self.broken then return end
  self.broken = true
  give_up(err)
end

---Notes what became of an intent: the sandbox, or that none was made. It is in the
---file after the next `flush`; what is not there yet when the process dies is found
---by the run's label.
---@param key string
---@param id string|nil
---@param keep boolean
function Ledger:made(key, id, keep)
  self:add({ e = id and "made" or "none", key = key, id = id, keep = keep or nil })
  self.keys[key] = nil
  if id and not keep then self.live[id] = true end
end

---Notes that a sandbox of this run is deleted, or kept on purpose.
---@param id string
---@param kept? boolean
function Ledger:gone(id, kept)
  self:add({ e = kept and "kept" or "gone", id = id })
  self.live[id] = nil
  self.marks = self.marks or kept
end

-- Whether the file tells nothing that the label of a sandbox does not.
local function is_idle(self)
  return next(self.keys) == nil and next(self.live) == nil and not self.unsure
end

---Waits until what was noted is in the file. A failure is none of the caller's:
---it only makes `sbxlua gc` ask more.
---@async
function Ledger:flush()
  if self.broken then return end
  errors.try(commit, self, false)
end

---The run is over: the file goes when nothing is left, and stays for `sbxlua gc`
---when something is. Whatever happens, the lock is given back.
---@async
function Ledger:finish()
  local ok, err = pcall(function()
    if is_idle(self) then
      fs.remove(self.path, { missing_ok = true })
    elseif not self.broken then
      commit(self, true)
    end
  end)
  self.file:close()
  self.lock:close()
  if not ok then error(err, 0) end
end

---Puts away the ledgers in which nothing is open, until the next create: between
---tests, which are to leave no descriptor behind.
---@async
function ledger.rest()
  for account, found in pairs(opened) do
    if found and is_idle(found) and not found.marks then
      opened[account] = nil
      errors.try(found.finish, found)
    end
  end
end

---Ends the ledgers of this run. What is created afterwards is another run's.
---@async
function ledger.finish()
  local all, failed = opened, nil
  opened, run_id, slots = {}, nil, 0
  for _, found in pairs(all) do
    if found then
      local ok, err = pcall(found.finish, found)
      if not ok then failed = failed or err end
    end
  end
  if failed then error(failed, 0) end
end

return ledger
