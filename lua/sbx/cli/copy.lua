-- What `cp` does: which name a target gets, and the ways there and back.

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local host = require("sbx.core.host")
local input = require("sbx.cli.input")
local log = require("sbx.log")
local task = require("sbx.task")

local copy = {}

local COMMAND_SECONDS = 60
local LONG = 86400 -- seconds that packing may take
local CLEAN_SECONDS = 20
local EXECUTABLE = 73 -- any x bit

local function raise(kind, message, ...)
  errors.raise({ kind = kind, message = message:format(...) })
end

local function shown(path)
  return "'" .. log.clean(path, 300) .. "'"
end

local function base_name(path)
  local name = path:gsub("/+$", ""):match("[^/]*$")
  return name ~= "" and name ~= "." and name ~= ".." and name or nil
end

local function join(folder, name)
  return (folder:gsub("/+$", "")) .. "/" .. name
end

local function wants_content(path)
  return path == "." or path:sub(-2) == "/."
end

-- What a path in the sandbox is: its absolute form, and "folder", "file" or nil.
---@async
local function look(box, path)
  local answer = box:exec({ "sh", "-c", [[
p=$1; case $p in /*) ;; *) p=$PWD/$p;; esac
if [ -d "$p" ]; then k=folder; elif [ -e "$p" ]; then k=file; else k=none; fi
printf '%s %s\0' "$k" "$p" | od -An -v -tx1]], "sh", path }, { timeout = COMMAND_SECONDS })
  local bytes = answer.stdout:gsub("%s", ""):gsub("%x%x", function(pair)
    return string.char(tonumber(pair, 16))
  end)
  local kind, absolute = bytes:match("^(%a+) (.*)%z$")
  if not kind then
    raise("api", "cannot look at %s in the sandbox: %s", shown(path),
      log.clean(answer.stderr, 300))
  end
  return absolute, kind ~= "none" and kind or nil
end

---@async
local function run(box, words, options)
  local result = box:exec(words, options)
  if result.exit_code ~= 0 then
    raise("api", "%s in the sandbox failed: %s", words[1], log.clean(result.stderr or "", 500))
  end
  return result
end

-- -------------------------------------------------------------------------- up

-- A tar archive from stdin, unpacked by the sandbox.
---@async
local function up_archive(box, target)
  local source, count = input.source(), 0
  local archive = "/tmp/.sbx-cp-" .. hash.random_hex(8)
  local _ <close> = setmetatable({}, {
    __close = function()
      pcall(task.shield, CLEAN_SECONDS, box.exec, box, { "rm", "-f", archive })
    end,
  })
  box:upload_stream(archive, function()
    local bytes = source()
    count = count + #(bytes or "")
    return bytes
  end, { split = true })
  run(box, { "sh", "-c", 'mkdir -p "$1" && exec tar -xf "$2" -C "$1"', "sh", target, archive },
    { timeout = LONG })
  return { bytes = count, files = 1 }
end

---@async
local function up_bytes(box, target, given)
  local source, count = input.source(), 0
  box:upload_stream(target, function()
    local bytes = source()
    count = count + #(bytes or "")
    return bytes
  end, { split = true, checksum = given.checksum })
  return { bytes = count, files = 1 }
end

-- Where something goes that is called `name`, in a place that is `kind`.
local function place(target, written, kind, name)
  if (kind == "folder" or written:sub(-1) == "/") and name then return join(target, name) end
  return target
end

---Copies to a sandbox.
---@async
---@param box sbx.sandbox.Box
---@param source string  a path here, or "-"
---@param path string    in the sandbox
---@param given { recursive: boolean, checksum: boolean, unsafe: string }
---@return { bytes: integer, files: integer }
function copy.up(box, source, path, given)
  local found = source ~= "-" and fs.stat(source)
  if found and found.type == "directory" and not given.recursive then
    raise("usage", "%s is a folder: give -r", shown(source))
  end
  local target, kind = look(box, path)
  if not found then
    if given.recursive then return up_archive(box, target) end
    if kind == "folder" or path:sub(-1) == "/" then
      raise("usage", "%s is a folder: give the name of the file; -r unpacks a tar archive",
        shown(path))
    end
    return up_bytes(box, target, given)
  end
  if found.type == "directory" then
    local name = not wants_content(source) and base_name(fs.realpath(source)) or nil
    -- A folder that is not there yet becomes the copy.
    if kind == "folder" and name then target = join(target, name) end
    local tree = box:copy_tree_up(source, target, { unsafe = given.unsafe })
    return { bytes = tree.bytes, files = tree.files }
  end
  target = place(target, path, kind, base_name(source))
  local mode = found.mode & EXECUTABLE ~= 0 and found.mode & 511 or nil
  box:upload_file(target, source, { split = true, checksum = given.checksum, mode = mode })
  return { bytes = found.size, files = 1 }
end

-- ------------------------------------------------------------------------ down

---@async
local function down_archive(box, absolute, path)
  local folder, name = absolute:match("^(.*)/([^/]+)/*$")
  if wants_content(path) or not name or name == "." or name == ".." then
    folder, name = absolute, "."
  end
  local result = box:exec({ "tar", "-cf", "-", "-C", folder ~= "" and folder or "/", "--", name }, {
    timeout = LONG,
    on_stdout = function(bytes) host.write(1, bytes) end,
    on_stderr = function(bytes) host.write(2, bytes) end,
  })
  if result.exit_code ~= 0 then
    raise("api", "tar in the sandbox ended with status %d", result.exit_code)
  end
end

---@async
local function down_bytes(box, absolute)
  local from <close> = box:download_stream(absolute)
  for bytes in from:chunks() do
    host.write(1, bytes)
  end
end

local function kind_here(path)
  local found = errors.try(fs.stat, path)
  if not found then return nil end
  return found.type == "directory" and "folder" or "file"
end

---@async
local function down_tree(box, absolute, path, target, given)
  local name = not wants_content(path) and base_name(path) or nil
  local overwrite = false
  if kind_here(target) == "folder" then
    if name then target = join(target, name) end
    overwrite = true
  end
  local tree = box:copy_tree_down(absolute, target,
    { unsafe = given.unsafe, overwrite = overwrite })
  return { bytes = tree.bytes, files = tree.files }
end

---Copies from a sandbox. Returns nothing for what went to stdout.
---@async
---@param box sbx.sandbox.Box
---@param path string    in the sandbox
---@param target string  a path here, or "-"
---@param given { recursive: boolean, checksum: boolean, unsafe: string }
---@return { bytes: integer, files: integer }|nil
function copy.down(box, path, target, given)
  local absolute, kind = look(box, path)
  if not kind then
    errors.raise({ kind = "file_not_found", sandbox_id = box.id,
      message = ("%s: there is no %s"):format(box.id, shown(absolute)) })
  elseif kind == "folder" and not given.recursive then
    raise("usage", "%s is a folder: give -r", shown(path))
  end
  if target == "-" then
    if given.recursive then return down_archive(box, absolute, path) end
    return down_bytes(box, absolute)
  end
  if kind == "folder" then return down_tree(box, absolute, path, target, given) end
  -- By the name that was asked for, not by one that the sandbox says.
  target = place(target, target, kind_here(target), base_name(path))
  local size = box:download_file(absolute, target, { checksum = given.checksum })
  return { bytes = size, files = 1 }
end

return copy
