-- How containers end: by other hands, before they have begun, and left by earlier runs.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local container = require("sbx.server.driver.docker.container")
local docker = require("sbx.server.driver.docker")
local fs = require("sbx.fs")
local task = require("sbx.task")

local with_box, with_image = support.with_box, support.with_image

-- Waits for the end that the driver tells of: reason and type of error.
local function await_end(box)
  local ended = task.waiter("the end of a sandbox")
  local kind
  box:on_exit(function(_, error_type)
    kind = error_type
    ended:wake(true)
  end)
  task.timeout(60, ended.wait, ended)
  return box.ended, kind
end

test("docker: a container that ends by other hands is told of", function()
  with_image(function(image)
    with_box(image, function(box)
      container.remove(box.engine, box.container)
      local reason = await_end(box)
      assert(reason:find("container", 1, true), reason)
      local ok, failure = pcall(box.agent.exec, box.agent, { command = "true" })
      assert(not ok and failure:is("not_running"))
    end)
    with_box(image, function(box)
      container.signal(box.engine, box.container, "KILL")
      assert(await_end(box):find("container", 1, true))
    end)
  end)
end)

test("docker: a cancelled creation leaves nothing, whenever it is cancelled", function()
  with_image(function(image)
    local driver = docker.open()
    for step = 0, 9 do
      task.move_on(step * 0.02, function()
        task.scope(function()
          driver:create(support.spec(image)):kill()
        end)
      end)
      support.await_none(driver)
    end
  end)
end)

test("docker: what an earlier run left is swept, what is known or another's is not", function()
  with_image(function(image)
    local folder <close> = fs.tmpdir { prefix = "sbx-test-" }
    local earlier = docker.open { folder = folder.path }
    local later = docker.open { folder = folder.path }
    local stranger = docker.open()
    task.scope(function()
      local left, known = earlier:create(support.spec(image)), earlier:create(support.spec(image))
      local mine, other = later:create(support.spec(image)), stranger:create(support.spec(image))
      assert(later:sweep({ [known.id] = true }) == 1)
      assert(await_end(left))
      for _, box in ipairs { known, mine, other } do
        assert(box.agent:exec({ command = "echo alive" }).stdout == "alive\n")
      end
      for _, box in ipairs { left, known, mine, other } do
        box:kill()
      end
    end)
    assert(#support.containers(later) == 0 and #support.containers(stranger) == 0)
  end)
end)
