-- The driver's tests once more, as a user without privileges: where the tests run as
-- root they are run as nobody; where not, they are that user's in the first place.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "bwrap_user_support.lua")

test("bwrap as a user: sandboxes on this machine's root", function()
  support.passes("test_bwrap")
end)
