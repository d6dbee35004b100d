-- Change the delivery count that Redis stores for each entry of this consumer by ARGV[3]: 1 counts an attempt, and -1
-- takes one back. XREADGROUP and XCLAIM count every entry that they return, even if it is not tried afterwards.
--
-- KEYS[1] the stream
-- ARGV[1] the group, ARGV[2] the consumer, ARGV[3] 1 or -1, ARGV[4...] ids
--
-- Returns the new count of each entry, or -1 for an entry that is no longer pending for this consumer.

local counts = {}
for index = 4, #ARGV do
    local id = ARGV[index]
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])
    local count = -1
    if #pending > 0 then
        count = math.max(0, pending[1][4] + tonumber(ARGV[3]))
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count, 'JUSTID')
    end
    counts[#counts + 1] = count
end
return counts
