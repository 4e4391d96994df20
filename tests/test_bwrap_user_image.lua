-- As test_bwrap_user: sandboxes on images, of a user without privileges.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "bwrap_user_support.lua")

test("bwrap as a user: sandboxes on an image", function()
  support.passes("test_bwrap_image")
end)
