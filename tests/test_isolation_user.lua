-- As test_isolation, by a server of a user without privileges: where the tests run as root
-- it is nobody's; where not, test_isolation is that user's in the first place.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "bwrap_user_support.lua")

local fs = require("sbx.fs")
local process = require("sbx.process")
local skip = require("sbx.test").skip

local NOBODY = "65534"

-- Why no user can isolate anything here; nil where one can.
local function obstacle()
  if fs.stat("/proc/self").uid ~= 0 then return nil end
  local result = process.run {
    "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--",
    "unshare", "--user", "true",
  }
  if result.code == 0 then return nil end
  return "user namespaces are off for users: " .. result.stderr
end

test("isolation: as a user, bubblewrap denies every attempt and system call", {
  timeout = 240,
}, function()
  local why = obstacle()
  if why then skip(why) end
  support.passes("test_isolation")
end)
