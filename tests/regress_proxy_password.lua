local http = require("sbx.http")

test("http: the message about a bad proxy does not show its password", function()
  for _, proxy in ipairs {
    "gopher://user:hunter2@127.0.0.1:1/",
    "http://user:hunter2@[bad/",
    "http://user:hunter2@127.0.0.1:99999",
  } do
    local ok, err = pcall(http.get, "http://host.invalid/", { proxy = proxy })
    assert(not ok and err.message:find("proxy", 1, true), err)
    assert(not tostring(err):find("hunter2", 1, true), err.message)
  end
end)
