-- What a simulated shell does by itself, because it changes the shell or its processes.

local files = require("sbx.server.driver.sim.files")
local process = require("sbx.server.driver.sim.process")

local builtins = {}

builtins[":"] = function() return 0 end
builtins.umask = builtins[":"]
builtins.ulimit = builtins[":"]

local function write(fds, fd, bytes)
  local out = fds[fd]
  if not out or not out.write then return 1 end
  local ok = out:write(bytes)
  return ok and 0 or 1
end

local function integer(text)
  return math.tointeger(tonumber(text))
end

-- ------------------------------------------------------------------------- flow

builtins.exit = function(sh, words)
  sh.status = words[2] and (integer(words[2]) or 2) & 255 or sh.status
  sh.flow = "exit"
  return sh.status
end

builtins["return"] = function(sh, words)
  sh.status = words[2] and (integer(words[2]) or 2) & 255 or sh.status
  sh.flow = "return"
  return sh.status
end

for _, name in ipairs { "break", "continue" } do
  builtins[name] = function(sh, words)
    sh.flow, sh.levels = name, math.max(1, integer(words[2] or "1") or 1)
    sh.status = 0
    return 0
  end
end

builtins.eval = function(sh, words, fds)
  local outer = sh.fds
  sh.fds = fds
  local status = sh:eval(table.concat(words, " ", 2))
  sh.fds = outer
  return status
end

builtins["."] = function(sh, words, fds)
  local text, code = sh.files:read(sh:resolve(words[2] or ""))
  if not text then
    sh:fail((words[2] or ".") .. ": " .. files.words_of(code or "ENOENT"))
    return sh.status
  end
  local outer = sh.fds
  sh.fds = fds
  local status = sh:eval(text)
  sh.fds = outer
  if sh.flow == "return" then sh.flow = nil end
  return status
end

