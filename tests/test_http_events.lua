local errors = require("sbx.errors")
local events = require("sbx.http.events")

-- The events of `text`, cut into pieces of `size` bytes, as one text.
local function read(text, size)
  local parser, found = events.parser(1000), {}
  for at = 1, #text, size do
    parser:feed(text:sub(at, at + size - 1))
    for event in function() return parser:next() end do
      found[#found + 1] = ("%s|%s|%s|%s"):format(event.event, event.data, event.id,
        event.retry or "")
    end
  end
  return table.concat(found, ";"), parser
end

-- However the bytes are cut, the events are `expected`.
local function expect(expected, text)
  for size = 1, #text do
    local found = read(text, size)
    assert(found == expected, ("in pieces of %d: %q"):format(size, found))
  end
end

test("http events: fields, comments and blank lines make events", function()
  expect("message|hello||", "data: hello\n\n")
  expect("message|two\nlines||", "data: two\ndata: lines\n\n")
  expect("add|1||;message|2||", "event: add\ndata: 1\n\ndata: 2\n\n")
  expect("message|x|7|;message|y|7|", "id: 7\ndata: x\n\ndata: y\n\n")
  expect("message|a||", ": a comment\n:\ndata: a\n\n")
  expect("message|||", "data\n\n")
  expect("message|\n||", "data\ndata\n\n")
  -- Nothing to dispatch, and the type does not linger.
  expect("message|x||", "event: lost\n\ndata: x\n\n")
end)

test("http events: lines end with CR, LF or both", function()
  expect("message|a||;message|b||", "data: a\r\n\r\ndata: b\r\n\r\n")
  expect("message|a||;message|b||", "data: a\r\rdata: b\r\r")
  expect("message|a\nb||", "data: a\rdata: b\n\r\n")
end)

test("http events: an event is there as soon as its last CR is", function()
  local parser = events.parser(1000)
  parser:feed("data: a\r\r")
  assert(parser:next().data == "a")
  parser:feed("\ndata: b\n\n")
  assert(parser:next().data == "b" and parser:next() == nil)
end)

test("http events: one blank after the colon is dropped, no more", function()
  expect("message|a||;message| b ||;message|c:d||", "data:a\n\ndata:  b \n\ndata:c:d\n\n")
  expect("", "Data: a\n\n data: b\n\nunknown: c\n\n")
end)

test("http events: a byte order mark is skipped at the start alone", function()
  expect("message|a||", "\xEF\xBB\xBFdata: a\n\n")
  expect("message|a||", "data: a\n\n\xEF\xBB\xBFdata: b\n\n")
end)

test("http events: ids last, and one with a zero byte is ignored", function()
  expect("message|a|1|;message|b|1|;message|c||",
    "id: 1\ndata: a\n\nid: x\0y\ndata: b\n\nid\ndata: c\n\n")
  local _, parser = read("id: 9\n\n", 100)
  assert(parser.last_id == "9")
end)

test("http events: retry is in milliseconds on the wire, seconds here", function()
  expect("message|a||1.5", "retry: 1500\ndata: a\n\n")
  expect("message|a||;message|b||", "retry: 1.5\ndata: a\n\nretry: -1\ndata: b\n\n")
  local _, parser = read("retry: 200\n\n", 100)
  assert(parser.retry == 0.2)
end)

test("http events: what the end cuts short is no event", function()
  expect("message|a||", "data: a\n\ndata: b\n")
  expect("", "data: a")
end)

test("http events: an event without an end is refused, a long stream is not", function()
  for _, text in ipairs({ "data: " .. ("x"):rep(2000), ("data: x\n"):rep(400), ("x"):rep(2000) }) do
    local ok, err = pcall(read, text, 50)
    assert(not ok and errors.is_error(err) and err.kind == "limit", tostring(err))
  end
  assert(#read(("data: x\n\n"):rep(5000), 7) > 5000)
  -- Comments keep a connection alive for ever.
  read((": ping\n\n"):rep(5000), 7)
  read((": ping\n"):rep(5000), 7)
end)
