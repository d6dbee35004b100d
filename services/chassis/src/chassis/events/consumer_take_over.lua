-- Take over the entries that consumers of a consumer group have read and then left idle without an acknowledgement.
-- Also remove consumers that have no entries and have been idle for long.
--
-- KEYS[1] the stream, KEYS[2] the stream's epoch (an id that the relay's database stores, too)
-- ARGV[1] the consumer group, ARGV[2] the consumer,
-- ARGV[3] the idle milliseconds after which an entry is taken over, ARGV[4] the largest number of entries,
-- ARGV[5] the idle milliseconds after which a consumer without entries is removed
--
-- Returns {number of entries taken over, number of trimmed entries}. The command XAUTOCLAIM also removes those pending
-- entries from the group that are no longer in the stream. If XAUTOCLAIM has removed an entry, the script deletes the
-- stream's epoch, so that the relay publishes the stored events again.

local claimed = redis.call(
    'XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], '0-0', 'COUNT', ARGV[4], 'JUSTID'
)
local missed = claimed[3] and #claimed[3] or 0
if missed > 0 then
    redis.call('DEL', KEYS[2])
end
for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local found = {}
    for index = 1, #reply, 2 do
        found[reply[index]] = reply[index + 1]
    end
    if found['name'] ~= ARGV[2] and found['pending'] == 0 and found['idle'] > tonumber(ARGV[5]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], found['name'])
    end
end
return {#claimed[2], missed}
