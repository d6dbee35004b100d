-- Add ARGV[3] to the delivery count that Redis stores for each of the given entries: 1 adds an attempt, and -1
-- subtracts one. A correction is necessary because the command XREADGROUP counts an attempt of every entry that it
-- returns, even if the consumer then does not deliver the entry.
--
-- KEYS[1] the stream
-- ARGV[1] the group, ARGV[2] the consumer, ARGV[3] 1 or -1, ARGV[4...] ids
--
-- Returns the new count of each entry, or -1 for an entry that is acknowledged or that another consumer has taken over.

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
