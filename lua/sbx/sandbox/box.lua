-- A sandbox as scripts hold it: the API's fields in snake_case, and the client's
-- methods without the id. As a `<close>` value it deletes what this run made.

local check = require("sbx.check")
local failure = require("sbx.sandbox.failure")
local json = require("sbx.json")
local log = require("sbx.log")
local profile = require("sbx.sandbox.profile")
local task = require("sbx.task")

---@class sbx.sandbox.Box
---@field id string
---@field name string
---@field status string  PENDING, PROVISIONING, RUNNING, PAUSED, ERROR, TERMINATED, TIMEOUT …
---@field docker_image string
---@field start_command string|table|nil
---@field cpu_cores number
---@field memory_gb number
---@field disk_size_gb number
---@field disk_mount_path string
---@field gpu_count integer
---@field gpu_type string|nil
---@field vm boolean
---@field network_access boolean|nil
---@field network_allowlist string[]|nil
---@field network_denylist string[]|nil
---@field timeout_minutes integer
---@field idle_timeout_minutes integer|nil
---@field labels string[]
---@field environment_vars table<string, string>|nil
---@field secrets table<string, string>|nil  their values not shown
---@field advanced_configs table|nil
---@field created_at string
---@field updated_at string|nil
---@field started_at string|nil
---@field terminated_at string|nil
---@field exit_code integer|nil
---@field error_type string|nil
---@field error_message string|nil
---@field termination_reason string|nil
---@field team_id string|nil
---@field user_id string|nil
---@field kubernetes_job_id string|nil
---@field region string|nil
---@field registry_credentials_id string|nil
---@field pending_image_build_id string|nil  the image that it waits for
---@field keep boolean|nil  true: neither `<close>` nor the end of the run deletes it
local Box = {}

local box = {}

local CLOSE_SECONDS = 30 -- for the delete that a `<close>` does

-- Only these become fields: a peer must not be able to shadow a method.
local field_names = {}
-- Name on the wire → field: in snake_case, and as the API writes it.
local field_of = { memoryGB = "memory_gb", diskSizeGB = "disk_size_gb" }
for name in ([[
  id name docker_image start_command cpu_cores memory_gb disk_size_gb disk_mount_path
  gpu_count gpu_type vm network_access network_allowlist network_denylist status
  timeout_minutes idle_timeout_minutes environment_vars secrets advanced_configs labels
  created_at updated_at started_at terminated_at termination_reason exit_code user_id
  team_id kubernetes_job_id region registry_credentials_id error_type error_message
  pending_image_build_id]]):gmatch("%S+") do
  field_names[name] = true
  field_of[name] = name
  field_of[name:gsub("_(%l)", string.upper)] = name
end

-- Kept apart from the object, so that printing or encoding one shows data only.
local clients = setmetatable({}, { __mode = "k" })

local function plain(value)
  if value == json.null then return nil end
  return value
end

local function fill(self, answer)
  for name in pairs(field_names) do
    self[name] = nil
  end
  for name, value in pairs(answer) do
    local field = field_of[name]
    value = plain(value)
    -- Where both spellings are there, the API's own counts.
    if field and value ~= nil and (name ~= field or self[field] == nil) then self[field] = value end
  end
  if type(self.labels) ~= "table" then self.labels = {} end
  return self
end

---A sandbox made of an answer; raises an `api` error when it cannot be one, or is
---about another one than `call.sandbox_id`.
---@param client sbx.sandbox.Client
---@param call { op: string, sandbox_id?: string }
---@param answer table
---@return sbx.sandbox.Box
function box.from(client, call, answer)
  local id = failure.field(call, answer, "id", "string")
  failure.field(call, answer, "status", "string")
  -- Dot segments would be resolved away, and a request reach another path.
  if id == "" or id == "." or id == ".." or #id > 256 or id:find("%c") then
    error(failure.bad_answer(call, nil, "an impossible sandbox id"), 0)
  end
  if call.sandbox_id and call.sandbox_id ~= id then
    error(failure.bad_answer(call, nil, "it is about another sandbox"), 0)
  end
  local self = setmetatable(fill({}, answer), Box)
  clients[self] = client
  profile.learn(client, id, answer.vm)
  return self
