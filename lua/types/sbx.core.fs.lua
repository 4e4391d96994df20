---@meta sbx.core.fs

-- Operations on paths by libuv's threads. All but `cwd` and `homedir` wait. Errors
-- are objects of kind "io"; modes are permission bits; nothing has a default.

---@class sbx.core.fs
local fs = {}

---@async
---@param path string
---@param mode integer
function fs.chmod(path, mode) end

---The current directory.
---@return string
function fs.cwd() end

---What $HOME says, else the user's entry.
---@return string
function fs.homedir() end

---Another name for the same file.
---@async
---@param from string
---@param to string
function fs.link(from, to) end

---@async
---@param path string
---@return sbx.fs.Facts facts  of a link itself
function fs.lstat(path) end

---@async
---@param path string
---@param mode integer
function fs.mkdir(path, mode) end

---@async
---@param template string  ends in XXXXXX
---@return string path  of a new directory with mode 0700
function fs.mkdtemp(template) end

---@async
---@param path string
---@return string target
function fs.readlink(path) end

---@async
---@param path string
---@return string path
function fs.realpath(path) end

---@async
---@param from string
---@param to string
function fs.rename(from, to) end

---@async
---@param path string
function fs.rmdir(path) end

---@async
---@param path string
---@return sbx.fs.Facts facts  of what a link points to
function fs.stat(path) end

---@async
---@param path string
---@return integer total, integer free, integer available  bytes
function fs.statfs(path) end

---@async
---@param target string
---@param path string
function fs.symlink(target, path) end

---@async
---@param path string
function fs.unlink(path) end

---@async
---@param path string
---@param accessed number  seconds since 1970
---@param modified number
function fs.utime(path, accessed, modified) end

return fs
