local http = require("sbx.http")
local process = require("sbx.process")
local stream = require("sbx.core.stream")

test("process: a child has no descriptor but those that it was given", function()
  -- A name that libcurl looks up itself, with a pair of sockets of its own.
  pcall(http.get, "http://localhost:1/")
  local ours, other = stream.pair()
  local listed = process.run({ "ls", "/proc/self/fd" }).stdout
  ours:close()
  other:close()
  assert(listed == "0\n1\n2\n3\n", listed) -- 3 is the folder that ls reads
end)
