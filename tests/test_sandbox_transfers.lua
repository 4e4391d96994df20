-- Images taken over from other registries: many in one order, of which some may fail.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local json = require("sbx.json")
local task = require("sbx.task")

-- Starts a server that answers orders with `answer`, and builds as `statuses` has them.
local function with_client(answer, statuses, fn)
  local server <close> = api.start({
    build = function(call)
      if type(answer) == "function" then return answer(call) end
      return 200, answer
    end,
    get_build = function(call)
      return 200, { id = call.id, status = statuses[call.id] or "COMPLETED" }
    end,
  })
  local client <close> = server:client({ team_id = "team-1" })
  fn(client, server)
end

test("transfers: many in one order, each with what became of it", function()
  with_client({
    results = {
      { sourceImage = "r.example/a:1", success = true, buildId = "b1", fullImagePath = "p/a:1",
        visibility = "PRIVATE", error = json.null, retryable = false },
      { source_image = "b", build = { build_id = "b2", buildIds = { "b2", "b3" },
        fullImagePath = "p/b:1" } },
      { sourceImage = "c", success = false, error = "no\27[31m such image", retryable = true },
    },
    failed = {
      { sourceImage = "c", error = "no such image" }, { sourceImage = "d", error = "quota" },
    },
  }, { b3 = "FAILED" }, function(client, server)
    local seen = {}
    local rows = client:transfer_images({ "r.example/a:1", "b", "c", "d", "e" }, {
      visibility = "PRIVATE", platform = "linux/arm64",
      on_progress = function(status, row) seen[row.build_id] = status end,
    })
    local sent = server.calls[1].body
    assert(sent.source_image == "r.example/a:1,b,c,d,e" and sent.team_id == "team-1")
    assert(sent.visibility == "PRIVATE" and sent.platform == "linux/arm64")
    assert(sent.image_name == nil and sent.dockerfile_path == nil)

    assert(#rows == 5 and server:count("build") == 1)
    assert(rows[1].success and rows[1].status == "COMPLETED" and rows[1].build_id == "b1")
    assert(rows[1].full_image_path == "p/a:1" and rows[1].visibility == "PRIVATE")
    assert(not rows[2].success and rows[2].error:find("b3: the build has ended as FAILED", 1, true))
    assert(rows[2].source_image == "b" and rows[2].full_image_path == "p/b:1")
    assert(not rows[3].success and rows[3].retryable and not rows[3].error:find("\27", 1, true))
    assert(rows[4].source_image == "d" and rows[4].error == "quota" and not rows[4].success)
    assert(rows[5].source_image == "e" and rows[5].error:find("nothing about it", 1, true))
    assert(seen.b1 == "COMPLETED" and seen.b2 == "COMPLETED")
  end)
end)

test("transfers: one source, whichever way the server answers", function()
  local answer
  with_client(function() return 200, answer end, {}, function(client, server)
    answer = { build_id = "b1", fullImagePath = "p/a:1" }
    local rows = client:transfer_images({ "a" }, { wait = false })
    assert(#rows == 1 and rows[1].source_image == "a" and rows[1].status == "PENDING")
    assert(rows[1].success and rows[1].full_image_path == "p/a:1")
    assert(server:count("get_build") == 0)

    answer = { results = { { sourceImage = "docker.example/a:latest", buildId = "b7" } } }
    rows = client:transfer_images({ "a" })
    assert(#rows == 1 and rows[1].success and rows[1].build_id == "b7")
    assert(client:build_image({ name = "x", source_image = "a" }).build_id == "b7")

    answer = { results = json.array({}), failed = { { sourceImage = "a", buildId = "b8" } } }
    assert(not client:transfer_images({ "a" })[1].success)
    answer = { results = json.array({}), failed = { { sourceImage = "a", error = "denied" } } }
    assert(client:transfer_images({ "a" })[1].error == "denied")
    local given = { name = "x", source_image = "a" }
    local err = expect.code("FAILED", client.build_image, client, given)
    assert(err.kind == "image_build" and err.message:find("denied", 1, true), err.message)
  end)
end)

test("transfers: out of time is told per image; a cancelled task leaves the builds", function()
  with_client({
    results = { { sourceImage = "a", buildId = "b1" }, { sourceImage = "b", buildId = "b2" } },
  }, { b2 = "BUILDING" }, function(client)
    local rows = client:transfer_images({ "a", "b" }, { timeout = 3 })
    assert(rows[1].success and rows[1].status == "COMPLETED")
    assert(not rows[2].success and rows[2].status == "BUILDING" and rows[2].build_id == "b2")
    assert(rows[2].error:find("wait_for_build", 1, true), rows[2].error)
    assert(not task.move_on(0.2, client.transfer_images, client, { "a", "b" }))
  end)
end)

test("transfers: an order is sent once; its answers are read with suspicion", function()
  local status, answer = 502, "bad gateway"
  with_client(function() return status, answer end, {}, function(client, server)
    local err = expect.failure(client.transfer_images, client, { "a", "b" })
    assert(err.outcome == "unknown" and server:count("build") == 1)
    status = 200
    for text, given in pairs({
      ["'results' is missing"] = { build_id = "b1" },
      ["'results[1].sourceImage' is missing"] = { results = { { success = true } } },
      ["'results[1].success' is not a boolean"] = {
        results = { { sourceImage = "a", success = "yes" } },
      },
      ["'results[1].buildId' is an impossible id"] = {
        results = { { sourceImage = "a", buildId = ".." } },
      },
      ["'results[1].build.build_id' is missing"] = {
        results = { { sourceImage = "a", build = {} } },
      },
      ["'failed[1]' is not an object"] = { results = json.array({}), failed = { "a" } },
    }) do
      answer = given
      err = expect.code("BAD_ANSWER", client.transfer_images, client, { "a", "b" })
      assert(err.message:find(text, 1, true), err.message)
    end
    answer = { results = { { sourceImage = "a", success = true } } }
    local rows = client:transfer_images({ "a" })
    assert(not rows[1].success and rows[1].error, "a success without a build is none")
    answer = { results = {
      { sourceImage = "a", buildId = "b" }, { sourceImage = "b", buildId = "c" },
    } }
    err = expect.code("BAD_ANSWER", client.build_image, client, { name = "x", source_image = "a" })
    assert(err.message:find("not about one image", 1, true))
  end)
end)

test("transfers: misuse names the argument, and nothing is sent", function()
  with_client({}, {}, function(client, server)
    local function misuse(text, ...)
      expect.misuse(text, client.transfer_images, client, ...)
    end
    misuse("sources", nil)
    misuse("sources", {})
    misuse("sources[2]", { "a", "" })
    misuse("sources[1]", { "a b" })
    misuse("sources[1]: names several", { "a,b" })
    misuse("unknown option 'tag'", { "a" }, { tag = "v1" })
    misuse("visibility", { "a" }, { visibility = "all" })
    misuse("timeout", { "a" }, { timeout = -1 })
    expect.misuse("transfer_images", client.build_image, client, {
      name = "x", source_image = "a,b",
    })
    client.config.is_local = true
    local err = expect.failure(client.transfer_images, client, { "a" })
    assert(err.kind == "unsupported" and #server.calls == 0)
  end)
end)
