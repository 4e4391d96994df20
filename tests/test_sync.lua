local sync = require("sbx.sync")
local fails = require("expect").fails
local task = require("sbx.task")

-- ---------------------------------------------------------------- semaphore

test("sync: a semaphore bounds how many go at once", function()
  local semaphore = sync.semaphore(3)
  local at_once, most = 0, 0
  task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function()
    local _ <close> = semaphore:acquire()
    at_once = at_once + 1
    most = math.max(most, at_once)
    task.sleep(0.001)
    at_once = at_once - 1
  end)
  assert(most == 3 and semaphore.used == 0 and semaphore.waiting == 0)
end)

-- Tasks that each want some permits, spawned in this order; returns the order in
-- which they got them, as text.
local function order_of(semaphore, counts, before)
  local order = {}
  task.scope(function(scope)
    local first = semaphore:acquire(semaphore.size)
    local tasks = {}
    for i, count in ipairs(counts) do
      tasks[i] = scope:pspawn(function()
        local _ <close> = semaphore:acquire(count)
        order[#order + 1] = i
        task.yield()
      end)
      task.yield()
    end
    if before then before(tasks) end
    first:release()
  end)
  return table.concat(order, " ")
end

test("sync: permits are given in the order of asking, many or few", function()
  assert(order_of(sync.semaphore(2), { 1, 1, 2, 1, 2, 1 }) == "1 2 3 4 5 6")
  assert(order_of(sync.semaphore(5), { 5, 1, 4, 2, 3 }) == "1 2 3 4 5")
end)

test("sync: a cancelled waiter leaves the line and lets those behind it pass", function()
  local semaphore = sync.semaphore(2)
  assert(order_of(semaphore, { 1, 2, 1 }, function(tasks) tasks[2]:cancel() end) == "1 3")
  assert(semaphore.used == 0 and semaphore.waiting == 0)

  -- The first in line wants more than there is; once it gives up, the next goes.
  local one <close> = semaphore:acquire()
  local got = false
  task.scope(function(scope)
    local greedy = scope:pspawn(semaphore.acquire, semaphore, 2)
    task.yield()
    local modest = scope:spawn(function()
      local _ <close> = semaphore:acquire(1)
      got = true
    end)
    task.sleep(0.002)
    assert(not got and semaphore.waiting == 2)
    greedy:cancel()
    modest:join()
  end)
  assert(got and one.count == 1)
end)

test("sync: a permit that has been given stays with a task cancelled meanwhile", function()
  local semaphore = sync.semaphore(1)
  local first = semaphore:acquire()
  local had = false
  local waiter = task.pspawn(function()
    local permit <close> = semaphore:acquire()
    had = permit.count == 1
    task.sleep(1)
  end)
  task.yield()
  first:release()
  waiter:cancel()
  waiter:pjoin()
  assert(had and semaphore.used == 0)
end)

test("sync: try_acquire neither waits nor passes those in line", function()
  local semaphore = sync.semaphore(2)
  local permit = semaphore:try_acquire(2)
  assert(permit and not semaphore:try_acquire())
  local waiter = task.spawn(function()
    local _ <close> = semaphore:acquire(2)
  end)
  task.yield()
  permit:release()
  assert(not semaphore:try_acquire()) -- given to the one in line already
  permit:release() -- a second time does nothing
  waiter:join()
  assert(semaphore.used == 0)
end)

test("sync: resize lets more in at once, and fewer as permits come back", function()
  local semaphore = sync.semaphore(1)
  local permits = { semaphore:acquire() }
  for _ = 1, 3 do
    task.spawn(function()
      local permit = semaphore:acquire()
      permits[#permits + 1] = permit
    end)
  end
  task.yield()
  assert(#permits == 1 and semaphore.waiting == 3)
  semaphore:resize(3)
  task.yield()
  assert(#permits == 3 and semaphore.waiting == 1)
  semaphore:resize(1)
  permits[1]:release()
  permits[2]:release()
  task.yield()
  assert(#permits == 3 and semaphore.used == 1)
  permits[3]:release()
  task.yield()
  assert(#permits == 4)
  permits[4]:release()
  semaphore:resize(0)
  fails("acquire: expected at most the semaphore's size of 0, got 1", semaphore.acquire, semaphore)
end)

test("sync: permits come back however the block ends", function()
  local semaphore = sync.semaphore(1)
  pcall(function()
    local _ <close> = semaphore:acquire()
    error("broken")
  end)
  assert(not task.move_on(0.001, function()
    local _ <close> = semaphore:acquire()
    task.sleep(10)
  end))
  assert(semaphore.used == 0)
end)

-- -------------------------------------------------------------------- mutex

test("sync: a lock is held by one task at a time, in the order of coming", function()
  local mutex = sync.mutex()
  local order = {}
  task.scope(function(scope)
    for i = 1, 4 do
      scope:spawn(function()
        local _ <close> = mutex:lock()
        order[#order + 1] = i
        task.sleep(0.001)
        order[#order + 1] = -i
      end)
    end
  end)
  assert(table.concat(order, " ") == "1 -1 2 -2 3 -3 4 -4")
  assert(mutex.owner == nil and mutex.waiting == 0)
end)

test("sync: a cancelled task never holds the lock", function()
  local mutex = sync.mutex("file")
  local held = mutex:lock()
  local waiters = {}
  for i = 1, 3 do
    waiters[i] = task.pspawn(function()
      local _ <close> = mutex:lock()
    end)
  end
  task.yield()
  assert(waiters[1].waiting_on:find("^lock 'file' held by task %d+$"), waiters[1].waiting_on)
  waiters[1]:cancel()
  waiters[2]:cancel()
  held:unlock()
  waiters[3]:join()
  assert(waiters[1].status == "cancelled" and waiters[2].status == "cancelled")
  assert(mutex.owner == nil and mutex:try_lock())
end)

test("sync: locking what one holds is an error, not a deadlock", function()
  local mutex = sync.mutex()
  local held <close> = mutex:lock()
  fails("lock: this task holds the lock already", mutex.lock, mutex)
  fails("try_lock: this task holds the lock already", mutex.try_lock, mutex)
  assert(mutex.owner == task.current())
  local other = task.spawn(mutex.try_lock, mutex)
  assert(other:join() == nil)
  held:unlock()
  held:unlock()
  assert(task.spawn(mutex.try_lock, mutex):join())
end)

-- ------------------------------------------------------------ event, latch

test("sync: an event wakes all, and is passed while it is set", function()
  local event = sync.event("ready")
  local woken = 0
  local function wait()
    event:wait()
    woken = woken + 1
  end
  for _ = 1, 3 do
    task.spawn(wait)
  end
  local cancelled = task.pspawn(wait)
  task.yield()
  assert(woken == 0 and event.waiting == 4 and cancelled.waiting_on == "event 'ready'")
  cancelled:cancel()
  event:set()
  event:wait()
  task.yield()
  assert(woken == 3 and event.is_set)
  event:clear()
  assert(not event.is_set and not task.move_on(0.001, event.wait, event) and event.waiting == 0)
end)

test("sync: a latch opens when it has been counted down", function()
  local latch = sync.latch(3)
  local waiter = task.spawn(latch.wait, latch)
  latch:count_down()
  latch:count_down(2)
  waiter:join()
  latch:wait()
  assert(latch.count == 0)
  fails("count_down: expected at most the 0 that are missing, got 1", latch.count_down, latch)
  sync.latch(0):wait()
end)

test("sync: misuse names the argument", function()
  fails("size: expected a whole number", sync.semaphore)
  fails("size: expected a whole number of at least 0", sync.semaphore, -1)
  fails("count: expected a whole number", sync.latch, 1.5)
  fails("name: expected a string", sync.event, 5)
  local semaphore = sync.semaphore(2)
  fails("acquire: expected at most the semaphore's size of 2, got 3",
    semaphore.acquire, semaphore, 3)
  fails("acquire: expected a whole number of at least 1, got 0", semaphore.acquire, semaphore, 0)
  fails("try_acquire: expected a whole number, got a string", semaphore.try_acquire, semaphore, "x")
  fails("semaphore.acquire was called without its semaphore", semaphore.acquire)
  fails("mutex.lock was called without its mutex", sync.mutex().lock, {})
end)
