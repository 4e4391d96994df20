-- How servers limit rates: each limiter is a function of the time in seconds that
-- returns true, or false and the seconds until it may be true again.

local limiters = {}

---So many in each window. The first request opens a window, or with `phase` the clock
---does.
function limiters.window(count, seconds, phase)
  local start, taken = phase, 0
  return function(now)
    if not start or now >= start + seconds then
      start = phase and start + seconds * ((now - start) // seconds) or now
      taken = 0
    end
    if taken >= count then return false, start + seconds - now end
    taken = taken + 1
    return true
  end
end

---So many in any stretch of so many seconds.
function limiters.sliding(count, seconds)
  local times, first = {}, 1
  return function(now)
    while times[first] and times[first] <= now - seconds do
      first = first + 1
    end
    if #times - first + 1 >= count then return false, times[first] + seconds - now end
    times[#times + 1] = now
    return true
  end
end

---A bucket of so many, into which so many come each second.
function limiters.bucket(count, per_second)
  local tokens, at = count, nil
  return function(now)
    tokens = math.min(count, tokens + (now - (at or now)) * per_second)
    at = now
    if tokens < 1 then return false, (1 - tokens) / per_second end
    tokens = tokens - 1
    return true
  end
end

return limiters
