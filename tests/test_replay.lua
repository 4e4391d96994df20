-- sbxlua --record and --replay: the same stdout and status without a network, for whatever
-- HTTP can do.

local fs = require("sbx.fs")
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require("sbx.json")
local support = dofile(here .. "replay_support.lua")
local task = require("sbx.task")

test("replay: answers, statuses, headers and failures", function()
  support.with([[
    local http = require("sbx.http")
    local url = os.getenv("URL")
    local a = http.get(url .. "/a?x=1")
    print(a.status, a.body, a.headers["x-mark"], a.reason ~= "", a.size)
    print(http.post(url .. "/b", { json = { name = "n", list = { 1, 2 } } }).body)
    print(http.head(url .. "/c").status)
    local ok, err = pcall(http.get, url .. "/missing", { raise = true })
    print(ok, err.kind, err.status, err.body)
    ok, err = pcall(http.get, "http://127.0.0.1:1/none")
    print(ok, err.kind, err.code, err.sent, err.retryable)
    ok, err = pcall(http.get, url .. "/slow", { timeout = 0.2 })
    print(ok, err.kind, err.phase)
    print(http.get(url .. "/moved", { follow = 3 }).body)
    os.exit(3)
  ]], function(request)
    local body = request:read_all(1e6)
    if request.path == "/slow" then return task.sleep(5) end
    if request.path == "/missing" then return request:respond(404, {}, "no such thing") end
    if request.path == "/moved" then
      return request:respond(302, { location = "/a?x=2" }, "")
    end
    local text = request.method .. " " .. request.path .. " " .. body
    request:respond(200, { ["x-mark"] = "m" }, text)
  end, function(replay)
    local result = replay:both()
    assert(result.code == 3, result.stderr)
    assert(result.stdout:find("404\tno such thing", 1, true), result.stdout)
    assert(result.stdout:find("ECONNREFUSED", 1, true), result.stdout)
    assert(replay.hits.n == 7, replay.hits.n)
    assert(fs.stat(replay.file).mode & 511 == 384, "others can read the recording")
  end)
end)

test("replay: bytes, streams, events, uploads and files", function()
  support.with([[
    local http, hash, fs = require("sbx.http"), require("sbx.hash"), require("sbx.fs")
    local url, folder = os.getenv("URL"), os.getenv("FOLDER")
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local bytes = table.concat(all)
    print(http.get(url .. "/bytes").body == bytes)
    print(hash.sha256(http.get(url .. "/large").body))
    local saved = folder .. "/saved"
    print(http.get(url .. "/large", { save = saved }).size, #fs.read(saved))
    do
      local res <close> = http.stream("GET", url .. "/events")
      for event in res:events() do print(event.event, event.data) end
    end
    do
      local res <close> = http.stream("GET", url .. "/events")
      print(res:line())
    end
    local n = 0
    local function parts() n = n + 1; return n < 4 and "part" .. n or nil end
    print(http.post(url .. "/echo", { body = parts }).body, n)
    fs.write(folder .. "/up", bytes)
    print(http.put(url .. "/size", { body_path = folder .. "/up" }).body)
    print(http.post(url .. "/size", { body = bytes }).body)
    print(#http.post(url .. "/size", { multipart = {
      { name = "f", path = folder .. "/up" }, { name = "g", data = "text" } } }).body > 0)
  ]], function(request)
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    local bytes = table.concat(all)
    local body = request:read_all(1e7)
    if request.path == "/bytes" then return request:respond(200, {}, bytes) end
    if request.path == "/large" then return request:respond(200, {}, bytes:rep(6000)) end
    if request.path == "/echo" then return request:respond(200, {}, body) end
    if request.path == "/size" then return request:respond(200, {}, tostring(#body)) end
    request:start(200, { ["content-type"] = "text/event-stream" })
    for i = 1, 3 do
      request:write(("event: tick\ndata: näher %d\n\n"):format(i))
      task.sleep(0.01)
    end
    request:finish()
  end, function(replay)
    local result = replay:both()
    assert(result.code == 0, result.stderr)
    for _, text in ipairs({ "tick\tnäher 3\n", "part1part2part3\t4\n" }) do
      assert(result.stdout:find(text, 1, true), result.stdout)
    end
  end)
end)

test("replay: many at once get their own answers, in order for each body", function()
  support.with([[
    local http, task = require("sbx.http"), require("sbx.task")
    local url = os.getenv("URL")
    local list = {}
    for i = 1, 40 do list[i] = i % 4 end
    local seen = task.map(list, function(n)
      return http.post(url .. "/n", { json = { n = n } }).body:match("^%d+")
    end)
    print(table.concat(seen, " "))
    for i = 1, 3 do print(http.get(url .. "/count").body) end
  ]], function(request, hits)
    local body = request:read_all(1e6)
    task.sleep(math.random() / 50)
    if request.path == "/count" then
      hits.count = (hits.count or 0) + 1
      return request:respond(200, {}, "count " .. hits.count)
    end
    request:respond(200, {}, ("%d %s"):format(json.decode(body).n, body))
  end, function(replay)
    local result = replay:both()
    assert(result.stdout:find("^1 2 3 0 1 2 3 0 .*\ncount 1\ncount 2\ncount 3\n$"), result.stdout)
  end)
end)

