-- Whether a user can put files over an image's here: an overlay in a user namespace,
-- with its upper layer in memory. Older kernels mount it, and then fail in the middle.

local errors = require("sbx.errors")
local process = require("sbx.process")

---@class sbx.server.driver.bwrap_overlay
local overlay = {}

-- A folder that is removed and made anew over one below is what needs the attributes
-- that older memory file systems lack.
local SCRIPT = [[
set -e
mount -t tmpfs sbxlua /mnt
cd /mnt
mkdir -p lower/a/b upper work root
mount -t overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work sbxlua root
rm -r root/a
mkdir root/a
test -z "$(ls root/a)"
echo x > root/a/c]]

---@async
---@return boolean
---@return string|nil problem
function overlay.probe()
  local result, failure = errors.try(process.run, {
    "unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "--",
    "/bin/sh", "-c", SCRIPT,
  }, { timeout = 60, cwd = "/", max_output = 4096 })
  if not result then return false, tostring(failure) end
  if result.code == 0 then return true end
  return false, "overlay in a user namespace: " .. (result.stderr:match("[^\n]+") or "failed")
end

return overlay
