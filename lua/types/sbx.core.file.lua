---@meta sbx.core.file

-- Open files. Errors are objects of kind "io"; nothing has a default.

---@class sbx.core.file
local file = {}

---@class sbx.core.file.File
local File = {}

---The descriptor is non-blocking: look at `stat().type` before you read.
---@async
---@param path string
---@param mode "r"|"w"|"a"|"r+"|"wx"
---@param perm integer
---@return sbx.core.file.File
function file.open(path, mode, perm) end

---@async
---@param template string  ends in XXXXXX
---@return sbx.core.file.File file  to read and write; a new one with mode 0600
---@return string path
function file.temporary(template) end

---@async
---@param n integer  1 to 16777216
---@param offset? integer  from the file's start; else from the position, which moves
---@return string|nil bytes  nil at the end
function File:read(n, offset) end

---@async
---@param bytes string
---@param first? integer   position in `bytes` to start from (default 1)
---@param offset? integer  from the file's start; else at the position, which moves
---@return integer written  perhaps not all
function File:write(bytes, first, offset) end

---@async
function File:sync() end

---@async
---@return sbx.fs.Facts
function File:stat() end

---The position; nil where the kernel keeps it: appending, terminals.
---@return integer|nil
function File:tell() end

---@param position integer
function File:seek(position) end

---Never waits; raises while another task uses the file.
function File:close() end

return file