test("replay: names that the script makes up anew", function()
  support.with([[
    local http, hash = require("sbx.http"), require("sbx.hash")
    local url, mine = os.getenv("URL"), { hash.random_hex(8), hash.random_hex(8) }
    for _, name in ipairs(mine) do
      http.put(url .. "/files/" .. name, { json = { name = name } })
    end
    for i = 2, 1, -1 do
      local text = http.get(url .. "/files/" .. mine[i]).body
      print(i, text:gsub(mine[i], "MINE"))
    end
    print(http.get(url .. "/id").body)
    print(http.get(url .. "/things/" .. http.get(url .. "/id").body).body)
  ]], function(request, hits)
    request:read_all(1e6)
    hits.order = hits.order or {}
    local name = request.path:match("^/files/(.*)")
    if request.path == "/id" then return request:respond(200, {}, "00c0ffee0badcafe") end
    if not name then return request:respond(200, {}, "thing " .. request.path) end
    if request.method == "PUT" then
      table.insert(hits.order, name)
      return request:respond(200, {}, "")
    end
    for i, each in ipairs(hits.order) do
      if each == name then request:respond(200, {}, ("file %d is %s"):format(i, name)) end
    end
  end, function(replay)
    local result = replay:both()
    local files = "2\tfile 2 is MINE\t1\n1\tfile 1 is MINE\t1\n"
    assert(result.stdout:find(files, 1, true), result.stdout)
    assert(result.stdout:find("thing /things/00c0ffee0badcafe", 1, true), result.stdout)
  end)
end)

test("replay: time passes at once, and polls may outnumber the recorded ones", function()
  support.with([[
    local http, task, time = require("sbx.http"), require("sbx.task"), require("sbx.time")
    local url, began, wall = os.getenv("URL"), task.now(), time.wall()
    repeat
      local body = http.get(url .. "/job").body
      task.sleep(os.getenv("PAUSE") + 0)
    until body == "done"
    for _ = 1, os.getenv("POLLS") do print(http.get(url .. "/job").body) end
    print(task.now() - began > 1000 * os.getenv("PAUSE"), time.wall() - wall < 1e5)
    io.stderr:write(("began %.0f\n"):format(wall))
  ]], function(request, hits)
    request:respond(200, {}, hits.n < 5 and "busy" or "done")
  end, function(replay)
    local first = replay:record({ PAUSE = "0.01", POLLS = "1" })
    assert(first.code == 0, first.stderr)
    local result = replay:play({ PAUSE = "3600", POLLS = "3" })
    assert(result.code == 0, result.stderr)
    assert(result.stdout == "done\ndone\ndone\nfalse\ttrue\n", result.stdout)
    -- The wall clock is that of the recording.
    local wall = tonumber(result.stderr:match("began (%d+)"))
    assert(math.abs(wall - replay:lines()[1].at) < 5)
  end)
end)

test("replay: what was not recorded fails, and says what is nearest", function()
  support.with([[
    local http = require("sbx.http")
    local url = os.getenv("URL")
    http.get(url .. "/a")
    http.post(url .. "/jobs", { json = { name = "one" } })
    local ok, err = pcall(http[os.getenv("HOW") or "get"], url .. (os.getenv("WHERE") or "/a"),
      os.getenv("NAME") and { json = { name = os.getenv("NAME") } } or nil)
    print(ok, not ok and err.kind, not ok and err.code, not ok and err.message or "")
    if not ok then error(err, 0) end
  ]], function(request)
    request:respond(200, {}, "ok")
  end, function(replay)
    assert(replay:record().code == 0)
    local result = replay:play({ HOW = "post", WHERE = "/jobs", NAME = "two" })
    local told = "false\treplay\tNOT_RECORDED\tPOST http://127"
    assert(result.code == 1 and result.stdout:find(told, 1, true))
    assert(result.stdout:find("not in the recording " .. replay.file, 1, true), result.stdout)
    local nearest = "the nearest is POST http://[^ ]*/jobs, with another body from byte 10"
    assert(result.stdout:find(nearest), result.stdout)
    assert(result.stderr:find("--replay: 1 request was not in", 1, true), result.stderr)
    result = replay:play({ WHERE = "/b" })
    assert(result.stdout:find("the nearest is GET http://[^ ]*/a%. If"), result.stdout)
    result = replay:play({ HOW = "delete", WHERE = "/jobs" })
    assert(result.stdout:find("/jobs, with another method", 1, true), result.stdout)
    result = replay:play({ HOW = "post", WHERE = "/jobs", NAME = "one" })
    assert(result.stdout:find("/jobs, which was used before", 1, true), result.stdout)
    assert(replay:play({ WHERE = "/a" }).code == 0, "a GET may be repeated")
  end)
end)

