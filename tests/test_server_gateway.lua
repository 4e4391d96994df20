-- The gateway of the local server: commands and files in real sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local json = require("sbx.json")
local local_server = require("sbx.local_server")
local task = require("sbx.task")
local with_server = support.with_server

-- Runs `fn(box, api, object)` with one running sandbox.
local function with_box(fn, fields)
  with_server(function(api)
    local object, box = api:running(fields)
    fn(box, api, object)
  end)
end

test("gateway: exit codes, streams, directory and variables are exact", function()
  with_box(function(box)
    for _, code in ipairs { 0, 1, 2, 127 } do
      local status, result = box:exec("exit " .. code)
      assert(status == 200 and result.exit_code == code)
    end
    local _, result = box:exec("printf out; printf err >&2")
    assert(result.stdout == "out" and result.stderr == "err" and not result.stdout_truncated)
    _, result = box:exec("pwd; echo $A-$B", { working_dir = "/tmp", env = { A = "1", B = "x y" } })
    assert(result.stdout == "/tmp\n1-x y\n")
    _, result = box:exec("echo kept > /tmp/f; cat /tmp/f | tee /tmp/g && cat /tmp/g")
    assert(result.stdout == "kept\nkept\n")
    _, result = box:exec("cat /tmp/g")
    assert(result.stdout == "kept\n")
    _, result = box:exec("python -c 'print(42)'")
    assert(result.stdout == "42\n", result.stderr)
    _, result = box:exec("echo $A", { env = { A = "call" } })
    assert(result.stdout == "call\n")
  end, { environment_vars = { A = "sandbox" } })
end)

test("gateway: what is not UTF-8 is replaced, the rest is byte-exact", function()
  with_box(function(box)
    local _, result = box:exec([[printf 'a\377\342\202z\342\202\254\360\237\230\200\000end']])
    assert(result.stdout == "a\u{FFFD}\u{FFFD}z€😀\0end", result.stdout)
  end)
end)

