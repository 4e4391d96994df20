-- Sandboxes by bubblewrap: one for each, with namespaces of its own and our
-- agent as its first process. Needs no daemon, no images and no privileges.
--
-- Started by root, a sandbox would be this machine's root with fewer rights. So
-- as root every sandbox gets a user id of its own first, from a range that
-- belongs to nobody; without that, nothing is started.

local box = require("sbx.server.driver.bwrap_box")
local check = require("sbx.server.driver.bwrap_check")
local disk = require("sbx.server.driver.bwrap_disk")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local kept = require("sbx.server.driver.bwrap_kept")
local launch = require("sbx.server.driver.bwrap_launch")
local limits = require("sbx.server.driver.bwrap_limits")
local network = require("sbx.server.driver.bwrap_network")
local overlay = require("sbx.server.driver.bwrap_overlay")
local processes = require("sbx.server.driver.bwrap_process")
local root = require("sbx.server.driver.bwrap_root")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap
local bwrap = { name = "bwrap" }

local FIRST_UID, UIDS_EACH, SLOTS = 1000000, 65536, 15000
local STOP_SECONDS = 20
-- A sandbox ends by itself after this time whatever happens to its server; a
-- little more than the longest lifetime that can be asked for.
local LONGEST_LIFE = 25 * 3600

---@class sbx.server.driver.bwrap.Spec: sbx.server.driver.Spec
---@field notice? fun(line: string)  for what the user must know (default: log)
---@field throwaway? boolean         gone in a moment: never kept

---@class sbx.server.driver.bwrap.Driver: sbx.server.Driver
---@field enforced table<string, string>  what is limited in every sandbox, and by what
---@field limits sbx.server.driver.bwrap.Limits
---@field private options sbx.server.driver.Options
---@field private as_root boolean
---@field private disks? sbx.server.driver.bwrap.Disks
---@field disk_problem? string  why there are no disks, as root
---@field private overlay? boolean  whether a user can put a layer over an image
local Driver = { name = "bwrap", features = { network_rules = true, images = false } }
Driver.__index = Driver

-- Slots of user ids in use by this process. Two servers may draw the same one, which
-- only makes two sandboxes the same user, each in namespaces of its own.
local slots = {}

local function take_slot()
  local slot
  repeat
    slot = math.random(0, SLOTS - 1)
  until not slots[slot]
  slots[slot] = true
  return slot
end

-- The disks of sandboxes; nil, and why, where their files are in memory.
local function open_disks(options, as_root)
  local disks, problem
  if as_root then
    disks, problem = disk.open(options.disks)
  elseif options.disks then
    problem = "only root can mount disks"
  end
  if disks or not options.disks then return disks, problem end
  errors.raise { kind = "usage", message = "--disks: " .. tostring(problem) }
end

---Finds out what can be limited here. Starts nothing.
---@async
---@param options? sbx.server.driver.Options
---@return sbx.server.driver.bwrap.Driver
function bwrap.open(options)
  options = options or {}
  if options.argument then
    errors.raise {
      kind = "usage", message = "--driver: bwrap takes nothing, got bwrap=" .. options.argument,
    }
  end
  local as_root = fs.stat("/proc/self").uid == 0
  local disks, problem = open_disks(options, as_root)
  local found = limits.open(options.folder, disks ~= nil, options.keep)
  return setmetatable({
    options = options,
    as_root = as_root,
    disks = disks,
    disk_problem = problem,
    limits = found,
    enforced = found.enforced,
    strict_images = options.strict_images,
    features = { network_rules = true, images = options.images ~= nil },
  }, Driver)
end

---Leaves nothing of its own behind.
---@async
function Driver:close()
  self.limits:close()
  if self.disks then self.disks:close() end
end

-- ------------------------------------------------------------------ the start

local function complete(spec)
  local full = {}
  for key, value in pairs(spec) do
    full[key] = value
  end
  full.log = spec.log or function() end
  full.notice = spec.notice or full.log
  full.hostname = spec.hostname or "sandbox"
  full.workdir = spec.workdir or "/workspace"
  full.lifetime = math.min(spec.lifetime or LONGEST_LIFE, LONGEST_LIFE)
  full.network = spec.network and true or false
  -- A host name is 64 bytes at most, and bubblewrap takes what it is given.
  full.hostname = full.hostname:gsub("[^%w-]", "-"):sub(1, 63)
  return full
end

