-- require and package: loaded, preload, searchers, searchpath, loaders' data.

local function show(...) print(select("#", ...), ...) end
local folder = os.tmpname()
os.remove(folder)
assert(os.execute("mkdir -p " .. folder .. "/sub/deep"))
local function write(name, text) local f = assert(io.open(folder .. "/" .. name, "w"))
  f:write(text) f:close() end
local function hide(...)
  local t = table.pack(...)
  for i = 1, t.n
  do if type(t[i]) == "string" then t[i] = t[i]:gsub(folder:gsub("%p", "%%%0"), "DIR") end end
  return table.unpack(t, 1, t.n)
end
package.path = folder .. "/?.lua;" .. folder .. "/?/init.lua" package.cpath = folder .. "/?.so"

write("plain.lua", "return { name = ..., file = select(2, ...), n = select('#', ...) }")
local m, where = require("plain")
show(hide(m.name, m.file, m.n, where))
show(require("plain") == m, select("#", require("plain")), package.loaded.plain == m)
write("none.lua", "loads = (loads or 0) + 1")
show(hide(require("none")))
show(require("none"), loads, package.loaded.none)
write("no.lua", "tries = (tries or 0) + 1 return false")
show(hide(require("no")))
show(hide(require("no")))
show(tries, package.loaded.no)
write("own.lua", "package.loaded[...] = 'set by itself'")
show(hide(require("own")))
write("both.lua", "package.loaded[...] = 'own' return 'returned'")
show(hide(require("both")))
write("sub/init.lua", "return 'init of ' .. ...")
write("sub/deep/mod.lua", "return ...")
show(hide(require("sub")))
show(hide(require("sub.deep.mod")))
show(package.loaded["sub.deep.mod"])
write("bad.lua", "return (")
show(hide(pcall(require, "bad")))
write("fails.lua", "error('while loading')")
show(hide(pcall(require, "fails")))
show(package.loaded.fails)
write("failstable.lua", "error({ code = 1 })")
show(select(2, pcall(require, "failstable")).code)
show(hide(pcall(require, "fails")))
local ok, message = pcall(require, "not.there")
show(ok, hide((message:gsub("\n\tno module [^\n]*", ""))))
show(pcall(require, 5) == false, pcall(require), pcall(require, {})) show(pcall(require, nil))
package.preload.pre = function(...) show("preload", ...) return "from preload" end
show(require("pre"))
show(require("pre"))
package.preload.pre2 = function() end
show(require("pre2"))
package.preload.bad = 5
show(hide(pcall(require, "bad")))
table.insert(package.searchers, 2, function(name) if name == "magic" then return function(...)
  show("loader", ...) return "magic value" end, "extra data" elseif name == "odd" then return nil
  elseif name == "told" then return "\n\tcustom note" end end)
show(require("magic"))
show(require("magic"))
show(hide((select(2, pcall(require, "told")):match("custom note"))))
show((pcall(require, "odd")))
table.remove(package.searchers, 2)
show(hide(package.searchpath("plain", package.path)))
show(hide(package.searchpath("sub.deep.mod", package.path)))
show(hide(package.searchpath("a.b", "./?.x;/?.y")))
show(hide(package.searchpath("a-b", "./?.x", "-")))
show(hide(package.searchpath("a-b", "./?.x", "-", "+")))
show(package.searchpath("x", ""))
show(pcall(package.searchpath, "x"))
show(package.config:gsub("\n", "|"))
show(type(package.loaded), package.loaded._G == _G, package.loaded.string == string,
  package.loaded["coroutine"] == coroutine, type(package.loadlib),
  package.loadlib("/nonexistent.so", "*"))
package.loaded.plain = nil
local again = require("plain")
show(again ~= m, again.name)
package.loaded.fake = "fake"
show(require("fake"))
package.loaded.nope = false
package.preload.nope = function() return "reloaded" end
show(require("nope"))
write("a.lua", "inner = pcall(require, 'b') return 'a'")
write("b.lua", "return 'b'")
show(hide(require("a")))
show(inner, package.loaded.b)
write("env.lua", "glob = 'set' return _ENV == _G")
show(hide(require("env")))
show(glob)
write("co.lua", "return coroutine.running() ~= nil, 2")
show(hide(require("co")))
write("varargs.lua", "local a, b = ... return a, b")
show(hide(require("varargs")))
do local saved = package.searchers package.searchers = nil show(pcall(require, "zzz"))
  package.searchers = saved local p = package.path package.path = nil show((select(2,
  pcall(require, "zzz")))) package.path = 5 show((select(2, pcall(require, "zzz"))):gsub("\n.*",
  "")) package.path = p end
do local saved = package.loaded package.loaded = {} show(require("string") == string)
  package.loaded = saved local pk = package package = nil show(hide(require("plain").name))
  package = pk end
assert(os.execute("rm -rf " .. folder))