end

---@param value any
---@return boolean
function box.is_box(value)
  return type(value) == "table" and getmetatable(value) == Box
end

Box.__name = "sbx.sandbox.Box"
Box.__index = Box

-- `box.keep = true` is also noted for the case that this process is killed.
function Box:__newindex(key, value)
  if key == "keep" then value = value or nil end -- that it is set later shall show
  rawset(self, key, value)
  if key == "keep" and value then clients[self].owned:mark_kept(self) end
end

function Box:__tostring()
  local text = ("sandbox %s (%s, %s)"):format(self.id, tostring(self.name), self.status)
  return log.clean(text, 300)
end

-- Where an error is in flight, a failing delete must not take its place: it is
-- logged, and the end of the run tries once more.
function Box:__close(err)
  local client = clients[self]
  if self.keep or not client.owned:has(self.id) then return end
  local ok, failed = pcall(task.shield, CLOSE_SECONDS, client.delete, client, self.id)
  if ok or not client.owned:has(self.id) then return end
  if err == nil then error(failed, 0) end
  log.warn("cannot delete a sandbox yet: " .. tostring(failed), { sandbox_id = self.id })
end

---Makes what the API said last about a sandbox the fields of another object for it.
---@param from sbx.sandbox.Box
---@param to sbx.sandbox.Box
---@return sbx.sandbox.Box to
function box.copy(from, to)
  for name in pairs(field_names) do
    to[name] = rawget(from, name)
  end
  return to
end

---Reads the sandbox's state anew into this object, and returns it.
---@async
---@return sbx.sandbox.Box
function Box:refresh()
  return box.copy(clients[self]:get(self.id), self)
end

---Waits until commands can run in it; see `Client:wait_for_creation`.
---@async
---@param options? sbx.sandbox.WaitOptions
---@return sbx.sandbox.Box  this object, its status up to date
function Box:wait(options)
  return clients[self]:wait_for_creation(self, options)
end

---Runs a command; see `Client:execute_command`.
---@async
---@param command string|string[]
---@param options? sbx.sandbox.ExecOptions
---@return sbx.sandbox.Result
function Box:exec(command, options)
  return clients[self]:execute_command(self, command, options)
end

---Starts a command that goes on by itself; see `Client:start_background_job`.
---@async
---@param command string|string[]
---@param options? sbx.sandbox.JobOptions
---@return sbx.sandbox.Job
function Box:start_background_job(command, options)
  return clients[self]:start_background_job(self, command, options)
end

---@async
---@param job string|sbx.sandbox.Job
---@return sbx.sandbox.JobStatus
function Box:get_background_job(job)
  return clients[self]:get_background_job(self, job)
end

---@async
---@param command string|string[]
---@param options? sbx.sandbox.JobOptions
---@return sbx.sandbox.JobStatus
function Box:run_background_job(command, options)
  return clients[self]:run_background_job(self, command, options)
end

---Starts a process in a virtual machine; see `Client:open_process`.
---@async
---@param command string|string[]
---@param options? sbx.sandbox.ProcessOptions
---@return sbx.sandbox.Process
function Box:open_process(command, options)
  return clients[self]:open_process(self, command, options)
end

---@async
---@param which string|integer  tag or pid
---@param options? sbx.sandbox.AttachOptions
---@return sbx.sandbox.Process
function Box:attach_process(which, options)
  return clients[self]:attach_process(self, which, options)
end

---@async
---@return sbx.sandbox.ProcessInfo[]
function Box:list_processes()
  return clients[self]:list_processes(self)
end

---@async
---@return string
function Box:logs()
  return clients[self]:get_logs(self)
end

