-- Variables with <close> and <const>: order, errors, every way out of a block.

local function show(name, ...) print(name, select("#", ...), ...) end
local log
local function closing(name, fail)
  return setmetatable({}, { __close = function(_, e)
    log[#log + 1] = name .. "(" .. tostring(e) .. ")"
    if fail then error(fail, 0) end
  end })
end
local function run(name, f, ...)
  log = {}
  local r = table.pack(pcall(f, ...))
  if type(r[2]) == "table" then r[2] = "a table" end
  show(name, table.unpack(r, 1, r.n))
  print("", table.concat(log, " "))
end

run("order", function() local a <close> = closing("a") local b <close> = closing("b") end)
run("error", function() local a <close> = closing("a") local b <close> = closing("b") error("x",
  0) end)
run("error in close", function() local a <close> = closing("a") local b <close> = closing("b",
  "bf") local c <close> = closing("c") end)
run("error twice", function() local a <close> = closing("a", "af") local b <close> = closing("b",
  "bf") error("x", 0) end)
run("return", function() local a <close> = closing("a") return 1, nil, 3, nil end)
run("return call", function() local a <close> = closing("a") return (function()
  log[#log + 1] = "called" return 9 end)() end)
run("break", function() for i = 1, 3 do local a <close> = closing("a" .. i) if i == 2 then break
  end end return "after" end)
run("goto", function()
  local n = 0
  ::top::
  do local a <close> = closing("g" .. n) n = n + 1 if n < 3 then goto top end end
  return n
end)
run("while", function() local i = 0 while i < 2 do i = i + 1 local a <close> = closing("w" .. i)
  end end)
run("repeat", function() local i = 0 repeat i = i + 1 local a <close> = closing("r" .. i)
  until i == 2 end)
run("nil and false", function() local a <close> = nil local b <close> = false return "fine" end)
run("no metamethod", function() local a <close> = {} end)
run("no metamethod 2", function() local a <close> = closing("a") local bad <close> = 42 end)
run("metamethod removed", function()
  local mt = { __close = function() end }
  local a <close> = setmetatable({}, mt)
  mt.__close = nil
end)
run("not callable", function() local a <close> = setmetatable({}, { __close = 1 }) end)
run("args", function() local a <close> = setmetatable({}, { __close = function(...)
  log[1] = select("#", ...) .. tostring((select(2, ...))) end }) end)
run("upvalue", function() local a <close> = closing("a") return (function() return type(a) end)()
  end)
run("nested", function()
  local a <close> = closing("a")
  do local b <close> = closing("b") do local c <close> = closing("c") end log[#log + 1] = "." end
  log[#log + 1] = "."
end)
run("close that closes", function()
  local a <close> = setmetatable({}, { __close = function() local b <close> = closing("inner")
    log[#log + 1] = "outer" end })
end)
run("in generic for", function()
  for k in next, { 1 }, nil, closing("for") do log[#log + 1] = "body" end
end)
run("for by error", function()
  for k in next, { 1 }, nil, closing("for") do error("e", 0) end
end)
run("for by return", function() for k in next, { 1 }, nil, closing("for") do return k end end)
run("for bad closing", function() for k in next, {}, nil, 3 do end end)
run("tail is no tail", function()
  local function f() local a <close> = closing("a") return debug.traceback("t"):find("tail calls")
    end
  return f()
end)
run("vararg", function(...) local a <close> = closing("a") return ... end, 1, nil, nil)
run("error object", function()
  local a <close> = setmetatable({}, { __close = function(_, e) log[1] = type(e) .. tostring(e.code)
    end })
  error({ code = 5 })
end)

print(load("local a <const> = 1; a = 2"))
print(load("local a <close> = nil; a = 2"))
print(load("local a <foo> = 2"))
print(load("local a <close>, b <close> = nil, nil"))
print(load("local function f() local x <const> = 5; return function() x = 1 end end"))
local k <const>, l <const> = 10, "s"
print(k, l, (function() return k .. l end)())

-- xpcall's handler sees the first error; the closers run before it returns.
log = {}
show("xpcall", xpcall(function() local a <close> = closing("a", "second") error("first", 0) end,
  function(m) return "h(" .. m .. ")" end))
show("log", table.concat(log, " "))
