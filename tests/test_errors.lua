local errors = require("sbx.errors")
local task = require("sbx.task")

test("errors: an object shows its message on one line", function()
  local err = errors.new({ kind = "io", message = "open x:\n  no\r\nsuch file" })
  assert(tostring(err) == "open x: no such file")
  assert(errors.is_error(err) and not errors.is_error({ kind = "io" }))
  assert(not errors.is_error("io") and not errors.is_error(nil))
end)

test("errors: is walks the causes and knows the families of kinds", function()
  local root = errors.new({ kind = "connect", message = "refused" })
  local err = errors.new({ kind = "api", message = "no", cause = root })
  assert(err:is("api") and err:is("connect") and not err:is("timeout"))
  local families = {
    oom = "not_running", sandbox_timeout = "not_running", image_pull = "not_running",
    command_timeout = "timeout", upload_timeout = "timeout", download_timeout = "timeout",
    unauthorized = "api", payment_required = "api", file_not_found = "api", api_timeout = "api",
    file_too_large = "api",
  }
  for kind, family in pairs(families) do
    assert(errors.new({ kind = kind, message = "" }):is(family), kind)
  end
  assert(not errors.new({ kind = "not_running", message = "" }):is("api"))
  assert(not errors.new({ kind = "command_timeout", message = "" }):is("api"))
end)

test("errors: a ring of causes does not hang", function()
  local err = errors.new({ kind = "a", message = "" })
  err.cause = err
  assert(not err:is("b"))
end)

test("errors: raise keeps the object", function()
  local ok, err = pcall(errors.raise, { kind = "io", message = "x", code = "ENOENT" })
  assert(not ok and errors.is_error(err) and err.code == "ENOENT")
end)

test("errors: try gives results, or nil and the failure", function()
  local a, b = errors.try(function(...) return ... end, 1, 2)
  assert(a == 1 and b == 2)
  local value, err = errors.try(errors.raise, { kind = "io", message = "x" })
  assert(value == nil and err.kind == "io")
  value, err = errors.try(error, "plain", 0)
  assert(value == nil and err == "plain")
end)

test("errors: try lets a cancellation through", function()
  local after = false
  local done = task.move_on(0.05, function()
    errors.try(task.sleep, 1000)
    after = true
  end)
  assert(not done and not after)
end)
