-- What stays inside a tree that is copied: names, links, and what to leave out.

local path = require("sbx.path")
local pattern = require("sbx.path.pattern")

local inside = {}

---A name in an archive as a relative path without `.`, empty and last slashes; ""
---is the tree itself. nil for one that leads elsewhere.
---@param name string
---@return string|nil
function inside.path(name)
  if name == "" or path.is_absolute(name) or name:find("\0", 1, true) then return nil end
  local names = {}
  for part in name:gmatch("[^/]+") do
    if part == ".." then return nil end
    if part ~= "." then names[#names + 1] = part end
  end
  return table.concat(names, "/")
end

---Whether a symbolic link stays inside whatever other links of the tree its way
---passes: `..` may only stand in front, where folders are certain to be folders.
---@param from string    the link's own path, as `inside.path` returns it
---@param target string  what it says
---@return boolean
function inside.link(from, target)
  if target == "" or path.is_absolute(target) or target:find("\0", 1, true) then return false end
  local _, above = from:gsub("/", "/")
  local named = false
  for part in target:gmatch("[^/]+") do
    if part == ".." then
      if named or above == 0 then return false end
      above = above - 1
    elseif part ~= "." then
      named = true
    end
  end
  return true
end

---@class sbx.sandbox.Filter
---@field private names sbx.path.Pattern[]
---@field private paths sbx.path.Pattern[]
---@field plain string[]  the patterns that are names without wildcards
---@field private last string       a folder that was looked at
---@field private excluded boolean  whether it is out
local Filter = {}
Filter.__index = Filter

local function matches(machine, text)
  local reached = machine:advance(machine.start, text)
  return reached and reached.accepts
end

local function is_out(self, relative)
  local name = relative:match("[^/]*$")
  for _, machine in ipairs(self.names) do
    if matches(machine, name) then return true end
  end
  for _, machine in ipairs(self.paths) do
    if matches(machine, relative) then return true end
  end
  return false
end

---Whether this path itself is to be left out.
---@param relative string
---@return boolean
function Filter:leaves_out(relative)
  return is_out(self, relative)
end

---Whether it, or a folder above it, is to be left out.
---@param relative string
---@return boolean
function Filter:leaves_out_below(relative)
  local folder = relative:match("^(.*)/") or ""
  if folder ~= self.last then
    self.excluded = folder ~= "" and self:leaves_out_below(folder)
    self.last = folder -- only now: the call has looked at those further up
  end
  return self.excluded or is_out(self, relative)
end

---Whether `plain` has all of its patterns.
---@return boolean
function Filter:only_plain()
  return #self.plain == #self.names and #self.paths == 0
end

---A filter of patterns: one with a slash is for the whole path in the tree, one
---without for a name at any depth. Raises a string for a broken pattern.
---@param patterns string[]
---@return sbx.sandbox.Filter
function inside.filter(patterns)
  local self = setmetatable({
    names = {}, paths = {}, plain = {}, last = "", excluded = false,
  }, Filter)
  for i, text in ipairs(patterns) do
    if type(text) ~= "string" or text == "" then
      error(("exclude[%d]: expected a pattern"):format(i), 0)
    end
    local body = text:match("^/*(.-)/*$")
    local machine, problem = pattern.compile(body, true)
    if not machine then error(("exclude[%d]: %s"):format(i, problem), 0) end
    local whole = text:find("/.") ~= nil
    table.insert(whole and self.paths or self.names, machine)
    if not whole and not body:find("[*?%[%]{},\\]") then table.insert(self.plain, body) end
  end
  return self
end

return inside
