-- What `sbxlua serve` says when it cannot start: who speaks, of which option, and what to do.

local host = require("sbx.core.host")
local fs = require("sbx.fs")
local net = require("sbx.core.net")
local process = require("sbx.process")

-- Runs the verb, which must fail with one line that has all of `words`.
local function fails(args, code, words, env)
  local argv = { host.executable(), "serve", "--listen", "127.0.0.1:0", table.unpack(args) }
  local variables = { PRIME_API_KEY = "k" }
  for name, value in pairs(env or {}) do
    variables[name] = value
  end
  local result = process.run(argv, { timeout = 30, env = variables })
  assert(result.code == code, result.code .. ": " .. result.stderr)
  local line = result.stderr:match("^sbxlua serve: ([^\n]*)\n")
  assert(line, result.stderr)
  for _, text in ipairs(words) do
    assert(line:find(text, 1, true), line)
  end
end

test("serve errors: a state that cannot be is named with its option", function()
  for _, path in ipairs { "/proc/nope", "/dev/null/x", "/dev/null" } do
    fails({ "--state", path }, 1, { "--state " .. path, "--no-state" })
  end
  fails({}, 1, { "/proc/nope/sbxlua", "XDG_STATE_HOME" }, { XDG_STATE_HOME = "/proc/nope" })
end)

test("serve errors: files that are not there are named with their options", function()
  local folder <close> = fs.tmpdir()
  local missing = folder.path .. "/none/x"
  fails({ "--no-state", "--key-file", missing }, 1, { "--key-file " .. missing })
  fails({ "--no-state", "--registry-credentials", missing }, 1, { "--registry-credentials" })
  fails({ "--no-state", "--disks", missing }, 2, { "--disks: " })
  fails({ "--no-state", "--driver", "sim", "--disks", folder.path }, 2, { "--disks: only" })
end)

test("serve errors: of a port that is taken the way out is told", function()
  local listener <close> = net.listen("127.0.0.1", 0)
  fails({ "--no-state", "--listen", "127.0.0.1:" .. listener.port }, 1,
    { "address already in use", "--listen" })
end)
