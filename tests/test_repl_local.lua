-- The prompt with real sandboxes: they run while one types, are completed by their ids,
-- and end with the prompt.

local support = dofile("tests/repl_support.lua")

test("repl: a fleet of sandboxes of this machine", { timeout = 100 }, function()
  support.with_prompt({ words = { "--local" }, columns = 100 }, function(p)
    local t = p.terminal
    p:type("local client <close> = sandbox.client()\r")
    p:type("boxes = task.map({ 1, 2, 3 }, function(i) return client:create({ name = 'b' .. i,"
      .. " docker_image = 'host' }):wait() end)\r")
    p:type("#boxes, boxes[1].status\r")
    t:await("\n3\n\"RUNNING\"")
    p:type("for i, box in ipairs(boxes) do task.spawn(function()"
      .. " print(box:exec('sleep 0.' .. i .. '; echo from $HOSTNAME-' .. i).stdout) end) end\r")
    p:type("id = boxes[2].i")
    t:await("-1\n")
    t:await("-2\n")
    local screen = t:await("-3\n")
    assert(screen.lines[#screen.lines] == "> id = boxes[2].i", table.concat(screen.lines, "\n"))
    p:type("d\r")
    p:type("print('id', #id, id)\r")
    screen = t:await("\nid")
    local id = table.concat(screen.lines, "\n"):match("\nid%s+%d+%s+(%S+)")
    p:type("client:get('" .. id:sub(1, -3) .. "\t).name\r")
    t:await("client:get('" .. id .. "').name\n\"b2\"")
    p:type(":boxes\r")
    t:await("sandbox " .. id .. " (b2, RUNNING)")
    p:type("\4")
    t:await("3 sandboxes will end: leave? [y/N]")
    p:type("y")
    screen = t:finish()
    assert(screen.status == 0, table.concat(screen.lines, "\n"))
    assert(table.concat(screen.lines, "\n"):find("deleted 3 sandboxes", 1, true)
      or screen.lines[#screen.lines]:find("3", 1, true), table.concat(screen.lines, "\n"))
  end)
end)
