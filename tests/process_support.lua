-- What the tests of sbx.process share.

local fs = require("sbx.fs")
local task = require("sbx.task")

local support = {}

---Whether a process with this id runs; a zombie does not.
---@async
function support.runs(pid)
  local ok, text = pcall(fs.read, "/proc/" .. pid .. "/stat")
  return ok and not text:find("%) [ZX] ")
end

---@async
function support.await_gone(pid)
  task.timeout(60, function()
    while support.runs(pid) do
      task.sleep(0.005)
    end
  end)
end

---The content of a file once it is there and ends with a line feed.
---@async
function support.await_file(path)
  return task.timeout(60, function()
    while true do
      local ok, text = pcall(fs.read, path)
      if ok and text:find("\n$") then return text end
      task.sleep(0.005)
    end
  end)
end

return support
