local encoding = require("sbx.encoding")
local expect = dofile("tests/expect.lua")
local harness = require("sbx.test")
local json = require("sbx.json")
local process = require("sbx.process")
local reader = require("sbx.reader")
local task = require("sbx.task")

local random = math.random

local function random_bytes(length)
  local bytes = {}
  for i = 1, length do
    bytes[i] = string.char(random(0, 255))
  end
  return table.concat(bytes)
end

-- Runs a Python program on a JSON document and returns what it prints as one.
local function ask_python(program, work)
  local found, answer = pcall(process.run, { "python3", "-c", program }, {
    input = json.encode(work), check = true, timeout = 120,
  })
  if not found and answer.code == "ENOENT" then skip("python3 is missing") end
  assert(found, tostring(answer))
  return json.decode(answer.stdout)
end

local function refused(fn, text, byte)
  local err = expect.failure(fn, text)
  assert(err.kind == "syntax" and err.byte == byte, ("%q: %s"):format(text, err))
  assert(err.message:find("byte " .. byte .. ":", 1, true), err.message)
end

-- -------------------------------------------------------------- base64 and hex

test("encoding: base64 gives the published texts", function()
  for bytes, text in pairs({
    [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", foobar = "Zm9vYmFy",
    ["\xFB\xFF\0"] = "+/8A",
  }) do
    assert(encoding.base64(bytes) == text and encoding.base64_decode(text) == bytes, text)
    local for_urls = text:gsub("+", "-"):gsub("/", "_")
    assert(encoding.base64url_decode(for_urls) == bytes)
    assert(encoding.base64url(bytes) == for_urls:gsub("=", ""))
    assert(encoding.base64url_decode((for_urls:gsub("=", ""))) == bytes)
  end
end)

test("encoding: random bytes survive every form", function()
  math.randomseed(3, 1)
  for length = 0, 300 do
    local bytes = random_bytes(length)
    assert(encoding.base64_decode(encoding.base64(bytes)) == bytes)
    assert(encoding.base64url_decode(encoding.base64url(bytes)) == bytes)
    assert(not encoding.base64url(bytes):find("[^%w_-]"))
    assert(encoding.hex_decode(encoding.hex(bytes)) == bytes)
    assert(encoding.hex_decode(encoding.hex(bytes):upper()) == bytes)
  end
  assert(encoding.hex("\0\xAB\xff") == "00abff")
  local large = ("\xF0"):rep(8 * 1024 * 1024)
  assert(encoding.base64_decode(encoding.base64(large)) == large)
end)

test("encoding: decoding names the first byte that is wrong", function()
  for text, byte in pairs({
    Z = 2, Zg = 3, ["Zg="] = 4, ["Zg==="] = 5, ["===="] = 1, ["="] = 1, ["Z==="] = 2,
    ["Zm9v\n"] = 5, [" Zm9v"] = 1, ["Zm 9"] = 3, ["Z=9v"] = 2, ["Zg==Zg=="] = 5, ["Zm-v"] = 3,
    ["Zm9\0"] = 4, ["Zm9\xFF"] = 4, ["Zh=="] = 2, ["Zm9="] = 3, ["Zm9vA"] = 6, ["Zm9v="] = 5,
    ["Zm8=\n"] = 5,
  }) do
    refused(encoding.base64_decode, text, byte)
  end
  for text, byte in pairs({
    Z = 2, ["Zg="] = 4, ["Zg==="] = 5, ["Zm+v"] = 3, ["Zm/v"] = 3, Zh = 2, ["Zm9"] = 3,
  }) do
    refused(encoding.base64url_decode, text, byte)
  end
  for text, byte in pairs({ a = 2, abc = 4, ["0g"] = 2, [" 00"] = 1, ["0x"] = 2, ["00\0"] = 3 }) do
    refused(encoding.hex_decode, text, byte)
  end
end)

test("encoding: misuse names the argument", function()
  for _, name in ipairs({ "base64", "base64url", "hex", "utf8_valid", "utf8_clean" }) do
    expect.misuse("bytes: expected a string", encoding[name], 12)
  end
  for _, name in ipairs({ "base64_decode", "base64url_decode", "hex_decode" }) do
    expect.misuse("text: expected a string", encoding[name], nil)
  end
  expect.misuse("replacement: expected a string", encoding.utf8_clean, "", 1)
  local function fails(text, fn, ...)
    local args = table.pack(...)
    expect.misuse("test_encoding.lua", function() local _ = fn(table.unpack(args, 1, args.n)) end)
    expect.misuse(text, fn, ...)
  end
  fails("argument 2: expected a string", encoding.quote_shell, "a", nil)
  fails("argument 1: contains a zero byte", encoding.quote_shell, "a\0b")
  fails("values: expected a table", encoding.csv_row, "a")
  fails("values[2]: expected", encoding.csv_row, { "a", {} })
  fails("unknown option 'sep'", encoding.csv_row, {}, { sep = ";" })
  fails("separator: expected one", encoding.csv_row, {}, { separator = ";;" })
  fails("separator: expected one", encoding.csv_rows, "", { separator = '"' })
  fails("source: expected", encoding.csv_rows, 12)
  fails("header: expected", encoding.csv_rows, "", { header = 1 })
  expect.misuse("max_row: expected", encoding.csv_rows, "", { max_row = 0 })
end)

-- ----------------------------------------------------------------------- shell

test("encoding.quote_shell: a shell reads every byte back as it was", function()
  local all = {}
  for i = 1, 255 do
    all[i] = string.char(i)
  end
  local arguments = {
    table.concat(all), "", "'", "''", "a'b", "$HOME", "`id`", "$(id)", "-n", "~", "*", "a b\n",
    "!x", "\\", "#", "ä", "if",
  }
  table.move(all, 1, 255, #arguments + 1, arguments)
  local line = "printf '%s\\0' " .. encoding.quote_shell(table.unpack(arguments))
  local result = process.run({ "sh", "-c", line }, { check = true })
  assert(result.stdout == table.concat(arguments, "\0") .. "\0")
  assert(encoding.quote_shell("a b", 7, "it's") == [['a b' '7' 'it'\''s']])
  assert(encoding.quote_shell() == "" and encoding.quote_shell("") == "''")
end)

-- ------------------------------------------------------------------------- CSV

local function rows_of(source, options)
  local rows = {}
  for row in encoding.csv_rows(source, options) do
    rows[#rows + 1] = row
  end
  return rows
end

local function same_rows(got, wanted)
  assert(#got == #wanted, ("%d rows, not %d"):format(#got, #wanted))
  for i, row in ipairs(wanted) do
    local a, b = table.concat(got[i], "|"), table.concat(row, "|")
    assert(#got[i] == #row and a == b, ("row %d: %q, not %q"):format(i, a, b))
  end
end

test("encoding.csv_row: quotes only where it must", function()
  assert(encoding.csv_row({ "a", 1, true, "b c", " d" }) == "a,1,true,b c, d")
  assert(encoding.csv_row({ "a,b", 'say "hi"', "two\nlines", "\r", "'" })
    == '"a,b","say ""hi""","two\nlines","\r",\'')
  assert(encoding.csv_row({ "a;b", "c,d" }, { separator = ";" }) == '"a;b";c,d')
  assert(encoding.csv_row({}) == "" and encoding.csv_row({ "" }) == '""')
  assert(encoding.csv_row(table.pack(nil, "x", nil)) == ",x,")
  assert(encoding.csv_row({ "", "" }) == "," and encoding.csv_row({ 0.1, -1 }) == "0.1,-1")
end)

test("encoding.csv_rows: quotes, line ends, blank lines, a byte order mark", function()
  same_rows(rows_of("\xEF\xBB\xBFa,b\r\n\"1,2\",\"x\ny\"\n\r\n\n\"\",\n\"a \"\"q\"\"\",\"r\r\n\""),
    { { "a", "b" }, { "1,2", "x\ny" }, { "", "" }, { 'a "q"', "r\r\n" } })
  same_rows(rows_of("a;b,c", { separator = ";" }), { { "a", "b,c" } })
  same_rows(rows_of("a\tb\n", { separator = "\t" }), { { "a", "b" } })
  same_rows(rows_of(",\n\"\""), { { "", "" }, { "" } })
  same_rows(rows_of(""), {})
  same_rows(rows_of("\n\n"), {})
end)

test("encoding.csv_rows: header makes tables by name", function()
  local rows = rows_of('id,"the name"\n1,a\n2,\n', { header = true })
  assert(#rows == 2 and rows[1].id == "1" and rows[1]["the name"] == "a")
  assert(rows[2]["the name"] == "")
  assert(#rows_of("", { header = true }) == 0 and #rows_of("a,b\n", { header = true }) == 0)
  local err = expect.failure(rows_of, "a,b\n1\n", { header = true })
  assert(err.kind == "syntax" and err.line == 2 and err.message:find("1 fields under 2 names"))
end)

test("encoding.csv_rows: the same rows however the bytes are cut", function()
  math.randomseed(5, 5)
  local text = 'a,"b""c\r\nd",e\r\n"",\r\n"\n\n",\nlast'
  local wanted = { { "a", 'b"c\r\nd', "e" }, { "", "" }, { "\n\n", "" }, { "last" } }
  for _ = 1, 200 do
    local at = 1
    local rows = rows_of(function()
      if at > #text then return nil end
      local stop = at + random(0, 4)
      local piece = text:sub(at, stop - 1)
      at = stop
      return piece
    end)
    same_rows(rows, wanted)
  end
  same_rows(rows_of(reader.of(text)), wanted)
end)

test("encoding.csv_rows: what is no CSV raises with its line, and can go on", function()
  for text, line in pairs({
    ['a"b'] = 1, ['x\n"a"b,c\n'] = 2, ['"a" ,b'] = 1, ["a\rb"] = 1, ['x\n\n"open\n\n'] = 3,
    ['"a""'] = 1, ['a, "b"'] = 1, ['"a"\rb'] = 1,
  }) do
    local err = expect.failure(rows_of, text)
    assert(err.kind == "syntax" and err.line == line, ("%q: %s"):format(text, err))
  end
  local next_row = encoding.csv_rows('1\n"a"b\n"2\n3"\n')
  assert(next_row()[1] == "1")
  expect.failure(next_row)
  assert(next_row()[1] == "2\n3" and next_row() == nil)
end)

test("encoding.csv_rows: a row has a largest size", function()
  local function limited(source, options)
    local err = expect.failure(rows_of, source, options)
    assert(err.kind == "limit", tostring(err))
  end
  local small = { max_row = 10 }
  assert(rows_of("123456789\n", small)[1][1] == "123456789")
  limited("12345678901\n", small)
  limited('"\n\n\n\n\n\n\n\n\n\n\n"', small)
  limited((","):rep(70000) .. "\n")
  -- A source that never ends is not read to its end.
  local taken = 0
  limited(function()
    taken = taken + 1
    return '"' .. ("x"):rep(1000)
  end, { max_row = 100000 })
  assert(taken < 200)
end)

test("encoding.csv_rows: a source that waits; nothing is lost by a cancellation", function()
  harness.clock()
  local pieces = { '"a\n', "b", '",c\n', "d\n" }
  local next_row = encoding.csv_rows(function()
    task.sleep(10)
    return table.remove(pieces, 1)
  end)
  -- In the middle of a field, twice.
  assert(task.move_on(15, next_row) == false and task.move_on(15, next_row) == false)
  local rows = { next_row(), next_row() }
  same_rows(rows, { { "a\nb", "c" }, { "d" } })
end)

test("encoding: CSV means the same to Python's csv, both ways", function()
  math.randomseed(8, 2)
  local pieces = { "a", "b c", ",", '"', "\n", "\r\n", "ä", "", "'", ";", "1" }
  local tables = {}
  for t = 1, 60 do
    local rows = {}
    for i = 1, random(1, 6) do
      local fields = {}
      for j = 1, random(1, 5) do
        local parts = {}
        for k = 1, random(0, 3) do
          parts[k] = pieces[random(#pieces)]
        end
        fields[j] = table.concat(parts)
      end
      rows[i] = fields
    end
    tables[t] = rows
  end
  local work = {}
  for t, rows in ipairs(tables) do
    local lines = {}
    for i, fields in ipairs(rows) do
      lines[i] = encoding.csv_row(fields) .. "\r\n"
    end
    work[t] = { rows = rows, text = table.concat(lines) }
  end
  local answers = ask_python([==[
import csv, io, json, sys
answers = []
for one in json.load(sys.stdin):
    out = io.StringIO(newline="")
    csv.writer(out).writerows(one["rows"])
    read = list(csv.reader(io.StringIO(one["text"], newline="")))
    answers.append({"text": out.getvalue(), "rows": read})
json.dump(answers, sys.stdout)
]==], work)
  for t, rows in ipairs(tables) do
    same_rows(answers[t].rows, rows)
    same_rows(rows_of(answers[t].text), rows)
  end
end)

-- ----------------------------------------------------------------------- UTF-8

test("encoding.utf8_valid: tells the first bad byte", function()
  for _, text in ipairs({ "", "a\0b", "ä€😀", "\u{7F}\u{80}\u{7FF}\u{800}\u{D7FF}\u{E000}",
    "\u{10FFFF}" }) do
    local valid, byte = encoding.utf8_valid(text)
    assert(valid == true and byte == nil)
  end
  for text, byte in pairs({
    ["\x80"] = 1, ["a\xFF"] = 2, ["ä\xC3"] = 3, ["\xC0\x80"] = 1, ["\xED\xA0\x80"] = 1,
    ["\xF4\x90\x80\x80"] = 1, ["12345678\xE2\x82"] = 9, ["\xF5\x80\x80\x80"] = 1,
  }) do
    local valid, at = encoding.utf8_valid(text)
    assert(valid == false and at == byte, text)
  end
end)

test("encoding.utf8_clean: replaces each mistake, as Python does", function()
  assert(encoding.utf8_clean("a\xFFb") == "a\u{FFFD}b")
  assert(encoding.utf8_clean("\xE2\x82x\xF0\x9F", "?") == "?x?")
  assert(encoding.utf8_clean("good ä", "?") == "good ä" and encoding.utf8_clean("\xFF", "") == "")
  math.randomseed(4, 4)
  local interesting = { "\x80", "\xBF", "\xC0", "\xC3", "\xE0", "\xA0", "\xED", "\x9F", "\xF0",
    "\x90", "\xF4", "\x8F", "\xFF", "a", "ä", "€", "😀" }
  local work, texts = {}, {}
  for i = 1, 3000 do
    local parts = {}
    for k = 1, random(0, 7) do
      parts[k] = interesting[random(#interesting)]
    end
    texts[i] = table.concat(parts)
    work[i] = encoding.base64(texts[i])
  end
  local answers = ask_python([==[
import base64, json, sys
json.dump([base64.b64decode(t).decode("utf-8", "replace") for t in json.load(sys.stdin)],
          sys.stdout)
]==], work)
  for i, text in ipairs(texts) do
    local clean = encoding.utf8_clean(text)
    assert(clean == answers[i], ("%q"):format(text))
    assert(encoding.utf8_valid(clean) and encoding.utf8_valid(text) == (clean == text))
  end
end)
