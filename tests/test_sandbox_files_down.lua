-- Downloads that break, go on, and are checked.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local expect = dofile(here .. "expect.lua")
local folder_box = dofile(here .. "peers/folder_box.lua")

local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local task = require("sbx.task")

local failure = folder_box.failure
local SIZE = 300000

-- `size` bytes of which no two windows are alike.
local function content(size)
  local parts, count = {}, 0
  while count < size do
    parts[#parts + 1] = hash.sha256(tostring(#parts))
    count = count + 64
  end
  return table.concat(parts):sub(1, size)
end

-- A box with a file of known content, and a folder for what comes.
local function start(handlers)
  local box = folder_box.start(handlers)
  box.bytes = content(SIZE)
  box.file = box.path .. "/file"
  fs.write(box.file, box.bytes)
  box.to = box.outer.path .. "/to"
  fs.mkdir(box.to)
  function box.get(_, options)
    return box.client:download_file(box.id, box.file, box.to .. "/x", options)
  end
  function box.refused(_, options) return failure(box.get, box, options) end
  function box.landed() return table.concat(fs.list(box.to), " ") end
  return box
end

-- What each download asked for: its ranges, "-" for all.
local function ranges(box)
  local list = {}
  for _, call in ipairs(box.server.calls) do
    if call.op == "download" then list[#list + 1] = call.headers.range or "-" end
  end
  return table.concat(list, " ")
end

-- Breaks the first `count` answers off after `at` bytes each.
local function cutting(count, at, headers)
  return function(call)
    if call.n > count then return nil end
    local from = tonumber((call.headers.range or ""):match("%d+") or 0)
    local bytes = content(SIZE)
    if from == 0 then return folder_box.cut(call, bytes, at, headers or { etag = '"one"' }) end
    call.request:start(206, {
      etag = '"one"', ["content-range"] = ("bytes %d-%d/%d"):format(from, SIZE - 1, SIZE),
    }, SIZE - from)
    call.request:write(bytes:sub(from + 1, from + at))
    call.request:close()
    return folder_box.HANG
  end
end

-- Pauses pass at once; returns a list of them. Until the variable ends.
local function quick()
  local sleep = task.sleep
  local pauses = setmetatable({}, { __close = function() task.sleep = sleep end })
  function task.sleep(seconds)
    pauses[#pauses + 1] = seconds
    task.yield()
  end
  return pauses
end

-- ------------------------------------------------------------ going on by itself

test("download: goes on where the connection broke", function()
  local box <close> = start({ download = cutting(2, 100000) })
  local pauses <close> = quick()
  local seen = {}
  local function progress(done, total) seen[#seen + 1] = { done, total } end
  assert(box:get({ progress = progress }) == SIZE)
  assert(fs.read(box.to .. "/x") == box.bytes and box:landed() == "x")
  assert(ranges(box) == "- bytes=100000- bytes=200000-", ranges(box))
  assert(#pauses == 2 and pauses[1] == 0.25 and pauses[2] == 1)
  assert(seen[#seen][1] == SIZE and seen[#seen][2] == SIZE)
  for i = 2, #seen do
    assert(seen[i][1] > seen[i - 1][1])
  end
  local last = box.server.calls[#box.server.calls]
  assert(last.headers["if-range"] == '"one"' and last.headers["accept-encoding"] == "identity")
end)

test("download: a gateway without ranges gives all of it again", function()
  local box <close> = start({
    download = function(call)
      if call.n == 1 then return folder_box.cut(call, content(SIZE), 100000) end
      return 200, content(SIZE)
    end,
  })
  local _ <close> = quick()
  local bytes = box.client:download_bytes(box.id, box.file)
  assert(bytes == box.bytes, "what was given out before is passed over")
  box.server.counts.download = 0
  assert(box:get({ checksum = true }) == SIZE and fs.read(box.to .. "/x") == box.bytes)
end)

test("download: a file that became another one is not mixed with it", function()
  local other = ("other"):rep(SIZE // 5)
  local box <close> = start({
    download = function(call)
      if call.n == 1 then return folder_box.cut(call, content(SIZE), 100000, { etag = '"one"' }) end
      return 200, other, { etag = '"two"' }
    end,
  })
  local _ <close> = quick()
  assert(box:get() == #other and fs.read(box.to .. "/x") == other)
  box.server.counts.download = 0
  local err = failure(box.client.download_bytes, box.client, box.id, box.file)
  assert(err.kind == "api" and err.code == "CHANGED", tostring(err))
end)

test("download: a rest of another file is not taken", function()
  for _, headers in ipairs({
    { ["content-range"] = "bytes 100000-399999/400000", etag = '"one"' },
    { ["content-range"] = ("bytes 100000-%d/%d"):format(SIZE - 1, SIZE), etag = '"two"' },
  }) do
    local box <close> = start({
      download = function(call)
        if call.n == 1 then
          return folder_box.cut(call, content(SIZE), 100000, { etag = '"one"' })
        elseif call.n == 2 then
          return 206, "wrong", headers
        end
      end,
    })
    local _ <close> = quick()
    assert(box:get() == SIZE and fs.read(box.to .. "/x") == box.bytes)
    assert(ranges(box) == "- bytes=100000- -")
  end
end)

test("download: a file that became shorter is read anew", function()
  local box <close> = start({
    download = function(call)
      if call.n == 1 then return folder_box.cut(call, content(SIZE), 100000) end
      if call.headers.range then return 416, { error = "range", code = 416 } end
      return 200, "short"
    end,
  })
  local _ <close> = quick()
  assert(box:get() == 5 and fs.read(box.to .. "/x") == "short")
end)

test("download: answers that contradict themselves are refused", function()
  local answers = {
    { 206, "abc", { ["content-range"] = "bytes 0-2/3" } }, -- nobody asked for a part
    { 206, "abc", {} },
  }
  local box <close> = start({
    download = function() return table.unpack(answers[1]) end,
  })
  while #answers > 0 do
    local err = box:refused()
    assert(err.code == "BAD_ANSWER" and box:landed() == "", tostring(err))
    table.remove(answers, 1)
  end
  box.handlers.download = function(call)
    if call.headers.range then return 206, "abc", { ["content-range"] = "bytes 5-7/8" } end
    return folder_box.cut(call, content(SIZE), 100000)
  end
  local _ <close> = quick()
  assert(box:refused().code == "BAD_ANSWER" and box:landed() == "")
end)

test("download: more than was announced is refused", function()
  local box <close> = start({
    download = function(call)
      if not call.headers.range then return folder_box.cut(call, content(SIZE), 100000) end
      call.request:start(206, {
        ["content-range"] = ("bytes 100000-%d/%d"):format(SIZE - 1, SIZE),
      })
      call.request:write(content(SIZE):sub(100001) .. "and more")
      call.request:finish()
      return folder_box.HANG
    end,
  })
  local _ <close> = quick()
  local err = box:refused()
  assert(err.code == "CHANGED" and box:landed() == "", tostring(err))
end)

test("download: less than was announced is not the whole", function()
  local box <close> = start({
    download = function(call)
      if not call.headers.range then return folder_box.cut(call, content(SIZE), 100000) end
      if call.n > 2 then return nil end
      call.request:start(206, {
        ["content-range"] = ("bytes 100000-%d/%d"):format(SIZE - 1, SIZE),
      })
      call.request:write(content(SIZE):sub(100001, 150000))
      call.request:finish()
      return folder_box.HANG
    end,
  })
  local _ <close> = quick()
  assert(box:get() == SIZE and fs.read(box.to .. "/x") == box.bytes)
  assert(ranges(box) == "- bytes=100000- bytes=150000-")
end)

test("download: what breaks again and again fails in the end", function()
  local box <close> = start({ download = cutting(100, 1000) })
  local pauses <close> = quick()
  local err = box:refused()
  assert(err.kind == "api" and err:is("http") and box:landed() == "", tostring(err))
  assert(#pauses == 4 and box:count("download") == 5)
end)

test("download: a file that changes with each try is given up", function()
  local box <close> = start({
    download = function(call)
      return folder_box.cut(call, content(SIZE), 2000, { etag = ('"%d"'):format(call.n) })
    end,
  })
  local _ <close> = quick()
  local err = box:refused()
  assert(err.code == "CHANGED" and box:landed() == "", tostring(err))
end)

-- ------------------------------------------------------- going on in a later call

test("download: resume goes on with what a failed call left", function()
  local box <close> = start({ download = cutting(5, 20000) })
  do
    local _ <close> = quick()
    local err = box:refused({ resume = true })
    assert(err.kind == "api" and box:landed() == "x.part")
    assert(fs.stat(box.to .. "/x.part").size == 100000)
  end
  local seen = {}
  assert(box:get({
    resume = true, checksum = true, progress = function(done) seen[#seen + 1] = done end,
  }) == SIZE)
  assert(fs.read(box.to .. "/x") == box.bytes and box:landed() == "x" and seen[1] == 100000)
  assert(ranges(box):match("%S+$") == "bytes=100000-")
end)

test("download: resume starts again where the file begins differently", function()
  local box <close> = start()
  for _, left in ipairs({ "something else", content(SIZE) .. "longer" }) do
    fs.write(box.to .. "/x.part", left)
    assert(box:get({ resume = true }) == SIZE and fs.read(box.to .. "/x") == box.bytes)
  end
  assert(ranges(box) == "- -" and box:landed() == "x")
end)

test("download: resume starts again where nobody can compare", function()
  local box <close> = start()
  box.tools = {}
  fs.write(box.to .. "/x.part", content(1000))
  assert(box:get({ resume = true }) == SIZE and ranges(box) == "-")
  assert(fs.read(box.to .. "/x") == box.bytes)
end)

test("download: resume of what is whole already asks for nothing", function()
  local box <close> = start()
  fs.write(box.to .. "/x.part", box.bytes)
  local seen
  assert(box:get({ resume = true, progress = function(...) seen = { ... } end }) == SIZE)
  assert(box:count("download") == 0 and fs.read(box.to .. "/x") == box.bytes)
  assert(seen[1] == SIZE and seen[2] == SIZE and box:landed() == "x")
end)

test("download: resume of a file that is not there, or is no file, leaves nothing", function()
  local box <close> = start()
  fs.remove(box.file)
  assert(box:refused({ resume = true }).kind == "file_not_found" and box:landed() == "")
  fs.write(box.to .. "/x.part", "left")
  assert(box:refused({ resume = true }).kind == "file_not_found" and box:landed() == "x.part")
  fs.remove(box.to .. "/x.part")
  fs.mkdir(box.to .. "/x.part")
  fs.write(box.to .. "/x.part/y", "")
  local err = box:refused({ resume = true })
  assert(err.kind == "io" and err.code == "EEXIST", tostring(err))
end)

test("download: cancelled with resume, what came stays", function()
  local box <close> = start({
    download = function(call)
      if call.n > 1 then return nil end
      call.request:start(200, {}, SIZE)
      call.request:write(content(SIZE):sub(1, 50000))
      return folder_box.HANG
    end,
  })
  expect.cancelled_once(function()
    local name = fs.list(box.to)[1]
    return name and fs.stat(box.to .. "/" .. name).size == 50000
  end, box.get, box, { resume = true })
  assert(fs.stat(box.to .. "/x.part").size == 50000)
  assert(box:get({ resume = true }) == SIZE and ranges(box) == "- bytes=50000-")
end)

-- ------------------------------------------------------------------- checksums

test("download: a checksum that differs leaves the old file and no partial", function()
  local box <close> = start({
    download = function() return 200, (content(SIZE):gsub("^.", "X")) end,
  })
  fs.write(box.to .. "/x", "old")
  for _, resume in ipairs({ false, true }) do
    local err = box:refused({ checksum = true, resume = resume })
    assert(err.kind == "checksum_mismatch" and err.path == box.file)
    assert(err.expected == hash.sha256(box.bytes) and #err.actual == 64)
    assert(fs.read(box.to .. "/x") == "old" and box:landed() == "x")
  end
end)

-- ---------------------------------------------------------------- local targets

test("download: a replaced file keeps its mode, a link leads to it", function()
  local box <close> = start()
  fs.mkdir(box.to .. "/real")
  fs.write(box.to .. "/real/file", "old")
  fs.chmod(box.to .. "/real/file", tonumber("751", 8))
  fs.symlink("real/file", box.to .. "/x")
  assert(box:get() == SIZE and fs.read(box.to .. "/real/file") == box.bytes)
  assert(fs.stat(box.to .. "/real/file").mode == tonumber("751", 8))
  assert(fs.lstat(box.to .. "/x").type == "symlink" and #fs.list(box.to .. "/real") == 1)
end)

test("download: a folder is refused, what is no plain file is written in place", function()
  local box <close> = start()
  fs.mkdir(box.to .. "/x")
  local err = box:refused()
  assert(err.kind == "io" and err.code == "EISDIR" and #box.server.calls == 0)
  assert(box.client:download_file(box.id, box.file, "/dev/null", { resume = true }) == SIZE)
  assert(fs.stat("/dev/null").type == "device")
end)

test("download: an empty file, and one without a length", function()
  local box <close> = start()
  fs.write(box.file, "")
  local seen
  assert(box:get({ checksum = true, progress = function(...) seen = { ... } end }) == 0)
  assert(fs.stat(box.to .. "/x").size == 0 and seen[1] == 0)
  box.handlers.download = function(call)
    call.request:start(200, {})
    call.request:write("made ")
    call.request:write("up")
    call.request:finish()
    return folder_box.HANG
  end
  assert(box:get({ progress = function(...) seen = { ... } end }) == 7)
  assert(fs.read(box.to .. "/x") == "made up" and seen[1] == 7 and seen[2] == nil)
end)

-- --------------------------------------------------------- streams and strings

test("download_bytes: exact bytes, up to max", function()
  local box <close> = start()
  assert(box.client:download_bytes(box.id, box.file, { max = SIZE }) == box.bytes)
  local err = failure(box.client.download_bytes, box.client, box.id, box.file, { max = SIZE - 1 })
  assert(err.kind == "limit" and err.size == SIZE and err.sandbox_id == box.id)
  box.handlers.download = function(call)
    call.request:start(200, {})
    pcall(function()
      while true do
        call.request:write(("x"):rep(10000))
      end
    end)
    return folder_box.HANG
  end
  err = failure(box.client.download_bytes, box.client, box.id, box.file, { max = 100000 })
  assert(err.kind == "limit", "also where the length is not told")
end)

test("download_stream: lines, pieces and the rest share one position", function()
  local box <close> = start()
  fs.write(box.file, "one\ntwo\nthree\nfour and more")
  local stream <close> = box.client:download_stream(box.id, box.file)
  assert(stream.size == 27 and stream:line() == "one" and stream:read(2) == "tw")
  for line in stream:lines() do
    if line == "three" then break end
  end
  assert(stream:all() == "four and more" and stream:read() == nil)
  stream:close()
  assert(failure(stream.read, stream).code == "EBADF")
  local err = failure(box.client.download_stream, box.client, box.id, box.path .. "/none")
  assert(err.kind == "file_not_found" and err.op == "download_stream")
end)

test("download_stream: survives a broken connection and a cancelled read", function()
  local box <close> = start({
    download = function(call)
      if call.n > 1 then return nil end
      call.request:start(200, { etag = '"one"' }, SIZE)
      call.request:write(content(SIZE):sub(1, 1000))
      return folder_box.HANG
    end,
  })
  local stream <close> = box.client:download_stream(box.id, box.file)
  assert(stream:read(1000) == box.bytes:sub(1, 1000))
  assert(not task.move_on(0.1, stream.read, stream))
  box.server.hanging[1]:close()
  local rest = {}
  for bytes in stream:chunks() do
    rest[#rest + 1] = bytes
  end
  assert(table.concat(rest) == box.bytes:sub(1001) and ranges(box) == "- bytes=1000-")
end)

test("download_stream: its timeout is for silence alone", function()
  local box <close> = start({
    download = function(call)
      call.request:start(200, {}, 100)
      for _ = 1, 5 do
        call.request:write("x")
        task.sleep(0.5)
      end
      return folder_box.HANG
    end,
  })
  local stream <close> = box.client:download_stream(box.id, box.file, { timeout = 2 })
  local count = 0
  local ok, err = pcall(function()
    for bytes in stream:chunks() do
      count = count + #bytes
    end
  end)
  assert(not ok and errors.is_error(err) and err.kind == "download_timeout" and count == 5)
end)
