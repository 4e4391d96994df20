-- The programs of a simulated sandbox: those that scripts of clients use most, with the
-- options they use. Each is called as (shell, words, fds, env) and returns its status.

local files = require("sbx.server.driver.sim.files")
local shell = require("sbx.server.driver.sim.shell")
local time = require("sbx.core.time")
local tool = require("sbx.server.driver.sim.tool")
local tools_files = require("sbx.server.driver.sim.tools_files")
local tools_text = require("sbx.server.driver.sim.tools_text")

local tools = {}

for _, others in ipairs { tools_files, tools_text } do
  for name, program in pairs(others) do
    tools[name] = program
  end
end

local bytes_of, complain, write = tool.bytes_of, tool.complain, tool.write

tools.sleep = function(sh, words, fds)
  local total = 0
  for i = 2, #words do
    local number, unit = words[i]:match("^(%d*%.?%d+)([smhd]?)$")
    local factor = ({ s = 1, m = 60, h = 3600, d = 86400 })[unit == "" and "s" or unit or ""]
    if words[i] == "infinity" then number, factor = math.huge, 1 end
    if not number then return complain(fds, words, "invalid time interval " .. words[i]) end
    total = total + tonumber(number) * factor
  end
  return sh.process:nap(total) and 0 or 143
end

-- A shell with a process of its own.
local function run_shell(sh, words, fds, env)
  local at, text = 2, nil
  while words[at] and words[at]:find("^%-%a") do
    if words[at]:find("c", 2, true) then
      text = words[at + 1]
      at = at + 1
    end
    at = at + 1
  end
  local name = words[1]
  if not text then
    local path = words[at]
    local code
    text, code = bytes_of(sh, path, fds)
    if not text then
      return complain(fds, words, ("%s: %s"):format(path, files.words_of(code))) + 126
    end
    name = path or name
  else
    name = words[at] or name
  end
  return sh:run_child(function(child)
    local made = shell.new(sh.world, child, {
      env = env, cwd = sh.cwd, fds = fds, name = name, budget = sh.budget, depth = sh.depth + 1,
      arguments = table.move(words, at + 1, #words, 1, {}),
    })
    return made:script(text)
  end, env)
end

for _, name in ipairs { "sh", "bash", "dash", "ash" } do
  tools[name] = run_shell
end

-- Runs the rest of the words as a program.
local function run_rest(sh, words, from, fds, env)
  if not words[from] then return 0 end
  return sh:command(table.move(words, from, #words, 1, {}), fds, env, true)
end

tools.setsid = function(sh, words, fds, env)
  sh.process.session = sh.process.pid
  local at = 2
  while words[at] and words[at]:find("^%-") do
    at = at + 1
  end
  return run_rest(sh, words, at, fds, env)
end

tools.nohup = function(sh, words, fds, env)
  return run_rest(sh, words, 2, fds, env)
end

tools.env = function(sh, words, fds, env)
  local changed, at = {}, 2
  for name, value in pairs(env) do
    changed[name] = value
  end
  while words[at] and (words[at]:find("^[%a_][%w_]*=") or words[at] == "-u") do
    if words[at] == "-u" then
      changed[words[at + 1] or ""] = nil
      at = at + 1
    else
      local name, value = words[at]:match("^([%w_]+)=(.*)$")
      changed[name] = value
    end
    at = at + 1
  end
  if words[at] then return run_rest(sh, words, at, fds, changed) end
  local lines = {}
  for name, value in pairs(changed) do
    lines[#lines + 1] = name .. "=" .. value .. "\n"
  end
  table.sort(lines)
  return write(fds, table.concat(lines))
end

tools.printenv = function(sh, words, fds, env)
  if not words[2] then return tools.env(sh, { "env" }, fds, env) end
  return env[words[2]] and write(fds, env[words[2]] .. "\n") or 1
end

tools.which = function(sh, words, fds)
  return sh.world.builtins.command(sh, { "command", "-v", words[2] }, fds)
end

tools.hostname = function(sh, _, fds) return write(fds, sh.world.hostname .. "\n") end
tools.uname = function(_, words, fds)
  return write(fds, words[2] == "-m" and "x86_64\n" or "Linux\n")
end
tools.whoami = function(_, _, fds) return write(fds, "root\n") end
tools.id = function(_, words, fds)
  return write(fds, words[2] == "-u" and "0\n" or "uid=0(root) gid=0(root)\n")
end
tools.date = function(_, words, fds)
  local format = words[2] and words[2]:match("^%+(.*)$")
  local now = math.floor(time.wall())
  if format then
    format = format:gsub("%%s", tostring(now))
    local ok, text = pcall(os.date, "!" .. format, now)
    if ok then return write(fds, text .. "\n") end
  end
  return write(fds, os.date("!%a %b %e %H:%M:%S UTC %Y", now) .. "\n")
end
tools.sync = function() return 0 end

tools.test = require("sbx.server.driver.sim.test_tool")
tools["["] = tools.test
tools["true"] = tools.sync
tools["false"] = function() return 1 end

return tools
