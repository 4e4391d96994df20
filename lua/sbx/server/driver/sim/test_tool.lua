-- test(1) and [.

local function size_of(sh, path)
  local node = sh.files:node(sh:resolve(path))
  return node and (node.parts and node.size or 0)
end

local function kind_of(sh, path)
  if path == "" then return nil end
  local node = sh.files:node(sh:resolve(path))
  return node and node.type
end

local unary = {
  ["-n"] = function(_, text) return text ~= "" end,
  ["-z"] = function(_, text) return text == "" end,
  ["-e"] = function(sh, path) return kind_of(sh, path) ~= nil end,
  ["-f"] = function(sh, path) return kind_of(sh, path) == "file" end,
  ["-d"] = function(sh, path) return kind_of(sh, path) == "directory" end,
  ["-s"] = function(sh, path) return (size_of(sh, path) or 0) > 0 end,
  ["-x"] = function(sh, path)
    local node = sh.files:node(sh:resolve(path))
    return node ~= nil and node.mode & 73 ~= 0
  end,
  ["-L"] = function() return false end,
  ["-t"] = function() return false end,
}
unary["-r"], unary["-w"], unary["-h"] = unary["-e"], unary["-e"], unary["-L"]

local function numbers(compare)
  return function(a, b)
    local x, y = math.tointeger(tonumber(a)), math.tointeger(tonumber(b))
    if not x or not y then return nil end
    return compare(x, y)
  end
end

local binary = {
  ["="] = function(a, b) return a == b end,
  ["=="] = function(a, b) return a == b end,
  ["!="] = function(a, b) return a ~= b end,
  ["-eq"] = numbers(function(a, b) return a == b end),
  ["-ne"] = numbers(function(a, b) return a ~= b end),
  ["-lt"] = numbers(function(a, b) return a < b end),
  ["-le"] = numbers(function(a, b) return a <= b end),
  ["-gt"] = numbers(function(a, b) return a > b end),
  ["-ge"] = numbers(function(a, b) return a >= b end),
}

-- True, false, or nil for what makes no sense.
local function evaluate(sh, words, from, to)
  local count = to - from + 1
  if count == 0 then return false end
  if count == 1 then return words[from] ~= "" end
  if words[from] == "!" then
    local inner = evaluate(sh, words, from + 1, to)
    if inner == nil then return nil end
    return not inner
  end
  for _, operator in ipairs { "-o", "-a" } do
    for at = from + 1, to - 1 do
      if words[at] == operator then
        local left = evaluate(sh, words, from, at - 1)
        local right = evaluate(sh, words, at + 1, to)
        if left == nil or right == nil then return nil end
        if operator == "-o" then return left or right end
        return left and right
      end
    end
  end
  if count == 2 and unary[words[from]] then return unary[words[from]](sh, words[to]) end
  if count == 3 and binary[words[from + 1]] then
    return binary[words[from + 1]](words[from], words[to])
  end
  return nil
end

return function(sh, words, fds)
  local last = #words
  if words[1] == "[" then
    if words[last] ~= "]" then
      sh:complain("[: missing ]", fds)
      return 2
    end
    last = last - 1
  end
  local result = evaluate(sh, words, 2, last)
  if result == nil then
    sh:complain(words[1] .. ": bad expression", fds)
    return 2
  end
  return result and 0 or 1
end
