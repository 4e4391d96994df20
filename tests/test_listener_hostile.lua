-- Strangers at the listener: broken requests, slow ones, and far too many bytes.

local core = require("sbx.core.server")
local net = require("sbx.core.net")
local process = require("sbx.process")
local task = require("sbx.task")
local time = require("sbx.core.time")

-- Echoes bodies, of forms too, until the block ends.
local function serving(fn)
  local listener <close> = core.listen { max_header = 4096, max_connections = 200 }
  task.scope(function(scope)
    scope:daemon(function()
      while true do
        local request = listener:accept()
        scope:spawn(function()
          local req <close> = request
          pcall(function()
            local kind = req.headers["content-type"] or ""
            if kind:find("multipart", 1, true) then req:form() end
            local size = 0
            for bytes in req.read, req do
              size = size + #bytes
            end
            req:respond(200, nil, "size " .. size)
          end)
        end)
      end
    end)
    fn(listener)
  end)
end

-- What the listener says to `text` until it closes, or until we have waited
-- long enough for a peer that may well wait for more.
local function say(listener, text, patience)
  local stream <close> = net.connect("127.0.0.1", listener.port)
  local got = {}
  task.move_on(patience or 10, pcall, function()
    stream:write(text)
    for bytes in stream.read, stream do
      got[#got + 1] = bytes
    end
  end)
  return table.concat(got)
end

local function still_answers(listener)
  local answer = say(listener, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    .. "Content-Length: 3\r\n\r\nabc")
  assert(answer:find("size 3$"), answer)
end

local BRIEFLY = 0.05 -- seconds

local HOST = "Host: h\r\n"
local POST = "POST / HTTP/1.1\r\n" .. HOST

local refused = {
  ["no host"] = { "GET / HTTP/1.1\r\n\r\n", 400 },
  ["two hosts"] = { "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400 },
  ["two lengths"] = { POST .. "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400 },
  ["length and encoding"] = {
    POST .. "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
  },
  ["unknown encoding"] = { POST .. "Transfer-Encoding: gzip\r\n\r\nab", 501 },
  ["two encodings"] = {
    POST .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
  },
  ["length of words"] = { POST .. "Content-Length: many\r\n\r\nab", 400 },
  ["negative length"] = { POST .. "Content-Length: -1\r\n\r\nab", 400 },
  ["length beyond 64 bits"] = { POST .. "Content-Length: 99999999999999999999\r\n\r\n", 413 },
  ["chunk of words"] = { POST .. "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400 },
  ["chunk beyond 64 bits"] = {
    POST .. "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 413,
  },
  ["large header"] = { POST .. "X: " .. ("x"):rep(5000) .. "\r\n\r\n", 431 },
  ["large target"] = { "GET /" .. ("x"):rep(5000) .. " HTTP/1.1\r\n" .. HOST .. "\r\n", 431 },
  ["many headers"] = { "GET / HTTP/1.1\r\n" .. HOST .. ("a: b\r\n"):rep(1000) .. "\r\n", 431 },
  ["version of the future"] = { "GET / HTTP/9.9\r\n" .. HOST .. "\r\n", 505 },
}

test("listener: refuses malformed requests by itself", function()
  serving(function(listener)
    for name, case in pairs(refused) do
      local answer = say(listener, case[1])
      assert(answer:find("^HTTP/1%.[01] " .. case[2]), name .. ": " .. answer)
    end
    still_answers(listener)
  end)
end)

local silent = {
  ["nothing"] = "",
  ["line ends"] = "\r\n\r\n\r\n\r\n",
  ["zeros"] = ("\0"):rep(10000),
  ["a TLS greeting"] = "\22\3\1\2\0\1\0\1\252\3\3" .. ("r"):rep(500),
  ["half a line"] = "GET / HT",
  ["half the headers"] = "GET / HTTP/1.1\r\nHost",
  ["an endless line"] = ("a"):rep(300000),
  ["an endless header"] = "GET / HTTP/1.1\r\nX: " .. ("a"):rep(300000),
  ["half a body"] = POST .. "Content-Length: 10\r\n\r\nab",
  ["half a chunk"] = POST .. "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
  ["half a form"] = POST .. "Content-Type: multipart/form-data; boundary=bb\r\n"
    .. "Content-Length: 100\r\n\r\n--bb\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx",
  ["control bytes"] = "GET /\1\2\127 HTTP/1.1\r\nHost: \1\r\n\5: \6\r\n\r\n",
  ["folded headers"] = "GET / HTTP/1.1\r\nHost: h\r\n  folded\r\n\tagain\r\n\r\n",
  ["a header without a name"] = "GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n",
}

test("listener: survives bytes that are no request", function()
  serving(function(listener)
    for _, text in pairs(silent) do
      say(listener, text, BRIEFLY)
    end
    still_answers(listener)
  end)
end)

local FORM = table.concat {
  POST, "Content-Type: multipart/form-data; boundary=frontier\r\nContent-Length: 248\r\n\r\n",
  '--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n',
  "Content-Type: application/octet-stream\r\n\r\nbytes\r\n--front\r\n--frontier\r\n",
  'Content-Disposition: form-data; name="note"\r\n\r\n\r\n--frontier--\r\n', (" "):rep(40),
}
local CHUNKED = POST .. "Transfer-Encoding: chunked\r\n\r\n"
  .. "5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"
local QUERY = "GET /a%20b/%2e%2e?x=%41&y=+&z HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"

-- `text` with a few bytes changed, removed, doubled or swapped for telling ones.
local function mutate(text)
  local telling = { "\r\n", "\0", "%", "--", ":", " ", "\255", "0", "\"", "boundary=", ";", "\n" }
  for _ = 1, math.random(1, 4) do
    local at, size = math.random(#text), math.random(0, 3)
    local insert = math.random(2) == 1 and telling[math.random(#telling)]
      or string.char(math.random(0, 255)):rep(math.random(0, 3))
    text = text:sub(1, at - 1) .. insert .. text:sub(at + size)
  end
  return text:sub(1, math.random(5) == 1 and math.random(#text) or #text)
end

test("listener: survives mutated requests", function()
  math.randomseed(7, 11)
  serving(function(listener)
    local texts = {}
    for i = 1, 600 do
      local base = ({ FORM, CHUNKED, QUERY })[i % 3 + 1]
      texts[i] = mutate(base)
    end
    task.map(texts, function(text)
      say(listener, text, BRIEFLY)
    end, { limit = 20 })
    still_answers(listener)
  end)
end)

test("listener: takes a request byte by byte", function()
  serving(function(listener)
    local stream <close> = net.connect("127.0.0.1", listener.port)
    for byte in CHUNKED:gmatch(".") do
      stream:write(byte)
      task.yield()
    end
    assert(stream:read():find("size 8$"))
  end)
end)

test("listener: clients that leave at any point leave nothing behind", function()
  serving(function(listener)
    local cuts = {}
    for cut = 1, #FORM, 7 do
      cuts[#cuts + 1] = cut
    end
    task.map(cuts, function(cut)
      local stream <close> = net.connect("127.0.0.1", listener.port)
      stream:write(FORM:sub(1, cut))
    end, { limit = 10 })
    still_answers(listener)
  end)
end)

test("listener: more clients than it may have wait their turn", function()
  serving(function(listener)
    local idle = {}
    for i = 1, 200 do
      idle[i] = net.connect("127.0.0.1", listener.port)
    end
    task.gather {
      function() still_answers(listener) end,
      function()
        for _, stream in ipairs(idle) do
          stream:close()
        end
      end,
    }
  end)
end)

local function status_bytes(name)
  local file <close> = assert(io.open("/proc/self/status"))
  return tonumber(file:read("a"):match(name .. ":%s*(%d+) kB")) * 1024
end

-- The address sanitizer keeps freed memory for a while; its shadow is far
-- larger than any machine.
local function keeps_freed_memory()
  return status_bytes("VmSize") > 1 << 42
end

test("listener: 64 MiB pass through in flat memory", { timeout = 400 }, function()
  local size = 64 << 20
  local piece = ("d"):rep(65536)
  local listener <close> = core.listen {}
  local url = ("http://127.0.0.1:%d/"):format(listener.port)
  local before = status_bytes("VmHWM")
  local function transfer(command, answer)
    task.gather {
      function()
        local out = process.run({ "sh", "-c", command, "sh", url }, { timeout = 60 })
        assert(out.stdout == tostring(size), out.stderr)
      end,
      function()
        local request <close> = listener:accept()
        answer(request)
      end,
    }
  end

  local function receive(request)
    local got = 0
    for bytes in request.read, request do
      got = got + #bytes
    end
    request:respond(200, nil, tostring(got))
  end
  transfer("head -c 67108864 /dev/zero | curl -sS -T - \"$1\"", receive)
  transfer("head -c 67108864 /dev/zero | curl -sS -F 'file=@-' \"$1\"", function(request)
    request:form()
    receive(request)
  end)
  transfer("curl -sS -o /dev/null -w '%{size_download}' \"$1\"", function(request)
    request:start(200, nil, size)
    for _ = 1, size / #piece do
      request:write(piece)
    end
    request:finish()
  end)
  local grown = status_bytes("VmHWM") - before
  assert(grown < 16 << 20 or keeps_freed_memory(), "memory grew with the transfer")
end)

test("listener: a held request costs no time", function()
  local listener <close> = core.listen {}
  local stream <close> = net.connect("127.0.0.1", listener.port)
  stream:write("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
  local request <close> = listener:accept()
  local idle <close> = net.connect("127.0.0.1", listener.port)
  idle:write("GET / HT")
  local before = os.clock()
  time.sleep(0.3)
  assert(os.clock() - before < 0.15, "the loop is spinning")
  request:respond(200)
end)

local KEEP_ALIVE = [[
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
for i in range(30):
    body = b"b" * i
    if i % 3 == 0:
        body = iter([b"part"] * i)
    connection.request("POST" if i % 2 else "DELETE", "/", body=body)
    answer = connection.getresponse()
    text = answer.read().decode()
    assert text == "size %d" % (4 * i if i % 3 == 0 else i), text
    if i == 0:
        socket = connection.sock
    assert connection.sock is socket, "the connection was not kept"
connection.request("HEAD", "/")
answer = connection.getresponse()
assert answer.status == 200 and answer.read() == b"", answer.status
connection.request("POST", "/", headers={"Content-Type": "application/json"})
assert connection.getresponse().read() == b"size 0"
print("kept")
]]

test("listener: Python's client keeps its connection", function()
  serving(function(listener)
    local out = process.run({ "python3", "-c", KEEP_ALIVE, tostring(listener.port) },
      { timeout = 60 })
    assert(out.stdout == "kept\n", out.stderr)
  end)
end)
