-- The files of a simulated sandbox: in memory, by their absolute paths. There are no
-- links, no owners and no rights. Failures are returned as nil and the errno's name.

local time = require("sbx.core.time")

---@class sbx.server.sim.Files
---@field private nodes table<string, table>  beside those that every sandbox has
---@field private size integer   bytes of all files
---@field private limit integer
---@field live? sbx.server.sim.Processes  whose processes /proc shows
local Files = {}
Files.__index = Files

local files = {}

local FOLDER_MODE, FILE_MODE = 493, 420 -- 0755, 0644
local FOLDER = { type = "directory", mode = FOLDER_MODE, size = 4096, mtime = 0 }
local DEVICE = { type = "other", mode = 438, size = 0, mtime = 0 }

-- What is there from the beginning.
local BASE = { ["/dev/null"] = DEVICE, ["/dev/zero"] = DEVICE }
for path in ("/ /bin /dev /etc /home /mnt /opt /proc /proc/self /root /run /srv /sys /tmp /usr"
  .. " /usr/bin /usr/local /usr/local/bin /var /var/log /var/tmp"):gmatch("%S+") do
  BASE[path] = FOLDER
end

local CODES = { ENOENT = "No such file or directory", EISDIR = "Is a directory",
  ENOTDIR = "Not a directory", EACCES = "Permission denied", EEXIST = "File exists",
  ENOSPC = "No space left on device", EBUSY = "Device or resource busy",
  EINVAL = "Invalid argument" }

---What programs say of a failure.
---@param code string
---@return string
function files.words_of(code)
  return CODES[code] or code
end

---@param workdir string  made at once
---@param limit integer  bytes
---@return sbx.server.sim.Files
function files.new(workdir, limit)
  local self = setmetatable({ nodes = {}, size = 0, limit = limit }, Files)
  self:make_folders(workdir)
  return self
end

