-- Which files hold tests, and loading them.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local registry = require("sbx.test.registry")
local runner = require("sbx.test.runner")

local discovery = {}

local PATTERNS = { "^test_.*%.lua$", "_test%.lua$", "^regress_.*%.lua$" }

local function is_test_file(name)
  for _, pattern in ipairs(PATTERNS) do
    if name:find(pattern) then return true end
  end
  return false
end

-- Adds the test files below a folder, by name. Neither links to folders nor what
-- is hidden is looked into.
---@async
local function add_folder(files, folder)
  local prefix = folder == "." and "" or folder:gsub("/*$", "/")
  for _, name in ipairs(fs.list(folder)) do
    local path = prefix .. name
    if name:sub(1, 1) ~= "." then
      local kind = fs.lstat(path).type
      if kind == "directory" then
        add_folder(files, path)
      elseif is_test_file(name) then
        files[#files + 1] = path
      end
    end
  end
end

---The test files that `paths` lead to: a folder stands for those in it, a file for
---itself, whatever its name. No path at all stands for ./tests, or here. Raises
---what the file system refuses.
---@async
---@param paths string[]
---@return string[]
function discovery.files(paths)
  if #paths == 0 then
    local tests = errors.try(fs.stat, "tests")
    paths = { tests and tests.type == "directory" and "tests" or "." }
  end
  local found, files = {}, {}
  for _, path in ipairs(paths) do
    if fs.stat(path).type == "directory" then
      add_folder(found, path)
    else
      found[#found + 1] = path
    end
  end
  for _, path in ipairs(found) do
    if not files[path] then
      files[path] = true
      files[#files + 1] = path
    end
  end
  return files
end

-- Modules beside a test file are found wherever the runner was started.
local function search_beside(path)
  local folder = path:match("^(.*/)") or ""
  local entry = folder .. "?.lua;" .. folder .. "?/init.lua;"
  if package.path:find(entry, 1, true) ~= 1 then package.path = entry .. package.path end
end

---Loads test files: their tests are in the registry then. Besides `require
---"sbx.test"` they find it as the global `test`, and `test.skip` as `skip`.
---@async
---@param files string[]
function discovery.load(files)
  local test = require("sbx.test")
  _G.test, _G.skip = test, test.skip
  for _, path in ipairs(files) do
    search_beside(path)
    registry.begin(path)
    local chunk, problem = loadfile(path)
    if chunk then problem = runner.load(chunk, path) end
    registry.finish()
    if problem then registry.add_broken(path, problem) end
  end
end

return discovery
