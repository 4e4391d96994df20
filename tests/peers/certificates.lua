-- Certificates for one test, made by openssl.

local fs = require("sbx.fs")
local process = require("sbx.process")

local certificates = {}

local function openssl(...)
  process.run({ "openssl", ... }, { check = true, timeout = 20 })
end

local EC = { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes" }

local function request(kind, ...)
  openssl("req", kind, EC[1], EC[2], EC[3], EC[4], EC[5], ...)
end

---Makes a certificate authority and a server's certificate.
---@async
---@param folder string  where the files go
---@param names? string  as in "DNS:a.example,IP:127.0.0.1" (default IP:127.0.0.1)
---@return string authority, string certificate, string key  paths
function certificates.make(folder, names)
  local function at(name) return folder .. "/" .. name end
  request("-x509", "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "2",
    "-subj", "/CN=test authority")
  request("-new", "-keyout", at("key.pem"), "-out", at("csr.pem"), "-subj", "/CN=test server")
  fs.write(at("ext"), "subjectAltName=" .. (names or "IP:127.0.0.1") .. "\n")
  openssl("x509", "-req", "-in", at("csr.pem"), "-CA", at("ca.pem"), "-CAkey", at("ca.key"),
    "-CAcreateserial", "-out", at("cert.pem"), "-days", "2", "-extfile", at("ext"))
  return at("ca.pem"), at("cert.pem"), at("key.pem")
end

return certificates
