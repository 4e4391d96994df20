-- A headless Chromium, driven by its DevTools protocol through our own WebSocket client.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local encoding = require("sbx.encoding")
local errors = require("sbx.errors")
local fs = require("sbx.fs")
local http = require("sbx.http")
local json = require("sbx.json")
local process = require("sbx.process")
local task = require("sbx.task")

local browser = {}

---@class support.Browser
---@field requests string[]     URLs that the page asked for
---@field pending table<string, boolean>  ids of requests that have not ended
---@field complaints string[]   what the console and the browser's log said: CSP, scripts
local Browser = {}
Browser.__index = Browser

local WAIT_SECONDS = 90

local PROGRAMS = { "chromium", "chromium-browser", "google-chrome" }

-- The program; skips the test where there is none.
local function find()
  for _, name in ipairs(PROGRAMS) do
    local path = process.which(name)
    if path then return path end
  end
  skip("no Chromium on this machine: `./dev deps test` installs it")
end

-- It says on stderr where its DevTools listen.
local function address_of(child)
  for line in child.stderr:lines() do
    local url = line:match("DevTools listening on (ws://%S+)")
    if url then return url end
  end
  error("chromium has ended", 0)
end

local function on_event(self, message)
  local params = message.params
  if message.method == "Network.requestWillBeSent" then
    table.insert(self.requests, params.request.url)
    self.pending[params.requestId] = true
  elseif message.method == "Network.loadingFinished"
    or message.method == "Network.loadingFailed" then
    self.pending[params.requestId] = nil
  elseif message.method == "Log.entryAdded" then
    table.insert(self.complaints, params.entry.source .. ": " .. params.entry.text)
  elseif message.method == "Runtime.exceptionThrown" then
    table.insert(self.complaints, "exception: " .. json.encode(params.exceptionDetails))
  elseif message.method == "Runtime.consoleAPICalled" then
    table.insert(self.complaints, "console: " .. json.encode(params.args))
  elseif message.method == "Page.javascriptDialogOpening" then
    table.insert(self.complaints, "dialog: " .. params.message)
  end
end

local function receive_all(self)
  for text in self.socket:messages() do
    local message = json.decode(text)
    local waiter = message.id and self.waiting[message.id]
    if waiter then
      self.answers[message.id] = message
      waiter:wake()
    elseif message.method then
      on_event(self, message)
    end
  end
end

---One command of the protocol, in the page's session once there is one.
---@async
function Browser:send(method, params)
  self.number = self.number + 1
  local id = self.number
  local waiter = task.waiter("an answer of the browser")
  self.waiting[id] = waiter
  self.socket:send(json.encode({
    id = id, method = method, params = json.object(params or {}), sessionId = self.session,
  }))
  task.timeout(WAIT_SECONDS, waiter.wait, waiter)
  local answer = self.answers[id]
  self.waiting[id], self.answers[id] = nil, nil
  if answer.error then error(method .. ": " .. answer.error.message, 2) end
  return answer.result
end

---The value of a JavaScript expression; promises are awaited.
---@async
function Browser:eval(expression)
  local result = self:send("Runtime.evaluate", {
    expression = expression, returnByValue = true, awaitPromise = true,
  })
  if result.exceptionDetails then
    error(json.encode(result.exceptionDetails.exception or result.exceptionDetails), 2)
  end
  return result.result.value
end

