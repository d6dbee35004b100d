-- The limit of the calls to one dependency, which all processes of a service share. This script reserves the next turn
-- (the time at which a call may start) or moves all turns behind a pause. Redis runs the script as one step, so no two
-- calls get the same turn. decide_turn() and pause_until() in quota.py compute the same with the same integers.
--
-- KEYS[1]  theoretical arrival time (TAT): the time in microseconds at which the whole burst may start again
-- ARGV[1]  interval: microseconds between two calls, 0 without a limit
-- ARGV[2]  burst: calls that may start at once
-- ARGV[3]  used: calls of the burst that are used up, according to the dependency's last answer
-- ARGV[4]  longest: microseconds that the call may wait for its turn
-- ARGV[5]  pause: microseconds in which no call may start; with 0, the script reserves a turn
-- ARGV[6]  horizon: microseconds; a TAT that is further ahead than the burst plus this time is lowered: the clock was
--          set back
-- Returns  {granted 0 or 1, microseconds until the turn}

local interval, burst, used = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local longest, pause, horizon = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local stored = tonumber(redis.call('GET', KEYS[1])) or 0
local capacity = burst * interval
local tat = math.min(math.max(stored, now + used * interval), now + capacity + horizon)
local wait = math.max(0, tat - capacity + interval - now)
local granted = pause == 0 and wait <= longest
if granted then
  tat = tat + interval
elseif pause > 0 then
  tat = math.max(tat, now + pause + capacity - interval)
end
if tat ~= stored then
  redis.call('SET', KEYS[1], tat, 'EX', math.ceil((tat - now) / 1000000) + 1)
end
return {granted and 1 or 0, wait}
