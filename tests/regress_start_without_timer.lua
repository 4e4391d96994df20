-- Where the kernel gave no timer, as under valgrind or a limit on signals, the
-- program ended at its start with a strange status and without a word.

local host = require("sbx.core.host")
local process = require("sbx.process")

test("main: without a timer for the watchdog a script runs all the same", function()
  local result = process.run(
    { "prlimit", "--sigpending=0", host.executable(), "-e", "print('it runs')" })
  assert(result.code == 0 and result.stdout == "it runs\n", result.stderr)
end)
