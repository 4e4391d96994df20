-- Windows of a download, as `Range` asks for them.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local range = require("sbx.server.range")

local function wanted(header, condition)
  return range.wanted({ range = header, ["if-range"] = condition }, { size = 100, mtime = 7 })
end

test("range: windows that are asked for", function()
  for header, window in pairs({
    ["bytes=0-9"] = { 0, 10 }, ["bytes=90-"] = { 90, 10 }, ["bytes=-7"] = { 93, 7 },
    ["bytes=50-1000"] = { 50, 50 }, ["bytes=-1000"] = { 0, 100 }, ["Bytes= 99-99 "] = { 99, 1 },
  }) do
    local offset, length = wanted(header)
    assert(offset == window[1] and length == window[2], header)
  end
end)

test("range: what there is not, and what is no window of bytes", function()
  for _, header in ipairs({ "bytes=100-", "bytes=100-200", "bytes=-0" }) do
    assert(wanted(header) == false, header)
  end
  for _, header in ipairs({
    "", "bytes", "bytes=-", "bytes=5-2", "bytes=1-2,5-6", "items=0-9", "bytes=a-b",
    "bytes=0x5-", "bytes=99999999999999999999-", "bytes=0-99999999999999999999", "bytes=--5",
  }) do
    assert(wanted(header) == nil, header)
  end
end)

test("range: only of the file that is meant", function()
  local tag = range.tag({ size = 100, mtime = 7 })
  assert(wanted("bytes=5-9", tag) == 5)
  for _, other in ipairs({ { size = 101, mtime = 7 }, { size = 100, mtime = 7.0001 } }) do
    assert(wanted("bytes=5-9", range.tag(other)) == nil)
  end
  assert(wanted("bytes=5-9", "Mon, 02 Mar 2026 09:00:00 GMT") == nil)
end)

test("range: a download answers with the window", function()
  support.with_server(function(api)
    local _, box = api:running()
    assert(box:exec("seq 100000 > /tmp/n; : > /tmp/empty") == 200)
    local whole = box:download("/tmp/n")
    assert(whole.status == 200 and whole.headers["accept-ranges"] == "bytes")
    local size = #whole.body
    local part = box:download("/tmp/n", {
      headers = { Range = "bytes=1000-1999", ["If-Range"] = whole.headers.etag },
    })
    assert(part.status == 206 and part.body == whole.body:sub(1001, 2000))
    assert(part.headers["content-range"] == ("bytes 1000-1999/%d"):format(size))
    local none = box:download("/tmp/n", { headers = { Range = ("bytes=%d-"):format(size) } })
    assert(none.status == 416 and none.headers["content-range"] == ("bytes */%d"):format(size))
    box:exec("echo more >> /tmp/n")
    part = box:download("/tmp/n", {
      headers = { Range = "bytes=1000-1999", ["If-Range"] = whole.headers.etag },
    })
    assert(part.status == 200 and #part.body == size + 5, "it has changed")
    assert(box:download("/tmp/empty", { headers = { Range = "bytes=0-" } }).status == 200)
    assert(box:download("/proc/self/status", { headers = { Range = "bytes=9-" } }).status == 200)
  end)
end)
