-- As test_bwrap_user: limits, and kept sandboxes, of a user without privileges.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "bwrap_user_support.lua")

test("bwrap as a user: limits, and sandboxes that are kept", function()
  support.passes("test_bwrap_limits", "test_bwrap_kept")
end)
