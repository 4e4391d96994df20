-- What docs/runtime.md lists as different: one line for each row of its table,
-- which begins with the row's name.

local function show(name, ...)
  print("~" .. name .. "~", ...)
end

show("package.searchers", #package.searchers)
show("package.path", package.path:sub(1, 3))
show("require", (select(2, pcall(require, "no.such")):gsub("\n", "|")))
show("require in Lua", debug.getinfo(require).what)
show("io.lines", select("#", io.lines("differences.lua")))

local function reader() error("from the reader", 0) end
show("message handler", (select(2, load(reader)):gsub("\n.*", "|")))

show("coroutine.wrap", coroutine.wrap(function() return (debug.traceback():gsub("\n", "|")) end)())
local depth = 0
local function dive() depth = depth + 1 return coroutine.wrap(dive)() end
pcall(dive)
show("nested coroutines", depth)

warn("~warn~ is on")
local broken = io.popen("exec <&-; sleep 0.2; true", "w")
os.execute("sleep 0.1")
local written = broken:write(("x"):rep(1e5)) and broken:flush()
show("EPIPE", written)
broken:close()
local closing <close> = setmetatable({}, { __close = function() show("os.exit", "closed") end })
pcall(os.exit, 5)
show("os.exit", "went on")
