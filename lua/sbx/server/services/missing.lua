-- What the hosted service has come to offer and this server does not: told as that, and
-- not as a path that nobody knows.

local reply = require("sbx.server.reply")

local missing = {}

local function route(method, pattern, what)
  return { method, pattern, function()
    reply.refuse(501, "this server has no " .. what, { error = "unsupported" })
  end }
end

---Method, pattern, handler.
missing.control = {}

local function add(what, patterns)
  for _, pattern in ipairs(patterns) do
    for _, method in ipairs { "GET", "POST", "PUT", "DELETE" } do
      table.insert(missing.control, route(method, pattern, what))
    end
  end
end

add("private networks between sandboxes", {
  "/sandbox/networks", "/sandbox/networks/{network}", "/sandbox/networks/{network}/rules",
  "/sandbox/networks/{network}/members/{member}",
})
add("checkpoints of sandboxes: download what is to be kept", {
  "/sandbox/checkpoints/{checkpoint}", "/sandbox/{id}/checkpoints",
})
add("volumes: upload the files that a sandbox needs", {
  "/sandbox/volumes", "/sandbox/volumes/{volume}",
})

return missing
