-- Seeds of the fuzzer for the line editor and the screen.

local fuzz = require("tests.fuzz.fuzz_repl")
local seeds = require("tests.fuzz.seeds")

for _, part in ipairs({ "editor", "pieces", "screen" }) do
  test("repl fuzz: " .. part, { timeout = 400 }, function()
    seeds.run_many(fuzz[part], 1, 120, 5)
  end)
end
