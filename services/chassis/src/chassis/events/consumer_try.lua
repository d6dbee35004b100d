-- Count an attempt at entries that this consumer has read, or take it back: the delivery count that Redis stores for
-- each entry changes by ARGV[3]. XREADGROUP and XCLAIM would also count entries that are not tried.
--
-- KEYS[1] the stream
-- ARGV[1] the group, ARGV[2] the consumer, ARGV[3] 1 or -1, ARGV[4...] ids
--
-- Returns the new count of each entry, or -1 for an entry that this consumer no longer has.

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