---`path` as an absolute one without dots and doubled slashes.
---@param cwd string  absolute
---@param path string
---@return string
function files.resolve(cwd, path)
  if path:sub(1, 1) ~= "/" then path = cwd .. "/" .. path end
  local names = {}
  for name in path:gmatch("[^/]+") do
    if name == ".." then
      names[#names] = nil
    elseif name ~= "." then
      names[#names + 1] = name
    end
  end
  return "/" .. table.concat(names, "/")
end

---@param path string  absolute and resolved
---@return string
function files.parent(path)
  return path:match("^(/.+)/[^/]*$") or "/"
end

-- A file or folder of /proc, made up as it is asked for.
local function process_node(self, path)
  local pid, name = path:match("^/proc/(%d+)/?(%a*)$")
  local process = pid and self.live and self.live:find(math.tointeger(tonumber(pid)))
  if not process then return nil end
  if name == "" then return FOLDER end
  local text = name == "stat" and process:stat() or name == "environ" and process:environ()
  if not text then return nil end
  return { type = "file", mode = 292, size = 0, mtime = 0, parts = { text }, made_up = true }
end

---@param path string
---@return table|nil  type ("file", "directory", "other"), mode, size, mtime
function Files:node(path)
  local node = self.nodes[path]
  if node then return node.type and node or nil end -- a base one may have been removed
  return BASE[path] or (path:sub(1, 6) == "/proc/" and process_node(self, path)) or nil
end

---@param path string
---@return boolean
function Files:is_folder(path)
  local node = self:node(path)
  return node ~= nil and node.type == "directory"
end

local function put(self, path, node)
  self.nodes[path] = node
  node.mtime = time.wall()
  return node
end

---@param path string
---@return boolean|nil made, string|nil code
function Files:make_folder(path)
  if self:node(path) then return nil, "EEXIST" end
  local above = self:node(files.parent(path))
  if not above then return nil, "ENOENT" end
  if above.type ~= "directory" then return nil, "ENOTDIR" end
  put(self, path, { type = "directory", mode = FOLDER_MODE, size = 4096 })
  return true
end

---The folder and those above it, as far as they are missing.
---@param path string
---@return boolean|nil made, string|nil code
function Files:make_folders(path)
  local node = self:node(path)
  if node then
    if node.type == "directory" then return true end
    return nil, "ENOTDIR"
  end
  local ok, code = self:make_folders(files.parent(path))
  if not ok then return nil, code end
  return self:make_folder(path)
end

-- ------------------------------------------------------------------------ bytes

local function content(node)
  if #node.parts ~= 1 then node.parts = { table.concat(node.parts) } end
  return node.parts[1]
end

---All bytes of a file.
---@param path string
---@return string|nil bytes, string|nil code
function Files:read(path)
  local node = self:node(path)
  if not node then return nil, "ENOENT" end
  if node.type == "directory" then return nil, "EISDIR" end
  return node.parts and content(node) or ""
end

---A new empty file in the place of what is there, or what is there to be appended to.
---@param path string
---@param append? boolean
---@return table|nil node, string|nil code
function Files:open(path, append)
  local node = self:node(path)
  if node then
    if node.type == "directory" then return nil, "EISDIR" end
    if node.made_up then return nil, "EACCES" end
    if node.parts and not append then
      self.size = self.size - node.size
      node.parts, node.size, node.mtime = {}, 0, time.wall()
    end
    return node
  end
  local above = self:node(files.parent(path))
  if not above then return nil, "ENOENT" end
  if above.type ~= "directory" then return nil, "ENOTDIR" end
  return put(self, path, { type = "file", mode = FILE_MODE, size = 0, parts = {} })
end

---Adds bytes to a file that is open, also to one that was removed since.
---@param node table
---@param bytes string
---@return boolean|nil done, string|nil code
function Files:append(node, bytes)
  if not node.parts or bytes == "" then return true end
  if self.size + #bytes > self.limit then return nil, "ENOSPC" end
  self.size = self.size + #bytes
  node.parts[#node.parts + 1] = bytes
  node.size, node.mtime = node.size + #bytes, time.wall()
  return true
end

-- ------------------------------------------------------------------------ names

---The names in a folder, sorted.
---@param path string
---@return string[]|nil names, string|nil code
function Files:list(path)
  local node = self:node(path)
  if not node then return nil, "ENOENT" end
  if node.type ~= "directory" then return nil, "ENOTDIR" end
  local names, seen = {}, {}
  local prefix = path == "/" and "/" or path .. "/"
  for _, nodes in ipairs { self.nodes, BASE } do
    for one in pairs(nodes) do
      local name = one:sub(1, #prefix) == prefix and one:sub(#prefix + 1)
      if name and name ~= "" and not name:find("/", 1, true) and not seen[name]
        and self:node(one) then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  if path == "/proc" and self.live then
    for pid in pairs(self.live.by_pid) do
      names[#names + 1] = tostring(pid)
    end
  end
  table.sort(names)
  return names
end

---Removes a file or a whole folder.
---@param path string
---@return boolean|nil done, string|nil code
function Files:remove(path)
  local node = self:node(path)
  if not node then return nil, "ENOENT" end
  if path == "/" or node.made_up then return nil, "EBUSY" end
  if node.type == "directory" then
    for _, name in ipairs(self:list(path) or {}) do
      self:remove((path == "/" and "" or path) .. "/" .. name)
    end
  elseif node.parts then
    self.size = self.size - node.size
  end
  self.nodes[path] = BASE[path] and {} or nil
  return true
end

---Moves a file or a folder, over a file that is in its place.
---@param from string
---@param to string
---@return boolean|nil done, string|nil code
function Files:rename(from, to)
  local node = self:node(from)
  if not node then return nil, "ENOENT" end
  if from == to then return true end
  if BASE[from] or node.made_up then return nil, "EBUSY" end
  if not self:is_folder(files.parent(to)) then return nil, "ENOENT" end
  local there = self:node(to)
  if there and there.type == "directory" then return nil, "EISDIR" end
  if to:sub(1, #from + 1) == from .. "/" then return nil, "EINVAL" end
  if there then self:remove(to) end
  local moved = { [from] = to }
  if node.type == "directory" then
    for path in pairs(self.nodes) do
      if path:sub(1, #from + 1) == from .. "/" then moved[path] = to .. path:sub(#from + 1) end
    end
  end
  for old, new in pairs(moved) do
    self.nodes[new], self.nodes[old] = self.nodes[old], nil
  end
  return true
end

return files