test("replay: websockets and plain connections are refused, and told when recording", function()
  support.with([[
    local http, net = require("sbx.http"), require("sbx.net")
    local function show(fn, ...)
      local ok, err = pcall(fn, ...)
      print(ok, not ok and err.kind, not ok and err.code)
    end
    show(http.websocket, (os.getenv("URL"):gsub("^http", "ws")))
    show(net.connect, "127.0.0.1", 1)
  ]], function(request)
    request:respond(404, {}, "")
  end, function(replay)
    local result = replay:record()
    assert(result.stderr:find("--record: a WebSocket cannot be recorded", 1, true), result.stderr)
    assert(result.stderr:find("a connection of sbx.net cannot be recorded", 1, true))
    result = replay:play()
    assert(result.stdout == ("false\treplay\tNOT_REPLAYABLE\n"):rep(2), result.stdout)
  end)
end)

test("replay: a request that was cut off is cut off again", function()
  support.with([[
    local http, task = require("sbx.http"), require("sbx.task")
    local url = os.getenv("URL")
    print(task.race({
      function() return http.get(url .. "/never").body end,
      function() return http.get(url .. "/soon").body end,
    }))
    print(task.move_on(0.05, http.get, url .. "/never"))
  ]], function(request)
    if request.path == "/never" then task.sleep(60) end
    request:respond(200, {}, "soon")
  end, function(replay)
    local result = replay:both()
    assert(result.code == 0 and result.stdout:find("soon", 1, true), result.stderr)
  end)
end)

test("replay: files that are no recordings", function()
  support.with("print(1)", nil, function(replay)
    local function fails(status, text, pattern)
      if text then fs.write(replay.file, text) end
      local result = replay:play()
      assert(result.code == status and result.stdout == "", result.code .. result.stdout)
      assert(result.stderr:find(pattern), result.stderr)
    end
    fails(1, nil, "%-%-replay: open .*run.jsonl: no such file")
    fails(2, "", "the file is empty")
    fails(2, "hello\n", "line 1: this is no recording; `sbxlua %-%-record FILE")
    fails(2, "{}\n", "this is no recording")
    local head = '{"type":"sbxlua recording","v":%d,"at":1,"seed":1}\n'
    fails(2, head:format(9), "a recording of version 9, and this program reads version 1")
    fails(2, head:format(1), "its end is missing")
    fails(2, head:format(1) .. '{"type":"x"}\n', "line 2: a line of a kind that is not known")
    fails(2, head:format(1) .. '{"type":"exchange","n":1}\n', "line 2: not a whole exchange")
    fails(2, head:format(1) .. '{"type":"chunk","n":1}\n', "line 2: a chunk of no exchange")
    fs.write(replay.file, head:format(1) .. '{"type":"end"}\n')
    assert(replay:play().stdout == "1\n")
    local both = replay:run({ "--record", "a", "--replay", "b" })
    assert(both.code == 2 and both.stderr:find("give one of them", 1, true))
  end)
end)

test("replay: a recording that cannot be written is told of by its name", function()
  support.with("print('ran')", nil, function(replay)
    for path, said in pairs({
      [replay.folder .. "/no/where"] = "no such file or directory",
      [replay.folder] = "is a folder",
    }) do
      local result = replay:run({ "--record", path })
      assert(result.code == 1 and result.stdout == "", result.stdout .. result.stderr)
      assert(result.stderr == ("sbxlua: --record: write %s: %s\n"):format(path, said),
        result.stderr)
    end
    -- Something takes its place while the script runs.
    fs.write(replay.script, "require('sbx.fs').mkdir(os.getenv('FOLDER') .. '/run.jsonl')")
    local result = replay:run({ "--record", replay.file })
    assert(result.code == 1, result.stderr)
    assert(result.stderr:find("--record: write " .. replay.file .. ": ", 1, true), result.stderr)
    assert(not result.stderr:find(".part", 1, true), result.stderr)
  end)
end)

test("replay: a recording has its name only once it is whole", function()
  support.with([[
    local http, task = require("sbx.http"), require("sbx.task")
    http.get(os.getenv("URL") .. "/a")
    print("asleep")
    task.sleep(100)
  ]], function(request)
    request:respond(200, {}, "ok")
  end, function(replay)
    fs.write(replay.file, "the one before")
    for _, signal in ipairs({ "KILL", "INT" }) do
      local going <close> = support.run.start({ "--record", replay.file, replay.script },
        { URL = replay.url })
      going:await("stdout", "asleep")
      assert(fs.read(replay.file) == "the one before")
      going:kill(signal)
      going.child:wait()
    end
    local lines = replay:lines()
    assert(lines[1].type == "sbxlua recording" and lines[2].type == "exchange")
    assert(lines[#lines].type == "end" and lines[#lines].exchanges == 1)
  end)
end)
