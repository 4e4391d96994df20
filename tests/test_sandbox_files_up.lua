-- Uploads beyond one request: parts, streams, checksums, modes, progress.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local folder_box = dofile(here .. "peers/folder_box.lua")

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local process = require("sbx.process")
local task = require("sbx.task")
local temporary = dofile(here .. "temporary_support.lua")

local failure = folder_box.failure
local MEBIBYTE = 1024 * 1024

-- `size` bytes of which no two windows are alike.
local function content(size)
  local parts, count = {}, 0
  while count < size do
    parts[#parts + 1] = hash.sha256(tostring(#parts))
    count = count + 64
  end
  return table.concat(parts):sub(1, size)
end

-- What a failing upload_bytes of `bytes` to `x` raises.
local function refused(box, bytes, options)
  return failure(box.client.upload_bytes, box.client, box.id, box.path .. "/x", bytes, options)
end

local function mode_of(path)
  return ("%o"):format(fs.stat(path).mode)
end

-- Calls that watch a progress: returns a function for the option and what it saw.
local function recorder()
  local seen = {}
  return function(done, total)
    seen[#seen + 1] = { done = done, total = total }
  end, seen
end

-- Cancels an upload once its handler has left `box.hangs` waiting.
local function cancelled_halfway(box, fn, ...)
  task.scope(function(scope, ...)
    local running = scope:pspawn(fn, box.client, box.id, ...)
    task.timeout(60, box.hangs.wait, box.hangs)
    running:cancel()
    assert(not running:pjoin())
  end, ...)
end

-- A sandbox whose upload number `n` is never answered.
local function hanging_at(n)
  local hangs = task.waiter("an upload to hang")
  local box = folder_box.start({
    upload = function(call)
      if call.n ~= n then return end
      hangs:wake()
      return folder_box.HANG
    end,
  })
  box.hangs = hangs
  return box
end

local function ends_with(seen, done, total)
  local last = seen[#seen]
  return last and last.done == done and last.total == total
end

test("upload: a file in parts is put together, checked and leaves nothing behind", function()
  local box <close> = folder_box.start()
  local folder <close> = fs.tmpdir({})
  local bytes = content(1000001)
  fs.write(folder.path .. "/in", bytes)
  local progress, seen = recorder()
  local answer = box.client:upload_file(box.id, box.path .. "/new/out put", folder.path .. "/in", {
    split = 100000, parallel = 3, checksum = true, mode = "640", progress = progress,
  })
  assert(answer.success and answer.size == #bytes and answer.sha256 == hash.sha256(bytes))
  assert(fs.read(box.path .. "/new/out put") == bytes)
  assert(mode_of(box.path .. "/new/out put") == "640")
  assert(#fs.list(box.path .. "/new") == 1)
  assert(box:count("upload") == 11 and box:count("exec") == 1)
  assert(ends_with(seen, #bytes, #bytes))
  for i = 2, #seen do
    assert(seen[i].done >= seen[i - 1].done)
  end
end)

test("upload: no more parts at once than asked for", function()
  local now, most = 0, 0
  local box <close> = folder_box.start({
    upload = function()
      now = now + 1
      most = math.max(most, now)
      task.sleep(0.01)
      now = now - 1
    end,
  })
  box.client:upload_bytes(box.id, box.path .. "/x", content(1200), { split = 100, parallel = 3 })
  assert(most == 3 and fs.read(box.path .. "/x") == content(1200))
end)

test("upload: what fits goes in one request, split or not", function()
  local box <close> = folder_box.start()
  local folder <close> = fs.tmpdir({})
  fs.write(folder.path .. "/in", "small")
  for _, split in ipairs({ true, 5, false }) do
    box.client:upload_file(box.id, box.path .. "/x", folder.path .. "/in", { split = split })
  end
  assert(box:count("upload") == 3 and box:count("exec") == 0)
  box.client:upload_file(box.id, box.path .. "/x", folder.path .. "/in", { split = 4 })
  assert(box:count("upload") == 5 and box:count("exec") == 1)
end)

test("upload: an empty file, with all that can be asked of it", function()
  local box <close> = folder_box.start()
  local progress, seen = recorder()
  local answer = box.client:upload_bytes(box.id, box.path .. "/x", "", {
    checksum = "sha256", mode = tonumber("755", 8), split = true, progress = progress,
  })
  assert(answer.size == 0 and answer.sha256 == hash.sha256(""))
  assert(mode_of(box.path .. "/x") == "755")
  assert(ends_with(seen, 0, 0))
end)

test("upload: a file that is replaced keeps its mode, a link leads to it", function()
  local box <close> = folder_box.start()
  fs.mkdir(box.path .. "/other")
  fs.write(box.path .. "/other/script", "old")
  fs.chmod(box.path .. "/other/script", tonumber("751", 8))
  fs.symlink("other/script", box.path .. "/link")
  box.client:upload_bytes(box.id, box.path .. "/link", "new content", { split = 4 })
  assert(fs.read(box.path .. "/other/script") == "new content")
  assert(mode_of(box.path .. "/other/script") == "751" and box:names() == "link other")
  assert(fs.lstat(box.path .. "/link").type == "symlink")
end)

test("upload: a folder in the target's place is refused and stays as it was", function()
  local box <close> = folder_box.start()
  fs.mkdir(box.path .. "/x")
  local err = refused(box, "12345", { split = 2 })
  assert(err.kind == "api" and err.code == "COMMAND_FAILED" and err.detail == "is a folder")
  assert(err.exit_code == 67 and tostring(err):find(box.path .. "/x", 1, true), tostring(err))
  assert(box:names() == "x" and #fs.list(box.path .. "/x") == 0)
end)

test("upload: names of any bytes", function()
  local box <close> = folder_box.start()
  for _, name in ipairs({ "it's $HOME `x`", "a\nb\n\n", "\xff\xfe %d\\n", "-rf", "grüße", "*" }) do
    local path = box.path .. "/" .. name
    box.client:upload_bytes(box.id, path, "hello", { split = 2, checksum = true, mode = "600" })
    assert(fs.read(path) == "hello" and #fs.list(box.path) == 1, name)
    assert(box.client:download_bytes(box.id, path) == "hello")
    local copy = box.outer.path .. "/copy"
    assert(box.client:download_file(box.id, path, copy, { checksum = true }) == 5)
    fs.remove(path)
  end
end)

test("upload: a checksum that differs, and the old file stays", function()
  local box <close> = folder_box.start({
    upload = function(_, path, bytes)
      if path:find("%.2$") then return (bytes:gsub("^.", "X")) end
    end,
  })
  fs.write(box.path .. "/x", "old")
  local bytes = content(1000)
  local err = refused(box, bytes, { split = 400, checksum = true })
  assert(err.kind == "checksum_mismatch" and err.expected == hash.sha256(bytes))
  assert(#err.actual == 64 and err.actual ~= err.expected and err.path == box.path .. "/x")
  assert(fs.read(box.path .. "/x") == "old" and box:names() == "x")
end)

test("upload: a part that arrives cut short is noticed without a checksum", function()
  local box <close> = folder_box.start({
    upload = function(_, path)
      if path:find("%.3$") then return "short" end
    end,
  })
  local err = refused(box, content(1000), { split = 300 })
  assert(err.kind == "checksum_mismatch" and box:names() == "")
end)

test("upload: checksums by python3 and openssl, and by none", function()
  local box <close> = folder_box.start()
  for _, tool in ipairs({ "python3", "openssl", "sha256sum" }) do
    box.tools = { tool }
    local path = box.path .. "/" .. tool
    local answer = box.client:upload_bytes(box.id, path, "hello", { checksum = true })
    assert(answer.sha256 == hash.sha256("hello") and fs.read(path) == "hello", tool)
    local copy = box.outer.path .. "/copy"
    assert(box.client:download_file(box.id, path, copy, { checksum = true }) == 5)
  end
  box.tools = {}
  local err = failure(box.client.upload_bytes, box.client, box.id, box.path .. "/no", "hello", {
    checksum = true,
  })
  assert(err.kind == "unsupported" and err.code == "NO_TOOL", tostring(err))
  assert(not fs.exists(box.path .. "/no") and #fs.list(box.path) == 3)
  box.client:upload_bytes(box.id, box.path .. "/no", "hello", { mode = "600", split = 2 })
  assert(fs.read(box.path .. "/no") == "hello", "parts and modes need no checksum")
end)

test("upload: a part that is refused ends it, and no part stays", function()
  local box <close> = folder_box.start({
    upload = function(call)
      if call.n == 3 then return 400, { error = "bad", message = "no" } end
    end,
  })
  local err = refused(box, content(1000), { split = 100, parallel = 2 })
  assert(err.kind == "api" and err.status == 400)
  assert(box:count("upload") <= 4, "the others are not sent any more")
  box:settles_at("")
end)

test("upload: a part is sent again, and the progress goes back with it", function()
  local box <close> = folder_box.start({
    upload = function(call)
      if call.n == 2 then return 503, { error = "busy" } end
    end,
  })
  local progress, seen = recorder()
  box.client:upload_bytes(box.id, box.path .. "/x", content(1000), {
    split = 400, parallel = 1, progress = progress,
  })
  assert(fs.read(box.path .. "/x") == content(1000) and box:count("upload") == 4)
  local text = {}
  for _, each in ipairs(seen) do
    text[#text + 1] = each.done
  end
  assert(table.concat(text, " ") == "400 800 800 1000", table.concat(text, " "))
end)

test("upload: cancelled halfway, nothing stays there", function()
  local box <close> = hanging_at(3)
  cancelled_halfway(box, box.client.upload_bytes, box.path .. "/x", content(1000),
    { split = 100, parallel = 2 })
  assert(box:count("exec") == 1)
  box:settles_at("")
end)

test("upload: a sandbox that is gone is not asked to clean up", function()
  local box <close> = folder_box.start({
    upload = function(call)
      if call.n == 2 then return 502, { error = "sandbox_not_found", code = 502 } end
    end,
  })
  local err = refused(box, content(1000), { split = 100, parallel = 1 })
  assert(err.kind == "not_running" and box:count("exec") == 0)
end)

test("upload: a progress that raises ends it", function()
  local box <close> = folder_box.start()
  local ok, err = pcall(box.client.upload_bytes, box.client, box.id, box.path .. "/x",
    content(1000), { split = 100, progress = function() error("enough", 0) end })
  assert(not ok and tostring(err):find("enough"))
  box:settles_at("")
end)

test("upload: a kept connection that dies is replaced, also under an iterator", function()
  local box <close> = folder_box.start({
    upload = function(call)
      if call.n ~= 2 then return end
      call.request:close()
      return folder_box.HANG
    end,
  })
  local seen = recorder()
  box.client:upload_bytes(box.id, box.path .. "/x", "one", { progress = seen })
  box.client:upload_bytes(box.id, box.path .. "/x", "two", { progress = seen })
  assert(fs.read(box.path .. "/x") == "two" and box:count("upload") == 3)
end)

-- --------------------------------------------------------------------- streams

local function pieces(text, size)
  local at = 1
  return function()
    if at > #text then return nil end
    at = at + size
    return text:sub(at - size, at - 1)
  end
end

test("upload_stream: functions, files and pipes of unknown length", function()
  local box <close> = folder_box.start()
  local bytes = content(300000)
  local client, path = box.client, box.path .. "/x"
  local progress, seen = recorder()
  local answer = client:upload_stream(box.id, path, pieces(bytes, 7777), {
    checksum = true, progress = progress,
  })
  assert(answer.size == #bytes and fs.read(path) == bytes and ends_with(seen, #bytes, #bytes))
  assert(answer.sha256 == hash.sha256(bytes))

  client:upload_stream(box.id, path, pieces(bytes, 777), { split = 65536 })
  assert(fs.read(path) == bytes)
  local file <close> = fs.open(path)
  client:upload_stream(box.id, path .. "2", file, { size = #bytes, split = 100000 })
  assert(fs.read(path .. "2") == bytes)
  local child <close> = process.spawn({ "printf", "from a pipe" }, { stdout = "pipe" })
  client:upload_stream(box.id, path, child.stdout)
  assert(fs.read(path) == "from a pipe" and child:wait() == 0)
  assert(client:upload_stream(box.id, path, "").size == 0 and fs.read(path) == "")
end)

test("upload_stream: parts that end exactly where the stream does", function()
  local box <close> = folder_box.start()
  for _, size in ipairs({ 100, 200, 201 }) do
    local before = box:count("upload")
    box.client:upload_stream(box.id, box.path .. "/x", pieces(content(size), 50), { split = 100 })
    assert(fs.read(box.path .. "/x") == content(size))
    assert(box:count("upload") - before == (size + 99) // 100)
  end
end)

test("upload_stream: another length than was said", function()
  local box <close> = folder_box.start()
  for _, size in ipairs({ 0, 999, 1001 }) do
    local err = failure(box.client.upload_stream, box.client, box.id, box.path .. "/x",
      pieces(content(1000), 100), { size = size })
    assert(err.kind == "usage" and err.code == "ELENGTH", tostring(err))
  end
  assert(box:count("upload") == 0)
  local err = failure(box.client.upload_stream, box.client, box.id, box.path .. "/x",
    pieces(content(1000), 100), { size = 1001, split = 300, parallel = 1 })
  assert(err.code == "ELENGTH")
  box:settles_at("")
end)

test("upload_stream: too much is refused before it is read, or before it is sent", function()
  local box <close> = folder_box.start()
  local function unread() error("nobody may ask", 0) end
  local err = failure(box.client.upload_stream, box.client, box.id, "/x", unread, {
    size = 200 * MEBIBYTE + 1,
  })
  assert(err.kind == "file_too_large" and err.size == 200 * MEBIBYTE + 1)
  local given, piece = 0, ("x"):rep(MEBIBYTE)
  err = failure(box.client.upload_stream, box.client, box.id, "/x", function()
    given = given + 1
    return piece
  end)
  assert(err.kind == "file_too_large" and given == 201 and box:count("upload") == 0)
end)

test("upload_stream: what the source raises ends it, and its files go", function()
  local box <close> = folder_box.start()
  local folder <close> = fs.tmpdir({})
  local count = 0
  local ok, err = pcall(box.client.upload_stream, box.client, box.id, box.path .. "/x", function()
    count = count + 1
    if count == 30 then error("the source is dry", 0) end
    return ("x"):rep(100)
  end, { split = 1000, parallel = 2 })
  assert(not ok and tostring(err) == "the source is dry")
  box:settles_at("")
  assert(#fs.list(folder.path) == 0)
end)

test("upload_stream: no temporary file outlives it", function()
  local box <close> = hanging_at(5)
  local mine <close> = temporary.own()
  box.client:upload_stream(box.id, box.path .. "/x", pieces(content(3000), 100), { split = 1000 })
  assert(#fs.list(mine.path) == 0)
  cancelled_halfway(box, box.client.upload_stream, box.path .. "/y", pieces(content(9000), 100),
    { split = 1000, parallel = 2 })
  assert(#fs.list(mine.path) == 0)
  box:settles_at("x")
end)

-- ---------------------------------------------------------------------- misuse

test("upload: misuse is named at the caller's line", function()
  local box <close> = folder_box.start()
  local client = box.client
  local function misuse(text, fn, ...)
    local ok, err = pcall(fn, ...)
    assert(not ok and type(err) == "string" and err:find(text, 1, true), tostring(err))
  end
  local function up(options, path)
    return function() client:upload_bytes(box.id, path or "/x", "", options) end
  end
  misuse("mode: expected octal digits", up({ mode = "rwx" }))
  misuse("mode: expected octal digits", up({ mode = "888" }))
  misuse("mode: expected a whole number between 0 and 4095", up({ mode = 70000 }))
  misuse("split: expected a whole number", up({ split = 0 }))
  misuse("split: expected a whole number", up({ split = 200 * MEBIBYTE + 1 }))
  misuse("checksum: expected true, false or", up({ checksum = "md5" }))
  misuse("parallel: expected a whole number", up({ parallel = 0 }))
  misuse("progress: expected a function", up({ progress = true }))
  misuse("unknown option 'sise'", up({ sise = 1 }))
  misuse("remote_path: has to be an absolute path of a file with checksum",
    up({ checksum = true }, "x"))
  misuse("remote_path: has to be an absolute path of a file with mode", up({ mode = "600" }, "/x/"))
  misuse("remote_path: expected a path", up({}, ""))
  misuse("source: expected a string, a function or what has `read`", function()
    client:upload_stream(box.id, "/x", 42)
  end)
  misuse(debug.getinfo(1, "S").short_src .. ":" .. debug.getinfo(1, "l").currentline + 1, function()
    client:upload_stream(box.id, "/x", 42) end)
  misuse("size: expected a whole number", function()
    client:upload_stream(box.id, "/x", "", { size = -1 })
  end)
  assert(#box.server.calls == 0)
end)
