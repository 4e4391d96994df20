-- Images that lack what a command needs: what is said names the image, the file and what is
-- missing, and where only a tool is broken as much works as can.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local images_support = dofile(here .. "images_support.lua")
local server_support = dofile(here .. "server_support.lua")

local bwrap = require("sbx.server.driver.bwrap")
local importer = require("sbx.server.images_import")
local sandbox = require("sbx.sandbox")
local start_failure = require("sbx.server.start_failure")
local task = require("sbx.task")

-- Calls `fn(api)` with a server that has the image "broken", changed by lines of Python.
local function with_image(change, fn)
  images_support.with_store(function(store, place)
    images_support.python(place, "root('r')\n" .. change)
    importer.import(store, "broken", place .. "/r")
    server_support.with_server(fn, {
      driver = bwrap.open { images = store }, profile = "both", notice = function() end,
    })
  end)
end

-- What the API says of a command, and the log of a start command.
local function said_of(change)
  local message, log
  with_image(change, function(api)
    local object, box = api:running { docker_image = "broken", start_command = "echo x" }
    local status, result = box:exec("true")
    assert(status == 422, status)
    message = result.message
    task.timeout(60, function()
      repeat
        log = select(2, api:call("GET", "/sandbox/" .. object.id .. "/logs")).logs
        task.sleep(0.01)
      until log:find("start command failed", 1, true)
    end)
    -- The sandbox is as good as ever, as far as it goes.
    assert(box:upload("/tmp/x", { data = "x" }) == 200)
  end)
  return message, log
end

test("broken image: a shell without its loader", { timeout = 180 }, function()
  local message, log = said_of([[
import glob
for name in glob.glob('r/lib*/ld-*') + glob.glob('r/lib*/*/ld-*'): os.remove(name)
]])
  for _, text in ipairs { message, log } do
    for _, words in ipairs { "image broken", "/bin/sh", "the loader /lib", "ld-" } do
      assert(text:find(words, 1, true), text)
    end
  end
end)

test("broken image: no shell at all, and one that is a script of nothing", {
  timeout = 60,
}, function()
  local message = said_of("os.remove('r/bin/sh')\n")
  assert(message:find("image broken: it has no /bin/sh", 1, true), message)
  message = said_of("os.remove('r/bin/sh'); open('r/bin/sh', 'w').write('#!/opt/nope -x\\n')\n"
    .. "os.chmod('r/bin/sh', 0o755)\n")
  assert(message:find("/bin/sh needs the interpreter /opt/nope", 1, true), message)
end)

test("broken image: any bytes may be where a loader is looked for", function()
  local function explain(bytes)
    local agent = {
      stat = function(_, path)
        if path == "/bin/sh" then return { type = "file" } end
        require("sbx.errors").raise { kind = "io", code = "ENOENT", message = "none" }
      end,
      get = function(_, _, sink)
        sink(bytes)
        return #bytes, #bytes
      end,
    }
    local failure = require("sbx.errors").new { kind = "io", code = "ENOENT", message = "none" }
    return start_failure.explain(agent, failure, "/bin/sh", "x\27[2J")
  end
  assert(explain("") == nil and explain("\127ELF") == nil and explain("#!") == nil)
  local odd = assert(explain("#!/\27[31mred\n"))
  assert(not odd:find("%c"), odd)
  -- Headers that point anywhere, of both sizes and orders.
  for seed = 1, 2000 do
    math.randomseed(seed)
    local bytes = { "\127ELF", string.char(math.random(0, 3), math.random(0, 3)) }
    for index = 3, math.random(3, 200) do
      bytes[index] = string.char(math.random(0, 255))
    end
    explain(table.concat(bytes))
  end
  -- A well-formed one of 32 bits, high byte first.
  local head = "\127ELF\1\2" .. ("\0"):rep(22) .. (">I4"):pack(52) .. ("\0"):rep(10)
    .. (">I2I2"):pack(32, 1) .. ("\0"):rep(6)
  local text = explain(head .. (">I4I4"):pack(3, 84) .. ("\0"):rep(24) .. "/lib/ld.so.1\0")
  assert(text and text:find("needs the loader /lib/ld.so.1", 1, true), text)
end)

test("broken image: a broken mv is told, and takes no result away", { timeout = 180 }, function()
  server_support.with_server(function(api)
    local client <close> = sandbox.client({ api_key = "k", base_url = api.server.url })
    local box <close> = client:create({
      name = "mv", docker_image = "python:3.11-slim", timeout_minutes = 5,
      environment_vars = { PATH = "/tmp/bad:/usr/bin:/bin" },
    })
    box:wait()
    -- As the loader says it of a library that is not there.
    box:exec("mkdir /tmp/bad; printf '#!/bin/sh\\necho cannot load libx >&2; exit 127\\n'"
      .. " > /tmp/bad/mv; chmod 755 /tmp/bad/mv")
    -- A command whose end is written down by itself: its code comes all the same.
    local result = box:exec("echo out; exit 7", { spool = true })
    assert(result.exit_code == 7 and result.stdout == "out\n", tostring(result.exit_code))
    -- One too long for a command line goes by a file, for which it takes an mv.
    local ok, failure = pcall(box.exec, box, ": " .. ("x"):rep(300000), { spool = true })
    assert(not ok and failure.code == "NO_TOOL", tostring(failure))
    for _, words in ipairs { "cannot load libx", "mv does not work" } do
      assert(failure.message:find(words, 1, true), failure.message)
    end
  end, { api_key = "k" })
end)
