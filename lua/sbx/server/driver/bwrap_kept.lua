-- Sandboxes that outlive their server: what is written down of each, how the next server
-- takes them up again, and how it ends those that nobody knows any more.

local agent = require("sbx.server.agent")
local box = require("sbx.server.driver.bwrap_box")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local json = require("sbx.json")
local network = require("sbx.server.driver.bwrap_network")
local processes = require("sbx.server.driver.bwrap_process")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_kept
local kept = {}

local PRIVATE_FILE = 384 -- 0600
local MAX_SOCKET_PATH = 107
local CONNECT_SECONDS, END_SECONDS = 5, 5
local SWEPT_AT_ONCE = 16

local function record_path(folder, id)
  return folder .. "/" .. id .. ".json"
end

---Where the agent of a kept sandbox listens. Raises when the name is too long for that.
---@param folder string
---@param id string
---@return string
function kept.socket_path(folder, id)
  local path = folder .. "/" .. id .. ".sock"
  if #path <= MAX_SOCKET_PATH then return path end
  errors.raise {
    kind = "process", op = "start a sandbox",
    message = ("%s: too long for the name of a socket (at most %d bytes): keep the state in a"
      .. " folder with a shorter name (--state DIR)"):format(path, MAX_SOCKET_PATH),
  }
end

---What writes down the `saved` of a box, in this folder.
---@param folder string|nil
---@return fun(self: sbx.server.driver.bwrap.Box)
function kept.saver(folder)
  return function(made)
    fs.write_atomic(record_path(folder, made.id), json.encode(made.saved), { mode = PRIVATE_FILE })
  end
end

---Forgets a sandbox that has ended.
---@async
---@param folder string
---@param id string
function kept.forget(folder, id)
  fs.remove(folder .. "/" .. id .. ".sock", { missing_ok = true })
  fs.remove(record_path(folder, id), { missing_ok = true })
end

---Writes down all that `adopt` needs of a box that is up.
---@async
---@param made sbx.server.driver.bwrap.Box
function kept.complete(made)
  local saved = made.saved
  saved.inner = made.inner
  saved.outer = processes.identify(made.child.pid)
  saved.helper = made.helper and made.helper.identity
  saved.uid = made.uid
  saved.image = made.image
  saved.image_source, saved.image_resolved = made.image_source, made.image_resolved
  saved.environment = made.agent.environment
  saved.limits = made.limits
  saved.network_enforced = made.network_enforced
  saved.reachable = made.reachable
  made:save()
end

local function new_box(options, limits, spec, saved, as_root)
  local made = box.new {
    id = spec.id, as_root = as_root, keep = true, note = spec.log,
    save = kept.saver(options.folder), saved = saved,
    inner = saved.inner, outer = saved.outer, pid = saved.inner.pid, uid = saved.uid,
    image = saved.image, image_source = saved.image_source, image_resolved = saved.image_resolved,
    limits = saved.limits, network_enforced = saved.network_enforced, reachable = saved.reachable,
    group = limits:find(spec.id, saved.group), helper = network.find(saved.helper),
  }
  made.cleanup[1] = function()
    kept.forget(options.folder, spec.id)
  end
  local store = options.images
  if saved.image and store then
    made.cleanup[2] = function()
      store:release(saved.image, spec.id)
    end
  elseif saved.uid then
    made.slot_uid = saved.uid
  end
  return made
end

-- A way out that has ended is opened again, with the rules that are still in force.
local function renew_network(made, spec)
  if made.helper or not made.saved.helper then return end
  local ok, failure = pcall(made.set_network, made, spec.network_rules or {})
  if ok then return end
  made.network_enforced = false
  spec.notice("its network is lost: " .. tostring(failure))
end

---Takes up a sandbox again: its first process must be the same, and its agent answer.
---@async
---@param options sbx.server.driver.Options
---@param limits sbx.server.driver.bwrap.Limits
---@param spec sbx.server.driver.bwrap.Spec
---@param saved table
---@param as_root boolean
---@return sbx.server.driver.bwrap.Box|nil
---@return string|nil problem
function kept.adopt(options, limits, spec, saved, as_root)
  if not options.keep or not options.folder then return nil, "sandboxes are not kept" end
  if not processes.is_alive(saved.inner) then return nil, "it has ended meanwhile" end
  local made = new_box(options, limits, spec, saved, as_root)
  -- No timeout of ours around it: the link would end with that.
  local ok, failure = pcall(made.attach, made, nil, kept.socket_path(options.folder, spec.id))
  if not ok then
    if errors.is_error(failure) and failure.kind == "cancelled" then error(failure, 0) end
    return nil, "its agent does not answer: " .. tostring(failure)
  end
  made.agent.environment = saved.environment
  renew_network(made, spec)
  return made
end

-- ------------------------------------------------------------------------ sweep

local function shut_down(path)
  local over = task.waiter("an agent to end")
  local found = agent.connect(path, function()
    over:wake()
  end)
  found:shutdown()
  over:wait()
end

-- Ends one that nobody knows, whatever of it there is. Each step by itself is enough
-- where the others fail.
local function sweep_one(options, limits, id)
  local text = errors.try(fs.read, record_path(options.folder, id), { max = 1024 * 1024 })
  local saved = text and errors.try(json.decode, text)
  if type(saved) ~= "table" then saved = {} end
  errors.try(task.timeout, CONNECT_SECONDS, shut_down, options.folder .. "/" .. id .. ".sock")
  if saved.inner and not processes.await_end(saved.inner, END_SECONDS) then
    processes.kill(saved.inner)
  end
  processes.await_end(saved.inner, END_SECONDS)
  processes.kill(saved.helper, true)
  local group = limits:find(id, saved.group)
  if group then group:remove() end
  if saved.image and options.images then options.images:release(saved.image, id) end
  kept.forget(options.folder, id)
end

---Ends and removes the sandboxes that earlier runs kept in the folder, but for those
---of `known`.
---@async
---@param options sbx.server.driver.Options
---@param limits sbx.server.driver.bwrap.Limits
---@param known table<string, boolean>
---@return integer removed
function kept.sweep(options, limits, known)
  if not options.folder then return 0 end
  local ids, seen = {}, {}
  for _, name in ipairs(fs.list(options.folder)) do
    local id = name:match("^([%w_-]+)%.json$") or name:match("^([%w_-]+)%.sock$")
    if id and not known[id] and not seen[id] then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  task.map(ids, function(id)
    sweep_one(options, limits, id)
  end, { limit = SWEPT_AT_ONCE })
  return #ids
end

return kept
