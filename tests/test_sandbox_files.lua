local fs = require("sbx.fs")
local hash = require("sbx.hash")
local task = require("sbx.task")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")

local function all_bytes()
  local bytes = {}
  for i = 0, 255 do
    bytes[i + 1] = string.char(i)
  end
  return table.concat(bytes)
end

test("files: what goes up comes down, byte for byte", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local folder <close> = fs.tmpdir({})
  server:add("sbx-1")
  local bytes = all_bytes():rep(1000) .. "\r\n--boundary\r\n"
  local there, back = folder.path .. "/in put.bin", folder.path .. "/new/deep/out.bin"
  fs.write(there, bytes)

  local answer = client:upload_file("sbx-1", "/tmp/a b/ü.bin", there)
  assert(answer.success and answer.path == "/tmp/a b/ü.bin" and answer.size == #bytes)
  assert(client:download_file("sbx-1", "/tmp/a b/ü.bin", back) == #bytes)
  assert(fs.read(back) == bytes)
  assert(#fs.list(folder.path .. "/new/deep") == 1, "no partial file may stay")
end)

test("files: upload_bytes and read_file", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  local box = client:get("sbx-1")
  assert(box:upload_bytes("/tmp/x", "grüße").size == #"grüße")
  local content, window = box:read_file("/tmp/x", { offset = -10, length = 10 })
  assert(content == "grüße" and window.size == #"grüße" and not window.truncated)
  local query = server.calls[#server.calls].query
  assert(query.offset[1] == "-10" and query.length[1] == "10" and query.sandbox_id == nil)
end)

test("files: above 200 MiB nothing is sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local folder <close> = fs.tmpdir({})
  server:add("sbx-1")
  local path = folder.path .. "/large"
  do
    -- A hole: one byte past the limit, no disk behind it.
    local file = assert(io.open(path, "w"))
    file:seek("set", 200 * 1024 * 1024)
    file:write("x")
    file:close()
  end
  local err = api.failure(client.upload_file, client, "sbx-1", "/tmp/x", path)
  assert(err.kind == "file_too_large" and err.size == 209715201 and #server.calls == 0)
end)

test("files: a missing local file, and a folder, are io errors before anything is sent", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local folder <close> = fs.tmpdir({})
  server:add("sbx-1")
  local err = api.failure(client.upload_file, client, "sbx-1", "/x", folder.path .. "/none")
  assert(err.kind == "io" and err.code == "ENOENT" and err.sandbox_id == "sbx-1")
  assert(err.message:find("^upload_file sbx%-1: [^;]*/none: no such file or directory$"),
    err.message)
  -- The two paths swapped.
  err = api.failure(client.upload_file, client, "sbx-1", folder.path, folder.path .. "/none")
  assert(err.message:find("the path in the sandbox comes first", 1, true), err.message)
  err = api.failure(client.upload_file, client, "sbx-1", "/x", folder.path)
  assert(err.kind == "io" and err.code == "EISDIR" and #server.calls == 0)
end)

test("files: a missing remote file is file_not_found and leaves nothing behind", function()
  local server <close> = api.start()
  local client <close> = server:client()
  local folder <close> = fs.tmpdir({})
  server:add("sbx-1")
  local err = api.failure(client.download_file, client, "sbx-1", "/none", folder.path .. "/x")
  assert(err.kind == "file_not_found" and err.status == 404)
  err = api.failure(client.read_file, client, "sbx-1", "/none")
  assert(err.kind == "file_not_found" and #fs.list(folder.path) == 0)
end)

test("files: a broken download does not touch the old file", function()
  local cut = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"
  local raw <close> = api.raw(function() return cut end)
  local server <close> = api.start()
  local client <close> = server:client()
  server.gateway_url = raw.url .. "/gw"
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local path = folder.path .. "/report"
  fs.write(path, "old")
  local ok = task.move_on(0.5, client.download_file, client, "sbx-1", "/r", path)
  assert(not ok, "a cut transfer is tried again")
  assert(fs.read(path) == "old" and #fs.list(folder.path) == 1)
end)

test("files: a download that is cancelled leaves nothing behind", function()
  local server <close> = api.start({ download = function() return api.HANG end })
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local done = task.move_on(0.2, client.download_file, client, "sbx-1", "/r", folder.path .. "/r")
  assert(not done and #fs.list(folder.path) == 0)
end)

test("files: the clocks have kinds of their own", function()
  local server <close> = api.start({
    download = function() return api.HANG end,
    upload = function() return api.HANG end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local err = api.failure(client.download_file, client, "sbx-1", "/r", folder.path .. "/r",
    { timeout = 1 })
  assert(err.kind == "download_timeout" and err:is("timeout") and err.timeout == 1)
  err = api.failure(client.upload_bytes, client, "sbx-1", "/r", "x", { timeout = 1 })
  assert(err.kind == "upload_timeout" and server:count("upload") == 1)
end)

test("files: a redirect of the gateway is no file", function()
  local server <close> = api.start({
    download = function() return 302, "elsewhere", { location = "http://127.0.0.1:1/" } end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local path = folder.path .. "/r"
  local err = api.failure(client.download_file, client, "sbx-1", "/r", path)
  assert(err.kind == "api" and err.status == 302 and not fs.exists(path))
end)

test("files: an upload is repeated after 503, and checked for success", function()
  local server <close> = api.start({
    upload = function(call)
      if call.n == 1 then return 503, { error = "busy" } end
      if call.n == 3 then
        call.request:read_all(1e6)
        return 200, { success = false, path = "/r", size = 0, timestamp = "x" }
      end
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  assert(client:upload_bytes("sbx-1", "/r", "data").size == 4)
  assert(server.files["/r"] == "data" and server:count("upload") == 2)
  local err = api.failure(client.upload_bytes, client, "sbx-1", "/r", "data")
  assert(err.code == "BAD_ANSWER")
end)

test("files: gone is not_running, as in exec", function()
  local gone = function() return 502, { error = "sandbox_not_found", message = "x", code = 502 } end
  local server <close> = api.start({ upload = gone, download = gone, read = gone })
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  for _, err in ipairs({
    api.failure(client.upload_bytes, client, "sbx-1", "/r", "x"),
    api.failure(client.download_file, client, "sbx-1", "/r", folder.path .. "/r"),
    api.failure(client.read_file, client, "sbx-1", "/r"),
  }) do
    assert(err.kind == "not_running" and err.error_type == "SANDBOX_NOT_FOUND", tostring(err))
  end
end)

test("files: 413 is file_too_large", function()
  local server <close> = api.start({ read = function() return 413, { error = "x" } end })
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.read_file, client, "sbx-1", "/r")
  assert(err.kind == "file_too_large")
end)

test("files: 32 MiB go up and down in little memory", function()
  local server <close> = api.start({
    upload = function(call)
      local digest, size = hash.sha256_new(), 0
      call.request:form()
      for bytes in function() return call.request:read() end do
        digest:update(bytes)
        size = size + #bytes
      end
      return 200, { success = true, path = digest:hex(), size = size }
    end,
    download = function(call)
      call.request:start(200, {}, 32 * 1048576)
      local chunk = ("0123456789abcdef"):rep(4096)
      for _ = 1, 512 do
        call.request:write(chunk)
      end
      call.request:finish()
      return api.HANG
    end,
  })
  local client <close> = server:client()
  server:add("sbx-1")
  local folder <close> = fs.tmpdir({})
  local path = folder.path .. "/large"
  collectgarbage()
  local before = collectgarbage("count")
  assert(client:download_file("sbx-1", "/r", path) == 32 * 1048576)
  local digest = client:upload_file("sbx-1", "/r", path).path
  local whole = hash.sha256_new()
  for _ = 1, 512 do
    whole:update(("0123456789abcdef"):rep(4096))
  end
  assert(digest == whole:hex())
  collectgarbage()
  assert(collectgarbage("count") - before < 4096, "the file went through Lua's memory")
end)

test("files: a file that is made up as it is read goes up whole", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  local made = client:upload_file("sbx-1", "/tmp/x", "/proc/self/cmdline")
  assert(made.size == #fs.read("/proc/self/cmdline") and made.size > 0)
end)

test("files: a local path that can hold no file is an io error", function()
  local server <close> = api.start()
  local client <close> = server:client()
  server:add("sbx-1")
  local err = api.failure(client.download_file, client, "sbx-1", "/etc/hostname", "/proc/no/x")
  assert(err.kind == "io" and err.code == "ENOENT" and #server.calls == 0)
end)
