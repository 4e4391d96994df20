-- Tests: what a file of tests calls. `sbxlua test` runs it.

local assertions = require("sbx.test.assertions")
local clocks = require("sbx.test.clock")
local registry = require("sbx.test.registry")
local skipping = require("sbx.test.skip")

---@class sbx.test
---@overload fun(name: string, fn: async fun())
---@overload fun(name: string, options: sbx.test.Options, fn: async fun())
local test = {
  equal = assertions.equal,
  near = assertions.near,
  contains = assertions.contains,
  raises = assertions.raises,
}

setmetatable(test, {
  __call = function(_, name, options, fn)
    if type(options) == "function" and fn == nil then
      options, fn = nil, options
    end
    registry.add(name, options, fn)
  end,
})

---Ends the test that runs, as one that was not run: something it needs is not
---there.
---@param reason string
function test.skip(reason)
  skipping.raise(reason)
end

---A test that has still to be written. It counts as skipped.
---@param name string
function test.todo(name)
  registry.add_todo(name)
end

---Runs `fn`: the tests in it have `name` ahead of their own, and hooks of their
---own.
---@async
---@param name string
---@param fn async fun()
function test.group(name, fn)
  registry.add_group(name, fn)
end

---Runs `fn` ahead of each test of this file or group, the outer ones first.
---@param fn async fun()
function test.before(fn)
  registry.add_hook("before", fn)
end

---Runs `fn` after each test of this file or group, however the test ended; called
---inside a test, after that one. The last one first.
---@param fn async fun()
function test.after(fn)
  registry.add_hook("after", fn)
end

---Makes the clock of the test that runs virtual, if it is not yet.
---@return sbx.test.Clock
function test.clock()
  return clocks.of(registry.running)
end

return test
