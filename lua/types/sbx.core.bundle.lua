---@meta sbx.core.bundle
-- The script that goes along with this program.

---@class sbx.core.bundle
local bundle = {}

---The bytes of this program's mark, and how many of them are its magic. Behind that
---stand, little endian, where the payload begins in the file and its size, 8 bytes
---each, and its SHA-256; zeros in a plain binary.
---@return string mark, integer magic_size
function bundle.mark() end

---Whether this run is to run a script that goes along.
---@return boolean
function bundle.is_here() end

---The bytes behind the end of the binary, unchecked; nil where the file is cut short.
---@return string|nil
function bundle.payload() end

return bundle
