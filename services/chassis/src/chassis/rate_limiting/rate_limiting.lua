-- One GCRA decision in one call, so that no two callers see the same state. It computes what decide() in
-- rate_limiting.py computes, in the same integers: a Lua number is exact below 2^53 and microseconds since 1970
-- stay there until the year 2255.
--
-- KEYS[1]  theoretical arrival time (TAT) of one principal under one policy, microseconds
-- ARGV[1]  interval: microseconds in which one unit of cost comes back
-- ARGV[2]  burst: units a rested principal may spend at once
-- ARGV[3]  cost: units of this request, 1 to burst
-- ARGV[4]  now, microseconds: for tests only. Without it the server's clock decides, the one clock all callers share
-- Returns  {allowed 0 or 1, TAT, now}

local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local capacity = burst * interval
-- What is no number counts as none: an error would be taken for a Redis that fails.
local stored = tonumber(redis.call('GET', KEYS[1])) or 0
-- Further ahead than a spent burst only if the clock stepped back or the policy shrank: forgive the excess.
local tat = math.min(math.max(stored, now), now + capacity)

local allowed = tat + cost * interval - now <= capacity
if allowed then
  tat = tat + cost * interval
end
-- A refusal changes nothing, unless it forgave: kept, or the caller would wait for the old time after all.
if tat ~= stored then
  -- A TAT in the past means the same as none, so the key may go then; a second is added for whole seconds.
  local seconds = math.ceil((tat - now) / 1000000) + 1
  redis.call('SET', KEYS[1], tat, 'EX', seconds)
end
return {allowed and 1 or 0, tat, now}
