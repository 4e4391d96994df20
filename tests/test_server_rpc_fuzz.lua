-- The first seeds of the fuzzer of the command session; `./dev fuzz` runs more.

local fuzz = require("tests.fuzz.fuzz_rpc")
local seeds = require("tests.fuzz.seeds")

test("rpc: whatever a client sends, it gets one answer of the protocol", function()
  assert(seeds.run_many(fuzz.run, 1, 80, 60) == 80)
end)
