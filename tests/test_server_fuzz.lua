-- The first seeds of the fuzzer of the routes; `./dev fuzz` runs more.

local fuzz = require("tests.fuzz.fuzz_routes")
local seeds = require("tests.fuzz.seeds")

test("server: whatever is asked, there is an answer, and no fault of ours", { timeout = 120 },
  function()
    assert(seeds.run_many(fuzz.run, 1, 40, 100) == 40)
  end)
