-- Read what a group has not read yet, and notice in the same step what was trimmed before it could be read: after the
-- reading nobody could tell.
--
-- KEYS[1] the stream, KEYS[2] its epoch, KEYS[3] the owner of our prefix
-- ARGV[1] the group, ARGV[2] the consumer, ARGV[3] entries at most, ARGV[4] our installation
--
-- Returns {'foreign', owner} when the prefix belongs to another installation, else {entries, the last id that the group had read before, number of entries missed}. When entries were missed,
-- the epoch ends, so that the relay publishes again what it still keeps, and the group counts them as read: each loss
-- is noticed once. Entries deleted one by one (XDEL) are not noticed.

local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[4] then
    return {'foreign', owner}
end
redis.call('SET', KEYS[3], ARGV[4])

local function fields_of(reply)
    local found = {}
    for index = 1, #reply, 2 do
        found[reply[index]] = reply[index + 1]
    end
    return found
end

local group
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local found = fields_of(reply)
    if found['name'] == ARGV[1] then
        group = found
    end
end
if not group then
    return redis.error_reply('NOGROUP ' .. ARGV[1] .. ' of ' .. KEYS[1])
end

-- What the group has not read can be in the stream only: as long as all of it is, that is at most its length.
local missed = math.max(0, (group['lag'] or 0) - redis.call('XLEN', KEYS[1]))
if missed > 0 then
    redis.call('DEL', KEYS[2])
    redis.call(
        'XGROUP', 'SETID', KEYS[1], ARGV[1], group['last-delivered-id'],
        'ENTRIESREAD', (group['entries-read'] or 0) + missed
    )
end
local answer = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
return {answer and answer[1][2] or {}, group['last-delivered-id'], missed}
