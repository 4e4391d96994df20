-- Random documents in both directions against Python's json: what one writes the
-- other reads as the same value, and both refuse the same texts.

local core = require("sbx.core.json")
local encoding = require("sbx.encoding")
local json = require("sbx.json")
local process = require("sbx.process")

local random = math.random

-- Both sides describe a value in the same words, without JSON: integers and
-- floats apart, floats by their bits, objects by the order of their names.
local function describe(value)
  if value == json.null then return "n" end
  local kind = math.type(value) or type(value)
  if kind == "integer" then return "i" .. value end
  if kind == "float" then return "f" .. encoding.hex(string.pack(">d", value)) end
  if kind == "string" then return "s" .. encoding.hex(value) end
  if kind == "boolean" then return tostring(value) end
  local parts = {}
  if getmetatable(value) == core.array then
    for i, item in ipairs(value) do
      parts[i] = describe(item)
    end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for name, item in pairs(value) do
    parts[#parts + 1] = encoding.hex(name) .. ":" .. describe(item)
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

-- Python differs in three things, which are put right here: it takes NaN and
-- numbers beyond a double, and halves of surrogate pairs; and its integers have
-- no bounds. A text is answered by null or by what it means.
local PEER = [==[
import base64, json, struct, sys

def refuse(text):
    raise ValueError(text)

def describe(value):
    if value is None: return "n"
    if value is True: return "true"
    if value is False: return "false"
    if isinstance(value, int):
        if -2**63 <= value < 2**63: return "i%d" % value
        value = float(value)
    if isinstance(value, float):
        if value in (float("inf"), float("-inf")): refuse("infinite")
        return "f" + struct.pack(">d", value).hex()
    if isinstance(value, str): return "s" + value.encode("utf-8").hex()
    if isinstance(value, list): return "[" + ",".join(map(describe, value)) + "]"
    parts = [k.encode("utf-8").hex() + ":" + describe(v) for k, v in value.items()]
    return "{" + ",".join(sorted(parts)) + "}"

def read(text):
    try:
        return describe(json.loads(base64.b64decode(text).decode("utf-8"),
                                   parse_constant=refuse))
    except (ValueError, OverflowError):
        return None

def write(text):
    value = json.loads(base64.b64decode(text))
    return [json.dumps(value), json.dumps(value, ensure_ascii=False, indent=3),
            json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)]

sys.set_int_max_str_digits(0) if hasattr(sys, "set_int_max_str_digits") else None
work = json.load(sys.stdin)
json.dump({"read": [read(t) for t in work["read"]],
           "write": [write(t) for t in work["write"]]}, sys.stdout)
]==]

local function ask_python(work)
  local found, answer = pcall(process.run, { "python3", "-c", PEER }, {
    input = json.encode(work), check = true, timeout = 300, max_output = 1 << 28,
  })
  if not found and answer.code == "ENOENT" then skip("python3 is missing") end
  assert(found, tostring(answer))
  return json.decode(answer.stdout)
end

local pieces = { "a", "Z", "/", "\\", '"', "\n", "\0", "\31", " ", "ä", "€", "😀", "\u{2028}",
  "\u{FFFF}", "[", "{", ":", "," }

local function random_string()
  local parts = {}
  for i = 1, random(0, 6) do
    parts[i] = pieces[random(#pieces)]
  end
  return table.concat(parts)
end

local function random_number(floats)
  local kind = random(floats and 6 or 3)
  if kind == 1 then return random(-100, 100) end
  if kind == 2 then return random(0) >> random(0, 63) end
  if kind == 3 then return -(random(0) >> random(1, 63)) end
  if kind == 4 then return random(-1000, 1000) / 8 end
  local value = string.unpack("d", string.pack("i8", random(0)))
  return value - value == 0 and value or 0.1
end

local function random_value(depth, floats)
  local kind = random(depth > 0 and 7 or 4)
  if kind == 1 then return random_string() end
  if kind == 2 then return random_number(floats) end
  if kind == 3 then return random(2) == 1 end
  if kind == 4 then return json.null end
  local result = kind == 5 and {} or json.array()
  for i = 1, random(0, 5) do
    result[kind == 5 and random_string() or i] = random_value(depth - 1, floats)
  end
  return result
end

test("json: what we write, Python reads as the same value", { timeout = 400 }, function()
  math.randomseed(77, 1)
  local work = { read = {}, write = json.array() }
  local wanted = {}
  for i = 1, 2000 do
    local value = random_value(4, true)
    wanted[i] = describe(value)
    local options = { pretty = i % 2 == 0, sort_keys = i % 3 == 0 }
    work.read[i] = encoding.base64(json.encode(value, options))
  end
  for i, description in ipairs(ask_python(work).read) do
    assert(description == wanted[i], encoding.base64_decode(work.read[i]))
  end
end)

test("json: what Python writes, we read as the same value", { timeout = 400 }, function()
  math.randomseed(77, 2)
  local work = { read = json.array(), write = {} }
  local values = {}
  for i = 1, 2000 do
    values[i] = random_value(4, true)
    work.write[i] = encoding.base64(json.encode(values[i]))
  end
  for i, texts in ipairs(ask_python(work).write) do
    for _, text in ipairs(texts) do
      assert(describe(json.decode(text)) == describe(values[i]), text)
    end
  end
end)

test("json: pretty and sort_keys lay out as Python does", { timeout = 400 }, function()
  math.randomseed(77, 3)
  local work = { read = json.array(), write = {} }
  local values = {}
  for i = 1, 1000 do
    values[i] = random_value(4, false) -- floats have several right forms
    work.write[i] = encoding.base64(json.encode(values[i]))
  end
  for i, texts in ipairs(ask_python(work).write) do
    local text = json.encode(values[i], { pretty = true, sort_keys = true })
    assert(text == texts[3], text .. "\n" .. texts[3])
  end
end)

-- A text that is JSON in parts: cut, spliced, with wrong bytes and odd tokens.
local tokens = {
  "NaN", "Infinity", "-", "01", "1.", ".5", "1e5", "1E-400", "1e400", "0x10", "tru", "null",
  "\\ud800", '"\\ud83d\\ude00"', '"\\udc00"', '"\\u00"', '"\\/"', "'a'", "//", ",", ",]", "[",
  "]", "{", "}", ":", '"', "\xFF", "\xC3", "\xED\xA0\x80", "\1", "\127", "\u{FEFF}", " ", "\t",
  "\r\n", "\v", "-0", "-0.0", "9223372036854775807", "9223372036854775808",
  "-9223372036854775809", "1.0", "1e2", "true", '""',
}

local function damaged(text)
  for _ = 1, random(0, 2) do
    local at = random(0, #text)
    local token = tokens[random(#tokens)]
    text = text:sub(1, at) .. token .. text:sub(at + random(1, 3))
  end
  return text
end

test("json: Python and we refuse the same texts", { timeout = 400 }, function()
  math.randomseed(77, 4)
  local work = { read = {}, write = json.array() }
  local texts = {}
  for i = 1, 6000 do
    texts[i] = damaged(json.encode(random_value(random(0, 3), true)))
    work.read[i] = encoding.base64(texts[i])
  end
  local read, refused = 0, 0
  for i, wanted in ipairs(ask_python(work).read) do
    local ok, value = pcall(json.decode, texts[i])
    if ok then
      read = read + 1
      assert(describe(value) == wanted, texts[i])
    else
      refused = refused + 1
      assert(value.kind == "json" and wanted == json.null, ("%q: %s"):format(texts[i], value))
    end
  end
  assert(read > 500 and refused > 500, ("%d read, %d refused"):format(read, refused))
end)
