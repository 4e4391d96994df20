-- What it costs to start: `sbxlua -e ''` beside `lua5.4 -e ''`, and beside a C program
-- that does nothing but is linked to the same shared libraries. What such a program
-- takes more than one linked to nothing is the loading of the libraries.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local path = require("sbx.path")
local process = require("sbx.process")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local ROUNDS = 300
local MOST = 1.5 -- times stock Lua, beside the loading

local folder <close> = fs.tmpdir({ prefix = "startup-" })

local function compile(name, source, libraries)
  local program = path.join(folder.path, name)
  local argv = { "cc", "-O2", "-o", program, source, "-Wl,--no-as-needed" }
  for _, library in ipairs(libraries) do
    argv[#argv + 1] = "-l:" .. library
  end
  process.run(argv, { check = true })
  return program
end

-- What the running program is linked to itself.
local function libraries()
  local found = {}
  local text = process.run({ "objdump", "-p", host.executable() }, { check = true }).stdout
  for name in text:gmatch("NEEDED%s+(%S+)") do
    found[#found + 1] = name
  end
  return found
end

local empty = path.join(folder.path, "empty.c")
fs.write(empty, "int main(void) { return 0; }\n")
local timer = compile("spawn_time", here .. "lib/spawn_time.c", {})
local bare, linked = compile("bare", empty, {}), compile("linked", empty, libraries())

local text = process.run({
  timer, tostring(ROUNDS), "lua5.4", "-e", "", "--", bare, "--", linked, "--",
  host.executable(), "-e", "",
}, { check = true, timeout = 300 }).stdout
local figures = {}
for figure in text:gmatch("%S+") do
  figures[#figures + 1] = tonumber(figure)
end
local stock, nothing, loaded, ours = table.unpack(figures)
local loading = loaded - nothing

print(("lua5.4 -e ''                    %6.2f ms"):format(stock))
print(("nothing, no libraries           %6.2f ms"):format(nothing))
print(("nothing, the same libraries     %6.2f ms"):format(loaded))
print(("sbxlua -e ''                    %6.2f ms"):format(ours))
print(("  without loading the libraries %6.2f ms, %.2f times lua5.4 (at most %.1f)")
  :format(ours - loading, (ours - loading) / stock, MOST))
assert(ours <= MOST * stock + loading, "a start costs too much")
