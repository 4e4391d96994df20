-- Containers or virtual machines: which of the two a sandbox is, and what the API lets
-- each of them have. Both are isolated in the same way here; they differ in how clients
-- speak to them.

local profile = {}

-- What clients send to mean "nothing to start". It is never run.
profile.IDLE_COMMAND = "tail -f /dev/null"

---@alias sbx.server.Profile "container"|"vm"|"both"

---What `serve --profile` takes.
---@type table<string, boolean>
profile.NAMES = { container = true, vm = true, both = true }

---Whether a sandbox is a virtual machine.
---@param mode sbx.server.Profile  what the server offers
---@param wanted boolean|nil       what was asked for
---@return boolean|nil vm
---@return string|nil problem      why there is none of these
function profile.decide(mode, wanted)
  if wanted == true and mode == "container" then
    return nil, "this server runs containers only; start it with --profile vm or"
      .. " --profile both for virtual machines"
  elseif wanted == false and mode == "vm" then
    return nil, "this server runs virtual machines only; start it with --profile both for"
      .. " containers too"
  end
  if wanted == nil then return mode == "vm" end
  return wanted
end

---Checks what the two kinds may have, and drops what a virtual machine ignores.
---`spec.vm` says which it is.
---@param spec sbx.server.Spec  changed
---@param fault fun(param: string, details: string)
function profile.check(spec, fault)
  if not spec.vm then return end
  -- Clients that leave the profile to the server send the default in any case.
  if spec.start_command == profile.IDLE_COMMAND then spec.start_command = nil end
  if type(spec.start_command) == "string" then
    fault("start_command", "of a virtual machine it is an object: an executable and args;"
      .. " a string needs vm = false")
  end
  if spec.registry_credentials_id then
    fault("registry_credentials_id", "only with vm = false")
  end
  if spec.guaranteed then fault("guaranteed", "only with vm = false") end
end

return profile
