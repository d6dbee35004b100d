-- Begin a try of entries that this consumer has read, or take it back: Redis counts for each entry how often it was
-- delivered, and that count changes by ARGV[3] here. XREADGROUP and XCLAIM would count more than the one that is tried.
--
-- KEYS[1] the stream
-- ARGV[1] the group, ARGV[2] the consumer, ARGV[3] 1 or -1, ARGV[4...] ids
--
-- Returns the new count of each entry; -1 where the entry is no longer this consumer's.

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