---@async
---@param remote_path string
---@param local_path string
---@param options? sbx.sandbox.UploadOptions
---@return sbx.sandbox.Upload
function Box:upload_file(remote_path, local_path, options)
  return clients[self]:upload_file(self, remote_path, local_path, options)
end

---@async
---@param remote_path string
---@param bytes string
---@param options? sbx.sandbox.UploadOptions
---@return sbx.sandbox.Upload
function Box:upload_bytes(remote_path, bytes, options)
  return clients[self]:upload_bytes(self, remote_path, bytes, options)
end

---@async
---@param remote_path string
---@param from string|sbx.Reader|(async fun(): string|nil)|{ read: function }
---@param options? sbx.sandbox.UploadOptions
---@return sbx.sandbox.Upload
function Box:upload_stream(remote_path, from, options)
  return clients[self]:upload_stream(self, remote_path, from, options)
end

---@async
---@param remote_path string
---@param local_path string
---@param options? sbx.sandbox.DownloadOptions
---@return integer size  bytes of the file
function Box:download_file(remote_path, local_path, options)
  return clients[self]:download_file(self, remote_path, local_path, options)
end

---@async
---@param remote_path string
---@param options? { max?: integer, timeout?: number }
---@return string
function Box:download_bytes(remote_path, options)
  return clients[self]:download_bytes(self, remote_path, options)
end

---@async
---@param remote_path string
---@param options? { timeout?: number }
---@return sbx.sandbox.Download  a `<close>` value
function Box:download_stream(remote_path, options)
  return clients[self]:download_stream(self, remote_path, options)
end

---@async
---@param local_dir string
---@param remote_dir string
---@param options? sbx.sandbox.TreeUpOptions
---@return sbx.sandbox.Tree
function Box:copy_tree_up(local_dir, remote_dir, options)
  return clients[self]:copy_tree_up(self, local_dir, remote_dir, options)
end

---@async
---@param remote_dir string
---@param local_dir string
---@param options? sbx.sandbox.TreeDownOptions
---@return sbx.sandbox.Tree
function Box:copy_tree_down(remote_dir, local_dir, options)
  return clients[self]:copy_tree_down(self, remote_dir, local_dir, options)
end

---@async
---@param remote_path string
---@param options? { offset?: integer, length?: integer, timeout?: number }
---@return string content, table window
function Box:read_file(remote_path, options)
  return clients[self]:read_file(self, remote_path, options)
end

---@async
---@param port integer
---@param options? sbx.sandbox.ExposeOptions
---@return sbx.sandbox.Exposure  a `<close>` value
function Box:expose(port, options)
  return clients[self]:expose(self, port, options)
end

---@async
---@param exposure string|sbx.sandbox.Exposure
function Box:unexpose(exposure)
  clients[self]:unexpose(self, exposure)
end

---@async
---@return sbx.sandbox.Exposure[]
function Box:list_exposed_ports()
  return clients[self]:list_exposed_ports(self)
end

---@async
---@return sbx.sandbox.ErrorContext
function Box:get_error_context()
  return clients[self]:get_error_context(self)
end

---@async
---@return sbx.sandbox.Network
function Box:get_network()
  return clients[self]:get_network(self)
end

---@async
---@param rules { allow?: string|string[], deny?: string|string[] }
---@param options? sbx.sandbox.NetworkOptions
---@return sbx.sandbox.Network
function Box:set_network(rules, options)
  return clients[self]:set_network(self, rules, options)
end

---@async
---@param options? { ttl_seconds?: integer }
---@return sbx.sandbox.SshSession  a `<close>` value
function Box:open_ssh_session(options)
  return clients[self]:open_ssh_session(self, options)
end

---@async
---@param session string|sbx.sandbox.SshSession
function Box:close_ssh_session(session)
  clients[self]:close_ssh_session(self, session)
end

---Deletes the sandbox. Once more is harmless.
---@async
function Box:delete()
  if self.status == "TERMINATED" then return end
  clients[self]:delete(self)
end

check.methods(Box, "box")

return box
