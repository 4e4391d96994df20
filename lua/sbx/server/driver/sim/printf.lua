-- The formats of printf(1), and the escapes of echo.

local printf = {}

local ESCAPES = { a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v",
  ["\\"] = "\\", ['"'] = '"', ["'"] = "'" }

-- What the backslash at `at` stands for, and where the text goes on.
local function escape(text, at)
  local digits = text:match("^0?[0-7][0-7]?[0-7]?", at + 1)
  if digits then return string.char(tonumber(digits, 8) & 255), at + 1 + #digits end
  digits = text:match("^x(%x%x?)", at + 1)
  if digits then return string.char(tonumber(digits, 16)), at + 2 + #digits end
  local char = text:sub(at + 1, at + 1)
  return ESCAPES[char] or "\\" .. char, at + 2
end

---`text` with what its backslashes stand for.
---@param text string
---@return string
function printf.escapes(text)
  local out, at = {}, 1
  while true do
    local next_at = text:find("\\", at, true)
    out[#out + 1] = text:sub(at, (next_at or 0) - 1)
    if not next_at then return table.concat(out) end
    out[#out + 1], at = escape(text, next_at)
  end
end

local function number_of(text)
  text = text or ""
  local code = text:match("^['\"](.)")
  if code then return code:byte() end
  local octal = text:match("^%-?0[0-7]+$")
  return octal and tonumber(text, 8) or tonumber(text) or 0
end

local function one(flags, width, kind, argument)
  if kind == "s" or kind == "b" or kind == "c" then
    local text = argument or ""
    if kind == "b" then text = printf.escapes(text) end
    if kind == "c" then text = text:sub(1, 1) end
    local most = width:match("%.(%d*)")
    if most then text = text:sub(1, tonumber(most) or 0) end
    local least = tonumber(width:match("^(%d+)")) or 0
    local pad = (" "):rep(math.min(least, 10000) - #text)
    return flags:find("-", 1, true) and text .. pad or pad .. text
  end
  local value = number_of(argument)
  if kind == "u" or kind == "i" then kind = "d" end
  if kind:find("[dxXo]") then value = math.tointeger(value) or math.floor(value) end
  local ok, text = pcall(string.format, "%" .. flags .. width .. kind, value)
  return ok and text or ""
end

-- The format once, from the argument at `index` on; returns the next index.
local function pass(format, arguments, index)
  local out, at = {}, 1
  while at <= #format do
    local next_at = format:find("[\\%%]", at)
    out[#out + 1] = format:sub(at, (next_at or 0) - 1)
    if not next_at then break end
    if format:sub(next_at, next_at) == "\\" then
      out[#out + 1], at = escape(format, next_at)
    else
      local flags, width, kind, after =
        format:match("^%%([-+ 0#]*)(%d*%.?%d*)([%%sbcduixXofeEgG])()", next_at)
      if not kind or kind == "%" then
        out[#out + 1], at = "%", after or next_at + 1
      else
        out[#out + 1] = one(flags, width, kind, arguments[index])
        index, at = index + 1, after
      end
    end
  end
  return table.concat(out), index
end

---@param format string
---@param arguments string[]
---@return string
function printf.format(format, arguments)
  local out, index = {}, 1
  repeat
    local before = index
    out[#out + 1], index = pass(format, arguments, index)
  until index > #arguments or index == before
  return table.concat(out)
end

return printf
