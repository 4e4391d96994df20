-- Programs of a simulated sandbox that make and read text. Each is called as
-- (shell, words, fds, env) and returns its status.

local encoding = require("sbx.encoding")
local expand_text = require("sbx.server.driver.sim.printf")
local hash = require("sbx.hash")
local tool = require("sbx.server.driver.sim.tool")

local tools_text = {}

local complain, each_input = tool.complain, tool.each_input
local no_option, write = tool.no_option, tool.write

-- ------------------------------------------------------------------------- words

tools_text.echo = function(_, words, fds)
  local at, feed, escapes = 2, "\n", false
  while words[at] == "-n" or words[at] == "-e" do
    if words[at] == "-n" then feed = "" else escapes = true end
    at = at + 1
  end
  local text = table.concat(words, " ", at)
  return write(fds, (escapes and expand_text.escapes(text) or text) .. feed)
end

tools_text.printf = function(_, words, fds)
  if not words[2] then return complain(fds, words, "no format") end
  return write(fds, expand_text.format(words[2], table.move(words, 3, #words, 1, {})))
end

tools_text.seq = function(_, words, fds)
  local from, step, to = 1, 1, tonumber(words[#words])
  if #words >= 3 then from = tonumber(words[2]) end
  if #words >= 4 then step = tonumber(words[3]) end
  if not (from and step and to) or step == 0 or (to - from) / step > 1e6 then
    return complain(fds, words, "invalid arguments")
  end
  local lines = {}
  for number = from, to, step do
    lines[#lines + 1] = ("%g\n"):format(number)
  end
  return write(fds, table.concat(lines))
end

tools_text.basename = function(_, words, fds)
  local name = (words[2] or ""):gsub("/+$", ""):match("[^/]*$")
  local suffix = words[3]
  if suffix and name ~= suffix and name:sub(-#suffix) == suffix then
    name = name:sub(1, -#suffix - 1)
  end
  return write(fds, name .. "\n")
end

tools_text.dirname = function(_, words, fds)
  local path = (words[2] or ""):gsub("/+$", "")
  return write(fds, (path:match("^(.*)/") or path == "" and "/" or ".") .. "\n")
end

-- ------------------------------------------------------------------------- bytes

local function lines_of(bytes)
  local lines = {}
  for line in bytes:gmatch("[^\n]*\n?") do
    if line ~= "" then lines[#lines + 1] = line end
  end
  return lines
end

tools_text.head = tool.new("q", "cn", function(sh, options, paths, fds, words)
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

tools_text.tail = tool.new("qf", "cn", function(sh, options, paths, fds, words)
  local status = each_input(sh, paths, fds, words, function(bytes)
    if options.c then return write(fds, bytes:sub(tail_start(options.c, #bytes))) end
    local lines = lines_of(bytes)
    write(fds, table.concat(lines, "", tail_start(options.n or "10", #lines)))
  end)
  if options.f then sh.process:nap(math.huge) end
  return status
end)

tools_text.wc = tool.new("clw", "", function(sh, options, paths, fds, words)
  return each_input(sh, paths, fds, words, function(bytes, path)
    local counts = {}
    local all = not (options.c or options.l or options.w)
    if options.l or all then counts[#counts + 1] = select(2, bytes:gsub("\n", "")) end
    if options.w or all then counts[#counts + 1] = select(2, bytes:gsub("%S+", "")) end
    if options.c or all then counts[#counts + 1] = #bytes end
    write(fds, table.concat(counts, " ") .. (path and path ~= "-" and " " .. path or "") .. "\n")
  end)
end)

tools_text.grep = tool.new("FqlcvnihHEs", "e", function(sh, options, paths, fds, words)
  local wanted = options.e or table.remove(paths, 1)
  if not wanted then return complain(fds, words, "no pattern") end
  local plain = options.F or not wanted:find("[%[%]*.^$\\+?(){}|]")
  if not plain then return no_option(fds, words, "(a pattern that is not plain text)") end
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

tools_text.sort = tool.new("nru", "", function(sh, options, paths, fds, words)
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
  tools_text[name] = tool.new("b", "", function(sh, _, paths, fds, words)
    return each_input(sh, paths, fds, words, function(bytes, path)
      write(fds, ("%s  %s\n"):format(algorithm(bytes), path or "-"))
    end)
  end)
end

tools_text.base64 = tool.new("d", "w", function(sh, options, paths, fds, words)
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

return tools_text
