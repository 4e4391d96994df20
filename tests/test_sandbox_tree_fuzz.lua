-- The first seeds of the fuzzer of tar archives; `./dev fuzz` runs more.

local fuzz = require("tests.fuzz.fuzz_tar")
local seeds = require("tests.fuzz.seeds")

test("unpack: whatever an archive says, nothing outside changes", { timeout = 180 }, function()
  assert(seeds.run_many(fuzz.run, 1, 500, 50) == 500)
end)
