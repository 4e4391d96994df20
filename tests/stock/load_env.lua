-- load, loadfile, dofile, environments and upvalues.

local function show(...) print(select("#", ...), ...) end
show(load("return 1, 2")())
show(load("syntax error here"))
show(load("return ...", "name")(5, nil))
show(load("x =", "=name"))
show(load("x =", "@file.lua"))
show(load("x =",
  "a long chunk name that is a piece of code and goes on and on and on\nsecond line"))
show(load("error('e')", "=(mine)") and pcall(load("error('e')", "=(mine)")))
local pieces, i = { "return ", "1", "+", "41", nil }, 0
show(load(function() i = i + 1 return pieces[i] end)())
show(load(function() return nil end))
show(pcall(load, function() error("reader") end))
show(pcall(load, function() error("reader", 0) end))
show(pcall(load, function() return {} end))
show(pcall(load, function() return true end))
local once = true
show(load(function() if once then once = false return "return 7" end return "" end)())
local env = { y = 10 }
show(load("x = y; return x", "c", "t", env)(), env.x, rawget(_G, "x"))
show(pcall(load("return print", "c", "t", {})))
show(pcall(load("y.z = 1", "c", "t", {})))
show(load("return _ENV", "c", "t", env)() == env)
show(load("return _ENV", "c", "t", nil) and pcall(load("return _ENV", "c", "t", nil)))
show(load("return 1", "c", "b"))
show(load(string.dump(function() return 1 end), "c", "t"))
show(load("\27Lua", "c", "b"))
show(load("\27garbage"))
show(pcall(load))
show(pcall(load, 5))
show(load("", ""))
show(load("return 1", "c", "x"))
show(load("#!shebang\nreturn 1"))
do local _ENV = { show = show } z = 5 show(z, _ENV.z) end
show(z)
do local _ENV <const> = { show = show, v = 1 } show(v) end
local function sandboxed(_ENV) return a + b end
show(sandboxed({ a = 1, b = 2 }))
show(pcall(function() local _ENV = nil; return x end))
show(pcall(function() local _ENV = 5; x = 1 end))
_G.newglobal = 1
show(newglobal, _ENV == _G, _G._G == _G, rawget(_G, "newglobal"))
newglobal = nil
setmetatable(_G, { __index = function(_, k) return "default " .. k end, __newindex = function(t,
  k, v) rawset(t, k, v .. "!") end })
show(undefinedthing)
created = "v"
show(created)
setmetatable(_G, nil)
created = nil
local path = os.tmpname()
local function write(text) local h = assert(io.open(path, "wb")) h:write(text) h:close() end
local function hide(...) local t = table.pack(...) for n = 1, t.n do
  if type(t[n]) == "string" then t[n] = t[n]:gsub(path, "PATH", nil, true):gsub("/tmp/lua_%w+",
  "PATH") end end return table.unpack(t, 1, t.n) end
write("#!/usr/bin/lua\nreturn ..., 'x'")
show(loadfile(path)("arg"))
show(dofile(path))
write("\xEF\xBB\xBFreturn 'bom'")
show(dofile(path))
write("\xEF\xBB\xBF#!x\nreturn debug.getinfo(1, 'l').currentline")
show(dofile(path))
write("return (")
show(hide(loadfile(path)))
show(hide(pcall(dofile, path)))
write("error('inside')")
show(hide(pcall(dofile, path)))
write("return _ENV")
show(type(loadfile(path, "t", {})()), loadfile(path, "t", nil)())
write(string.dump(function() return "bin" end))
show(dofile(path))
show(hide(loadfile(path, "t")))
write("# only a comment")
show(dofile(path))
write("")
show(dofile(path))
write("return debug.getinfo(1,'S').source:sub(1,1), debug.getinfo(1,'S').what")
show(dofile(path))
write("coroutine.yield('from file') return 'end'")
local co = coroutine.wrap(dofile)
show(co(path))
show(co())
os.remove(path)
show(loadfile("/nonexistent/file.lua"))
show(pcall(dofile, "/nonexistent/file.lua"))
show(loadfile("/tmp") ~= nil, select("#", loadfile("/tmp")))
show(pcall(loadfile, {}))
show(pcall(dofile, {}))
show(pcall(loadfile, "x", 5))
local function counter() local n = 0 return function() n = n + 1 return n end, function() return n
  end end
local inc, get = counter()
inc()
inc()
show(get())
local inc2 = counter()
show(inc2(), get())
show(debug.getupvalue(inc, 1), debug.setupvalue(inc, 1, 40), inc(), get())
debug.upvaluejoin(inc2, 1, inc, 1)
show(inc2(), get(), debug.upvalueid(inc, 1) == debug.upvalueid(get, 1), debug.upvalueid(inc,
  1) == debug.upvalueid(counter(), 1))
show(#string.dump(counter), load(string.dump(load("return ...")))("kept"),
  pcall(load(string.dump(function() return x end))))
show(select("#", load("return")()), load("local a <const> = 5; return a")(),
  load("return 0x10, 1e1, 'a' .. 'b', #'abc', not nil, -1 // 2")())
show(load("::l:: do return 'labels' end")(), load(";;; return ;"))
show(pcall(load("local function f() return f() end return select('#', pcall(string.rep))")))
show(pcall(load, ("("):rep(250) .. "1" .. (")"):rep(250)))
show(load("local " .. ("a,"):rep(250) .. "a"))
show(load(("a."):rep(10) .. "b = 1") ~= nil, load("return " .. ("-"):rep(10) .. "1"),
  load("return {" .. ("1,"):rep(1000) .. "}") and #load("return {" .. ("1,"):rep(1000) .. "}")())
