local channel = require("sbx.channel")
local core = require("sbx.core.task")
local errors = require("sbx.errors")
local fails = require("expect").fails
local task = require("sbx.task")

-- A list of what `fn` receives until the channel ends.
local function drain(ch)
  local got = {}
  for n, value in ch:items() do
    assert(n == #got + 1)
    got[n] = tostring(value)
  end
  return table.concat(got, " ")
end

test("channel: a rendezvous sender waits until its value is taken", function()
  local ch = channel.new()
  local steps = {}
  local sender = task.spawn(function()
    for i = 1, 3 do
      ch:send(i)
      steps[#steps + 1] = "sent " .. i
    end
    ch:close()
  end)
  task.sleep(0.005)
  assert(#steps == 0 and sender.waiting_on == "send to a channel")
  assert(drain(ch) == "1 2 3" and #steps == 3)
end)

test("channel: a buffer holds values, in order, and bounds the sender", function()
  local ch = channel.new(2, "jobs")
  ch:send("a")
  ch:send("b")
  assert(ch.count == 2 and #ch == 2 and ch.capacity == 2)
  assert(tostring(ch) == "channel 'jobs' (2 of 2)")
  assert(not ch:try_send("c"))
  local sender = task.spawn(ch.send, ch, "c")
  task.yield()
  assert(sender.waiting_on == "send to channel 'jobs'")
  assert(select(2, ch:receive()) == "a")
  sender:join()
  ch:close()
  assert(drain(ch) == "b c" and ch.closed)
end)

test("channel: nil and false are values", function()
  for capacity = 0, 3 do
    local ch = channel.new(capacity)
    task.spawn(function()
      ch:send(nil)
      ch:send(false)
      ch:send(nil)
      ch:close()
    end)
    assert(drain(ch) == "nil false nil", capacity)
  end
end)

test("channel: receivers and senders are served in the order of coming", function()
  local ch = channel.new()
  local order = {}
  task.scope(function(scope)
    for i = 1, 3 do
      scope:spawn(function()
        order[i] = select(2, ch:receive())
      end)
    end
    task.yield()
    for value = 1, 3 do
      ch:send(value)
    end
  end)
  assert(table.concat(order, " ") == "1 2 3")
  task.scope(function(scope)
    for i = 1, 3 do
      scope:spawn(ch.send, ch, i)
    end
    task.yield()
    for i = 1, 3 do
      order[i] = select(2, ch:receive())
    end
  end)
  assert(table.concat(order, " ") == "1 2 3")
end)

test("channel: many senders and receivers lose and double nothing", function()
  for _, capacity in ipairs({ 0, 1, 7 }) do
    local ch = channel.new(capacity)
    local seen, total = {}, 0
    task.scope(function(scope)
      for _ = 1, 5 do
        scope:spawn(function()
          for _, value in ch:items() do
            assert(not seen[value])
            seen[value] = true
            total = total + 1
            if value % 7 == 0 then task.yield() end
          end
        end)
      end
      task.scope(function(senders)
        for s = 1, 10 do
          senders:spawn(function()
            for i = 1, 100 do
              ch:send(s * 1000 + i)
            end
          end)
        end
      end)
      ch:close()
    end)
    assert(total == 1000, total)
  end
end)

test("channel: closing wakes receivers and refuses senders, also those that wait", function()
  local ch = channel.new()
  local receiver = task.spawn(ch.receive, ch)
  task.yield()
  ch:close()
  assert(receiver:join() == false)
  assert(ch:receive() == false and ch:try_receive() == false)
  local err = fails("send to a channel: it is closed", ch.send, ch, 1)
  assert(err.kind == "closed")
  fails("it is closed", ch.try_send, ch, 1)
  ch:close("again: does nothing")
  assert(ch:receive() == false)

  local other = channel.new(1, "full")
  other:send("kept")
  local sender = task.pspawn(other.send, other, "refused")
  task.yield()
  other:close()
  local ok, problem = sender:pjoin()
  assert(not ok and tostring(problem) == "send to channel 'full': it is closed")
  assert(drain(other) == "kept")
end)

test("channel: what it was closed with is raised once it is empty", function()
  local ch = channel.new(2)
  local failure = errors.new({ kind = "io", message = "the source broke" })
  ch:send(1)
  ch:close(failure)
  assert(select(2, ch:receive()) == 1)
  for _ = 1, 2 do
    assert(fails("the source broke", ch.receive, ch) == failure)
    assert(fails("the source broke", ch.try_receive, ch) == failure)
  end
  assert(fails("it is closed", ch.send, ch, 2).cause == failure)

  local waiting = channel.new()
  local receiver = task.pspawn(waiting.receive, waiting)
  task.yield()
  waiting:close(failure)
  assert(select(2, receiver:pjoin()) == failure)
end)

test("channel: a <close> variable closes it, with the error that left the block", function()
  local kept
  do
    local ch <close> = channel.new(1)
    ch:send("x")
    kept = ch
  end
  assert(drain(kept) == "x")
  pcall(function()
    local ch <close> = channel.new()
    kept = ch
    error("broken", 0)
  end)
  fails("broken", kept.receive, kept)
end)

test("channel: a cancelled receiver takes no value, a cancelled sender leaves none", function()
  local ch = channel.new()
  assert(not task.move_on(0.001, ch.receive, ch))
  assert(not ch:try_send("nobody is there"))
  assert(not task.move_on(0.001, ch.send, ch, "late"))
  assert(not ch:try_receive())

  -- Cancelled, but not yet told: still in line when the other side comes.
  local first, second = task.pspawn(ch.receive, ch), task.pspawn(ch.receive, ch)
  task.yield()
  first:cancel()
  ch:send("for the second")
  assert(select(2, second:join()) == "for the second")
  assert(first.status == "cancelled")

  first = task.pspawn(ch.send, ch, "of the first")
  second = task.pspawn(ch.send, ch, "of the second")
  task.yield()
  first:cancel()
  assert(select(2, ch:receive()) == "of the second")
  second:join()
end)

test("channel: a value that has arrived is delivered to a task cancelled meanwhile", function()
  local ch = channel.new()
  local got
  local receiver = task.pspawn(function()
    got = select(2, ch:receive())
    task.sleep(1)
  end)
  task.yield()
  ch:send("mine")
  receiver:cancel()
  assert(not receiver:pjoin() and got == "mine" and receiver.status == "cancelled")
end)

test("channel: every call is a checkpoint, also when it need not wait", function()
  local ch = channel.new(10)
  local sent = 0
  task.scope(function(scope)
    scope:spawn(function()
      while sent < 10 do
        pcall(ch.send, ch, 1)
        sent = sent + 1
      end
    end)
    scope:cancel()
  end)
  assert(sent == 10 and ch.count == 0, ch.count)
end)

test("channel: a receiver in a cancelled scope's finalizer still gets values", function()
  local ch = channel.new()
  local got
  task.scope(function(scope)
    scope:spawn(function()
      local _ <close> = setmetatable({}, { __close = function() got = select(2, ch:receive()) end })
      task.sleep(10)
    end)
    task.yield()
    scope:cancel()
    task.shield(1, function() ch:send("at the end") end)
  end)
  assert(got == "at the end")
end)

test("channel: nobody sends any more: a deadlock names the channel", function()
  local run = require("run_support").run
  local result = run({ "-e", [[require("sbx.channel").new(0, "jobs"):receive()]] })
  assert(result.code == 1, result.code)
  assert(result.stderr:find("deadlock", 1, true), result.stderr)
  assert(result.stderr:find("waiting on receive from channel 'jobs'", 1, true), result.stderr)
end)

test("channel: misuse names the argument", function()
  fails("capacity: expected a whole number", channel.new, "2")
  fails("capacity: expected a whole number of at least 0, got -1", channel.new, -1)
  fails("name: expected a string", channel.new, 1, 2)
  local ch = channel.new(3)
  fails("send: expected one value, got 2", ch.send, ch, 1, 2)
  fails("try_send: expected one value, got 3", ch.try_send, ch, 1, nil, nil)
  fails("channel.send was called without its channel", ch.send, 1)
end)

test("channel: nothing is left over in it after heavy cancelling", function()
  local ch = channel.new()
  local before = core.stats().waits
  for _ = 1, 200 do
    local receiver = task.pspawn(ch.receive, ch)
    task.yield()
    receiver:cancel()
    task.yield()
  end
  assert(ch.receivers.count == 0 and not ch:try_send(1))
  assert(core.stats().waits == before)
end)
