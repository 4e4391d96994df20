-- The debug library: getinfo, locals, upvalues, hooks, metatables.

local function show(...) print(select("#", ...), ...) end
local function f(a, b, ...) local c = 1 local i = debug.getinfo(1, "nSlutrfL") return i, c end
local i = f(1, 2, 3)
show(i.name, i.namewhat, i.what, i.short_src, i.source, i.currentline, i.linedefined,
  i.lastlinedefined, i.nups, i.nparams, i.isvararg, i.istailcall, i.func == f, i.ftransfer,
  i.ntransfer)
local lines = {}
for l in pairs(i.activelines) do lines[#lines + 1] = l end
show(#lines)
i = debug.getinfo(print)
show(i.what, i.short_src, i.source, i.currentline, i.linedefined, i.nups >= 0, i.nparams,
  i.isvararg, i.name)
i = debug.getinfo(1)
show(i.what, i.name, i.namewhat, i.linedefined)
show(debug.getinfo(100), pcall(debug.getinfo))
show(pcall(debug.getinfo, 1, "?"))
show(pcall(debug.getinfo, "x"))
show(pcall(debug.getinfo, 1, ">S"))
show(debug.getinfo(1, "l").currentline, debug.getinfo(f, "S").linedefined, next(debug.getinfo(1,
  "")))
show((function() return debug.getinfo(1, "t").istailcall end)())
show(debug.getinfo(2) and debug.getinfo(2).what)
local function locals(level) local out, n = {}, 1 while true do local name,
  value = debug.getlocal(level + 1, n) if not name then break end
  out[#out + 1] = name .. "=" .. tostring(value) n = n + 1 end return table.concat(out, ",") end
local function g(x, y, ...) local z = x + y do local inner = 5 end local w <const>, v <close> = 2,
  nil return (locals(1)) end
show(g(1, 2, "va"))
local function va(...) return debug.getlocal(1, -1), debug.getlocal(1, -2), debug.getlocal(1, -3)
  end
show(va("a", "b"))
show(debug.getlocal(g, 1), debug.getlocal(g, 2), debug.getlocal(g, 3), pcall(debug.getlocal, 100,
  1))
local function set() local q = 1 show(debug.setlocal(1, 1, 42), q, debug.setlocal(1, 100, 0)) end
set()
show(pcall(debug.setlocal, 100, 1, 1))
local up1, up2 = 1, "two"
local function u() return up1, up2 end
show(debug.getupvalue(u, 1), debug.getupvalue(u, 2), debug.getupvalue(u, 3))
show(debug.setupvalue(u, 1, 10), up1, debug.setupvalue(u, 9, 1))
show(debug.getupvalue(string.gmatch("x", "x"), 1), debug.getupvalue(print, 1) == nil or "has")
show(pcall(debug.upvalueid, u, 9), pcall(debug.upvaluejoin, u, 1, print, 1))
local co = coroutine.create(function(p) local r = p coroutine.yield() end)
coroutine.resume(co, "val")
show(debug.getlocal(co, 1, 1), debug.getlocal(co, 1, 2))
show(debug.getinfo(co, 1, "l").currentline, debug.getinfo(co, 0, "S").what, debug.getinfo(co, 5))
show(debug.traceback(co), debug.sethook(co), debug.gethook(co))
local events = {}
debug.sethook(function(e, l) events[#events + 1] = e .. (l and ":" .. l or "") end, "crl")
local function called() return 1 end
called()
debug.sethook()
show(table.concat(events, " "))
show(debug.gethook())
local count = 0
debug.sethook(function(e) count = count + 1 end, "", 100)
for _ = 1, 10000 do end
show(select("#", debug.gethook()), select(2, debug.gethook()), select(3, debug.gethook()))
debug.sethook()
show(count > 50)
local seen = {}
local h = function(e, l) seen[#seen + 1] = l end
debug.sethook(h, "l")
local a = 1
local b = 2
debug.sethook()
show(#seen, seen[2] - seen[1])
debug.sethook(h, "c")
show(debug.gethook() == h, select(2, debug.gethook()))
debug.sethook(nil)
show(pcall(debug.sethook, 1, 2, 3))
do
  local function raise() debug.sethook() error("from hook", 0) end
  show(pcall(function()
    debug.sethook(raise, "l")
    local x = 1
    return x
  end))
end local tail = {} debug.sethook(function(e) tail[#tail + 1] = e end, "cr") local function t1()
return 1 end local function t2()
return t1() end t2() debug.sethook() show(table.concat(tail, " "))
  local cohook = coroutine.wrap(function() show(debug.gethook()) debug.sethook(print, "c")
  debug.sethook() end) cohook()
local ud = io.stdout
show(debug.getuservalue(5, 1), debug.getuservalue({}, 1))
show(debug.getmetatable("").__index == string, debug.getmetatable(1), debug.setmetatable(5, nil))
show(type(debug.getregistry()), debug.getregistry()[2] == _G, type(debug.getregistry()._LOADED))
show(pcall(debug.setuservalue, 5, 1))
show(debug.traceback("m", 1):match("debuglib.lua:%d+: in main chunk") or "in another")
show(pcall(debug.setmetatable, 5))
show(debug.setcstacklimit and debug.setcstacklimit(200))
show(pcall(debug.traceback, 5, "x") == false or "ok")
show(pcall(debug.joinbad))