-- The image that is asked for, where there is a store that has it.
local function find_image(self, spec)
  local store = self.options.images
  local image = store and spec.image and store:find(spec.image)
  if image then return image, "store", image:describe() end
  local name = spec.image or "(none)"
  if self.options.strict_images and not spec.throwaway then
    errors.raise {
      kind = "image_pull",
      message = ("image %s is not in the local store: sbxlua image import %s FILE.tar")
        :format(name, name),
    }
  end
  local resolved = root.describe()
  if not spec.throwaway then
    spec.notice(("image %s is not in the local store; using %s"):format(name, resolved))
  end
  return nil, "host", resolved
end

-- Images belong to one user each; without one, the sandbox is a user of its own.
local function choose_uid(self, made, image)
  if not self.as_root then return nil end
  if image then
    if image.uid and image.uid >= FIRST_UID then return image.uid end
    errors.raise {
      kind = "image_pull",
      message = ("image %s was not imported by root; import it again"):format(image.name),
    }
  end
  local slot = take_slot()
  made.cleanup[#made.cleanup + 1] = function()
    slots[slot] = nil
  end
  return FIRST_UID + UIDS_EACH * slot
end

local function has_overlay(self, spec)
  if self.as_root then return true end
  if self.overlay == nil then
    local problem
    self.overlay, problem = overlay.probe()
    if not self.overlay then
      spec.notice("images are read-only here, but for some folders: " .. tostring(problem))
    end
  end
  return self.overlay
end

-- What the launch is to be, and what of it must be undone.
local function prepare(self, made, spec)
  local image, source, resolved = find_image(self, spec)
  made.image_source, made.image_resolved = source, resolved
  made.uid = choose_uid(self, made, image)
  if image then
    made.image = image.id
    made.cleanup[#made.cleanup + 1] = image:hold(spec.id)
  end
  local layered = image and has_overlay(self, spec) or false
  local disk_bytes = root.disk_bytes(spec.disk_size_gb or 10, self.disks ~= nil)
  local own_disk
  if self.disks and (layered or not image) then
    disk_bytes = self.disks:bound(disk_bytes)
    own_disk = self.disks:create(disk_bytes)
  end
  if own_disk then
    made.cleanup[#made.cleanup + 1] = function()
      disk.settle(own_disk)
    end
  end
  local bounds
  bounds, made.limits = self.limits:create(spec, disk_bytes, own_disk ~= nil)
  made.group = bounds.group
  made.reachable = self.as_root or spec.network or spec.network_rules ~= nil
  local listen
  if made.keep then
    listen = kept.socket_path(self.options.folder, spec.id)
    made.saved = { socket = listen, id = spec.id, group = made.group and made.group.id }
    made:save()
  end
  return {
    spec = spec, disk_bytes = disk_bytes, max_processes = limits.MAX_PROCESSES, uid = made.uid,
    joins = made.group and made.group.joins or {}, data_bytes = bounds.data_bytes,
    image = image, overlay = layered, disk = own_disk,
    nameserver = made.reachable and network.NAMESERVER or nil,
    -- As a user, the way out is attached through the sandbox's user namespace,
    -- and the option would hide that one in another. The filter of system calls
    -- refuses new ones in any case.
    own_userns = not self.as_root and made.reachable,
    listen = listen,
  }, image
end

local function read_all(stream, limit)
  local parts, size = {}, 0
  while size < limit do
    local bytes = stream:read(limit - size)
    if not bytes then break end
    parts[#parts + 1] = bytes
    size = size + #bytes
  end
  return table.concat(parts)
end

-- What bubblewrap said before it gave up, in one line.
local function complaint(stream)
  local text = errors.try(task.timeout, 2, read_all, stream, 4096) or ""
  return (text:gsub("%c+", " "):gsub("%s+$", ""))
end

local function is_cancelled(failure)
  return errors.is_error(failure) and failure.kind == "cancelled"
end

local function attach_agent(made, plan)
  local child = made.child
  local ok, failure = pcall(made.attach, made, child.fds[launch.CONTROL_FD], plan.listen)
  if ok then
    child.stderr:close()
    return
  end
  if is_cancelled(failure) then error(failure, 0) end
  local said = complaint(child.stderr)
  if said == "" then said = tostring(failure) end
  errors.raise { kind = "process", op = "start a sandbox", message = "bubblewrap: " .. said }
end

local function identify(made)
  made.pid = processes.child_of(made.child.pid)
  made.inner = made.pid and processes.identify(made.pid)
  if not made.inner then
    errors.raise { kind = "process", message = "bubblewrap: no process of the sandbox to be seen" }
  end
  made:verify_user()
end

local function attach_network(made, spec)
  local wants = spec.network or spec.network_rules ~= nil
  if not wants then
    made.network_enforced = true
    return
  end
  local rules = spec.network_rules or {}
  if not spec.network and not spec.network_rules then rules = { allowlist = {} } end
  local ok, failure = pcall(made.set_network, made, rules)
  if ok then
    made.network_enforced = true
    spec.log("network: slirp4netns; this machine and private networks are fenced off")
    return
  end
  if is_cancelled(failure) then error(failure, 0) end
  if errors.is_error(failure) and failure.kind == "unsupported" then error(failure, 0) end
  spec.notice("network asked for but not given: " .. tostring(failure))
end

-- From the plan to a working sandbox; raises when it is not to be.
local function bring_up(self, made, spec)
  local plan, image = prepare(self, made, spec)
  made.child = launch.spawn(plan)
  if made.keep then made.child:unref() end
  attach_agent(made, plan)
  if plan.disk then disk.settle(plan.disk) end
  identify(made)
  attach_network(made, spec)
  made.agent.environment = spec.env
  if image then
    made.agent.environment = image:environment(spec.env)
    image:held_by(spec.id, made.inner)
  end
  if made.keep then kept.complete(made) end
end

-- Watches over it from here on, in the current task.
local function look_after(self, made)
  if self.disks and made.limits.disk == "ext4" then
    local outer = made.child and made.child.pid or made.outer.pid
    made.cleanup[#made.cleanup + 1] = self.disks.guard:join(outer, disk.SPOT, made.note)
    task.daemon(self.disks.guard.watch, self.disks.guard)
  end
  made:start_watch()
end

---Starts a sandbox and waits until its agent is ready. It belongs to the current
---task or scope: when that ends, so does the sandbox; `kill` also waits for it.
---Raises `image_pull` where images are strict and it is not in the store.
---@async
---@param given sbx.server.driver.bwrap.Spec
---@return sbx.server.driver.bwrap.Box
function Driver:create(given)
  local spec = complete(given)
  local begun = task.now()
  local keep = self.options.keep and self.options.folder and not spec.throwaway or false
  local made = box.new {
    id = spec.id, as_root = self.as_root, keep = keep, note = spec.log, network_enforced = false,
    save = kept.saver(self.options.folder), cleanup = {},
  }
  if keep then
    made.cleanup[1] = function()
      kept.forget(self.options.folder, spec.id)
    end
  end
  local up, failure = pcall(bring_up, self, made, spec)
  if not up then
    task.shield(STOP_SECONDS, made.kill, made)
    error(failure, 0)
  end
  look_after(self, made)
  spec.log(("sandbox started in %.0f ms"):format((task.now() - begun) * 1000))
  return made
end

-- ------------------------------------------------------------- later on, and the end

---Takes up a sandbox again that an earlier server left running.
---@async
---@param given sbx.server.driver.bwrap.Spec
---@param saved table
---@return sbx.server.driver.bwrap.Box|nil
---@return string|nil problem
function Driver:adopt(given, saved)
  local spec = complete(given)
  local made, problem = kept.adopt(self.options, self.limits, spec, saved, self.as_root)
  if not made then return nil, problem end
  if made.slot_uid then slots[(made.slot_uid - FIRST_UID) // UIDS_EACH] = true end
  look_after(self, made)
  return made
end

---Ends and removes what earlier runs left, but for the sandboxes in `known`.
---@async
---@param known table<string, boolean>
---@return integer removed
function Driver:sweep(known)
  local removed = kept.sweep(self.options, self.limits, known)
  return removed + self.limits:sweep(known)
end

---Whether an image can be had here.
---@async
---@param name string
---@return boolean accessible
---@return string details
function Driver:look_for_image(name)
  local store = self.options.images
  local image = store and store:find(name)
  if image then return true, image:describe() end
  if self.options.strict_images then
    return false, "not in the local store; sbxlua image import NAME FILE.tar puts it there"
  end
  return true, "not in the local store; " .. root.describe() .. " would stand in for it"
end

---Tries it in a throw-away sandbox.
---@async
---@return {ok: boolean, problems: string[]}
function Driver:check()
  local problem = check.try(self)
  if not problem then return { ok = true, problems = {} } end
  local advice = check.advice(problem)
  return { ok = false, problems = { tostring(problem) .. (advice and " — " .. advice or "") } }
end

return bwrap
