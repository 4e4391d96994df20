-- The state folder: what runs of this user share and leave for later ones. Its
-- files hold tokens and ids, so that nobody else may look into it.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local log = require("sbx.log")
local sync = require("sbx.sync")
local time = require("sbx.core.time")

local state = {}

local PRIVATE = tonumber("700", 8)
local FILE_MODE = tonumber("600", 8)
local OTHERS = tonumber("077", 8)
local MAX_FILE = 64 * 1024 * 1024 -- bytes of one file of state
local OLD = 30 * 86400 -- seconds after which nobody misses a file of an account
local FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.02 -- seconds between two tries for a lock

local chosen -- in place of what the environment says; false: none
local told = {} -- folders that were complained about
local turns = {} -- path → who of this process holds its lock, and who waits for it

---Puts another folder in place of the one that the environment names: for tests.
---@param folder string|false|nil  false: there is none; nil: as the environment says
function state.use(folder)
  chosen = folder
end

---@async
local function base()
  if chosen ~= nil then return chosen or nil end
  local given = os.getenv("XDG_STATE_HOME")
  if given and given:sub(1, 1) == "/" then return given .. "/sbxlua" end
  local home = os.getenv("HOME")
  -- Who has no home gets none here.
  if not home or home:sub(1, 1) ~= "/" or not errors.try(fs.is_dir, home) then return nil end
  return home .. "/.local/state/sbxlua"
end

---Where the state folder is, whether it is there or not; nil where there can be none.
---@async
---@return string|nil path
function state.place()
  return base()
end

-- Nobody but its owner may see what is in it, or put something there.
---@async
local function make_private(path)
  fs.mkdir(path, { parents = true, mode = PRIVATE })
  local facts = fs.lstat(path)
  if facts.type ~= "directory" then
    errors.raise({ kind = "io", code = "ENOTDIR", message = path .. " is not a folder" })
  end
  if facts.uid ~= fs.stat("/proc/self").uid then
    errors.raise({ kind = "io", code = "EPERM", message = path .. " belongs to another user" })
  end
  if facts.mode & OTHERS ~= 0 then fs.chmod(path, PRIVATE) end
end

---The folder for one kind of state, made where there is none; nil where there can
---be none, which is said once: the caller then does without.
---@async
---@param name? string  below the state folder
---@return string|nil path
---@return sbx.Error|nil err  why the folder that the environment names cannot be used
function state.folder(name)
  local path = base()
  if not path then return nil end
  local _, err = errors.try(function()
    make_private(path)
    if name then
      path = path .. "/" .. name
      make_private(path)
    end
  end)
  if not err then return path end
  if not told[path] then
    told[path] = true
    log.debug("no state folder", { path = path, error = err })
  end
  return nil, err
end

---A name for files that belong to one account of one API, which tells neither.
---@param config sbx.sandbox.Config
---@return string  hex digits
function state.account(config)
  return hash.hmac("sha256", config.api_key, "sbxlua " .. config.base_url):sub(1, 24)
end

-- Accounts of servers that are long gone: their ports were never the same.
---@async
local function remove_old(folder)
  local before = time.wall() - OLD
  for _, name in ipairs(fs.list(folder)) do
    local path = folder .. "/" .. name
    local facts = name:sub(-5) ~= ".lock" and errors.try(fs.lstat, path)
    if facts and facts.type == "file" and facts.mtime < before then
      fs.remove(path, { missing_ok = true })
      fs.remove(path .. ".lock", { missing_ok = true })
    end
  end
end

---The path of an account's file for one kind of state; nil where there is no state
---folder. The file need not be there; making room for it removes old ones.
---@async
---@param name string  below the state folder
---@param config sbx.sandbox.Config
---@return string|nil path
function state.file(name, config)
  local folder = state.folder(name)
  if not folder then return nil end
  local path = folder .. "/" .. state.account(config)
  if not fs.exists(path) then errors.try(remove_old, folder) end
  return path
end

---Whether only its owner can read and write a file, and it is no link.
---@async
---@param path string
---@return boolean
function state.is_private(path)
  local facts = errors.try(fs.lstat, path)
  return facts ~= nil and facts.type == "file" and facts.mode & OTHERS == 0
    and facts.uid == fs.stat("/proc/self").uid
end

---The bytes of a file of state; nil where there is none, or none that can be read.
---@async
---@param path string
---@return string|nil
function state.bytes(path)
  return (errors.try(fs.read, path, { max = MAX_FILE }))
end

---The JSON object in a file of state; an empty one where there is no such file or
---it holds anything else.
---@async
---@param path string
---@return table
function state.read(path)
  local bytes = state.bytes(path)
  if not bytes or not bytes:find("^%s*{") then return {} end
  local ok, value = pcall(json.decode, bytes)
  return ok and type(value) == "table" and value or {}
end

---Replaces a file of state: a reader finds the old bytes or the new ones. After a
---crash of the machine it may be empty; see `fs.write_atomic` for what must not be.
---The caller holds its lock.
---@async
---@param path string
---@param bytes string
function state.replace(path, bytes)
  local beside = path .. ".new"
  fs.remove(beside, { missing_ok = true }) -- a link, or a mode that is not ours
  fs.write(beside, bytes, { mode = FILE_MODE })
  fs.rename(beside, path)
end

-- One process at a time. The lock goes with its holder, however that ends; one that
-- holds it and stands still must not hold up others for longer than they want.
---@async
local function lock_file(path, patience)
  local deadline = time.now() + patience
  local pause = FIRST_PAUSE
  while true do
    local held = fs.try_lock(path)
    if held then return held end
    if time.now() >= deadline then
      errors.raise({
        kind = "timeout",
        op = "lock",
        code = "EBUSY",
        message = ("lock %s: another process held it for %g s"):format(path, patience),
      })
    end
    time.sleep(pause * (0.5 + math.random()))
    pause = math.min(LONGEST_PAUSE, pause * 2)
  end
end

---Runs `fn(...)` while no other task or process holds the lock of `path`, a file
---beside it. Raises kind `timeout` when another process holds it for too long.
---@async
---@generic T
---@param path string
---@param patience number  seconds; math.huge for as long as it takes
---@param fn async fun(...): T
---@return T
function state.locked(path, patience, fn, ...)
  local turn = turns[path]
  if not turn then
    turn = sync.mutex("state file")
    turns[path] = turn
  end
  local _ <close> = turn:lock()
  -- Whoever comes later while nobody waits starts anew: paths do not pile up.
  local _ <close> = setmetatable({}, { __close = function()
    if turn.waiting == 0 then turns[path] = nil end
  end })
  local _ <close> = lock_file(path .. ".lock", patience)
  return fn(...)
end

---Reads a JSON file of state, calls `fn(value)`, which may change the table, and
---writes it back unless `fn` returns false as its first result; no other process
---does so meanwhile. Returns what `fn` returned. Raises as `locked` does.
---@async
---@param path string
---@param patience number  seconds
---@param fn fun(value: table): ...
---@return any ...
function state.update(path, patience, fn)
  return state.locked(path, patience, function()
    local value = state.read(path)
    local result = table.pack(fn(value))
    if result[1] ~= false then state.replace(path, json.encode(value)) end
    return table.unpack(result, 1, result.n)
  end)
end

return state
