-- Programs made of a script: `sbxlua bundle`; and the files that go along with them.

local check = require("sbx.check")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local start = require("sbx.bundle.start")

---@class sbx.bundle
local bundle = {}

---Whether the running program is one that `sbxlua bundle` made.
---@return boolean
function bundle.is_bundled()
  return start.files ~= nil
end

---The bytes of a file that goes along with the script, by the path it was included
---with. In a script that is no bundled program yet it is read, from beside the script.
---Raises kind `io`, code `ENOENT`, where there is none.
---@async
---@param path string
---@return string
function bundle.file(path)
  check.string(path, "path")
  if start.files then
    local bytes = start.files[path]
    if bytes then return bytes end
    errors.raise({
      kind = "io", code = "ENOENT", op = "read",
      message = ("read %s: no such file in this program; `sbxlua bundle --include` takes it along")
        :format(path),
    })
  end
  local folder = arg and arg[0] and arg[0]:match("^(.*/)") or ""
  return fs.read(path:sub(1, 1) == "/" and path or folder .. path)
end

return bundle
