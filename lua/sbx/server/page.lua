-- The web page: fixed files, the same for everybody, and without anything secret. What
-- it shows it fetches with the key that it asks for.

local host = require("sbx.core.host")
local reply = require("sbx.server.reply")

local page = {}

local FOLDER = "sbx/server/page/"

local TYPES = {
  html = "text/html; charset=utf-8",
  css = "text/css; charset=utf-8",
  js = "text/javascript; charset=utf-8",
  svg = "image/svg+xml",
}

-- What there is under /page/.
local FILES = {
  ["page.css"] = true, ["icon.svg"] = true, ["app.js"] = true, ["api.js"] = true,
  ["fleet.js"] = true, ["list.js"] = true, ["chart.js"] = true, ["detail.js"] = true,
  ["dom.js"] = true,
}

-- Nothing from elsewhere, nothing inline, no frame around it; text never becomes markup.
local POLICY = table.concat({
  "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
  "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
  "require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

local function send(request, name)
  local bytes = host.file(FOLDER .. name)
  if not bytes then reply.refuse(404, "Not Found") end
  request:respond(200, {
    ["Content-Type"] = TYPES[name:match("%.(%w+)$")],
    ["Content-Security-Policy"] = POLICY,
    ["Cache-Control"] = "no-store",
    ["X-Content-Type-Options"] = "nosniff",
    ["X-Frame-Options"] = "DENY",
    ["Referrer-Policy"] = "no-referrer",
    ["Cross-Origin-Opener-Policy"] = "same-origin",
    ["Cross-Origin-Resource-Policy"] = "same-origin",
    ["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()",
  }, bytes)
end

---The handler of `GET /`.
function page.index(_, request)
  send(request, "index.html")
end

---The handler of `GET /page/{file}`.
function page.file(_, request, params)
  if not FILES[params.file] then reply.refuse(404, "Not Found") end
  send(request, params.file)
end

return page
