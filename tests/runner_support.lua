-- What the tests of the test runner share: it runs as a child, on files that they
-- write into a folder of their own.

local fs = require("sbx.fs")
local run = require("run_support")
local task = require("sbx.task")

local support = {}

local function write_files(folder, files)
  if type(files) == "string" then files = { ["test_sample.lua"] = files } end
  for name, text in pairs(files) do
    local path = folder .. "/" .. name
    fs.mkdir(path:match("^(.*)/"), { parents = true })
    fs.write(path, text)
  end
end

---Runs `sbxlua test` with these words where these files are.
---@async
---@param files string|table<string, string>  text by name; a text alone is that of test_sample.lua
---@return sbx.process.Result
function support.run(files, ...)
  local folder <close> = fs.tmpdir({ prefix = "runner-" })
  write_files(folder.path, files)
  return run.run({ "test", ... }, { cwd = folder.path })
end

---The same; returns what a report file holds as a second result.
---@async
function support.run_with_report(files, ...)
  local folder <close> = fs.tmpdir({ prefix = "runner-" })
  write_files(folder.path, files)
  local words = { "test", "--junit", folder.path .. "/report.xml", ... }
  local result = run.run(words, { cwd = folder.path })
  return result, fs.read(folder.path .. "/report.xml")
end

---A run on test_sample.lua that is interrupted with SIGINT once its stdout matches
---`pattern`.
---@async
---@return integer code, string stdout, string stderr
function support.interrupt(text, pattern, ...)
  local folder <close> = fs.tmpdir({ prefix = "runner-" })
  write_files(folder.path, text)
  local running <close> = run.start({ "test", folder.path .. "/test_sample.lua", ... })
  running:await("stdout", pattern)
  running:kill("INT")
  local code = task.timeout(60, running.finish, running)
  return code, running.text.stdout, running.text.stderr
end

return support
