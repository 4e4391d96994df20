-- The check of the docker driver among images that vanish or cannot be started.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "docker_support.lua")

local docker = require("sbx.server.driver.docker")
local errors = require("sbx.errors")

local with_image = support.with_image

-- An image in which there is a file where the agent's folder is to be.
local function broken(text)
  return support.one_file(".sbxlua", text)
end

-- Runs fn(driver), whose engine seems to have just the images of these names, in this
-- order of size; `listed()` is called when it has said so.
local function with_driver(names, fn, listed)
  local driver = docker.open { argument = support.path }
  local engine, get = driver.engine, driver.engine.get
  function engine.get(self, path, ...)
    if path ~= "/images/json" then return get(self, path, ...) end
    local list = {}
    for index, name in ipairs(names) do
      local found = get(self, "/images/" .. name .. "/json", "look")
      list[index] = { Id = found.Id, RepoTags = found.RepoTags, Size = index }
    end
    if listed then listed(engine) end
    return list
  end
  local _ <close> = setmetatable({}, {
    __close = function()
      driver:close()
    end,
  })
  fn(driver)
  assert(#support.containers(driver) == 0)
end

-- Runs fn(names) with `count` images that cannot be started.
local function with_broken(count, fn, names)
  names = names or {}
  if #names == count then return fn(names) end
  with_image(function(name)
    names[#names + 1] = name
    with_broken(count, fn, names)
  end, { root = broken(tostring(#names)) })
end

local function remove(engine, name)
  engine:call("DELETE", "/images/" .. name, { what = "remove an image", query = { force = 1 } })
end

local function passes(driver)
  local report = driver:check()
  assert(report.ok, table.concat(report.problems, "\n"))
end

test("docker check: an image that cannot be started is left for the next one", function()
  with_image(function(bad)
    with_image(function(good)
      with_driver({ bad, good }, function(driver)
        local ok, failure = pcall(driver.create, driver, support.spec(bad))
        assert(not ok and errors.is_error(failure), "it was to fail")
        passes(driver)
      end)
    end)
  end, { root = broken("") })
end)

test("docker check: images that vanish meanwhile are no problem", function()
  with_image(function(first)
    with_image(function(second)
      with_image(function(third)
        with_driver({ first, second, third }, passes, function(engine)
          remove(engine, first)
          remove(engine, second)
        end)
      end)
    end, { root = support.one_file("second", "") })
  end, { root = support.one_file("first", "") })
  with_image(function(only)
    with_driver({ only }, passes, function(engine)
      remove(engine, only)
    end)
  end, { root = support.one_file("only", "") })
end)

test("docker check: an image without programs, or of another machine, is fine", function()
  with_image(function(bare)
    with_driver({ bare }, passes)
  end, { bare = true })
  with_image(function(foreign)
    with_driver({ foreign }, function(driver)
      local image = driver.engine:get("/images/" .. foreign .. "/json", "look")
      assert(image.Architecture == "s390x", image.Architecture)
      passes(driver)
    end)
  end, { root = support.one_file("foreign", ""), architecture = "s390x" })
end)

test("docker check: an engine that starts none of several is refused, with the cause",
  { timeout = 400 }, function()
    with_broken(5, function(names)
      with_driver(names, function(driver)
        local report = driver:check()
        local text = report.problems[1]
        assert(not report.ok and #report.problems == 1)
        assert(text:find("none of the engine's 4 smallest images", 1, true), text)
        assert(text:find(names[4], 1, true) and text:find("the engine says", 1, true), text)
      end)
      with_driver({ names[1] }, function(driver)
        local text = driver:check().problems[1]
        assert(text:find(names[1], 1, true) == 1 and text:find("the engine says", 1, true), text)
      end)
    end)
  end)

test("docker check: an id is not asked for at any registry", function()
  support.socket()
  with_driver({}, function(driver)
    local ok, failure = pcall(driver.create, driver, support.spec("sha256:" .. ("0"):rep(64)))
    assert(not ok and failure.kind == "image_pull", tostring(failure))
    assert(failure.message:find("does not have this image", 1, true), failure.message)
  end)
end)
