-- Certificates for the tests of TLS, made with openssl. Loaded with dofile.

local fs = require("sbx.fs")
local process = require("sbx.process")

local certificates = {}

local function openssl(...)
  return process.run({ "openssl", ... }, { check = true, timeout = 20 }).stdout
end

local function make_key(path, ...)
  openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
    "-keyout", path .. ".key", ...)
end

---A certificate authority, and a server's certificate for 127.0.0.1 that it has
---signed: ca.pem, cert.pem and key.pem.
---@async
---@param folder string
---@param names? string  subject alternative names (default "IP:127.0.0.1")
---@return string ca, string certificate, string key  their paths
function certificates.make(folder, names)
  make_key(folder .. "/ca", "-x509", "-out", folder .. "/ca.pem", "-days", "2",
    "-subj", "/CN=test authority")
  local certificate, key = certificates.sign(folder, "server", names)
  return folder .. "/ca.pem", certificate, key
end

---Another certificate that the authority in `folder` signs.
---@async
---@param folder string
---@param name string    of its files, and in its subject
---@param names? string  subject alternative names (default "IP:127.0.0.1")
---@return string certificate, string key
function certificates.sign(folder, name, names)
  local path = folder .. "/" .. name
  make_key(path, "-out", path .. ".csr", "-subj", "/CN=test " .. name)
  fs.write(path .. ".ext", "subjectAltName=" .. (names or "IP:127.0.0.1") .. "\n")
  openssl("x509", "-req", "-in", path .. ".csr", "-CA", folder .. "/ca.pem", "-CAkey",
    folder .. "/ca.key", "-CAcreateserial", "-out", path .. ".pem", "-days", "2",
    "-extfile", path .. ".ext")
  return path .. ".pem", path .. ".key"
end

---The hash of a certificate's public key, as the option `pinned_key` wants it.
---@async
---@param certificate string
---@return string
function certificates.pin(certificate)
  local script = 'openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform der'
    .. " | openssl dgst -sha256 -binary | openssl base64"
  local text = process.run({ "sh", "-c", script, "sh", certificate }, { check = true }).stdout
  return "sha256//" .. text:match("%S+")
end

return certificates
