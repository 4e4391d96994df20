-- Files and folders that are removed when their `<close>` variable ends.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local core_file = require("sbx.core.file")
local errors = require("sbx.errors")
local file = require("sbx.fs.file")
local tree = require("sbx.core.tree")

local temporary = {}

-- Where a new name goes, with what the kernel wants at its end.
local function template_of(options)
  local opts = check.options(options, { prefix = "sbxlua-", dir = check.none }, 3)
  local prefix = check.string(opts.prefix, "prefix", 3)
  if prefix:find("/", 1, true) then error("prefix: must not contain a slash", 3) end
  local folder = opts.dir or os.getenv("TMPDIR") or ""
  check.string(folder, "dir", 3)
  if folder == "" then folder = "/tmp" end
  return folder .. "/" .. prefix .. "XXXXXX"
end

local function unless_missing(fn, path)
  local _, err = errors.try(fn, path)
  if err and not (errors.is_error(err) and err.code == "ENOENT") then error(err, 0) end
end

---@class sbx.fs.TmpDir
---@field path string
local TmpDir = {}
TmpDir.__index = TmpDir
TmpDir.__name = "sbx.fs.TmpDir"

---Removes the directory with all it holds; again is harmless.
---@async
function TmpDir:close()
  if self.closed then return end
  unless_missing(tree.remove, self.path)
  self.closed = true -- only now: a cancelled removal is tried again
end

TmpDir.__close = TmpDir.close

---A file without a future: `path` is its name, `file` is open to read and write.
---@class sbx.fs.TmpFile
---@field path string
---@field file sbx.fs.File
local TmpFile = {}
TmpFile.__index = TmpFile
TmpFile.__name = "sbx.fs.TmpFile"

---Closes the file and removes it; again is harmless.
---@async
function TmpFile:close()
  if self.closed then return end
  self.file:close()
  unless_missing(core.unlink, self.path)
  self.closed = true
end

TmpFile.__close = TmpFile.close

---@async
---@return sbx.fs.TmpDir
function temporary.dir(options)
  return setmetatable({ path = core.mkdtemp(template_of(options)) }, TmpDir)
end

---@async
---@return sbx.fs.TmpFile
function temporary.file(options)
  local opened, path = core_file.temporary(template_of(options))
  return setmetatable({ path = path, file = file.wrap(opened, path) }, TmpFile)
end

return temporary
