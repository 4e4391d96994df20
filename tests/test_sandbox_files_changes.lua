-- Files that change while they are copied, answers that are no file, and others who
-- have a hand in it: what arrives is one version, or an error.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local folder_box = dofile(here .. "peers/folder_box.lua")

local core = require("sbx.core.fs")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local hash = require("sbx.hash")
local lock = require("sbx.core.lock")
local task = require("sbx.task")
local test_ = require("sbx.test")

local failure = folder_box.failure
local SIZE = 300000

-- `size` bytes, other ones for each `seed`.
local function content(size, seed)
  local parts, count = {}, 0
  while count < size do
    parts[#parts + 1] = hash.sha256(seed .. #parts)
    count = count + 64
  end
  return table.concat(parts):sub(1, size)
end

local OLD, NEW = content(SIZE, "old"), content(SIZE, "new")

-- A box with a file that is OLD, here and there.
local function start(handlers)
  local box = folder_box.start(handlers)
  box.file, box.here = box.path .. "/file", box.outer.path .. "/here"
  fs.write(box.file, OLD)
  fs.write(box.here, OLD)
  box.to = box.outer.path .. "/to"
  fs.mkdir(box.to)
  function box.get(_, options)
    return box.client:download_file(box.id, box.file, box.to .. "/x", options)
  end
  function box.put(_, options)
    return box.client:upload_file(box.id, box.path .. "/x", box.here, options)
  end
  return box
end

local function quick()
  local sleep = task.sleep
  local pauses = setmetatable({}, { __close = function() task.sleep = sleep end })
  function task.sleep(seconds)
    pauses[#pauses + 1] = seconds
    task.yield()
  end
  return pauses
end

-- The part of `bytes` that a request asks for, of which `count` bytes are sent.
local function serve(call, bytes, headers, count)
  local from = tonumber((call.headers.range or ""):match("%d+"))
  local all = { ["content-range"] = from and ("bytes %d-%d/%d"):format(from, #bytes - 1, #bytes) }
  for name, value in pairs(headers) do
    all[name] = value
  end
  local rest = bytes:sub((from or 0) + 1)
  call.request:start(from and 206 or 200, all, #rest)
  call.request:write(rest:sub(1, count))
  if count then call.request:close() else call.request:finish() end
  return folder_box.HANG
end

-- ---------------------------------------------------------------------- down

local versions = {
  { { etag = 'W/"1"' }, { etag = 'W/"2"' } },
  { { etag = '"1"' }, { etag = '"2"' } },
  { { ["last-modified"] = "Mon, 02 Mar 2026 09:00:00 GMT" },
    { ["last-modified"] = "Mon, 02 Mar 2026 09:00:01 GMT" } },
}

test("changes: weak tags and dates tell two versions of a file apart", function()
  for _, version in ipairs(versions) do
    local box <close> = start({
      download = function(call)
        if call.n == 1 then return serve(call, OLD, version[1], 100000) end
        return serve(call, NEW, version[2])
      end,
    })
    local _ <close> = quick()
    assert(box:get() == SIZE and fs.read(box.to .. "/x") == NEW)
    box.server.counts.download = 0
    local err = failure(box.client.download_bytes, box.client, box.id, box.file)
    assert(err.kind == "api" and err.code == "CHANGED")
  end
end)

test("changes: the same version is gone on with", function()
  for _, version in ipairs(versions) do
    local box <close> = start({
      download = function(call)
        return serve(call, OLD, version[1], call.n == 1 and 100000 or nil)
      end,
    })
    local _ <close> = quick()
    assert(box:get() == SIZE and fs.read(box.to .. "/x") == OLD)
    assert(box:count("download") == 2)
  end
end)

test("changes: wherever the connection breaks, each byte comes once", function()
  local bytes, cut = OLD:sub(1, 70000), nil
  local box <close> = start({
    download = function(call)
      return serve(call, bytes, { etag = '"1"' }, call.n == 1 and cut or nil)
    end,
  })
  local _ <close> = quick()
  for _, at in ipairs({ 0, 1, 4095, 4096, 16383, 16384, 16385, 65535, 65536, 65537, 69999 }) do
    cut = at
    box.server.counts.download = 0
    assert(box.client:download_bytes(box.id, box.file) == bytes, at)
    box.server.counts.download = 0
    assert(box:get() == #bytes and fs.read(box.to .. "/x") == bytes, at)
  end
end)

test("changes: a success without a file is none", function()
  for _, status in ipairs({ 201, 202, 203, 204 }) do
    local box <close> = start({
      download = function() return status, status == 204 and "" or "soon" end,
    })
    local err = failure(box.get, box)
    assert(err.kind == "api" and err.code == "BAD_ANSWER" and err.status == status)
    assert(#fs.list(box.to) == 0)
  end
end)

test("changes: a file in an encoding that nobody asked for is refused", function()
  local box <close> = start({
    download = function(call)
      assert(call.headers["accept-encoding"] == "identity")
      return 200, "packed", { ["content-encoding"] = call.n == 1 and "gzip" or "identity" }
    end,
  })
  local err = failure(box.get, box)
  assert(err.kind == "api" and err.code == "BAD_ANSWER" and err.message:find("gzip"))
  assert(#fs.list(box.to) == 0)
  assert(box:get() == 6 and fs.read(box.to .. "/x") == "packed")
end)

test("changes: two downloads with resume do not write one file", function()
  local box <close> = start()
  local arrived, go_on = task.waiter("a first byte"), task.waiter("the second download")
  local first = task.spawn(function()
    return box:get({
      resume = true,
      progress = function(done)
        if done > 0 and arrived then
          arrived:wake()
          arrived = nil
          go_on:wait()
        end
      end,
    })
  end)
  arrived:wait()
  local err = failure(box.get, box, { resume = true })
  assert(err.kind == "io" and err.code == "EBUSY" and err.message:find("x.part", 1, true))
  go_on:wake()
  assert(first:join() == SIZE and fs.read(box.to .. "/x") == OLD)
  test_.equal(fs.list(box.to), { "x" })
  assert(fs.stat(box.to .. "/x").mode == fs.stat(box.here).mode, "as the umask has it")
end)

test("changes: resume does without locks where there are none", function()
  local box <close> = start()
  local try = lock.try
  local _ <close> = setmetatable({}, { __close = function() lock.try = try end })
  local code = "ENOLCK"
  function lock.try() errors.raise({ kind = "io", code = code, message = "no lock" }) end
  fs.write(box.to .. "/x.part", OLD:sub(1, 1000))
  assert(box:get({ resume = true }) == SIZE and fs.read(box.to .. "/x") == OLD)
  code = "EACCES"
  assert(failure(box.get, box, { resume = true }).code == "EACCES")
end)

test("changes: what stands where a partial would be stays", function()
  local box <close> = start()
  fs.symlink("../here", box.to .. "/x.part")
  local err = failure(box.get, box, { resume = true })
  assert(err.kind == "io" and err.code == "EEXIST")
  test_.equal(fs.list(box.to), { "x.part" })
  assert(fs.read(box.here) == OLD)
end)

-- ------------------------------------------------------------------------ up

local IN_PARTS = { split = 100000, parallel = 1 }

test("changes: a local file that is replaced goes up as it was", function()
  local box
  box = start({
    upload = function(call)
      if call.n > 1 then return nil end
      fs.write(box.here .. ".new", NEW)
      fs.rename(box.here .. ".new", box.here)
    end,
  })
  local _ <close> = box
  box:put(IN_PARTS)
  assert(fs.read(box.path .. "/x") == OLD)
end)

test("changes: a local file that is written over does not go up half and half", function()
  local box
  box = start({
    upload = function(call)
      if call.n > 1 then return nil end
      local file <close> = fs.open(box.here, "r+")
      file:write(NEW)
    end,
  })
  local _ <close> = box
  core.utime(box.here, 1000, 1000)
  local err = failure(box.put, box, IN_PARTS)
  assert(err.kind == "io" and err.code == "ESTALE", tostring(err))
  box:settles_at("file")
end)

test("changes: a local file that grows goes up as long as it was", function()
  local box
  box = start({
    upload = function() fs.append(box.here, "more") end,
  })
  local _ <close> = box
  for _, options in ipairs({ {}, { checksum = true }, IN_PARTS, { progress = function() end } }) do
    fs.write(box.here, OLD)
    assert(box:put(options).size == SIZE)
    assert(fs.read(box.path .. "/x") == OLD)
  end
end)

test("changes: an upload of which the server has less is no success", function()
  local box <close> = start({
    upload = function(_, path, bytes)
      return 200, { success = true, path = path, size = #bytes - 1, timestamp = "2026-03-02" }
    end,
  })
  local err = failure(box.put, box)
  assert(err.kind == "checksum_mismatch" and err.expected == SIZE .. " bytes")
end)

test("changes: what a progress function raises arrives as it is", function()
  local box <close> = start()
  local pauses <close> = quick()
  local mine = errors.new({ kind = "mine", code = "EOF", retryable = true, message = "mine" })
  local function progress() error(mine, 0) end
  for _, options in ipairs({ {}, { checksum = true }, IN_PARTS }) do
    options.progress = progress
    local _, err = pcall(box.put, box, options)
    assert(err == mine, tostring(err))
  end
  assert(select(2, pcall(box.get, box, { progress = progress })) == mine)
  for _, pause in ipairs(pauses) do
    assert(pause < 0.25, "it is no failure of the network: nothing is tried again")
  end
  box:settles_at("file")
  assert(#fs.list(box.to) == 0)
end)

-- ------------------------------------------------------------------- windows

test("changes: a window of a file that comes as a whole", function()
  local box <close> = start()
  box.server.handlers.read = function() return 200, { content = "0123456789", size = 10 } end
  local function read(offset, length)
    local text, window =
      box.client:read_file(box.id, "/x", { offset = offset, length = length })
    assert(window.size == #text)
    return { text, window.offset, window.total_size, window.truncated }
  end
  test_.equal(read(), { "0123456789", nil, nil, false })
  test_.equal(read(0), { "0123456789", 0, 10, false })
  test_.equal(read(2, 3), { "234", 2, 10, true })
  test_.equal(read(-3), { "789", 7, 10, true })
  test_.equal(read(-3, 2), { "78", 7, 10, true })
  test_.equal(read(-30, 40), { "0123456789", 0, 10, false })
  test_.equal(read(9, 5), { "9", 9, 10, true })
  test_.equal(read(10, 5), { "", 10, 10, true })
  test_.equal(read(30), { "", 30, 10, true })
  test_.equal(read(math.maxinteger, 1), { "", math.maxinteger, 10, true })
  test_.equal(read(nil, 0), { "", 0, 10, true })
  test_.equal(read(math.mininteger, math.maxinteger), { "0123456789", 0, 10, false })
end)