builtins.exec = function(sh, words, fds)
  sh.status = sh:command(table.move(words, 2, #words, 1, {}), fds, nil, true)
  sh.traps.EXIT = nil
  sh.flow = "exit"
  return sh.status
end

builtins.command = function(sh, words, fds)
  if words[2] == "-v" or words[2] == "-V" then
    local name = words[3] or ""
    local base = name:match("[^/]+$") or name
    if builtins[name] or sh.functions[name] then return write(fds, 1, name .. "\n") end
    if not sh.world.tools[base] then return 127 end
    return write(fds, 1, (name:find("/", 1, true) and name or "/usr/bin/" .. name) .. "\n")
  end
  if not words[2] then return 0 end
  local rest = table.move(words, 2, #words, 1, {})
  return sh:command(rest, fds, nil, builtins[rest[1]] == nil)
end
builtins.type = function(sh, words, fds)
  return builtins.command(sh, { "command", "-v", words[2] }, fds)
end

-- -------------------------------------------------------------------- variables

builtins.export = function(sh, words)
  for i = 2, #words do
    local name, value = words[i]:match("^([%a_][%w_]*)=(.*)$")
    name = name or words[i]
    if value then sh.variables[name] = value end
    sh.exported[name] = true
  end
  return 0
end

builtins["local"] = function(sh, words)
  for i = 2, #words do
    local name, value = words[i]:match("^([%a_][%w_]*)=(.*)$")
    if name then sh.variables[name] = value end
  end
  return 0
end
builtins.readonly = builtins["local"]

builtins.unset = function(sh, words)
  for i = 2, #words do
    sh.variables[words[i]], sh.exported[words[i]] = nil, nil
    if words[2] == "-f" then sh.functions[words[i]] = nil end
  end
  return 0
end

local FLAGS = { u = "strict", e = "errexit" }

builtins.set = function(sh, words)
  local at = 2
  while words[at] and words[at]:find("^[-+]%a") do
    local on = words[at]:sub(1, 1) == "-"
    for flag in words[at]:sub(2):gmatch(".") do
      if FLAGS[flag] then sh[FLAGS[flag]] = on end
      if flag == "o" then at = at + 1 end
    end
    at = at + 1
  end
  if words[at] == "--" or words[at] == "-" then
    sh.arguments = table.move(words, at + 1, #words, 1, {})
  elseif words[at] then
    sh.arguments = table.move(words, at, #words, 1, {})
  end
  return 0
end

builtins.shift = function(sh, words)
  local count = integer(words[2] or "1") or 1
  if count < 0 or count > #sh.arguments then return 1 end
  sh.arguments = table.move(sh.arguments, count + 1, #sh.arguments, 1, {})
  return 0
end

-- Assigns the fields of a line, the last name what is left of it.
local function assign_fields(sh, line, names)
  local separators = sh.variables.IFS or " \t\n"
  local set = separators:gsub("%W", "%%%0")
  if set ~= "" then line = line:gsub("^[" .. set .. "]+", ""):gsub("[" .. set .. "]+$", "") end
  for i, name in ipairs(names) do
    local first, last
    if i < #names and set ~= "" then first, last = line:find("[" .. set .. "]+") end
    sh.variables[name] = first and line:sub(1, first - 1) or line
    line = first and line:sub(last + 1) or ""
  end
end

builtins.read = function(sh, words, fds)
  local at = 2
  while words[at] and words[at]:find("^%-") do
    at = at + 1
  end
  local line = fds[0] and fds[0].line and fds[0]:line()
  local ended = not line or line:sub(-1) ~= "\n"
  line = (line or ""):gsub("\n$", "")
  assign_fields(sh, line, table.move(words, at, #words, 1, {}))
  return ended and 1 or 0
end

-- --------------------------------------------------------------------- folders

builtins.cd = function(sh, words, fds)
  local target = words[2] or sh.variables.HOME or "/root"
  if target == "-" then target = sh.variables.OLDPWD or sh.cwd end
  local path = sh:resolve(target)
  if not sh.files:is_folder(path) then
    sh:complain("cd: can't cd to " .. target, fds)
    return 2
  end
  sh.variables.OLDPWD, sh.cwd, sh.variables.PWD = sh.cwd, path, path
  return 0
end

builtins.pwd = function(sh, _, fds)
  return write(fds, 1, sh.cwd .. "\n")
end

-- ------------------------------------------------------------------- processes

builtins.wait = function(sh, words)
  local table_of = sh.world.processes
  if not words[2] then
    local status = 0
    for _, one in pairs(table_of.by_pid) do
      if one.parent == sh.process.pid and not sh.process:await(one) then status = 143 end
    end
    return status
  end
  local pid = integer(words[2])
  local one = pid and table_of:find(pid)
  if not one then return pid and table_of:status_of(pid) or 127 end
  local status = sh.process:await(one)
  if not status then return 143 end
  table_of:status_of(pid)
  return status
end

builtins.kill = function(sh, words, fds)
  local at, number = 2, 15
  if words[at] == "-s" then
    number = process.signal(words[3] or "")
    at = 4
  elseif words[at] and words[at]:find("^%-%w") and #words > 2 then
    number = process.signal(words[at]:sub(2))
    at = 3
  end
  if words[at] == "--" then at = at + 1 end
  if not number then
    sh:complain("kill: unknown signal", fds)
    return 2
  end
  local status = 0
  for i = at, #words do
    local pid = integer(words[i])
    if not pid or not sh.world.processes:send(pid, number) then
      sh:complain("kill: no such process: " .. words[i], fds)
      status = 1
    end
  end
  return status
end

builtins.trap = function(sh, words)
  if #words < 3 then return 0 end
  for i = 3, #words do
    local name = words[i]:upper():gsub("^SIG", "")
    if name == "0" then name = "EXIT" end
    local number = name ~= "EXIT" and process.signal(name)
    if number then name = process.signal_name(number) end
    local text = words[2]
    sh.traps[name] = text ~= "-" and text or nil
    if number then sh.process.traps[name] = sh.traps[name] end
  end
  return 0
end

return builtins
