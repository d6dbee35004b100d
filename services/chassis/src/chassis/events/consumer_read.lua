-- Read the entries that a consumer group has not read yet. Also count the entries that Redis trimmed before the group
-- read them. One script does both, because the trimmed entries can no longer be counted after the group has read
-- further.
--
-- KEYS[1] the stream, KEYS[2] the stream's epoch, KEYS[3] the id of the database that owns our key prefix
-- ARGV[1] the consumer group, ARGV[2] the consumer, ARGV[3] the largest number of entries, ARGV[4] the id of our
-- database
--
-- Returns one of these lists:
-- - {'foreign', owner}: The key prefix belongs to another database, `owner`. The script has read no entry.
-- - {entries, last id, missed}: The new entries, the id of the last entry that the group had read before them, and the
--   number of trimmed entries.
--
-- A stream's epoch is an id that Redis and the relay's database both store. If entries were trimmed, the script deletes
-- the epoch in Redis. The relay notices the missing epoch, and publishes every event again that is still stored in the
-- outbox. The script also counts the trimmed entries as read, so that each loss is reported once. The script does not
-- notice entries that the command XDEL deleted.

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

-- The group's lag counts its unread entries. If the lag is higher than the stream's length, the difference is the
-- number of trimmed entries.
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
