-- Paths as text: joining, taking apart, comparing, matching. Nothing here asks
-- the disk, so links are not known: "a/../b" and "b" count as the same.

local check = require("sbx.check")
local core = require("sbx.core.fs")
local pattern = require("sbx.path.pattern")

---@class sbx.path
local path = {}

local MAX_COMPILED = 100 -- patterns kept by `match`

-- The names of a path and whether it is absolute; "." and empty ones left out.
local function names_of(text)
  local names = {}
  for name in text:gmatch("[^/]+") do
    if name ~= "." then names[#names + 1] = name end
  end
  return names, text:sub(1, 1) == "/"
end

-- The same with each ".." taken back, as far as there is something to take.
local function resolved(text)
  local names, absolute = names_of(text)
  local kept = {}
  for _, name in ipairs(names) do
    if name ~= ".." then
      kept[#kept + 1] = name
    elseif #kept > 0 and kept[#kept] ~= ".." then
      kept[#kept] = nil
    elseif not absolute then
      kept[#kept + 1] = ".."
    end
  end
  return kept, absolute
end

local function assemble(names, absolute)
  local text = (absolute and "/" or "") .. table.concat(names, "/")
  return text == "" and "." or text
end

-- Without the slashes at its end; "/" stays.
local function trimmed(text)
  return text:match("^(.*[^/])/*$") or text:sub(1, 1)
end

---Puts parts together with one slash between them. Empty parts are left out, and
---a part that begins with a slash does not start over: join("a", "/b") is "a/b".
---@param ... string
---@return string
function path.join(...)
  local text = ""
  for i = 1, select("#", ...) do
    local part = check.string((select(i, ...)), "part " .. i)
    if text == "" then
      text = part
    elseif part ~= "" then
      local front = text:find("[^/]") and trimmed(text) or ""
      text = front .. "/" .. part:match("^/*(.*)$")
    end
  end
  return text
end

---The shortest path that reads the same: without ".", empty names and names that
---a ".." takes back. Of "" it is ".".
---@param text string
---@return string
function path.normalize(text)
  return assemble(resolved(check.string(text, "path")))
end

---The path without its last name: "." for a lone name, "/" for "/".
---@param text string
---@return string
function path.dirname(text)
  local rest = trimmed(check.string(text, "path"))
  if rest == "/" then return "/" end
  local parent = rest:match("^(.*)/[^/]*$")
  if not parent then return "." end
  return parent:find("[^/]") and trimmed(parent) or "/"
end

---The last name: "" for "", "/" for "/". Slashes at the end do not count.
---@param text string
---@return string
function path.basename(text)
  local rest = trimmed(check.string(text, "path"))
  return rest == "/" and rest or rest:match("^.*/(.*)$") or rest
end

-- The last name in two: before and from its last dot. Dots at the front are part
-- of the name.
local function halves(text)
  local name = path.basename(text)
  local stem, extension = name:match("^(%.*[^.].*)(%.[^.]*)$")
  return stem or name, extension or ""
end

---The end of the last name from its last dot on: ".gz" for "a.tar.gz", "" for
---"README" and ".profile".
---@param text string
---@return string
function path.extension(text)
  local _, extension = halves(text)
  return extension
end

---The last name without its extension.
---@param text string
---@return string
function path.stem(text)
  return (halves(text))
end

---The names of a path in order; the first is "/" when it is absolute. What `join`
---makes of them is the same path.
---@param text string
---@return string[]
function path.split(text)
  local names, absolute = names_of(check.string(text, "path"))
  if absolute then table.insert(names, 1, "/") end
  return names
end

---@param text string
---@return boolean
function path.is_absolute(text)
  return check.string(text, "path"):sub(1, 1) == "/"
end

-- How many names two lists begin with in common.
local function common(a, b)
  local count = 0
  while count < #a and a[count + 1] == b[count + 1] do
    count = count + 1
  end
  return count
end

---The way from the folder `from` to `to`: join(from, relative(from, to)) is `to`,
---normalised. Both absolute or both relative.
---@param from string
---@param to string
---@return string
function path.relative(from, to)
  local names, absolute = resolved(check.string(from, "from"))
  local target, also = resolved(check.string(to, "to"))
  if absolute ~= also then
    error("relative: one path is absolute, the other is not", 2)
  end
  local shared = common(names, target)
  local way = {}
  for i = shared + 1, #names do
    if names[i] == ".." then
      error(("relative: '%s' lies above what is known of '%s'"):format(from, to), 2)
    end
    way[#way + 1] = ".."
  end
  table.move(target, shared + 1, #target, #way + 1, way)
  return assemble(way, false)
end

---The path from the root on, normalised. A relative one is taken from `base`, or
---from the current directory.
---@param text string
---@param base? string  absolute
---@return string
function path.absolute(text, base)
  if path.is_absolute(text) then return path.normalize(text) end
  if base ~= nil and not path.is_absolute(base) then
    error("base: expected an absolute path, got '" .. base .. "'", 2)
  end
  return path.normalize(path.join(base or core.cwd(), text))
end

---"~" and "~/..." with the home directory in place of "~"; other paths as they
---are, "~name" too.
---@param text string
---@return string
function path.expand_user(text)
  check.string(text, "path")
  if text ~= "~" and text:sub(1, 2) ~= "~/" then return text end
  local home = trimmed(core.homedir())
  return text == "~" and home or path.join(home, text:sub(2))
end

---Whether `text` is `base` or lies below it, by its names alone, "..", "." and
---all. False when one is absolute and the other is not, and for a zero byte.
---@param base string
---@param text string
---@return boolean
function path.inside(base, text)
  local outer, absolute = resolved(check.string(base, "base"))
  local inner, also = resolved(check.string(text, "path"))
  if absolute ~= also or text:find("\0", 1, true) then return false end
  local shared = common(outer, inner)
  -- What lies below the current directory also lies below "..".
  for i = shared + 1, #outer do
    if outer[i] ~= ".." then return false end
  end
  return inner[shared + 1] ~= ".."
end

local compiled, count = { [true] = {}, [false] = {} }, 0

-- The machine of a pattern, kept for the next time. Raises for the caller's caller.
local function machine_of(text, hidden)
  local machine = compiled[hidden][text]
  if machine then return machine end
  local made, problem = pattern.compile(text, hidden)
  if not made then error("pattern: " .. problem, 3) end
  if count >= MAX_COMPILED then
    compiled[true], compiled[false], count = {}, {}, 0
  end
  compiled[hidden][text], count = made, count + 1
  return made
end

---Whether the whole path matches the pattern: `*` and `?` stand for characters of
---one name, `[a-z]` and `[!a-z]` for one, `**` for any number of whole names,
---`{a,b}` for either. A backslash takes away the next character's meaning.
---@param text string       the pattern
---@param name string       a name or a path
---@param options? table    `hidden`: wildcards match a name's leading dot
---@return boolean
function path.match(text, name, options)
  check.string(text, "pattern")
  check.string(name, "name")
  local hidden = options ~= nil and check.options(options, { hidden = false }).hidden
  local machine = machine_of(text, check.boolean(hidden, "hidden"))
  local reached = machine:advance(machine.start, name)
  return reached and reached.accepts or false
end

---The pattern that matches `text` and nothing else.
---@param text string
---@return string
function path.escape(text)
  return (check.string(text, "text"):gsub("[*?%[%]{},\\]", "\\%0"))
end

return path