---Waits until an expression is true.
---@async
function Browser:await(expression)
  local ok, failure = pcall(task.timeout, WAIT_SECONDS, function()
    while not self:eval("Boolean(" .. expression .. ")") do
      task.sleep(0.02)
    end
  end)
  if ok then return end
  if errors.is_error(failure) and failure.kind == "timeout" then
    local seen = self:eval("document.body.innerText"):sub(1, 2000)
    error(("never came true: %s\n%s\n%s\nasked for: %s"):format(expression, seen,
      table.concat(self.complaints, "\n"), table.concat(self.requests, " ", 1,
      math.min(#self.requests, 40))), 2)
  end
  error(failure, 0)
end

---Whether the page, whose requests have all ended, begins none for `seconds`, by its own
---clock, which may stand still on a busy machine.
---@async
function Browser:is_quiet(seconds)
  local before = #self.requests
  if next(self.pending) then return false end
  self:eval(("new Promise((resolve) => setTimeout(resolve, %d))"):format(seconds * 1000))
  return #self.requests == before
end

---Goes to a page and waits for it.
---@async
function Browser:open(url)
  self:send("Page.navigate", { url = url })
  self:await(("location.href.startsWith(%s) && document.readyState === 'complete'"):format(
    json.encode(url)))
end

---Types text into the element that has the keyboard, as people do.
---@async
function Browser:type(text)
  self:send("Input.insertText", { text = text })
end

local KEYS = { Enter = 13, ArrowDown = 40, End = 35, Escape = 27, Backspace = 8 }

---@async
function Browser:press(key)
  local event = {
    key = key, code = key, windowsVirtualKeyCode = KEYS[key], text = key == "Enter" and "\r" or nil,
  }
  event.type = "keyDown"
  self:send("Input.dispatchKeyEvent", event)
  event.type, event.text = "keyUp", nil
  self:send("Input.dispatchKeyEvent", event)
end

-- The middle of an element, once two frames have been drawn with it there and nothing
-- is above it: a mouse hits what is on the screen. Null while that is not so.
local MIDDLE = [[(async () => {
  const middle = () => {
    const node = document.querySelector(%s);
    node?.scrollIntoView({ block: "nearest" });
    const { x, y, width, height } = node?.getBoundingClientRect() ?? {};
    return { node, x: x + width / 2, y: y + height / 2 };
  };
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const before = middle();
  await frame();
  await frame();
  const { node, x, y } = middle();
  const same = node && node === before.node && x === before.x && y === before.y;
  return same && node.contains(document.elementFromPoint(x, y)) ? { x, y } : null;
})()]]

---Clicks in the middle of the first element that a selector finds.
---@async
function Browser:click(selector)
  local at
  task.timeout(WAIT_SECONDS, function()
    repeat
      at = self:eval(MIDDLE:format(json.encode(selector)))
    until type(at) == "table"
  end)
  for _, kind in ipairs({ "mousePressed", "mouseReleased" }) do
    self:send("Input.dispatchMouseEvent", {
      type = kind, x = at.x, y = at.y, button = "left", clickCount = 1,
    })
  end
end

---@async
function Browser:size(width, height, dark)
  local scheme = { name = "prefers-color-scheme", value = dark and "dark" or "light" }
  self:send("Emulation.setDeviceMetricsOverride", {
    width = width, height = height, deviceScaleFactor = 1, mobile = false,
  })
  self:send("Emulation.setEmulatedMedia", { features = json.array({ scheme }) })
end

---The PNG of what is seen.
---@async
function Browser:screenshot()
  return encoding.base64_decode(self:send("Page.captureScreenshot", { format = "png" }).data)
end

local SWITCHES = {
  "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
  "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
  "--disable-extensions", "--no-proxy-server", "--remote-debugging-port=0",
}

---Starts it with an empty profile and an empty page; skips the test where there is none.
---@async
function browser.start()
  local path = find()
  local home = fs.tmpdir()
  local argv = { "python3", here .. "peers/without_netlink.py", path, table.unpack(SWITCHES) }
  argv[#argv + 1] = "--user-data-dir=" .. home.path
  argv[#argv + 1] = "about:blank"
  local child = process.spawn(argv, {
    stdout = "null", stderr = "pipe", env = { HOME = home.path },
  })
  local self = setmetatable({
    child = child, home = home, number = 0, waiting = {}, answers = {}, requests = {},
    pending = {}, complaints = {},
  }, Browser)
  local ok, failure = pcall(function()
    local url = task.timeout(WAIT_SECONDS, address_of, child)
    self.socket = http.websocket(url, { max_message = 67108864 })
    self.drain = task.daemon(function()
      for _ in child.stderr:lines() do
        task.checkpoint()
      end
    end)
    self.receiver = task.daemon(receive_all, self)
    local target = self:send("Target.createTarget", { url = "about:blank" }).targetId
    local attached = self:send("Target.attachToTarget", { targetId = target, flatten = true })
    self.session = attached.sessionId
    for _, domain in ipairs({ "Page", "Runtime", "Network", "Log" }) do
      self:send(domain .. ".enable")
    end
  end)
  if ok then return self end
  self:__close()
  error(failure, 0)
end

function Browser:__close()
  if self.receiver then self.receiver:cancel("closed") end
  if self.drain then self.drain:cancel("closed") end
  self.child:close()
  if self.socket then pcall(self.socket.close, self.socket) end
  self.home:close()
end

-- -------------------------------------------------------------------- on our page

---The selector of a sandbox's row.
function browser.row(id)
  return ("[data-id='%s']"):format(id)
end

---@async
function browser.text_of(page, selector)
  return page:eval(("document.querySelector(%s)?.textContent ?? null"):format(
    json.encode(selector)))
end

---Waits until an element is there and its text holds `text`.
---@async
function browser.await_text(page, selector, text)
  page:await(("document.querySelector(%s)?.textContent.includes(%s)"):format(
    json.encode(selector), json.encode(text)))
end

---Opens the page of a server and gives the key.
---@async
function browser.log_in(page, api)
  page:open(api.server.url .. "/")
  page:await("document.querySelector('#key-dialog').open")
  page:type(api.server.api_key)
  page:press("Enter")
  browser.await_text(page, "#connection", "live")
end

local NAMED = {
  button = true, textbox = true, searchbox = true, combobox = true, image = true, link = true,
  checkbox = true, grid = true, dialog = true, log = true,
}

---Whatever can be used has a name for those who hear the page.
---@async
function browser.check_names(page)
  local found = {}
  for _, node in ipairs(page:send("Accessibility.getFullAXTree").nodes) do
    local role = not node.ignored and node.role.value
    if NAMED[role] then
      found[role] = true
      assert(node.name and node.name.value ~= "", "no name: " .. json.encode(node))
    end
  end
  assert(found.button and found.grid and found.searchbox and found.image and found.log)
end

---Nothing was asked from elsewhere, no key was in a URL, and nobody complained.
function browser.check_clean(page, api)
  local url, foreign = api.server.url .. "/", {}
  for _, asked in ipairs(page.requests) do
    if asked:sub(1, #url) ~= url then foreign[#foreign + 1] = asked end
    assert(not asked:find(api.server.api_key, 1, true), "the key is in a URL")
  end
  assert(#page.requests > 8 and #foreign == 0, table.concat(foreign, "\n"))
  assert(#page.complaints == 0, table.concat(page.complaints, "\n"))
end

return browser
