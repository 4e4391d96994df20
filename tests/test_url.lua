local expect = dofile("tests/expect.lua")
local json = require("sbx.json")
local process = require("sbx.process")
local url = require("sbx.url")

local function same(got, wanted)
  for name, value in pairs(wanted) do
    assert(got[name] == value, ("%s: %s"):format(name, tostring(got[name])))
  end
  for name in pairs(got) do
    assert(wanted[name] ~= nil, "also has " .. name)
  end
end

local function refused(text, reason)
  assert(not pcall(url.parse, text), text)
  local err = expect.code("URL", url.parse, text)
  assert(err.kind == "syntax" and err.message:find(reason, 1, true), err.message)
  return err.message
end

test("url.parse: every part, decoded where it is plain text", function()
  same(url.parse("HTTPS://Us%40er:P%3aw%2F@EXAMPLE.com:8443/a%2Fb/../c?x=1&y=%26#top"), {
    scheme = "https", user = "Us@er", password = "P:w/", host = "example.com", port = 8443,
    path = "/a%2Fb/../c", query = "x=1&y=%26", fragment = "top",
  })
  same(url.parse("http://h"), { scheme = "http", host = "h", port = 80, path = "/" })
  same(url.parse("wss://h:/?"), { scheme = "wss", host = "h", port = 443, path = "/" })
  same(url.parse("x-y+z.1://h"), { scheme = "x-y+z.1", host = "h", path = "/" })
  same(url.parse("http://:p@h?a/b?c#d/e#f"), {
    scheme = "http", user = "", password = "p", host = "h", port = 80, path = "/",
    query = "a/b?c", fragment = "d/e#f",
  })
  same(url.parse("file:///etc/x"), { scheme = "file", path = "/etc/x" })
  same(url.parse("smtp://u;auth=X:p@h/"), {
    scheme = "smtp", user = "u;auth=X", password = "p", host = "h", path = "/",
  })
end)

test("url.parse: addresses as one connects to them", function()
  assert(url.parse("http://[::1]:80/").host == "::1")
  assert(url.parse("http://[FE80::0001%25eth0]/").host == "fe80::1%eth0")
  assert(url.parse("http://127.0.0.1/").host == "127.0.0.1")
  -- What libcurl connects to, so that a check of the host cannot be fooled.
  assert(url.parse("http://0x7f.1/").host == "127.0.0.1")
  assert(url.parse("http://2130706433/").host == "127.0.0.1")
  assert(url.parse("http://%6Cocal%68ost/").host == "localhost")
end)

test("url.parse: what is no URL is refused with the reason", function()
  for text, reason in pairs({
    [""] = "no scheme", ["h/path"] = "no scheme", ["//h"] = "no scheme", ["http:h"] = "no scheme",
    ["http:/h"] = "no scheme", ["mailto:a@b"] = "no scheme", ["1x://h"] = "no scheme",
    ["http://"] = "no host", ["http:///h"] = "no host", ["http://?x"] = "no host",
    ["db:///x"] = "no host", ["http://h:0/"] = "port", ["http://h:65536/"] = "port",
    ["http://h:-1/"] = "port", ["http://h:8a/"] = "port", ["http://[zz]/"] = "IPv6",
    ["http://[::1"] = "IPv6", ["http://a b/"] = "blank or a control character at byte 9",
    ["http://h/a b"] = "byte 11", ["http://h/\r\nX: y"] = "byte 10", ["http://h/\0"] = "byte 10",
    ["http://h\\@evil/"] = "backslash", ["http://a@b@c/"] = "hostname",
    ["http://a,b/"] = "hostname", ["http://h%2f/"] = "hostname", ["http://h%00/"] = "",
    ["http://h%40evil/"] = "hostname", ["http://\xff/"] = "hostname", ["http://a|b/"] = "hostname",
    ["http://h/" .. ("x"):rep(1024 * 1024)] = "longer",
  }) do
    refused(text, reason)
  end
end)

