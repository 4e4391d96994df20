---@meta sbx.core.fs

-- File operations by libuv's threads. All functions but `close` wait. Errors are
-- objects of kind "io"; modes are permission bits; nothing has a default.

---@class sbx.core.fs
local fs = {}

---@class sbx.core.fs.File
local File = {}

---@async
---@param path string
---@param mode integer
function fs.chmod(path, mode) end

---@async
---@param path string
---@return string[] names  without "." and "..", in no order
function fs.list(path) end

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

---The descriptor is non-blocking: look at `stat().type` before you read.
---@async
---@param path string
---@param mode "r"|"w"|"a"|"r+"|"wx"
---@param perm integer
---@return sbx.core.fs.File
function fs.open(path, mode, perm) end

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
---@param target string
---@param path string
function fs.symlink(target, path) end

---@async
---@param path string
function fs.unlink(path) end

---@async
---@param n integer  1 to 16777216
---@param offset? integer  from the file's start; else from where it stands
---@return string|nil bytes  nil at the end
function File:read(n, offset) end

---@async
---@param bytes string
---@param first? integer  position in `bytes` to start from (default 1)
---@return integer written  perhaps not all
function File:write(bytes, first) end

---@async
function File:sync() end

---@async
---@return sbx.fs.Facts
function File:stat() end

---Never waits; raises while another task uses the file.
function File:close() end

return fs
