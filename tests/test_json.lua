local core = require("sbx.core.json")
local errors = require("sbx.errors")
local json = require("sbx.json")

-- The same value: integers and floats differ, and so do [] and {}.
local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return math.type(a) == math.type(b) and a == b
  end
  local a_empty, b_empty = next(a) == nil, next(b) == nil
  if a_empty and b_empty then return getmetatable(a) == getmetatable(b) end
  for k, v in pairs(a) do
    if b[k] == nil or not same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

local function decode_error(text)
  local ok, err = pcall(json.decode, text)
  assert(not ok, "decoded: " .. text:sub(1, 60))
  assert(errors.is_error(err) and err.kind == "json", tostring(err))
  return err
end

local function encode_error(value)
  local ok, err = pcall(json.encode, value)
  assert(not ok, "encoded: " .. tostring(ok and err):sub(1, 60))
  assert(errors.is_error(err) and err.kind == "json", tostring(err))
  return err
end

test("json: whole numbers are integers over all 64 bits, digit for digit", function()
  for _, text in ipairs {
    "0", "1", "-1", "42", "999999999999999", "1000000000000000", "100000000000000",
    "100000000000001", "99999999999999", "-100000000000000", "-100000000000001",
    "9007199254740992", "9007199254740993", "-9007199254740993", "1700000000123456789",
    "9223372036854775807", "-9223372036854775808",
  } do
    local value = json.decode(text)
    assert(math.type(value) == "integer" and tostring(value) == text, text)
    assert(json.encode(value) == text, text)
    assert(json.encode(json.decode('[{"a":' .. text .. "}]")) == '[{"a":' .. text .. "}]")
  end
  assert(math.type(json.decode("-0")) == "integer")
end)

test("json: a whole number beyond 64 bits becomes the nearest float", function()
  for _, text in ipairs { "9223372036854775808", "-9223372036854775809", ("9"):rep(300) } do
    local value = json.decode(text)
    assert(math.type(value) == "float" and value == tonumber(text .. ".0"))
  end
end)

test("json: numbers with a point or an exponent are floats and stay so", function()
  for text, value in pairs {
    ["1.0"] = 1.0, ["1e3"] = 1000.0, ["1E+3"] = 1000.0, ["-0.0"] = -0.0, ["0.0"] = 0.0,
    ["100.000"] = 100.0, ["5e-1"] = 0.5, ["1e15"] = 1e15, ["1e-400"] = 0.0,
    ["0.99999999999999999"] = 1.0, ["1.00000000000000000001"] = 1.0,
    ["99999999999999.999"] = 1e14, ["9.5"] = 9.5, ["0.05"] = 0.05, ["0.9"] = 0.9,
    ["123456789012345678.5"] = 123456789012345678.5,
  } do
    local decoded = json.decode(text)
    assert(math.type(decoded) == "float" and decoded == value, text)
    local again = json.decode(json.encode(decoded))
    assert(math.type(again) == "float" and again == value, text)
  end
  assert(1 / json.decode("-0.0") < 0 and json.encode(-0.0) == "-0.0")
end)

test("json: floats are written with the digits that they need", function()
  for text, value in pairs {
    ["0.1"] = 0.1, ["0.5"] = 0.5, ["0.3333333333333333"] = 1 / 3, ["1e+15"] = 1e15,
    ["0.30000000000000004"] = 0.1 + 0.2, ["60.0"] = 120 / 2, ["1e+300"] = 1e300,
    ["1700000000.123456"] = 1700000000.123456, ["9007199254740992.0"] = 2.0 ^ 53,
    ["1.7976931348623157e+308"] = 1.7976931348623157e308,
  } do
    assert(json.encode(value) == text, json.encode(value))
  end
end)

test("json: random doubles survive the round trip bit for bit", function()
  math.randomseed(7, 1)
  for _ = 1, 20000 do
    local value = string.unpack("d", string.pack("i8", math.random(0)))
    if value == value and value - value == 0 then
      local again = json.decode(json.encode(value))
      assert(string.pack("d", again) == string.pack("d", value), json.encode(value))
    end
  end
end)

