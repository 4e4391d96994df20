-- The web page in a real headless browser, against a server with real sandboxes.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
local support = dofile(here .. "server_support.lua")
local browser = dofile(here .. "browser_support.lua")
local kept_driver = dofile(here .. "peers/kept_driver.lua")

local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local task = require("sbx.task")

local await_text, row, text_of = browser.await_text, browser.row, browser.text_of

local function with_fake_server(fn, options)
  local home <close> = fs.tmpdir()
  local opts = { driver = kept_driver.open { folder = home.path } }
  for name, value in pairs(options or {}) do
    opts[name] = value
  end
  return support.with_server(function(api)
    return fn(api, opts.driver)
  end, opts)
end

test("page: its files need no key, and hold nothing from elsewhere and nothing inline", function()
  with_fake_server(function(api)
    local url = api.server.url
    local pages = { http.get(url .. "/") }
    local html = pages[1].body
    for path in html:gmatch('[ ][hs]re?[fc]="(/[^"]+)"') do
      pages[#pages + 1] = http.get(url .. path)
    end
    assert(#pages == 5, #pages)
    for _, module in ipairs({ "api", "fleet", "list", "chart", "detail", "dom" }) do
      pages[#pages + 1] = http.get(url .. "/page/" .. module .. ".js")
    end
    for _, res in ipairs(pages) do
      assert(res.status == 200, res.status)
      local policy = res.headers["content-security-policy"]
      assert(policy:find("default-src 'none'", 1, true))
      assert(policy:find("frame-ancestors 'none'", 1, true))
      assert(not policy:find("unsafe", 1, true))
      assert(res.headers["cache-control"] == "no-store")
      assert(res.headers["x-content-type-options"] == "nosniff")
      assert(not res.body:gsub("http://www.w3.org/2000/svg", ""):find("https?://"), "another host")
      for _, word in ipairs({ "innerHTML", "outerHTML", "insertAdjacent", "eval(", ".write(" }) do
        assert(not res.body:find(word, 1, true), word)
      end
    end
    assert(not html:find("<style", 1, true) and not html:find(" style=", 1, true))
    assert(not html:find(" on%w+=") and select(2, html:gsub("<script", "")) == 1)
    assert(http.get(url .. "/page/page.lua").status == 404)
    assert(http.get(url .. "/page/..%2finit.lua").status == 404)
    assert(http.post(url .. "/", { body = "" }).status == 405)
    assert(http.get(url .. "/", { headers = { Host = "evil.example" } }).status == 403)
  end)
end)

test("events: what happened after a number, at once or when it happens", function()
  with_fake_server(function(api)
    local function events(query)
      local status, body = api:call("GET", "/events" .. (query or ""))
      assert(status == 200, json.encode(body))
      return body
    end
    local begin = events()
    assert(#begin.events == 0 and #begin.sandboxes == 0 and not begin.lost)
    local waiting = task.spawn(events, "?wait=20&after=" .. begin.after)
    task.sleep(0.05)
    local made = api:create({ name = "first" })
    local answer = waiting:join()
    assert(answer.run == begin.run and answer.events[1].kind == "created")
    assert(answer.events[1].sandbox_id == made.id and answer.events[1].number == begin.after + 1)
    assert(answer.sandboxes[1].name == "first" and #answer.sandboxes == 1)
    api:await(made.id, "RUNNING")
    local kinds = {}
    for index, event in ipairs(events("?after=" .. begin.after).events) do
      kinds[index] = event.kind
    end
    assert(table.concat(kinds, " ") == "created booting running", table.concat(kinds, " "))
    local times = events("?after=" .. begin.after).sandboxes[1].times
    assert(times.created <= times.provisioned and times.provisioned <= times.started)

    assert(events("?after=999999").lost)
    api.server.fleet.events.first = begin.after + 2 -- as if there had been many
    assert(events("?after=" .. begin.after).lost and not events("?after=" .. begin.after + 1).lost)
    assert(api:call("GET", "/events?after=x") == 422)
    assert(api:call("GET", "/events?after=1&wait=31") == 422)
    assert(http.get(api.server.url .. "/api/v1/events").status == 401)
  end)
end)

test("events: those who wait do not hold up the end of the server", function()
  local status
  with_fake_server(function(api)
    local after = select(2, api:call("GET", "/events")).after
    local waiting = task.pspawn(function()
      status = api:call("GET", "/events?wait=30&after=" .. after)
    end)
    task.sleep(0.05)
    -- Sooner than those who wait would be answered by themselves, and than the server's
    -- patience with requests under way is over.
    task.timeout(20, api.server.stop, api.server)
    waiting:pjoin()
  end, { drain = 60 })
  assert(status == 200, status)
end)

test("activity: lines of the log and commands, as they come", function()
  with_fake_server(function(api, driver)
    driver.commands.bad = { exit_code = 7 }
    local made, gateway = api:running({})
    local path = "/sandbox/" .. made.id .. "/activity"
    local _, first = api:call("GET", path)
    assert(first.log:find("sandbox is running", 1, true) and #first.execs == 0)
    local function later(answer)
      local query = ("?wait=20&log=%d&execs=%d"):format(answer.log_after, answer.execs_after)
      return select(2, api:call("GET", path .. query))
    end
    local waiting = task.spawn(later, first)
    task.sleep(0.05)
    api.server.fleet.store:get(made.id).logs:add("a new line")
    local second = waiting:join()
    assert(second.log:match("^%S+ a new line\n$"), second.log)
    gateway:exec("bad")
    local third = later(second)
    assert(third.log == "" and #third.execs == 1)
    local one = third.execs[1]
    assert(one.command == "bad" and one.exit_code == 7 and one.result == "failure")
    assert(one.seconds >= 0)
    local _, other = api:running({})
    other:exec("elsewhere")
    local _, none = api:call("GET", path .. "?execs=" .. third.execs_after)
    assert(#none.execs == 0)
    local logs = api.server.fleet.store:get(made.id).logs
    for _ = 1, 300 do
      logs:add(("x"):rep(1500))
    end
    local last = later(third)
    assert(last.log_lost and #last.log <= 262144 and #last.log > 250000)
    assert(api:call("GET", "/sandbox/sbx-none/activity") == 404)
  end)
end)

-- Names, labels, logs, commands and names of ports that would be markup.
local function hostile(text)
  return text .. "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp;"
end

test("page: a key, a sandbox's life, what it says and does, and hostile names as text",
  { timeout = 180 }, function()
  local page <close> = browser.start()
  support.with_server(function(api)
    page:size(1280, 860)
    page:open(api.server.url .. "/")
    page:await("document.querySelector('#key-dialog').open")
    assert(page:eval("document.activeElement.id") == "key")
    page:type("wrong")
    page:press("Enter")
    await_text(page, "#key-error", "does not know this key")
    assert(page:eval("sessionStorage.length === 0 && document.querySelector('#main').hidden"))
    assert(#page.complaints == 1 and page.complaints[1]:find("401", 1, true), page.complaints[1])
    page.complaints = {}
    page:type(api.server.api_key) -- over the wrong one, which is selected
    page:press("Enter")
    await_text(page, "#connection", "live")
    await_text(page, "#empty", "No sandboxes yet")
    assert(page:eval("location.pathname + location.search + location.hash") == "/")
    assert(page:eval("document.cookie === '' && localStorage.length === 0"))

    -- Created by somebody else, and there without a reload.
    local name, label = hostile("box"), hostile("label")
    local made, gateway = api:running({
      name = name, labels = { label, "plain" },
      start_command = ("for i in 1 2 3; do echo '%s' $i; sleep 0.2; done; sleep 60"):format(
        hostile("said "):gsub("'", "")),
    })
    await_text(page, row(made.id) .. " .state", "running")
    assert(text_of(page, row(made.id) .. " .title") == name)
    assert(text_of(page, row(made.id) .. " [data-label]") == label)
    page:click(row(made.id) .. " .title")
    await_text(page, "#detail-name", "box<img")
    await_text(page, "#detail .log", "said <img src=x onerror=alert(1)><script>")
    await_text(page, "#detail .log", "3") -- written while we look

    local status = gateway:exec("echo '<b>bold</b>'; exit 3")
    assert(status == 200)
    await_text(page, "#detail .execs tbody", "<b>bold</b>")
    await_text(page, "#detail .execs tbody td:nth-child(4)", "3")
    assert(text_of(page, "#detail .execs tbody td:nth-child(3)"):find("^[<%d.]+ m?s$"))

    local _, port = api:call("POST", "/sandbox/" .. made.id .. "/expose", {
      port = 8080, name = "<i>web</i>",
    })
    await_text(page, "#detail .port-list a", "8080 (<i>web</i>)")
    assert(page:eval("document.querySelector('#detail .port-list a').href") == port.url)
    assert(page:eval("document.querySelector('#detail .port-list a').rel") == "noopener noreferrer")
    api:call("DELETE", "/sandbox/" .. made.id .. "/expose/" .. port.exposure_id)
    page:await("!document.querySelector('#detail .port-list a')")

    browser.check_names(page)
    -- No markup came of any of it.
    assert(page:eval("document.querySelectorAll('main img, main script, main b b, main i').length")
      == 0)

    -- Only those alive: what somebody else deletes disappears.
    page:press("Escape")
    page:await("document.querySelector('#detail').hidden")
    page:await("document.activeElement.matches(" .. json.encode(row(made.id)) .. ")")
    -- A row that changes keeps the keyboard.
    page:eval("document.activeElement.seen = true")
    api:call("POST", "/sandbox/" .. made.id .. "/expose", { port = 8081 })
    page:await("!document.querySelector(" .. json.encode(row(made.id)) .. ").seen")
    assert(page:eval("document.activeElement.matches(" .. json.encode(row(made.id)) .. ")"))
    page:click(".total.living")
    local other = api:running({ name = "other" })
    page:await("document.querySelectorAll('.rows .row').length === 2")
    api:call("DELETE", "/sandbox/" .. made.id)
    page:await("!document.querySelector(\"" .. row(made.id) .. "\")")

    -- And the page deletes, once it is sure.
    page:click(row(other.id) .. " .title")
    page:click("#detail .danger")
    page:await("document.querySelector('#delete-dialog').open")
    assert(text_of(page, "#delete-name") == "other")
    page:click("#delete-dialog button[value='no']")
    page:click("#detail .danger")
    assert(select(2, api:call("GET", "/sandbox/" .. other.id)).status == "RUNNING")
    page:click("#delete-dialog .danger")
    api:await(other.id, "TERMINATED")
    await_text(page, "#detail .state", "ended")
    await_text(page, "#empty", "None of the sandboxes fits")

    -- The key survives a reload of the tab, until it is forgotten.
    page:send("Page.reload")
    page:await("document.querySelector('#connection')?.textContent === 'live'")
    page:click("#forget")
    page:await("document.querySelector('#key-dialog').open")
    assert(page:eval("sessionStorage.length") == 0)
    browser.check_clean(page, api)
  end)
end)
