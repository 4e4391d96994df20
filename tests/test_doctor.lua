-- The verb `doctor --local`: what it finds here, and where something is missing.

local fs = require("sbx.fs")
local host = require("sbx.core.host")
local json = require("sbx.json")
local process = require("sbx.process")

local am_root = fs.stat("/proc/self").uid == 0

local function doctor(before, ...)
  local argv = { table.unpack(before) }
  for _, word in ipairs { host.executable(), "doctor", "--local", ... } do
    argv[#argv + 1] = word
  end
  return process.run(argv, { timeout = 60 })
end

local function by_name(result)
  local report = json.decode(result.stdout)
  local found = {}
  for _, finding in ipairs(report.findings) do
    found[finding.what] = finding
    assert(finding.state == "ok" or finding.state == "weak" or finding.state == "missing")
    assert(type(finding.by) == "string" and not finding.by:find("%c"), finding.what)
    assert(finding.part == "machine")
    -- What is not as it could be comes with what to do about it.
    assert(finding.state == "ok" or type(finding.todo) == "string", finding.what)
  end
  return found, report
end

-- In a mount namespace of its own, where `path` is something else.
local function with(path, other)
  return {
    "unshare", "--mount", "--propagation", "private", "--", "sh", "-c",
    'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh", other, path,
  }
end

test("doctor: here sandboxes run, and what limits them is told", function()
  local found, report = by_name(doctor({}, "-o", "json"))
  assert(report.can_reach == json.null)
  assert(report.can_run == true and found.isolation.state == "ok", found.isolation.by)
  local driver = require("sbx.server.driver.bwrap").open()
  local is_grouped = driver.enforced.memory:find("cgroup") ~= nil
  assert((found["memory limit"].state == "ok") == is_grouped)
  local text = doctor({}).stdout
  assert(text:find("^WHAT +STATE +BY WHAT\n") and text:find("\nisolation +ok "))
end)

test("doctor: without a bubblewrap that works nothing runs", function()
  if not am_root then return end
  local path = process.which("bwrap")
  local result = doctor(with(path, process.which("false")), "-o", "json")
  local found, report = by_name(result)
  assert(result.code == 1 and report.can_run == false)
  assert(found.isolation.state == "missing")
  assert(result.stderr:find("sandboxes cannot run on this machine", 1, true))
end)

test("doctor: what is missing comes with what to do", function()
  if not am_root then return end
  local found, report = by_name(doctor(with("/dev/net/tun", "/dev/null"), "-o", "json"))
  assert(report.can_run == true and found.network.state == "missing", found.network.by)
  assert(found.network.todo:find("tun", 1, true) or found.network.todo:find("apt", 1, true))
  -- Control groups out of sight.
  local empty <close> = fs.tmpdir()
  found = by_name(doctor(with("/sys/fs/cgroup", empty.path), "-o", "json"))
  assert(found["memory limit"].state == "weak", found["memory limit"].by)
  assert(found["processor limit"].state == "missing")
end)

test("doctor: a mistake on the command line", function()
  assert(doctor({}, "--nonsense").code == 2)
  assert(doctor({}, "--help").stdout:find("what sandboxes of this machine need", 1, true))
end)
