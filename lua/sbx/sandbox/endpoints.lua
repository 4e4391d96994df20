-- The classes of endpoints that have limits of their own, and the limits that are
-- published for them.

local endpoints = {}

local WINDOW = 60 -- seconds

-- Requests in a window as published, and how many of them at once.
endpoints.limits = {
  create = { count = 500, burst = 40, window = WINDOW },
  list = { count = 1000, burst = 80, window = WINDOW },
  -- Mostly at the end of a run, which has not much time.
  bulk_delete = { count = 50, burst = 25, window = WINDOW },
  delete = { count = 500, burst = 40, window = WINDOW },
  exposures = { count = 60, burst = 6, window = WINDOW },
}

-- The same for one sandbox.
endpoints.limits_of_one = {
  get = { count = 300, burst = 150, window = WINDOW },
  auth = { count = 120, burst = 60, window = WINDOW },
  context = { count = 600, burst = 300, window = WINDOW },
  logs = { count = 300, burst = 150, window = WINDOW },
  expose = { count = 20, burst = 10, window = WINDOW },
  unexpose = { count = 20, burst = 10, window = WINDOW },
  ssh = { count = 20, burst = 10, window = WINDOW },
  exposed = { count = 60, burst = 30, window = WINDOW },
  egress = { count = 300, burst = 150, window = WINDOW },
  set_egress = { count = 120, burst = 60, window = WINDOW },
}

local whole = {
  ["POST /sandbox"] = "create",
  ["GET /sandbox"] = "list",
  ["DELETE /sandbox"] = "bulk_delete",
  ["GET /sandbox/expose/all"] = "exposures",
  ["POST /sandbox/status:batchGet"] = "statuses",
  ["POST /sandbox/background-jobs/status:batchGet"] = "job_statuses",
}

local below = {
  ["GET "] = "get",
  ["DELETE "] = "delete",
  ["POST auth"] = "auth",
  ["GET error-context"] = "context",
  ["GET logs"] = "logs",
  ["POST expose"] = "expose",
  ["GET expose"] = "exposed",
  ["DELETE expose"] = "unexpose",
  ["POST ssh-session"] = "ssh",
  ["DELETE ssh-session"] = "ssh",
  ["GET egress-policy"] = "egress",
  ["PUT egress-policy"] = "set_egress",
}

---The class of a request, and the sandbox that it counts for, if that matters.
---@param method string
---@param path string  below `/api/v1`
---@return string class, string|nil id
function endpoints.class_of(method, path)
  path = path:match("^[^?]*")
  local class = whole[method .. " " .. path]
  if class then return class end
  local id, rest = path:match("^/sandbox/([^/]+)/?([^/]*)")
  class = id and below[method .. " " .. rest]
  if class then return class, endpoints.limits_of_one[class] and id or nil end
  return path:match("^/([%w-]*)") or "other"
end

return endpoints
