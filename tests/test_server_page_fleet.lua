-- The web page in a real headless browser: many sandboxes, and a server that is replaced.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local browser = dofile(here .. "browser_support.lua")
local kept_driver = dofile(here .. "peers/kept_driver.lua")

local fs = require("sbx.fs")
local hash = require("sbx.hash")
local sandbox = require("sbx.server.sandbox")
local server = require("sbx.server")
local task = require("sbx.task")

local await_text, row = browser.await_text, browser.row

-- So many sandboxes, half of them labelled "even"; past the listener, which is not what
-- is tested here.
local function make_many(api, count)
  local fleet = api.server.fleet
  local model = fleet.store:get(api:create({ name = "box 1", labels = { "odd" } }).id).spec
  for number = 2, count do
    local spec = {}
    for name, value in pairs(model) do
      spec[name] = value
    end
    spec.name, spec.labels = "box " .. number, { number % 2 == 0 and "even" or "odd" }
    if number == 1999 then spec.name = "The Needle" end
    fleet:create(spec)
  end
end

test("page: 2,000 sandboxes, by keyboard, search and label", { timeout = 180 }, function()
  local page <close> = browser.start()
  local home <close> = fs.tmpdir()
  support.with_server(function(api)
    page:size(1280, 860)
    make_many(api, 2000)
    browser.log_in(page, api)
    await_text(page, "#count", "2000 sandboxes")
    assert(page:eval("document.querySelectorAll('.rows .row').length") < 60)
    assert(page:eval("document.querySelector('#list').getAttribute('aria-rowcount')") == "2001")
    local last = "document.activeElement.getAttribute('aria-rowindex') === '2001'"
    page:eval("document.querySelector('.rows .row[tabindex=\"0\"]').focus()")
    page:press("ArrowDown")
    assert(page:eval("document.activeElement.getAttribute('aria-rowindex')") == "3")
    page:press("End")
    page:await(last)
    assert(page:eval("document.querySelectorAll('.rows .row').length") < 60)
    page:press("Enter")
    page:await("!document.querySelector('#detail').hidden")
    page:press("Escape")
    page:await(last)

    page:eval("document.querySelector('#search').focus()")
    page:type("needle THE")
    await_text(page, "#count", "1 of 2000")
    page:await("document.querySelectorAll('.rows .row').length === 1")
    page:click(".rows [data-label]")
    page:await("!document.querySelector('#label-filter').hidden")
    page:eval("document.querySelector('#search').select()")
    page:press("Backspace")
    await_text(page, "#count", "1000 of 2000")
    page:await("document.querySelector('#chart').ariaLabel.includes(' 1000 sandboxes')")
    browser.check_clean(page, api)
  end, { driver = kept_driver.open { folder = home.path } })
end)

local HIDE = [[Object.defineProperty(document, "hidden", { value: %s, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));]]

test("page: goes on with the next server, and on a phone in the dark", { timeout = 180 }, function()
  local page <close> = browser.start()
  local home <close> = fs.tmpdir()
  local key = hash.random_hex(16)
  local function start(port)
    return server.start {
      driver = kept_driver.open { folder = home.path }, api_key = key, port = port,
      notice = function() end,
    }
  end
  page:size(390, 780, true)
  local first <close> = start()
  local old = support.api(first):running({ name = "old" })
  browser.log_in(page, support.api(first))
  page:await("document.querySelector(\"" .. row(old.id) .. "\")")
  assert(page:eval("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen")
  assert(page:eval("getComputedStyle(document.body).backgroundColor") ~= "rgb(244, 246, 249)")
  first:stop()
  await_text(page, "#connection", "reconnecting")
  local second <close> = start(first.port)
  local fresh = support.api(second):running({ name = "fresh" })
  page:await("document.querySelector(\"" .. row(fresh.id) .. "\")")
  await_text(page, "#connection", "live")
  assert(not page:eval("Boolean(document.querySelector(\"" .. row(old.id) .. "\"))"))

  -- Out of sight it asks for nothing, and goes on later.
  page:eval(HIDE:format("true"))
  task.timeout(60, function() -- what had begun before still comes to its end
    while not page:is_quiet(0.3) do task.sleep(0.02) end
  end)
  local asked = #page.requests
  local meanwhile = support.api(second):running({ name = "meanwhile" })
  assert(page:is_quiet(0.3), page.requests[asked + 1])
  page:eval(HIDE:format("false"))
  page:await("document.querySelector(\"" .. row(meanwhile.id) .. "\")")

  -- More has happened than the server remembers: what there is now is asked for anew.
  local unseen = sandbox.new(second.fleet.store:get(fresh.id).spec)
  second.fleet.store:add(unseen)
  for _ = 1, 2100 do
    second.fleet.events:note("filler")
  end
  page:await("document.querySelector(\"" .. row(unseen.id) .. "\")")

  second.keys = require("sbx.server.keys").new("another key")
  second.fleet.events:note("filler") -- ends the request that waits
  await_text(page, "#key-error", "refused")
end)
