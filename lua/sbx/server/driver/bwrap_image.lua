-- What the inside of a sandbox looks like that runs an image: the image's files, over
-- which the sandbox writes its own. The image never changes.
--
-- An image's files are hostile: a link in it may point anywhere. So nothing here goes
-- by a path through them; what must be there is made in the empty layer above.

local disk = require("sbx.server.driver.bwrap_disk")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local host = require("sbx.core.host")
local root = require("sbx.server.driver.bwrap_root")

---@class sbx.server.driver.bwrap_image
local image_root = {}

local SHM_BYTES = 64 * 1024 * 1024
local SPOT = disk.SPOT -- where the layers are put together
-- Folders of their own in memory, where the image itself cannot be written over.
local PRIVATE = { "/tmp", "/var/tmp", "/root", "/home", "/run", "/workspace" }

---The folder of an image that is the root of a sandbox.
---@param image sbx.server.Image
---@return string
local function tree_of(image)
  return image.folder .. "/rootfs"
end

-- Whether the image has a folder there that is no link, nor behind one.
local function is_plain_folder(tree, path)
  local here = tree
  for part in path:gmatch("[^/]+") do
    here = here .. "/" .. part
    local facts = errors.try(fs.lstat, here)
    if not facts or facts.type ~= "directory" then return false end
  end
  return true
end

local function is_plain_file(tree, path)
  local folder = path:match("^(.*)/[^/]+$")
  if not is_plain_folder(tree, folder) then return false end
  local facts = errors.try(fs.lstat, tree .. path)
  return facts ~= nil and facts.type == "file"
end

-- Where no layer can be put above the image: some folders are in memory, the rest
-- cannot be written.
local function add_read_only(args, plan, bytes)
  local tree = tree_of(plan.image)
  local function add(...)
    for _, argument in ipairs { ... } do
      args[#args + 1] = tostring(argument)
    end
  end
  add("--ro-bind", tree, "/")
  local done = {}
  local function private(path, size, mode)
    if done[path] then return end
    done[path] = true
    if is_plain_folder(tree, path) then add("--size", size, "--perms", mode, "--tmpfs", path) end
  end
  private(plan.spec.workdir, plan.disk_bytes, "0755")
  for _, path in ipairs(PRIVATE) do
    private(path, math.max(4096, plan.disk_bytes // 8), path:find("tmp$") and "1777" or "0755")
  end
  for path, text in pairs(root.name_files(plan.spec.hostname, plan.nameserver)) do
    if is_plain_file(tree, path) then
      add("--perms", "0644", "--ro-bind-data", bytes(text), path)
    end
  end
end

---The bubblewrap arguments for the file system, and stdio entries that they need,
---numbered from `first_fd`. The agent is at /.agent.
---@async
---@param plan sbx.server.driver.bwrap.Plan
---@param first_fd integer
---@return string[], table[]
function image_root.plan(plan, first_fd)
  local args, stdio = {}, {}
  local function bytes(data)
    local fd = first_fd + #stdio
    stdio[#stdio + 1] = { fd = fd, kind = "bytes", data = data }
    return fd
  end
  if plan.overlay then
    args = { "--bind", SPOT .. "/root", "/" }
  else
    add_read_only(args, plan, bytes)
  end
  for _, argument in ipairs {
    "--proc", "/proc", "--dev", "/dev",
    "--size", SHM_BYTES, "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
    "--perms", "0555", "--ro-bind-data", bytes(host.agent()), "/.agent",
  } do
    args[#args + 1] = tostring(argument)
  end
  return args, stdio
end

-- Folders above the image, from the top down, for `mkdir`.
local function folders_above(workdir)
  local list, seen = {}, {}
  local function add(path)
    if path == "/" or seen[path] then return end
    seen[path] = true
    local parent = path:match("^(.*)/[^/]+$")
    if parent ~= "" then add(parent) end
    list[#list + 1] = "upper" .. path
  end
  for _, path in ipairs { "/proc", "/dev", "/etc", "/root", workdir } do
    add(path)
  end
  return list
end

---Adds to the shell's `lines`, and the `words` that they take, what puts a layer over
---the image, on the sandbox's disk or in memory.
---@param plan sbx.server.driver.bwrap.Plan
---@param lines string[]
---@param words string[]
function image_root.prepare(plan, lines, words)
  local function add(line)
    lines[#lines + 1] = line
  end
  local function word(text)
    words[#words + 1] = text
  end
  -- From inside the image's folder, whose name may have any characters.
  add('cd "$1"; shift')
  word(plan.image.folder)
  if not plan.disk then
    add(("mount -t tmpfs -o size=%d,nr_inodes=%d,mode=755 sbxlua %s"):format(
      plan.disk_bytes, math.max(16384, plan.disk_bytes // 4096), SPOT))
  end
  -- All at once: starting a program takes longer than what it does here.
  local folders = folders_above(plan.spec.workdir)
  local places = {}
  for index, folder in ipairs(folders) do
    places[index] = ('"${%d}"'):format(index)
    word(folder)
  end
  local shifts = #folders
  add(("(cd %s; mkdir upper work root %s"):format(SPOT, table.concat(places, " ")))
  add(("shift %d"):format(shifts))
  for path, text in pairs(root.name_files(plan.spec.hostname, plan.nameserver)) do
    add(('printf %%s "$1" > upper%s; shift'):format(path))
    word(text)
    shifts = shifts + 1
  end
  add(": > upper/.agent")
  if plan.uid then add(("chown -R %d:%d upper"):format(plan.uid, plan.uid)) end
  -- A subshell's shifts are its own.
  add(("); shift %d"):format(shifts))
  local layers = ("lowerdir=rootfs,upperdir=%s/upper,workdir=%s/work"):format(SPOT, SPOT)
  if not plan.uid then layers = "userxattr," .. layers end
  add(("mount -t overlay -o %s sbxlua %s/root"):format(layers, SPOT))
  add("cd /")
end

return image_root
