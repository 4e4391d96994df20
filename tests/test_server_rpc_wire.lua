-- The command session of virtual machines, byte by byte: what is refused and how, and what
-- no client of ours sends.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")

local json = require("sbx.json")
local messages = require("sbx.sandbox.rpc.messages")
local protobuf = require("sbx.sandbox.rpc.protobuf")
local task = require("sbx.task")

local SERVICE = "/command_session.CommandSession/"
local STREAM, UNARY = "application/connect+proto", "application/proto"

local function bytes_of(hex)
  return (hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function frame(flags, bytes) return string.pack(">Bs4", flags, bytes) end

local function encoded(schema, message) return protobuf.encode(messages[schema], message) end

local function start_of(script, more)
  local message = {
    command = { cmd = "/bin/sh", args = { "-c", script } }, stdin = true, tag = more and more.tag,
  }
  return frame(0, encoded("StartRequest", message))
end

-- Makes a call; headers of the usual kind unless they are given.
local function call(gateway, method, body, headers)
  local all = { ["Content-Type"] = UNARY, ["Connect-Protocol-Version"] = "1" }
  if method == "Start" or method == "Connect" or method == "StreamInput" then
    all["Content-Type"] = STREAM
  end
  for name, value in pairs(headers or {}) do
    all[name] = value
  end
  return gateway:request("POST", SERVICE .. method, { body = body, headers = all })
end

-- The messages of a stream's answer, and the object of its last frame.
local function stream_of(res)
  assert(res.status == 200, res.status .. res.body)
  assert(res.headers["content-type"] == STREAM)
  local list, at = {}, 1
  while at <= #res.body do
    local flags, payload
    flags, payload, at = string.unpack(">Bs4", res.body, at)
    if flags == 2 then
      assert(at == #res.body + 1, "there is more behind the last frame")
      return list, json.decode(payload)
    end
    assert(flags == 0)
    list[#list + 1] = protobuf.decode(messages.StartResponse, payload).event or {}
  end
  error("no last frame")
end

local function refused(res, status, code)
  local body = json.decode(res.body)
  assert(res.status == status and body.code == code, res.status .. " " .. res.body)
  assert(res.headers["content-type"] == "application/json" and body.message ~= "")
  return body
end

local function with_gateway(fn, options)
  local opts = { profile = "both" }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  support.with_server(function(api)
    local _, gateway = api:running { vm = true }
    fn(gateway, api)
  end, opts)
end

-- A program that runs while `fn(pid)` does; returns all that it wrote.
local function beside(gateway, script, fn, tag)
  local text
  task.scope(function(scope)
    local running = scope:spawn(call, gateway, "Start", start_of(script, { tag = tag }))
    local pid
    task.timeout(60, function()
      while not pid do
        local list = protobuf.decode(messages.ListResponse, call(gateway, "List", "").body)
        pid = list.sessions and list.sessions[1].pid
        task.sleep(0.005)
      end
    end)
    fn(pid)
    local parts = {}
    for _, event in ipairs((stream_of(running:join()))) do
      parts[#parts + 1] = event.data and event.data.stdout
    end
    text = table.concat(parts)
  end)
  return text
end

test("rpc wire: the bytes of the specification give the bytes of the specification", function()
  with_gateway(function(gateway)
    -- Start of `exit 7`, with a bash of this machine.
    local res = call(gateway, "Start", frame(0, bytes_of("0a170a092f62696e2f6261736812022d6312"
      .. "06657869742037")))
    local list, last = stream_of(res)
    assert(list[1].start.pid > 0 and next(last) == nil)
    -- The end event: code 7 (zigzag 0e), exited, a status.
    local ended = list[#list]["end"]
    assert(ended.exit_code == 7 and ended.exited and ended.status == "exit status 7")
    assert(res.body:find(bytes_of("080e1001"), 1, true))
  end)
end)

test("rpc wire: a call without a good token, sandbox, or method is refused by its code", function()
  with_gateway(function(gateway, api)
    refused(gateway:request("POST", SERVICE .. "List", {
      token = "tk_none", headers = { ["Content-Type"] = UNARY }, body = "",
    }), 401, "unauthenticated")
    refused(call(gateway, "Bogus", ""), 501, "unimplemented")
    local _, container = api:running { vm = false }
    local body = refused(call(container, "List", ""), 400, "failed_precondition")
    assert(body.message:find("container", 1, true))

    api:call("DELETE", "/sandbox/" .. gateway.id)
    body = refused(call(gateway, "Start", start_of("true")), 404, "not_found")
    assert(body.error == "sandbox_not_found" and body.sandboxId == gateway.id)
  end)
end)

test("rpc wire: a sandbox that boots is no sandbox that is gone", function()
  local hold = task.waiter("the end of the test")
  local driver = {
    name = "slow", features = {}, check = function() return { ok = true, problems = {} } end,
    create = function() hold:wait() end,
  }
  support.with_server(function(api)
    local made = api:create { vm = true }
    api:await(made.id, "PROVISIONING")
    refused(call(api:gateway(made.id), "Start", start_of("true")), 409, "aborted")
  end, { profile = "vm", driver = driver })
end)

test("rpc wire: kinds, versions, compression and times that are not ours", function()
  with_gateway(function(gateway)
    local json_kind = { ["Content-Type"] = "application/connect+json" }
    local res = call(gateway, "Start", start_of("true"), json_kind)
    refused(res, 415, "unimplemented")
    assert(res.headers["accept-post"] == STREAM)
    refused(call(gateway, "List", "", { ["Content-Type"] = "application/json" }), 415,
      "unimplemented")
    refused(call(gateway, "List", "", { ["Connect-Protocol-Version"] = "2" }), 400,
      "invalid_argument")
    res = call(gateway, "Start", start_of("true"), { ["Connect-Content-Encoding"] = "gzip" })
    refused(res, 501, "unimplemented")
    assert(res.headers["connect-accept-encoding"] == "identity")
    refused(call(gateway, "Start", frame(1, "zipped")), 501, "unimplemented")
    refused(call(gateway, "List", "", { ["Content-Encoding"] = "gzip" }), 501, "unimplemented")
    for _, time in ipairs { "-1", "1.5", "12345678901", "x" } do
      refused(call(gateway, "Start", start_of("true"), { ["Connect-Timeout-Ms"] = time }), 400,
        "invalid_argument")
    end
  end)
end)

test("rpc wire: a request is one whole message", function()
  with_gateway(function(gateway)
    local good = start_of("true")
    for _, body in ipairs {
      "", "\0", good:sub(1, 7), good .. good, frame(0, "\255"), frame(4, "x"), frame(0, "\10\5a"),
      frame(0, ""), frame(2, "{}"),
    } do
      refused(call(gateway, "Start", body), 400, "invalid_argument")
    end
    refused(call(gateway, "Start", string.pack(">BI4", 0, 5 * 1024 * 1024)), 413,
      "resource_exhausted")
    refused(call(gateway, "SendInput", ("x"):rep(5 * 1024 * 1024)), 413, "resource_exhausted")
    refused(call(gateway, "SendInput", encoded("SendInputRequest", {
      session = { pid = 4 }, input = { stdin = "x" },
    })), 404, "not_found")
    refused(call(gateway, "SendInput", ""), 400, "invalid_argument")
  end)
end)

test("rpc wire: programs, tags and terminals that make no sense", function()
  with_gateway(function(gateway)
    local function try(message)
      refused(call(gateway, "Start", frame(0, encoded("StartRequest", message))), 400,
        "invalid_argument")
    end
    try { command = { cmd = "" } }
    try { command = { cmd = "/bin/sh", envs = { ["A=B"] = "1" } } }
    try { command = { cmd = "/bin/sh", args = { "a\0b" } } }
    try { command = { cmd = "/bin/sh" }, tag = "" }
    try { command = { cmd = "/bin/sh" }, tag = ("t"):rep(257) }
    try { command = { cmd = "/bin/sh" }, pty = { size = { cols = 0, rows = 5 } } }
    try { command = { cmd = "/bin/sh" }, pty = { size = { cols = 70000, rows = 5 } } }
    try { command = { cmd = "/tmp" } }
  end)
end)

test("rpc wire: a time is over for a command, with its tree", function()
  with_gateway(function(gateway)
    local res = call(gateway, "Start", start_of("echo $$; sleep 4321 & wait"),
      { ["Connect-Timeout-Ms"] = "300" })
    local list, last = stream_of(res)
    assert(last.error.code == "deadline_exceeded" and list[2].data.stdout:find("^%d+\n"))
    local after = call(gateway, "Start", start_of("grep -l [4]321 /proc/*/cmdline; true"))
    for _, event in ipairs((stream_of(after))) do
      local text = event.data and event.data.stdout or ""
      for name in text:gmatch("/proc/(%d+)/") do
        error("process " .. name .. " lives on")
      end
    end
  end)
end)

test("rpc wire: input comes as a stream too, in its order", function()
  with_gateway(function(gateway)
    local function input(message) return frame(0, encoded("StreamInputRequest", message)) end
    local text = beside(gateway, "head -c 300004", function(pid)
      local body = {
        input { start = { session = { tag = "in" } } }, input { keepalive = {} },
      }
      for i = 1, 3 do
        body[#body + 1] = input { data = { input = { stdin = tostring(i):rep(100000) } } }
      end
      local res = call(gateway, "StreamInput", table.concat(body))
      local list, last = stream_of(res)
      assert(#list == 1 and next(list[1]) == nil and next(last) == nil)
      assert(call(gateway, "SendInput", encoded("SendInputRequest", {
        session = { pid = pid }, input = { stdin = "end\n" },
      })).status == 200)
    end, "in")
    assert(text == ("1"):rep(100000) .. ("2"):rep(100000) .. ("3"):rep(100000) .. "end\n")
  end)
end)

test("rpc wire: a stream of input names its process first, once, and one that is there", function()
  with_gateway(function(gateway)
    local function input(message) return frame(0, encoded("StreamInputRequest", message)) end
    beside(gateway, "read x", function(pid)
      local start = input { start = { session = { pid = pid } } }
      local data = input { data = { input = { stdin = "\n" } } }
      local none = input { start = { session = { tag = "none" } } }
      refused(call(gateway, "StreamInput", data), 400, "invalid_argument")
      refused(call(gateway, "StreamInput", ""), 400, "invalid_argument")
      refused(call(gateway, "StreamInput", start .. start), 400, "invalid_argument")
      refused(call(gateway, "StreamInput", none), 404, "not_found")
      refused(call(gateway, "StreamInput", start .. input {
        data = { input = { pty = "x" } },
      }), 400, "failed_precondition")
      for _, number in ipairs { 0, 2, 64 } do
        refused(call(gateway, "SendSignal", encoded("SendSignalRequest", {
          session = { pid = pid }, signal = number,
        })), 400, "invalid_argument")
      end
      stream_of(call(gateway, "StreamInput", start .. data))
    end)
  end)
end)

test("rpc wire: input that a program does not take has its time too", function()
  with_gateway(function(gateway)
    beside(gateway, "sleep 1000", function(pid)
      local session = { pid = pid }
      local body = encoded("SendInputRequest", {
        session = session, input = { stdin = ("x"):rep(2000000) },
      })
      refused(call(gateway, "SendInput", body, { ["Connect-Timeout-Ms"] = "200" }), 504,
        "deadline_exceeded")
      assert(call(gateway, "SendSignal", encoded("SendSignalRequest", {
        session = session, signal = 9,
      })).status == 200)
    end)
  end)
end)

test("rpc wire: a start with an id may be sent again, and its end is told to the late", function()
  with_gateway(function(gateway)
    local uuid = "0e8f6f4e-3a0c-4d0c-9d70-3f2d5b7c9a11"
    local function start()
      return call(gateway, "Start", frame(0, encoded("StartRequest", {
        command = { cmd = "/bin/sh", args = { "-c", "echo x >> /tmp/count; read a; exit 4" } },
        stdin = true, session_uuid = uuid,
      })))
    end
    local session = { session_uuid = uuid }
    local pids = {}
    task.scope(function(scope)
      local both = { scope:spawn(start), scope:spawn(start) }
      task.timeout(60, function()
        local count = 0
        while count == 0 do
          local list = protobuf.decode(messages.ListResponse, call(gateway, "List", "").body)
          count = #(list.sessions or {})
          if count > 0 then assert(list.sessions[1].session_uuid == uuid and count == 1) end
          task.sleep(0.005)
        end
      end)
      -- Once for all of them: it reads one line, and gets no more.
      for _ = 1, 2 do
        local res = call(gateway, "SendInput", encoded("SendInputRequest", {
          session = session, input = { stdin = "a" }, input_uuid = "i1",
        }))
        assert(res.status == 200, res.body)
      end
      call(gateway, "SendInput", encoded("SendInputRequest", {
        session = session, input = { stdin = "\n" }, input_uuid = "i2",
      }))
      for index, one in ipairs(both) do
        local list = stream_of(one:join())
        pids[index] = list[1].start.pid
        assert(list[#list]["end"].exit_code == 4)
      end
    end)
    local late = stream_of(start())
    local later = stream_of(call(gateway, "Connect", frame(0, encoded("ConnectRequest", {
      session = session,
    }))))
    for _, list in ipairs { late, later } do
      assert(#list == 2 and list[1].start.pid == pids[1] and list[2]["end"].exit_code == 4)
    end
    assert(pids[1] == pids[2])
    local count = stream_of(call(gateway, "Start", start_of("wc -l < /tmp/count")))
    assert(count[2].data.stdout:find("^%s*1%s*$"), "it was started more than once")
    refused(call(gateway, "SendSignal", encoded("SendSignalRequest", {
      session = session, signal = 9,
    })), 404, "not_found")
  end)
end)

test("rpc wire: input with an id arrives once", function()
  with_gateway(function(gateway)
    local text = beside(gateway, "read a; echo \"<$a>\"", function(pid)
      for _, one in ipairs {
        { "x", "1" }, { "x", "1" }, { "y", "2" }, { "x", "1" }, { "\n", "3" },
      } do
        assert(call(gateway, "SendInput", encoded("SendInputRequest", {
          session = { pid = pid }, input = { stdin = one[1] }, input_uuid = one[2],
        })).status == 200)
      end
    end)
    assert(text == "<xy>\n", text)
  end)
end)

test("rpc wire: another user than root is refused", function()
  with_gateway(function(gateway)
    local function as(user)
      return call(gateway, "Start", frame(0, encoded("StartRequest", {
        command = { cmd = "/bin/sh", args = { "-c", "id -u" }, user = user },
      })))
    end
    assert((stream_of(as "root"))[2].data.stdout == "0\n")
    refused(as "nobody", 400, "invalid_argument")
  end)
end)
