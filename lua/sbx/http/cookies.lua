-- Cookie jars: libcurl keeps the cookies and knows whom to give them to; here
-- they are shown, cleared, written to a file and read back.

local check = require("sbx.check")
local core = require("sbx.core.http")
local fs = require("sbx.fs")

---@class sbx.http.Cookie
---@field name string
---@field value string
---@field domain string       without a dot before it
---@field host_only boolean   not for the hosts below `domain`
---@field path string
---@field secure boolean      for https alone
---@field http_only boolean
---@field expires? integer    seconds since 1970; none: at the end of the session

---@class sbx.http.Cookies
---@field package core userdata
local Cookies = {}
Cookies.__name = "sbx.http.Cookies"

local HTTP_ONLY = "#HttpOnly_"

-- A line of a cookie file: seven fields between tabs.
local function read_line(line)
  local http_only = line:sub(1, #HTTP_ONLY) == HTTP_ONLY
  if http_only then line = line:sub(#HTTP_ONLY + 1) end
  local domain, below, path, secure, expires, name, value =
    line:match("^([^\t]*)\t(%u+)\t([^\t]*)\t(%u+)\t(%d+)\t([^\t]*)\t([^\t]*)$")
  if not domain then return nil end
  local at = math.tointeger(tonumber(expires))
  return {
    name = name, value = value, domain = domain:gsub("^%.", ""), path = path,
    host_only = below ~= "TRUE", secure = secure == "TRUE", http_only = http_only,
    expires = at ~= 0 and at or nil,
  }
end

---The cookies that have not expired, by domain, path and name.
---@return sbx.http.Cookie[]
function Cookies:list()
  local list = {}
  for _, line in ipairs(self.core:lines()) do
    list[#list + 1] = read_line(line)
  end
  table.sort(list, function(a, b)
    if a.domain ~= b.domain then return a.domain < b.domain end
    if a.path ~= b.path then return a.path < b.path end
    return a.name < b.name
  end)
  return list
end

---Forgets all cookies.
function Cookies:clear()
  self.core:clear()
end

---Writes the cookies to a file that only we can read, in the format that curl and
---other programs share. Replaces the file as a whole.
---@async
---@param path string
function Cookies:save(path)
  local text = "# Netscape HTTP Cookie File\n" .. table.concat(self.core:lines(), "\n") .. "\n"
  fs.write_atomic(check.string(path, "path"), text, { mode = 384 })
end

---Adds the cookies of such a file. Lines that are none are passed over.
---@async
---@param path string
function Cookies:load(path)
  for line in fs.read(check.string(path, "path"), { max = 16 << 20 }):gmatch("[^\r\n]+") do
    if read_line(line) then self.core:add(line) end
  end
end

check.methods(Cookies, "jar")
Cookies.__index = Cookies

-- What is in it is nobody's business.
Cookies.__tostring = function(self)
  return ("cookie jar (%d cookies)"):format(#self.core:lines())
end

local cookies = {}

---Makes an empty jar.
---@return sbx.http.Cookies
function cookies.new()
  return setmetatable({ core = core.cookies() }, Cookies)
end

return cookies
