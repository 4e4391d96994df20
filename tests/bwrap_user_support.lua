-- Runs test files as a user without privileges.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local process = require("sbx.process")

local support = {}

local NOBODY = "65534"
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local am_root = fs.stat("/proc/self").uid == 0

-- Runs test files as nobody, from a copy of the program that nobody may run.
local function as_nobody(...)
  local folder <close> = fs.tmpdir { prefix = "nobody-" }
  fs.chmod(folder.path, 493)
  local program = folder.path .. "/sbxlua"
  fs.copy(host.executable(), program)
  fs.chmod(program, 493)
  fs.copy(here, folder.path .. "/tests", { recursive = true })
  local library = os.getenv("SBXLUA_LUA")
  if library and library ~= "" then
    fs.copy(library, folder.path .. "/lua", { recursive = true })
  end
  fs.mkdir(folder.path .. "/home", { mode = 511 })
  fs.chmod(folder.path .. "/home", 511)
  process.run({ "chmod", "-R", "a+rX", folder.path }, { check = true })
  -- Where only root may make network devices, as no distribution has it, nobody may too.
  local script = [[mknod "$1/tun" c 10 200 && chmod 666 "$1/tun" &&
    mount --bind "$1/tun" /dev/net/tun; shift; exec "$@"]]
  local argv = {
    "unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", folder.path,
    "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--", program, "test",
    "--verbose",
  }
  for _, name in ipairs { ... } do
    argv[#argv + 1] = "tests/" .. name .. ".lua"
  end
  return process.run(argv, {
    cwd = folder.path, timeout = 100, env = {
      HOME = folder.path .. "/home", TMPDIR = folder.path .. "/home",
      XDG_STATE_HOME = folder.path .. "/home", SBXLUA = program,
      SBXLUA_TEST_NETWORK = "must work",
      SBXLUA_LUA = library and library ~= "" and folder.path .. "/lua" or false,
    },
  })
end

---Runs test files as nobody, where we are root, and fails when one of them does.
---@async
function support.passes(...)
  if not am_root then return end
  local result = as_nobody(...)
  assert(result.code == 0, result.stdout .. result.stderr)
  assert(result.stdout:find("passed, 0 failed", 1, true), result.stdout)
  return result.stdout
end

return support