test("url.parse: a message never shows user, password or query", function()
  for _, text in ipairs({
    "http://us:hunter2@h:bad/?k=hunter2#hunter2", "http://us:hunter2/x@h:bad/",
    "http://us:hunter2?x@h:bad/", "http://us:hun#ter2@h:bad/", "us:hunter2@host", "h?k=hunter2",
    "http://h:bad/?mail=a@b&k=hunter2", "http://us@hunter2@h/", "http://u:hunter2 @h/",
  }) do
    local message = refused(text, "")
    assert(not message:find("hun", 1, true) and not message:find("us", 1, true), message)
    assert(not url.redact(text):find("hun", 1, true), url.redact(text))
  end
  assert(#refused("http://" .. ("a"):rep(5000) .. ":bad/", "port") < 400)
end)

test("url.build: writes what parse reads", function()
  for text, parts in pairs({
    ["https://h/"] = { host = "h" },
    ["https://h:80/a%20b%25/%C3%A4?x%20y#%23"] =
      { host = "h", port = 80, path = "a b%/ä", query = "x y", fragment = "#" },
    ["http://h/%41"] = { scheme = "HTTP", host = "h", port = 80, path = "/%41" },
    ["ws://[::1]:8080/"] = { scheme = "ws", host = "::1", port = 8080.0 },
    ["http://[fe80::1%25eth0]/"] = { scheme = "http", host = "fe80::1%eth0" },
    ["https://[::1]/"] = { host = "[::1]" },
    ["https://a%40b:c%2Fd@h/"] = { user = "a@b", password = "c/d", host = "h" },
    ["https://:p@h/"] = { password = "p", host = "h" },
    ["https://h/a%2Fb/%3F/7/"] = { host = "h", path = { "a/b", "?", 7, "" } },
    ["https://h/?a=1&a=2&b=x%20%26"] = { host = "h", query = { b = "x &", a = { 1, 2 } } },
    ["https://h/p"] = { host = "h", path = "/p", query = {}, fragment = "" },
    ["file:///etc/x%3F"] = { scheme = "file", path = "/etc/x?" },
  }) do
    assert(url.build(parts) == text, url.build(parts))
    url.parse(text)
  end
end)

test("url.build: parts cannot break out of their place", function()
  for _, host in ipairs({ "", "a/b", "a?b", "a#b", "u@h", "a:80", "a b", "[x]", "::1]:80/[", "a\\b",
    "a%2fb", "h\r\n", "1:2", "a\0" }) do
    expect.misuse("", url.build, { host = host })
  end
  expect.misuse("path[2]", url.build, { host = "h", path = { "a", ".." } })
  expect.misuse("path[1]", url.build, { host = "h", path = { "." } })
  local built = url.parse(url.build({
    host = "h", user = "@/?#", password = ":@", path = "/?#", fragment = "a#b", query = "a#b",
  }))
  assert(built.host == "h" and built.user == "@/?#" and built.password == ":@")
  assert(built.path == "/%3F%23" and built.fragment == "a%23b" and built.query == "a%23b")
end)

test("url: misuse names the argument and the caller's line", function()
  local function fails(text, fn, ...)
    local args = table.pack(...)
    expect.misuse("test_url.lua", function() local _ = fn(table.unpack(args, 1, args.n)) end)
    expect.misuse(text, fn, ...)
  end
  fails("url: expected a string", url.parse, nil)
  fails("unknown option 'hots'", url.build, { hots = "x" })
  fails("host: expected a string, got nothing", url.build, {})
  fails("port: expected a number", url.build, { host = "h", port = 0 })
  fails("port: expected a number", url.build, { host = "h", port = "80" })
  fails("scheme: not a scheme", url.build, { host = "h", scheme = "a b" })
  fails("path[1]: expected a string", url.build, { host = "h", path = { {} } })
  fails("path: expected a string", url.build, { host = "h", path = 1 })
  fails("query.a: expected", url.query, { a = print })
  fails("query: expected names", url.query, { [2] = "x" })
  fails("query[1]: expected { name, value }", url.query, { "x" })
  fails("query: expected a string", url.parse_query, {})
  fails("text: expected a string", url.escape, 1)
  fails("relative: expected a string", url.join, "http://h", nil)
end)

test("url.join: the examples of RFC 3986", function()
  for reference, wanted in pairs({
    ["g"] = "b/c/g", ["./g"] = "b/c/g", ["g/"] = "b/c/g/", ["/g"] = "g", ["?y"] = "b/c/d;p?y",
    ["g?y"] = "b/c/g?y", ["#s"] = "b/c/d;p?q#s", ["g#s"] = "b/c/g#s", ["g?y#s"] = "b/c/g?y#s",
    [";x"] = "b/c/;x", ["g;x"] = "b/c/g;x", ["g;x?y#s"] = "b/c/g;x?y#s", [""] = "b/c/d;p?q",
    ["."] = "b/c/", ["./"] = "b/c/", [".."] = "b/", ["../"] = "b/", ["../g"] = "b/g",
    ["../.."] = "", ["../../"] = "", ["../../g"] = "g", ["../../../g"] = "g",
    ["../../../../g"] = "g", ["/./g"] = "g", ["/../g"] = "g", ["g."] = "b/c/g.", [".g"] = "b/c/.g",
    ["g.."] = "b/c/g..", ["..g"] = "b/c/..g", ["./../g"] = "b/g",
    ["./g/."] = "b/c/g/", ["g/./h"] = "b/c/g/h", ["g/../h"] = "b/c/h",
    ["g;x=1/./y"] = "b/c/g;x=1/y", ["g;x=1/../y"] = "b/c/y",
    ["g?y/./x"] = "b/c/g?y/./x", ["g#s/../x"] = "b/c/g#s/../x",
  }) do
    local got = url.join("http://a/b/c/d;p?q", reference)
    assert(got == "http://a/" .. wanted, reference .. ": " .. got)
  end
  assert(url.join("http://a/b", "//g/x") == "http://g/x")
  assert(url.join("http://a/b", "ftp://g/x/../y") == "ftp://g/y")
  assert(url.join("http://a/b#x/y", "g h") == "http://a/g%20h")
  assert(url.join("http://u:p@a:8/b?x", "/g") == "http://u:p@a:8/g")
  expect.code("URL", url.join, "a/b", "c")
  expect.code("URL", url.join, "http://a/b", "mailto:x@y")
  expect.code("URL", url.join, "http://a/b", "//")
end)

test("url: queries keep names, values and order", function()
  local values, list = url.parse_query("a=1&b=x+%26%3D&a=2&&flag&=v&c==&%zz=%4")
  assert(values.a == "2" and values.b == "x &=" and values.flag == "" and values[""] == "v")
  assert(values.c == "=" and values["%zz"] == "%4" and #list == 7)
  assert(list[1][1] == "a" and list[1][2] == "1" and list[3][2] == "2")
  assert(url.query({ { "b", 1 }, { "a", true }, { "b", "" } }) == "b=1&a=true&b=")
  assert(url.query({}) == "" and next((url.parse_query(""))) == nil)

  local bytes = {}
  for i = 0, 255 do
    bytes[i + 1] = string.char(i)
  end
  local all = table.concat(bytes)
  assert(url.parse_query(url.query({ [all] = all }))[all] == all)
  assert(url.unescape(url.escape(all)) == all)
  assert(url.escape("a-b._~ +/é") == "a-b._~%20%2B%2F%C3%A9" and url.unescape("+%2b%") == "++%")
end)

test("url.redact: nothing secret, and still to be recognized", function()
  for text, wanted in pairs({
    ["https://u:p@h:8443/a?key=s&x&y=#t"] = "https://h:8443/a?key=***&***&y=***#***",
    ["http://h/"] = "http://h/",
    ["/path?key=s"] = "/path",
    ["u:p@h/x"] = "h/x",
  }) do
    assert(url.redact(text) == wanted, url.redact(text))
  end
end)

-- ------------------------------------------------------- against Python's urllib

local PEER = [==[
import json, sys
from urllib.parse import urlsplit, urljoin, unquote, quote, parse_qsl
def split(text):
    p = urlsplit(text)
    return {"scheme": p.scheme, "user": p.username, "password": p.password, "host": p.hostname,
            "port": p.port, "path": p.path, "query": p.query, "fragment": p.fragment}
work = json.load(sys.stdin)
json.dump({
    "split": [split(t) for t in work["split"]],
    "join": [urljoin(b, r) for b, r in work["join"]],
    "query": [parse_qsl(t, keep_blank_values=True, encoding="latin-1") for t in work["query"]],
    "quote": [quote(t, safe="") for t in work["quote"]],
}, sys.stdout)
]==]

local function ask_python(work)
  local found, answer = pcall(process.run, { "python3", "-c", PEER }, {
    input = json.encode(work), check = true, timeout = 60,
  })
  if not found and answer.code == "ENOENT" then skip("python3 is missing") end
  assert(found, tostring(answer))
  return json.decode(answer.stdout)
end

local random = math.random

local function pick(list)
  return list[random(#list)]
end

local function some(list, most)
  local parts = {}
  for i = 1, random(0, most) do
    parts[i] = pick(list)
  end
  return table.concat(parts)
end

local path_pieces = { "a", "bc", ".", "..", "/", "/", ";x", "%41", "~", "=", "@", ":", "d-e" }
local query_pieces = { "a", "=", "&", "%26", "+", "b", "%3D", "/", "?", ";", "%zz", "%4", "%" }

local function random_url()
  return pick({ "http", "https", "ftp" }) .. "://"
    .. pick({ "", "", "u@", "u:p@", "u%40:%3a@", ":p@" })
    .. pick({ "h", "Ex-ample.COM", "127.0.0.1", "[::1]", "a_b" })
    .. pick({ "", "", ":", ":1", ":8080", ":65535" })
    .. pick({ "", "/" .. some(path_pieces, 6) })
    .. pick({ "", "?" .. some(query_pieces, 6) })
    .. pick({ "", "#" .. some(query_pieces, 3) })
end

local function unless_empty(value)
  if value ~= "" and value ~= json.null then return value end
end

local function or_nil(value)
  if value ~= json.null then return value end
end

-- Python is told that each byte is a character.
local function latin1(bytes)
  return (bytes:gsub("[\x80-\xff]", function(byte) return utf8.char(byte:byte()) end))
end

local function same_parts(text, python)
  local ours = url.parse(text)
  assert(ours.scheme == python.scheme and ours.host == python.host, text)
  local user, password = or_nil(python.user), or_nil(python.password)
  assert(ours.user == (user and url.unescape(user)), text)
  assert(ours.password == (password and url.unescape(password)), text)
  local usual = { http = 80, https = 443, ftp = 21 }
  assert(ours.port == (or_nil(python.port) or usual[ours.scheme]), text)
  assert(ours.path == (python.path == "" and "/" or python.path), text)
  assert(ours.query == unless_empty(python.query), text)
  assert(ours.fragment == unless_empty(python.fragment), text)
  return ours
end

test("url: random URLs mean the same to Python's urllib", function()
  math.randomseed(11, 3)
  local work = { split = {}, join = json.array(), query = {}, quote = {} }
  for i = 1, 1500 do
    work.split[i] = random_url()
    work.query[i] = some(query_pieces, 8)
    work.quote[i] = some({ "a", "/", " ", "%", "ä", "~", "+", "\0", "€" }, 8)
  end
  local peer = ask_python(work)
  for i, text in ipairs(work.split) do
    local parts = same_parts(text, peer.split[i])
    local again = url.parse(url.build(parts))
    for _, name in ipairs({ "scheme", "user", "password", "host", "port" }) do
      assert(again[name] == parts[name], text)
    end
    assert(url.build(again) == url.build(parts), text)
  end
  for i, text in ipairs(work.query) do
    local _, list = url.parse_query(text)
    local wanted = peer.query[i]
    assert(#list == #wanted, text)
    for at, pair in ipairs(list) do
      assert(latin1(pair[1]) == wanted[at][1] and latin1(pair[2]) == wanted[at][2], text)
    end
  end
  for i, text in ipairs(work.quote) do
    assert(url.escape(text) == peer.quote[i], text)
  end
end)

test("url: random references lead where Python's urllib goes", function()
  math.randomseed(12, 4)
  local work = { split = json.array(), join = {}, query = json.array(), quote = json.array() }
  local pieces = { "a", "b", ".", "..", "/", "/", "c.d" }
  for i = 1, 1500 do
    -- Python drops empty segments in places where RFC 3986 keeps them.
    local reference = some(pieces, 6):gsub("//+", "/")
    work.join[i] = { "http://h/" .. some(pieces, 5):gsub("/+", "/"):gsub("^/", ""),
      reference .. pick({ "", "?q", "#f", "?q#f" }) }
  end
  for i, wanted in ipairs(ask_python(work).join) do
    local base, reference = table.unpack(work.join[i])
    local got = url.join(base, reference)
    -- Python keeps the dots of a base that the reference does not touch.
    if reference:find("^[^?#]") then
      if wanted == "http://h" then wanted = "http://h/" end
      assert(got == wanted, ("%s + %s = %s, not %s"):format(base, reference, got, wanted))
    end
  end
end)
