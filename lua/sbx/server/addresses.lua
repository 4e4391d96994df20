-- Addresses to listen on: which of them only this machine can reach.

local addresses = {}

---Whether only programs on this machine reach what listens on `host`.
---@param host string
---@return boolean
function addresses.is_loopback(host)
  return host == "localhost" or host == "::1" or host:find("^127%.%d+%.%d+%.%d+$") ~= nil
end

---Whether it stands for all addresses of this machine, and so is the name of none.
---@param host string
---@return boolean
function addresses.is_any(host)
  return host == "0.0.0.0" or host == "::"
end

---A host as it stands in a URL.
---@param host string
---@return string
function addresses.in_url(host)
  return host:find(":", 1, true) and "[" .. host .. "]" or host
end

return addresses
