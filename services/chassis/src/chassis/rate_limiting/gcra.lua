-- Redis runs this script as one step, so that two concurrent decisions never start from the same state. The script
-- computes the same as decide() in gcra.py, in the same integers. A Lua number is exact below 2^53, and microseconds
-- since 1970 stay below that number until the year 2255.
--
-- KEYS[1]  theoretical arrival time (TAT) of one key (a caller) under one policy: the time in microseconds at which the
--          whole burst is available again
-- ARGV[1]  interval: microseconds after which one unit of cost is available again
-- ARGV[2]  burst: units of cost that may be spent at once
-- ARGV[3]  cost: units of this request, 1 to burst
-- ARGV[4]  now, microseconds, for tests only. By default the script reads Redis' clock, which all callers share
-- Returns  {allowed 0 or 1, TAT, now}

local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local capacity = burst * interval
-- A stored value that is not a number counts as missing. Otherwise this script would raise an error, which the caller
-- would take for a failure of Redis.
local stored = tonumber(redis.call('GET', KEYS[1])) or 0
-- If the TAT (the time at which the whole burst is available again) is later than now + capacity, the clock stepped
-- back or the limit was lowered. In this case, the script drops the excess: the part of the TAT beyond now + capacity.
local tat = math.min(math.max(stored, now), now + capacity)

local allowed = tat + cost * interval - now <= capacity
if allowed then
  tat = tat + cost * interval
end
-- A refused request takes no units, so it changes the stored time (the TAT) only if that time was later than now +
-- capacity and was moved to now + capacity. If the script did not store the moved time, each later call would start
-- from the old time again, and the caller would have to wait until the old time.
if tat ~= stored then
  -- A stored time in the past means the same as no stored time, so the key may expire at that time. The option EX of
  -- SET takes whole seconds, so one second is added.
  local seconds = math.ceil((tat - now) / 1000000) + 1
  redis.call('SET', KEYS[1], tat, 'EX', seconds)
end
return {allowed and 1 or 0, tat, now}