test("gateway: output past 10 MiB is cut and says so", function()
  with_box(function(box)
    local status, result = box:exec("head -c 11000000 /dev/zero | tr '\\0' x; echo e >&2")
    assert(status == 200 and result.exit_code == 0)
    assert(result.stdout_truncated and #result.stdout == 10 * 1024 * 1024)
    assert(result.stderr == "e\n" and not result.stderr_truncated)
  end)
end)

test("gateway: a character is cut nowhere, neither in the middle nor at the limit", function()
  with_box(function(box)
    -- Each byte in a write of its own.
    local _, result = box:exec([[python3 -c "
import os
for byte in 'é€😀'.encode() * 3: os.write(1, bytes([byte]))"]])
    assert(result.stdout == ("é€😀"):rep(3), result.stdout)
    -- The limit falls into the middle of one.
    _, result = box:exec([[python3 -c "print('x' + 'é' * 6000000)"]])
    assert(result.stdout_truncated and #result.stdout == 10 * 1024 * 1024 - 1)
    assert(result.stdout:sub(-2) == "é")
  end)
end)

test("gateway: a command over its time is 408 and its whole tree is gone", function()
  with_box(function(box)
    local marker = "7" .. math.random(100000, 999999)
    local status, body = box:exec("setsid sleep " .. marker .. " & sleep " .. marker, {
      timeout = 1,
    })
    assert(status == 408 and body.error == "command_timeout" and body.code == 408)
    local _, result = box:exec("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done"
      .. " | grep -c '^sleep " .. marker .. "'")
    assert(result.stdout == "0\n", result.stdout)
  end)
end)

test("gateway: background children do not hold an answer back and live on", function()
  with_box(function(box)
    local started = task.now()
    local _, result = box:exec("sleep 100 & echo now")
    assert(result.stdout == "now\n" and task.now() - started < 20)
    box:exec("nohup sh -c 'sleep 0.2; echo done > /tmp/done' > /dev/null 2>&1 &")
    task.timeout(60, function()
      while box:read_file("/tmp/done") ~= 200 do
        task.sleep(0.02)
      end
    end)
  end)
end)

test("gateway: tokens are for one sandbox", function()
  with_server(function(api)
    local _, first = api:running()
    local _, second = api:running()
    assert(first.auth.is_vm == false and first.auth.user_ns == "local")
    assert(first.auth.expires_at:match("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$"))
    for _, token in ipairs { second.auth.token, "tk_none", api.server.api_key } do
      local res = first:request("POST", "/exec", { token = token, json = { command = "true" } })
      local body = json.decode(res.body)
      assert(res.status == 401 and body.error == "unauthorized" and body.code == 401)
    end
  end)
end)

test("gateway: exec refuses what makes no sense", function()
  with_box(function(box)
    for _, body in ipairs {
      json.object {}, { command = json.null }, { command = 1 }, { command = "true", timeout = -1 },
      { command = "true", env = { ["A=B"] = "1" } }, { command = "true", env = { A = 1 } },
      { command = "true", working_dir = 7 },
    } do
      local res = box:request("POST", "/exec", { json = body })
      assert(res.status == 422 and json.decode(res.body).code == 422, json.encode(body))
    end
    local empty, nothing = box:exec("")
    assert(empty == 200 and nothing.exit_code == 0 and nothing.stdout == "")
    local status, result = box:exec("true", { working_dir = "/nowhere" })
    assert(status == 422 or result.exit_code ~= 0)
  end)
end)

test("gateway: before it runs a sandbox answers 409", function()
  with_server(function(api)
    local ids = {}
    for i = 1, 30 do
      ids[i] = api:create().id
    end
    -- The last ones are still waiting for their turn to boot.
    local box = api:gateway(ids[30])
    local status, body = box:exec("true")
    assert(status == 200 or (status == 409 and body.error == "sandbox_not_running"))
  end)
end)

test("gateway: small files go both ways unchanged", function()
  with_box(function(box)
    local all = {}
    for byte = 0, 255 do
      all[#all + 1] = string.char(byte)
    end
    for path, bytes in pairs {
      ["/tmp/deep/er/all bytes"] = table.concat(all),
      ["relative.txt"] = "naïve 😀\n",
      ["/tmp/empty"] = "",
    } do
      local status, body = box:upload(path, { data = bytes })
      assert(status == 200, json.encode(body))
      assert(body.success == true and body.path == path and body.size == #bytes)
      local res = box:download(path)
      assert(res.status == 200 and res.body == bytes, path)
    end
    local _, result = box:exec("cat relative.txt; wc -c < '/tmp/deep/er/all bytes'")
    assert(result.stdout == "naïve 😀\n256\n")
    box:upload("/tmp/run.sh", { data = "#!/bin/sh\necho ran\n" })
    _, result = box:exec("chmod +x /tmp/run.sh && /tmp/run.sh")
    assert(result.stdout == "ran\n")
  end)
end)

test("gateway: missing and odd paths are refused", function()
  with_box(function(box)
    local res = box:download("/tmp/nope")
    assert(res.status == 404 and json.decode(res.body).error == "file_not_found")
    local status, body = box:read_file("/tmp/nope")
    assert(status == 404 and body.error == "file_not_found")
    assert(box:download("/tmp").status == 422)
    assert(box:read_file("/tmp") == 422)
    box:exec("mkfifo /tmp/fifo")
    assert(box:download("/tmp/fifo").status == 422)
    assert(box:download("").status == 422)
    assert(box:upload("/usr/bin/new", { data = "x" }) >= 400)
    -- A link that points out of the sandbox by name still stays in it.
    box:exec("ln -s /etc/shadow /tmp/shadow")
    assert(box:download("/tmp/shadow").status ~= 200)
  end)
end)

test("gateway: a path may hold any bytes but NUL", function()
  with_box(function(box)
    for _, name in ipairs { "\xFF\xFE", "a b&c=d?#%41", "new\nline \"é😀\"", "-rf" } do
      local path = "/tmp/made/" .. name
      local status, body = box:upload(path, { data = name })
      assert(status == 200 and body.size == #name, json.encode(body))
      assert(utf8.len(name) == nil or body.path == path)
      assert(box:download(path).body == name)
      assert(box:download(path .. "none").status == 404)
      assert(box:read_file(path .. "/none") == 404)
    end
    local status, body = box:upload("/usr/\xFF", { data = "x" })
    assert(status == 403 and body.error == "permission_denied")
  end)
end)

test("gateway: an upload goes through links to files, and nowhere but to files", function()
  with_box(function(box)
    box:exec("cd /tmp; echo old > real; ln -s real link; ln -s loop loop; ln -s /dev/zero zero;"
      .. " mkfifo fifo; mkdir dir ro; chmod 555 ro; ln -s fifo tofifo")
    assert(box:upload("/tmp/link", { data = "new" }) == 200)
    local _, result = box:exec("cat /tmp/real; test -L /tmp/link && ls -A /tmp | wc -l")
    assert(result.stdout == "new8\n", result.stdout)
    local refused = {
      loop = 422, zero = 422, fifo = 422, tofifo = 422, dir = 422, ["ro/x"] = 403,
      ["real/x"] = 404, [("n"):rep(300)] = 422,
    }
    for name, wanted in pairs(refused) do
      local status, body = box:upload("/tmp/" .. name, { data = "x" })
      assert(status == wanted, name .. ": " .. json.encode(body))
    end
    assert(box:upload("/proc/none/x", { data = "x" }) == 404)
    _, result = box:exec("ls -A /tmp | wc -l")
    assert(result.stdout == "8\n", "what failed left something: " .. result.stdout)
  end)
end)

test("gateway: what has no size or no end can be asked for", function()
  with_box(function(box)
    local res = box:download("/proc/self/status")
    assert(res.status == 200 and res.body:find("^Name:"))
    for _, path in ipairs { "/dev/zero", "/dev/stdin", "/proc/1/fd/3" } do
      assert(box:download(path).status == 422, path)
    end
    for _, path in ipairs { "/proc/1/mem", "/proc/kmsg", "/proc/kcore" } do
      assert(box:download(path).status >= 400, path)
    end
    box:exec("cd /tmp; touch empty; truncate -s 30M hole; echo x > closed; chmod 0 closed")
    assert(box:download("/tmp/empty").body == "")
    assert(#box:download("/tmp/hole").body == 30 * 1024 * 1024)
    assert(box:read_file("/tmp/hole") == 413)
    assert(box:download("/tmp/closed").status == 403)
  end)
end)

test("gateway: read-file gives windows", function()
  with_box(function(box)
    box:exec("seq 1 1000 > /tmp/n; head -c 10485761 /dev/zero > /tmp/big")
    local _, body = box:read_file("/tmp/n")
    assert(body.size == 3893 and body.total_size == 3893 and body.truncated == false)
    assert(body.offset == 0 and body.content:sub(1, 4) == "1\n2\n")
    _, body = box:read_file("/tmp/n", "&offset=-5")
    assert(body.content == "1000\n" and body.offset == 3888 and body.truncated == true)
    _, body = box:read_file("/tmp/n", "&offset=2&length=2")
    assert(body.content == "2\n" and body.size == 2 and body.total_size == 3893)
    _, body = box:read_file("/tmp/n", "&offset=-10485760&length=10485760")
    assert(body.size == 3893 and body.truncated == false)
    _, body = box:read_file("/tmp/n", "&offset=99999")
    assert(body.size == 0 and body.content == "")
    assert(box:read_file("/tmp/n", "&offset=x") == 422)
    assert(box:read_file("/tmp/n", "&length=-1") == 422)
    local status
    status, body = box:read_file("/tmp/big")
    assert(status == 413 and body.error == "file_too_large")
    status, body = box:read_file("/tmp/big", "&offset=-10485760&length=10485760")
    assert(status == 200 and body.size == 10485760 and body.truncated == true)
  end)
end)

-- The most memory that a process ever had, in bytes.
local function peak(pid)
  return tonumber(fs.read("/proc/" .. pid .. "/status"):match("VmHWM:%s*(%d+)")) * 1024
end

-- `megabytes` of random bytes in a file; returns their digest.
local function write_random(path, megabytes)
  local sum = hash.sha256_new()
  local random <close> = assert(io.open("/dev/urandom", "rb"))
  local file <close> = assert(io.open(path, "wb"))
  for _ = 1, megabytes do
    local bytes = random:read(1048576)
    sum:update(bytes)
    file:write(bytes)
  end
  return sum:hex()
end

test("gateway: 64 MiB goes up and down with flat memory", { timeout = 180 }, function()
  local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
  local source, target = folder.path .. "/up", folder.path .. "/down"
  local wanted = write_random(source, 64)

  -- A process of its own, so that what it holds is the server's alone.
  local server = local_server.start { stderr = function() end }
  local api = support.api(server)
  local _, box = api:running()
  local before = peak(server.pid)
  local status, body = box:upload("/tmp/large", { path = source })
  assert(status == 200 and body.size == 64 * 1048576, json.encode(body))
  local _, result = box:exec("sha256sum < /tmp/large")
  assert(result.stdout:sub(1, 64) == wanted)
  local res = box:download("/tmp/large", { save = target })
  assert(res.status == 200 and res.headers["content-length"] == tostring(64 * 1048576))
  assert(hash.sha256_file(target) == wanted)
  local grown = peak(server.pid) - before
  server.stop()
  -- Far less than the file; an allocator under the sanitizers keeps a lot for itself.
  assert(grown < 40 * 1048576, grown)
end)

test("gateway: an upload that announces too much is 413 at once", function()
  with_box(function(box)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local path = folder.path .. "/sparse"
    local file = io.open(path, "w")
    file:seek("set", 201 * 1048576)
    file:write("x")
    file:close()
    local status, body = box:upload("/tmp/huge", { path = path })
    assert(status == 413 and body.error == "file_too_large")
    assert(box:read_file("/tmp/huge") == 404)
  end)
end)

test("gateway: 64 commands at once in one sandbox", { timeout = 180 }, function()
  with_box(function(box)
    local list = {}
    for i = 1, 64 do
      list[i] = i
    end
    local codes = task.map(list, function(i)
      local _, result = box:exec("sleep 0.05; echo " .. i .. "; exit " .. i)
      return result.stdout == i .. "\n" and result.exit_code
    end, { limit = 64 })
    for i = 1, 64 do
      assert(codes[i] == i)
    end
  end)
end)

-- Starts a command that lasts, and returns its task once it runs.
local function start_sleeping(api, object, box)
  local running = task.spawn(box.exec, box, "sleep 60", { timeout = 100 })
  task.timeout(60, function()
    while api.server.fleet.store:get(object.id).calls == 0 do
      task.sleep(0.01)
    end
  end)
  return running
end

test("gateway: deleting a sandbox answers its running commands", function()
  with_server(function(api)
    local object, box = api:running()
    local running = start_sleeping(api, object, box)
    api:call("DELETE", "/sandbox/" .. object.id)
    local status, body = running:join()
    assert(status == 502 and body.error == "sandbox_not_found")
  end)
end)

test("gateway: stopping the server answers running commands", function()
  with_server(function(api)
    local object, box = api:running()
    local running = start_sleeping(api, object, box)
    api.server:stop()
    local status, body = running:join()
    assert(status == 502 and body.error == "sandbox_not_found")
  end)
end)

test("gateway: a client that hangs up leaves the sandbox usable", function()
  with_server(function(api)
    local _, box = api:running()
    local ok, failure = pcall(box.request, box, "POST", "/exec", {
      json = { command = "sleep 1", timeout = 2 }, timeout = 0.2,
    })
    assert(not ok and failure.kind == "timeout")
    local large = box:request("GET", "/read-file?path=/proc/self/status")
    assert(large.status == 200 and #large.body > 100)
    local status, result = box:exec("head -c 30000000 /dev/zero > /tmp/z; echo ok")
    assert(status == 200 and result.stdout == "ok\n")
    ok = pcall(box.download, box, "/tmp/z", { timeout = 0.001 })
    assert(not ok)
    assert(box:exec("true") == 200)
  end)
end)
