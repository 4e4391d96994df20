-- The programs of a simulated sandbox: those that scripts of clients use most, with the
-- options they use. Each is called as (shell, words, fds, env) and returns its status.

local encoding = require("sbx.encoding")
local expand_text = require("sbx.server.driver.sim.printf")
local files = require("sbx.server.driver.sim.files")
local hash = require("sbx.hash")
local shell = require("sbx.server.driver.sim.shell")
local time = require("sbx.core.time")

local tools = {}

local function write(fds, bytes)
  local out = fds[1]
  if not out or not out.write then return 1 end
  local ok = out:write(bytes)
  return ok and 0 or 1
end

local function complain(_, fds, words, text)
  local out = fds[2]
  if out and out.write then out:write(("%s: %s\n"):format(words[1], text)) end
  return 1
end

local function no_option(sh, fds, words, option)
  complain(sh, fds, words, "not simulated: option " .. option)
  return 127
end

-- Takes the options apart: letters in `flags`, those in `valued` with a value. Returns
-- both kinds by letter, and the rest; or nil and the first that is unknown.
local function options_of(words, flags, valued)
  local options, rest, at = {}, {}, 2
  while at <= #words do
    local word = words[at]
    if word == "--" then
      table.move(words, at + 1, #words, #rest + 1, rest)
      break
    end
    if word:find("^%-[%w]") then
      local letters = 2
      while letters <= #word do
        local letter = word:sub(letters, letters)
        if valued:find(letter, 1, true) then
          options[letter] = letters < #word and word:sub(letters + 1) or words[at + 1]
          if letters == #word then at = at + 1 end
          letters = #word
        elseif flags:find(letter, 1, true) then
          options[letter] = true
        else
          return nil, "-" .. letter
        end
        letters = letters + 1
      end
    elseif word:find("^%-%-%a") then
      return nil, word
    else
      rest[#rest + 1] = word
    end
    at = at + 1
  end
  return options, rest
end

-- A program with checked options: fn(sh, options, rest, fds, words, env).
local function tool(name, flags, valued, fn)
  tools[name] = function(sh, words, fds, env)
    local options, rest = options_of(words, flags, valued)
    if not options then return no_option(sh, fds, words, rest) end
    return fn(sh, options, rest, fds, words, env)
  end
end

-- The bytes of a file, or of the input for none or "-".
local function bytes_of(sh, path, fds)
  if path == nil or path == "-" then
    return fds[0] and fds[0].all and fds[0]:all() or ""
  end
  return sh.files:read(sh:resolve(path))
end

-- fn(bytes, path) for each file, or for the input. Returns the status.
local function each_input(sh, paths, fds, words, fn)
  local status = 0
  for i = 1, math.max(1, #paths) do
    local bytes, code = bytes_of(sh, paths[i], fds)
    if bytes then
      fn(bytes, paths[i])
    else
      status = complain(sh, fds, words, ("%s: %s"):format(paths[i], shell.words_of(code)))
    end
  end
  return status
end

-- ------------------------------------------------------------------------- words

tools.echo = function(_, words, fds)
  local at, feed, escapes = 2, "\n", false
  while words[at] == "-n" or words[at] == "-e" do
    if words[at] == "-n" then feed = "" else escapes = true end
    at = at + 1
  end
  local text = table.concat(words, " ", at)
  return write(fds, (escapes and expand_text.escapes(text) or text) .. feed)
end

tools.printf = function(sh, words, fds)
  if not words[2] then return complain(sh, fds, words, "no format") end
  return write(fds, expand_text.format(words[2], table.move(words, 3, #words, 1, {})))
end

tools.seq = function(sh, words, fds)
  local from, step, to = 1, 1, tonumber(words[#words])
  if #words >= 3 then from = tonumber(words[2]) end
  if #words >= 4 then step = tonumber(words[3]) end
  if not (from and step and to) or step == 0 or (to - from) / step > 1e6 then
    return complain(sh, fds, words, "invalid arguments")
  end
  local lines = {}
  for number = from, to, step do
    lines[#lines + 1] = ("%g\n"):format(number)
  end
  return write(fds, table.concat(lines))
end

tools.basename = function(_, words, fds)
  local name = (words[2] or ""):gsub("/+$", ""):match("[^/]*$")
  local suffix = words[3]
  if suffix and name ~= suffix and name:sub(-#suffix) == suffix then
    name = name:sub(1, -#suffix - 1)
  end
  return write(fds, name .. "\n")
end

tools.dirname = function(_, words, fds)
  local path = (words[2] or ""):gsub("/+$", "")
  return write(fds, (path:match("^(.*)/") or path == "" and "/" or ".") .. "\n")
end

-- ------------------------------------------------------------------------- files

tool("cat", "u", "", function(sh, _, paths, fds, words)
  return each_input(sh, paths, fds, words, function(bytes) write(fds, bytes) end)
end)

tool("mkdir", "p", "m", function(sh, options, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local full = sh:resolve(path)
    local make = options.p and sh.files.make_folders or sh.files.make_folder
    local ok, code = make(sh.files, full)
    if not ok then
      status = complain(sh, fds, words, ("cannot create directory '%s': %s"):format(path,
        shell.words_of(code)))
    end
  end
  return status
end)

tool("rm", "rfRv", "", function(sh, options, paths, fds, words)
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
      status = complain(sh, fds, words, ("cannot remove '%s': %s"):format(path,
        shell.words_of(code)))
    end
  end
  return status
end)

tool("rmdir", "p", "", function(sh, _, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local full = sh:resolve(path)
    local names = sh.files:list(full)
    if not names or #names > 0 or not sh.files:remove(full) then
      status = complain(sh, fds, words, ("failed to remove '%s'"):format(path))
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

tool("mv", "fvT", "", function(sh, options, paths, fds, words)
  local to, status = table.remove(paths), 0
  if #paths == 0 then return complain(sh, fds, words, "missing file operand") end
  for _, path in ipairs(paths) do
    local target = options.T and sh:resolve(to) or target_of(sh, path, to)
    local ok, code = sh.files:rename(sh:resolve(path), target)
    if not ok then
      status = complain(sh, fds, words, ("cannot move '%s': %s"):format(path,
        shell.words_of(code)))
    end
  end
  return status
end)

local function put(sh, path, bytes)
  local node, code = sh.files:open(path)
  if not node then return nil, code end
  return sh.files:append(node, bytes)
end

tool("cp", "fvp", "", function(sh, _, paths, fds, words)
  local to, status = table.remove(paths), 0
  if #paths == 0 then return complain(sh, fds, words, "missing file operand") end
  for _, path in ipairs(paths) do
    local bytes, code = sh.files:read(sh:resolve(path))
    local ok = bytes
    if bytes then ok, code = put(sh, target_of(sh, path, to), bytes) end
    if not ok then
      status = complain(sh, fds, words, ("cannot copy '%s': %s"):format(path,
        shell.words_of(code)))
    end
  end
  return status
end)

tool("touch", "c", "", function(sh, _, paths, fds, words)
  local status = 0
  for _, path in ipairs(paths) do
    local node, code = sh.files:open(sh:resolve(path), true)
    if node then
      node.mtime = time.wall()
    elseif code ~= "EISDIR" then
      status = complain(sh, fds, words, ("cannot touch '%s': %s"):format(path,
        shell.words_of(code)))
    end
  end
  return status
end)

tool("chmod", "Rfv", "", function(sh, _, paths, fds, words)
  local status, mode = 0, tonumber(paths[1] or "", 8)
  for i = 2, #paths do
    local node = sh.files:node(sh:resolve(paths[i]))
    if not node then
      status = complain(sh, fds, words, ("cannot access '%s'"):format(paths[i]))
    elseif node.parts then
      node.mode = mode or node.mode | 73 -- with x for all
    end
  end
  return status
end)

tool("ls", "1aAl", "", function(sh, options, paths, fds, words)
  local status = 0
  for _, path in ipairs(#paths > 0 and paths or { "." }) do
    local full = sh:resolve(path)
    local names = sh.files:is_folder(full) and sh.files:list(full)
      or sh.files:node(full) and { path }
    if not names then
      status = complain(sh, fds, words, ("cannot access '%s'"):format(path))
    end
    for _, name in ipairs(names or {}) do
      if options.a or options.A or name:sub(1, 1) ~= "." then write(fds, name .. "\n") end
    end
  end
  return status
end)

tool("tee", "a", "", function(sh, options, paths, fds)
  local bytes = bytes_of(sh, nil, fds)
  local status = write(fds, bytes)
  for _, path in ipairs(paths) do
    local node = sh.files:open(sh:resolve(path), options.a)
    if not node or not sh.files:append(node, bytes) then status = 1 end
  end
  return status
end)

-- ------------------------------------------------------------------------- bytes

local function lines_of(bytes)
  local lines = {}
  for line in bytes:gmatch("[^\n]*\n?") do
    if line ~= "" then lines[#lines + 1] = line end
  end
  return lines
end

tool("head", "q", "cn", function(sh, options, paths, fds, words)
  local count = math.tointeger(tonumber(options.c or options.n or 10)) or 10
  return each_input(sh, paths, fds, words, function(bytes)
    if options.c then return write(fds, bytes:sub(1, count)) end
    local lines = lines_of(bytes)
    write(fds, table.concat(lines, "", 1, math.min(count, #lines)))
  end)
end)

-- Where tail begins: so many from the end, or with a plus from this one on.
local function tail_start(text, size)
  local count = math.tointeger(tonumber((text:gsub("^[+-]", "")))) or 10
  if text:sub(1, 1) == "+" then return math.max(1, count) end
  return math.max(1, size - count + 1)
end

tool("tail", "qf", "cn", function(sh, options, paths, fds, words)
  local status = each_input(sh, paths, fds, words, function(bytes)
    if options.c then return write(fds, bytes:sub(tail_start(options.c, #bytes))) end
    local lines = lines_of(bytes)
    write(fds, table.concat(lines, "", tail_start(options.n or "10", #lines)))
  end)
  if options.f then sh.process:nap(math.huge) end
  return status
end)

tool("wc", "clw", "", function(sh, options, paths, fds, words)
  return each_input(sh, paths, fds, words, function(bytes, path)
    local counts = {}
    local all = not (options.c or options.l or options.w)
    if options.l or all then counts[#counts + 1] = select(2, bytes:gsub("\n", "")) end
    if options.w or all then counts[#counts + 1] = select(2, bytes:gsub("%S+", "")) end
    if options.c or all then counts[#counts + 1] = #bytes end
    write(fds, table.concat(counts, " ") .. (path and path ~= "-" and " " .. path or "") .. "\n")
  end)
end)

tool("grep", "FqlcvnihHEs", "e", function(sh, options, paths, fds, words)
  local wanted = options.e or table.remove(paths, 1)
  if not wanted then return complain(sh, fds, words, "no pattern") end
  local plain = options.F or not wanted:find("[%[%]*.^$\\+?(){}|]")
  if not plain then return no_option(sh, fds, words, "(a pattern that is not plain text)") end
  if options.i then wanted = wanted:lower() end
  local found = false
  local status = each_input(sh, paths, fds, words, function(bytes, path)
    local count = 0
    for _, line in ipairs(lines_of(bytes)) do
      local text = options.i and line:lower() or line
      if (text:find(wanted, 1, true) ~= nil) ~= (options.v or false) then
        count = count + 1
        local shows = not (options.q or options.l or options.c)
        if shows then
          write(fds, (#paths > 1 and not options.h and path .. ":" or "") .. line:gsub("\n$", "")
            .. "\n")
        end
      end
    end
    if options.c then write(fds, count .. "\n") end
    if options.l and count > 0 then write(fds, path .. "\n") end
    found = found or count > 0
  end)
  if status ~= 0 and not found then return 2 end
  return found and 0 or 1
end)

tool("sort", "nru", "", function(sh, options, paths, fds, words)
  local lines = {}
  local status = each_input(sh, paths, fds, words, function(bytes)
    for line in bytes:gmatch("[^\n]+") do
      lines[#lines + 1] = line
    end
  end)
  table.sort(lines, function(a, b)
    if options.n then
      local x, y = tonumber(a:match("^%s*(-?%d+)")) or 0, tonumber(b:match("^%s*(-?%d+)")) or 0
      if x ~= y then return x < y end
    end
    return a < b
  end)
  local from, to, step = 1, #lines, 1
  if options.r then from, to, step = #lines, 1, -1 end
  local last
  for i = from, to, step do
    if not (options.u and lines[i] == last) then write(fds, lines[i] .. "\n") end
    last = lines[i]
  end
  return status
end)

for name, algorithm in pairs { sha256sum = hash.sha256, md5sum = hash.md5 } do
  tool(name, "b", "", function(sh, _, paths, fds, words)
    return each_input(sh, paths, fds, words, function(bytes, path)
      write(fds, ("%s  %s\n"):format(algorithm(bytes), path or "-"))
    end)
  end)
end

tool("base64", "d", "w", function(sh, options, paths, fds, words)
  return each_input(sh, paths, fds, words, function(bytes)
    if options.d then
      local ok, decoded = pcall(encoding.base64_decode, (bytes:gsub("%s", "")))
      return ok and write(fds, decoded)
    end
    local width = math.tointeger(tonumber(options.w or "76")) or 76
    local text = encoding.base64(bytes)
    if width > 0 then text = text:gsub(("."):rep(width), "%0\n") end
    if text ~= "" and text:sub(-1) ~= "\n" and width > 0 then text = text .. "\n" end
    write(fds, text)
  end)
end)

-- ---------------------------------------------------------------------- programs

tools.sleep = function(sh, words, fds)
  local total = 0
  for i = 2, #words do
    local number, unit = words[i]:match("^(%d*%.?%d+)([smhd]?)$")
    local factor = ({ s = 1, m = 60, h = 3600, d = 86400 })[unit == "" and "s" or unit or ""]
    if words[i] == "infinity" then number, factor = math.huge, 1 end
    if not number then return complain(sh, fds, words, "invalid time interval " .. words[i]) end
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
      return complain(sh, fds, words, ("%s: %s"):format(path, shell.words_of(code))) + 126
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
