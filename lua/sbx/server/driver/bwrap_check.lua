-- What bubblewrap's complaints mean, and whether a sandbox really is one.

local errors = require("sbx.errors")
local task = require("sbx.task")

---@class sbx.server.driver.bwrap_check
local bwrap_check = {}

-- Words of a failure, and what to do about it.
local ADVICE = {
  { "uid map", "user namespaces are restricted (AppArmor?): allow them for bwrap, or run as root" },
  { "No permissions to create new namespace",
    "user namespaces are switched off (sysctl kernel.unprivileged_userns_clone, or a container "
    .. "around this program): switch them on, or run as root" },
  { "Creating new namespace failed",
    "namespaces cannot be made here, as in an unprivileged container" },
  { "mount proc", "/proc cannot be mounted anew here, as in an unprivileged container" },
  { "no such file", "bubblewrap is not installed: apt-get install bubblewrap" },
  { "not found", "bubblewrap is not installed: apt-get install bubblewrap" },
  { "operation not permitted", "this process may not change its user id; run it as a normal user, "
    .. "or as root with CAP_SETUID and CAP_SETGID" },
}

---What to do about a failure; nil when nobody knows.
---@param failure any
---@return string|nil
function bwrap_check.advice(failure)
  local text = tostring(failure):lower()
  for _, advice in ipairs(ADVICE) do
    if text:find(advice[1]:lower(), 1, true) then return advice[2] end
  end
  return nil
end

-- Runs one command in a throw-away sandbox.
local function probe(driver)
  local box = driver:create {
    id = "check-" .. math.random(1, 1 << 40), hostname = "check", lifetime = 60,
    log = function() end, throwaway = true,
  }
  local ok, result = pcall(box.agent.exec, box.agent, {
    command = "test ! -e /etc/shadow && test $$ -lt 100", timeout = 60,
  })
  box:kill()
  if not ok then error(result, 0) end
  if result.exit_code == 0 then return end
  errors.raise { kind = "process", message = "a sandbox is not isolated: " .. result.stderr }
end

---Tries it in a throw-away sandbox. Returns the failure, or nil.
---@async
---@param driver sbx.server.Driver
---@return any
function bwrap_check.try(driver)
  local ok, problem = pcall(task.scope, function()
    probe(driver)
  end)
  if ok then return nil end
  if errors.is_error(problem) and problem.kind == "cancelled" then error(problem, 0) end
  return problem
end

return bwrap_check
