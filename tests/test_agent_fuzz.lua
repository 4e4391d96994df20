-- The first seeds of the fuzzer of the server's side; `./dev fuzz` runs more.

local fuzz = require("tests.fuzz.fuzz_link")
local seeds = require("tests.fuzz.seeds")

test("agent: whatever it says, every call ends by a result or an error", function()
  assert(seeds.run_many(fuzz.run, 1, 600, 60) == 600)
end)