test("json: null is a value", function()
  local value = json.decode('{"a":null,"b":[null,null]}')
  assert(value.a == json.null and #value.b == 2 and value.b[2] == json.null)
  assert(json.decode("null") == json.null and json.encode(json.null) == "null")
end)

test("json: empty arrays and empty objects stay what they are", function()
  local text = '{"a":[],"b":{},"c":[[],{},[[]]]}'
  local value = json.decode(text)
  assert(json.encode(value, { sort_keys = true }) == text)
  assert(json.encode(json.decode("[ \n\t]")) == "[]" and json.encode(json.decode("{ }")) == "{}")
  table.insert(value.b, 1)
  assert(json.encode(value.b) == "[1]")
  local list = json.decode("[1]")
  list[1] = nil
  assert(json.encode(list) == "[]" and #list == 0 and next(list) == nil)
end)

test("json: array and object decide the form", function()
  assert(json.encode({}) == "{}" and json.encode(json.array()) == "[]")
  assert(json.encode(json.array { 1, 2 }) == "[1,2]")
  assert(json.encode(json.object(json.decode("[]"))) == "{}")
  assert(json.encode(json.object { a = json.array {} }) == '{"a":[]}')
  assert(encode_error(json.object { 1 }).path == "$")
  assert(encode_error(json.array { x = 1 }).path == "$")
  local ok, err = pcall(function()
    local _ = json.array(setmetatable({}, {}))
  end)
  assert(not ok and err:find("test_json.lua:%d+: t: has a metatable already"), err)
  ok, err = pcall(function()
    local _ = json.object(1)
  end)
  assert(not ok and err:find("test_json.lua:%d+: t: expected a table"), err)
end)

test("json: strings keep every character, and / is not escaped", function()
  local every = {}
  for code = 0, 0x7F do
    every[#every + 1] = utf8.char(code)
  end
  for _, code in ipairs { 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF } do
    every[#every + 1] = utf8.char(code)
  end
  local text = table.concat(every)
  assert(json.decode(json.encode(text)) == text)
  assert(json.decode(json.encode { [text] = 1 })[text] == 1)
  assert(json.encode("a/b\\/\"\n") == [["a/b\\/\"\n"]])
  assert(json.encode { ["/"] = "\\" } == [[{"/":"\\"}]])
  assert(json.decode([["\/\u0041\u00e4\u20AC\ud83d\ude00\u0000\b\f\n\r\t\\\""]])
    == "/Aä€😀\0\b\f\n\r\t\\\"")
end)

test("json: the last of two equal names wins", function()
  assert(json.decode('{"a":1,"b":0,"a":[]}').a[1] == nil)
  assert(json.encode(json.decode('{"a":[1],"a":2}')) == '{"a":2}')
end)

test("json: a text that is not JSON raises with byte, line and column", function()
  for text, where in pairs {
    [""] = 1, ["  "] = 3, ["[1,]"] = 4, ["[1 2]"] = 4, ["1 2"] = 3, ["{1:2}"] = 2,
    ['{"a"=1}'] = 5, ['{"a":1,}'] = 8, ["[1"] = 3, ['{"a"'] = 5, ['"abc'] = 1,
    ["NaN"] = 1, ["[nan]"] = 2, ["Infinity"] = 1, ["-Infinity"] = 2, ["0x10"] = 2,
    ["01"] = 1, ["-01"] = 2, ["-"] = 2, ["+1"] = 1, [".5"] = 1, ["1."] = 3, ["1e"] = 3,
    ["1e+"] = 4, ["1e400"] = 1, ["[-1e999]"] = 2, [("9"):rep(400)] = 1, ["tru"] = 1,
    ["truex"] = 5, ["nul"] = 1, ["\xEF\xBB\xBF1"] = 1, ['"a\1"'] = 3, ['"a\nb"'] = 3,
    ['"\xFF"'] = 2, ['"\xC0\x80"'] = 2, ['"\xED\xA0\x80"'] = 2, ['"\xF4\x90\x80\x80"'] = 2,
    ['"\xE2\x82"'] = 2, ['"\xE0\x80\x80"'] = 2, ['"\xC3'] = 2, ['"x\\'] = 3, ['"\\x"'] = 2,
    ['"\\u12g4"'] = 2, ['"\\u12'] = 2, ['"\\ud800"'] = 2, ['"\\ud800\\u0041"'] = 2,
    ['"\\udc00"'] = 2, ["\v1"] = 1, ["1\0"] = 2, ["\0"] = 1, ['"a\0b"'] = 3, ["]"] = 1,
    ["// x"] = 1, ["'a'"] = 1, ["[1}"] = 3, ["\xFF"] = 1,
  } do
    local err = decode_error(text)
    assert(err.byte == where and err.line == 1, text .. ": " .. tostring(err.byte))
  end
  local err = decode_error('{\n  "a": "ä€", "b": x\n}')
  assert(err.line == 2 and err.column == 19 and err.byte == 24)
  assert(tostring(err) == "json: line 2, column 19: expected a value", tostring(err))
end)

test("json: an error message does not repeat the text", function()
  assert(not tostring(decode_error('{"token":"hunter2",x')):find("hunter2", 1, true))
end)

test("json: nesting is limited to 512 levels in both directions", function()
  local deepest = ("["):rep(512) .. ("]"):rep(512)
  assert(json.encode(json.decode(deepest)) == deepest)
  assert(decode_error("[" .. deepest .. "]").byte == 513)
  assert(decode_error(('{"a":'):rep(1000000)).byte == 512 * 5 + 1)
  assert(decode_error(("["):rep(1000000)).byte == 513)
  local value = {}
  for _ = 1, 511 do
    value = { value }
  end
  assert(#json.encode(value) == 2 * 512)
  assert(#encode_error({ value }).path == 1 + 512 * 3)
end)

test("json: what JSON cannot say raises with its path", function()
  assert(encode_error({ a = { 1, 2, { b = print } } }).path == "$.a[3].b")
  assert(encode_error(0 / 0).path == "$")
  assert(encode_error({ { 1 / 0 } }).path == "$[1][1]")
  assert(encode_error({ x = -1 / 0 }).path == "$.x")
  assert(encode_error(nil).path == "$")
  assert(encode_error({ f = io.stdout }).path == "$.f")
  assert(encode_error({ t = coroutine.create(print) }).path == "$.t")
  assert(encode_error({ ["a b"] = { ["1x"] = "\xFF" } }).path == '$["a b"]["1x"]')
  assert(encode_error({ ["\n"] = print }).path == '$["?"]')
  assert(#encode_error({ [("ä"):rep(100)] = print }).path < 80)
  assert(utf8.len(encode_error({ ["x" .. ("ä"):rep(100)] = print }).path))
  assert(encode_error({ a = { "x", k = 1 } }).path == "$.a")
  assert(encode_error({ a = { 1, nil, 3 } }).path == "$.a")
  assert(encode_error({ a = { [2] = 1 } }).path == "$.a")
  assert(encode_error({ [0] = 1 }).path == "$")
  assert(encode_error({ [1.5] = 1 }).path == "$")
  assert(encode_error({ [true] = 1 }).path == "$")
  assert(encode_error({ a = { ["\xFF"] = 1 } }).path == "$.a")
  assert(encode_error("abc\xC3").message:find("byte 4", 1, true))
  assert(tostring(encode_error({ a = print })) == "json: $.a: JSON has no function")
end)

test("json: a table inside itself raises; one that appears twice is fine", function()
  local value = { a = {} }
  value.a[1] = { b = value }
  local err = encode_error(value)
  assert(err.path == "$.a[1].b" and err.message:find("inside itself", 1, true))
  local shared = json.array { 1.0 }
  assert(json.encode { shared, shared } == "[[1.0],[1.0]]")
end)

test("json: encoding leaves the value as it was", function()
  local inner = { 1e14 // 1, x = nil }
  local value = { list = inner, big = 1 << 60, none = json.array(), o = { z = 1.0, a = 2 } }
  for _, options in ipairs { {}, { sort_keys = true }, { pretty = true } } do
    json.encode(value, options)
  end
  assert(value.list == inner and math.type(inner[1]) == "float" and value.big == 1 << 60)
  assert(next(value.none) == nil and math.type(value.o.z) == "float" and value.o.a == 2)
end)

test("json: pretty and sort_keys lay the text out", function()
  local value = json.decode('{"b":[1,{"d":[],"c":{}}],"a/b":"[{,:\\"}]","a":1.0,"":null}')
  assert(json.encode(value, { sort_keys = true })
    == '{"":null,"a":1.0,"a/b":"[{,:\\"}]","b":[1,{"c":{},"d":[]}]}')
  assert(json.encode(value, { sort_keys = true, pretty = true }) == [[
{
  "": null,
  "a": 1.0,
  "a/b": "[{,:\"}]",
  "b": [
    1,
    {
      "c": {},
      "d": []
    }
  ]
}]])
  assert(same(json.decode(json.encode(value, { pretty = true })), value))
  assert(json.encode({}, { pretty = true, sort_keys = true }) == "{}")
  assert(json.encode({ { "a" } }, { pretty = true }) == '[\n  [\n    "a"\n  ]\n]')
end)

test("json: misuse raises a plain error", function()
  local ok, err = pcall(json.decode, nil)
  assert(not ok and type(err) == "string" and err:find("expected a string"), err)
  ok, err = pcall(json.decode, 12)
  assert(not ok and type(err) == "string" and err:find("expected a string"), err)
  ok, err = pcall(function()
    local _ = json.encode({}, { indent = 2 }) -- sbxlua: ignore
  end)
  assert(not ok and err:find("test_json.lua:%d+: unknown option 'indent'"), err)
  ok, err = pcall(core.encode)
  assert(not ok and err:find("value expected"), err)
end)

-- Writes JSON in plain Lua: the other opinion in the random tests.
local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f",
  ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function write_string(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return escapes[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function write(value)
  if value == json.null then return "null" end
  if type(value) == "string" then return write_string(value) end
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  if getmetatable(value) == core.array then
    for i, item in ipairs(value) do
      parts[i] = write(item)
    end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local names = {}
  for name in pairs(value) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    parts[i] = write_string(name) .. ":" .. write(value[name])
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local random = math.random
local pieces = { "a", "Z", "/", "\\", '"', "\n", "\0", "\127", " ", "ä", "€", "😀", "[", "{", ":" }

local function random_string()
  local parts = {}
  for i = 1, random(0, 6) do
    parts[i] = pieces[random(#pieces)]
  end
  return table.concat(parts)
end

local function random_number()
  local kind = random(5)
  if kind == 1 then return random(-100, 100) end
  if kind == 2 then return random(0) >> random(0, 63) end
  if kind == 3 then return -(random(0) >> random(1, 63)) end
  if kind == 4 then return random(-1000, 1000) / 8 end -- exact in few digits
  return random(-9, 9) + 0.0
end

local function random_value(depth)
  local kind = random(depth > 0 and 7 or 4)
  if kind == 1 then return random_string() end
  if kind == 2 then return random_number() end
  if kind == 3 then return random(2) == 1 end
  if kind == 4 then return json.null end
  local result = kind == 5 and {} or json.array()
  for i = 1, random(0, 5) do
    result[kind == 5 and random_string() or i] = random_value(depth - 1)
  end
  return result
end

local blanks = { "", "", " ", "\n", "\t\r\n" }

-- Adds blanks around the marks that stand outside strings.
local function spread(text)
  local inside, escaped = false, false
  return (text:gsub(".", function(c)
    if inside then
      inside = escaped or c ~= '"'
      escaped = c == "\\" and not escaped
      return nil
    end
    inside = c == '"'
    if c:find("[%[%]{},:]") then
      return blanks[random(#blanks)] .. c .. blanks[random(#blanks)]
    end
    return nil
  end))
end

test("json: random documents read and write as another writer says", function()
  math.randomseed(2024, 11)
  for _ = 1, 4000 do
    local value = random_value(4)
    local text = write(value)
    assert(json.encode(value, { sort_keys = true }):gsub("\\u007f", "\127")
      == text:gsub("\\u007f", "\127"), text)
    assert(same(json.decode(text), value), text)
    assert(same(json.decode(spread(text)), value), text)
    assert(same(json.decode(json.encode(value)), value), text)
    assert(same(json.decode(json.encode(value, { pretty = true })), value), text)
  end
end)

test("json: a damaged document is refused or read, never worse", function()
  math.randomseed(2024, 12)
  local read, refused = 0, 0
  for _ = 1, 4000 do
    local text = write(random_value(4))
    local at = random(#text)
    text = text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + random(0, 2))
    local ok, result = pcall(json.decode, text)
    if ok then
      read = read + 1
      assert(same(json.decode(json.encode(result)), result), text)
    else
      refused = refused + 1
      assert(result.kind == "json" and result.byte <= #text + 1, tostring(result))
    end
  end
  assert(read > 0 and refused > 0)
end)

test("json: a large document goes through", function()
  local list = json.array()
  for i = 1, 50000 do
    list[i] = { id = i, at = 1700000000000000000 + i, name = "box/" .. i, tags = json.array() }
  end
  assert(same(json.decode(json.encode(list)), list))
end)
