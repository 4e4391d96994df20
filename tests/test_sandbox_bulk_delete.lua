-- client:bulk_delete: each id is in one of the two lists, whatever the API says.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local api = dofile(here .. "peers/api.lua")
local expect = dofile(here .. "expect.lua")
local faults = dofile(here .. "peers/faults.lua")
local json = require("sbx.json")
local test = require("sbx.test")

local WANTED = { name = "a", docker_image = "x" }

test("bulk_delete: an answer is believed about those it was asked about, once each", function()
  local answer
  local server <close> = api.start({ bulk_delete = function() return 200, answer end })
  local client <close> = server:client()
  local kept = client:create(WANTED)
  answer = {
    succeeded = json.array({ "a", kept.id, 7, "a", json.array({}) }),
    failed = json.array({
      { sandbox_id = "b", error = "busy\27[2J" }, { sandbox_id = "a", error = "x" }, "d",
      { sandbox_id = "c", error = json.array({}) }, { error = "x" }, { sandbox_id = kept.id },
    }),
    message = 7,
  }
  local result = client:bulk_delete({ "a", "b", "c", "d", "a" })
  test.equal(server.calls[2].body.sandbox_ids, { "a", "b", "c", "d" })
  test.equal(result.succeeded, { "a" })
  test.equal(result.failed, {
    { sandbox_id = "b", error = "busy\\x1b[2J" },
    { sandbox_id = "c", error = "no reason given" },
    { sandbox_id = "d", error = "the server said nothing about it" },
  })
  assert(kept.status ~= "TERMINATED") -- and the run still deletes it
  for _, bad in ipairs({ {}, { succeeded = "a" } }) do
    answer = bad
    expect.code("BAD_ANSWER", client.bulk_delete, client, { "a" })
  end
  server.handlers = {}
end)

test("bulk_delete: after a lost answer, what is not found was deleted", function()
  local gone = { failed = json.array({
    { sandbox_id = "a", error = "Sandbox not found" }, { sandbox_id = "b", error = "busy" },
  }), succeeded = json.array({}), message = "" }
  for _, lost in ipairs({ { cut = "close" }, { cut = "body" }, { status = 502 }, false }) do
    local server <close> = faults.start({
      bulk_delete = function(n) return n == 1 and lost or { status = 200, body = gone } end,
    })
    local client <close> = server:client()
    local result = client:bulk_delete({ "a", "b" })
    test.equal(#result.succeeded, lost and 1 or 0)
    test.equal(#result.failed, lost and 1 or 2)
  end
end)

test("bulk_delete: a request that fails says what went before", function()
  local server <close> = api.start({
    bulk_delete = function(call)
      if call.n == 2 then return 403, { detail = "no" } end
      return 200, { succeeded = call.body.sandbox_ids, failed = json.array({}) }
    end,
  })
  local client <close> = server:client()
  local ids = {}
  for i = 1, 250 do
    ids[i] = "sbx-" .. i
  end
  local err = expect.failure(client.bulk_delete, client, ids)
  assert(err.status == 403 and #err.succeeded == 100 and #err.failed == 0)
end)

test("bulk_delete: misuse", function()
  local server <close> = api.start()
  local client <close> = server:client()
  expect.misuse("labels: is empty", client.bulk_delete, client, { labels = {} })
  expect.misuse("labels[1]", client.bulk_delete, client, { labels = { 7 } })
  expect.misuse("labels[2]: is empty", client.bulk_delete, client, { labels = { "a", "" } })
  expect.misuse("labels[1]: is empty", client.list, client, { labels = { "" } })
  expect.misuse("labels[1]: is empty", client.each, client, { labels = { "" } })
  expect.misuse("all_users", client.bulk_delete, client, { labels = { "a" }, all_users = 1 })
  expect.misuse("team_id", client.bulk_delete, client, { labels = { "a" }, team_id = 1 })
  expect.misuse("sandbox", client.bulk_delete, client, { "a", 7 })
  expect.misuse("it has 'label'", client.bulk_delete, client, { label = { "a" } })
  expect.misuse("labels", client.bulk_delete, client, { labels = { "a", team = "b" } })
  test.equal(client:bulk_delete({}).succeeded, {})
  assert(#server.calls == 0)
end)
