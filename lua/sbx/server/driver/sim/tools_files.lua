-- Programs of a simulated sandbox that look after files. Each is called as
-- (shell, words, fds, env) and returns its status.

local files = require("sbx.server.driver.sim.files")
local time = require("sbx.core.time")
local tool = require("sbx.server.driver.sim.tool")

local tools_files = {}

local bytes_of, complain = tool.bytes_of, tool.complain
local each_input, write = tool.each_input, tool.write

tools_files.cat = tool.new("u", "", function(sh, _, paths, fds, words)
  return each_input(sh, paths, fds, words, function(bytes) write(fds, bytes) end)
end)

tools_files.mkdir = tool.new("p", "m", function(sh, options, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local full = sh:resolve(path)
    local make = options.p and sh.files.make_folders or sh.files.make_folder
    local ok, code = make(sh.files, full)
    if not ok then
      status = complain(fds, words, ("cannot create directory '%s': %s"):format(path,
        files.words_of(code)))
    end
  end
  return status
end)

tools_files.rm = tool.new("rfRv", "", function(sh, options, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local full = sh:resolve(path)
    local ok, code
    if sh.files:is_folder(full) and not (options.r or options.R) then
      ok, code = nil, "EISDIR"
    else
      ok, code = sh.files:remove(full)
    end
    if not ok and not (options.f and code == "ENOENT") then
      status = complain(fds, words, ("cannot remove '%s': %s"):format(path,
        files.words_of(code)))
    end
  end
  return status
end)

tools_files.rmdir = tool.new("p", "", function(sh, _, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local full = sh:resolve(path)
    local names = sh.files:list(full)
    if not names or #names > 0 or not sh.files:remove(full) then
      status = complain(fds, words, ("failed to remove '%s'"):format(path))
    end
  end
  return status
end)

-- Where mv and cp put a file: into a folder that is there, or in its place.
local function target_of(sh, path, to)
  local full = sh:resolve(to)
  if not sh.files:is_folder(full) then return full end
  return files.resolve(full, path:gsub("/+$", ""):match("[^/]*$"))
end

tools_files.mv = tool.new("fvT", "", function(sh, options, paths, fds, words)
  local to, status = table.remove(paths), 0
  if #paths == 0 then return complain(fds, words, "missing file operand") end
  for _, path in ipairs(paths) do
    local target = options.T and sh:resolve(to) or target_of(sh, path, to)
    local ok, code = sh.files:rename(sh:resolve(path), target)
    if not ok then
      status = complain(fds, words, ("cannot move '%s': %s"):format(path,
        files.words_of(code)))
    end
  end
  return status
end)

local function put(sh, path, bytes)
  local node, code = sh.files:open(path)
  if not node then return nil, code end
  return sh.files:append(node, bytes)
end

tools_files.cp = tool.new("fvp", "", function(sh, _, paths, fds, words)
  local to, status = table.remove(paths), 0
  if #paths == 0 then return complain(fds, words, "missing file operand") end
  for _, path in ipairs(paths) do
    local bytes, code = sh.files:read(sh:resolve(path))
    local ok = bytes
    if bytes then ok, code = put(sh, target_of(sh, path, to), bytes) end
    if not ok then
      status = complain(fds, words, ("cannot copy '%s': %s"):format(path,
        files.words_of(code)))
    end
  end
  return status
end)

tools_files.touch = tool.new("c", "", function(sh, _, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local node, code = sh.files:open(sh:resolve(path), true)
    if node then
      node.mtime = time.wall()
    elseif code ~= "EISDIR" then
      status = complain(fds, words, ("cannot touch '%s': %s"):format(path,
        files.words_of(code)))
    end
  end
  return status
end)

tools_files.chmod = tool.new("Rfv", "", function(sh, _, paths, fds, words)
  local status, mode = 0, tonumber(paths[1] or "", 8)
  for i = 2, #paths do
    local node = sh.files:node(sh:resolve(paths[i]))
    if not node then
      status = complain(fds, words, ("cannot access '%s'"):format(paths[i]))
    elseif node.parts then
      node.mode = mode or node.mode | 73 -- with x for all
    end
  end
  return status
end)

tools_files.ls = tool.new("1aAl", "", function(sh, options, paths, fds, words)
  local status = 0
  for _, path in ipairs(#paths > 0 and paths or { "." }) do
    local full = sh:resolve(path)
    local names = sh.files:is_folder(full) and sh.files:list(full)
      or sh.files:node(full) and { path }
    if not names then
      status = complain(fds, words, ("cannot access '%s'"):format(path))
    end
    for _, name in ipairs(names or {}) do
      if options.a or options.A or name:sub(1, 1) ~= "." then write(fds, name .. "\n") end
    end
  end
  return status
end)

tools_files.tee = tool.new("a", "", function(sh, options, paths, fds)
  local bytes = bytes_of(sh, nil, fds)
  local status = write(fds, bytes)
  for _, path in ipairs(paths) do
    local node = sh.files:open(sh:resolve(path), options.a)
    if not node or not sh.files:append(node, bytes) then status = 1 end
  end
  return status
end)

return tools_files
