-- Publish events to a stream, if Redis still is the Redis that we published to before.
--
-- KEYS[1] the stream, KEYS[2] its epoch
-- ARGV[1] the epoch we expect, ARGV[2] the last id we know to have been given, ARGV[3] entries to keep (approximately)
-- ARGV[4...] the events
--
-- Returns the stream's last id, or false when Redis has forgotten: another epoch or none (it was emptied), or a last
-- id below ours (an older snapshot was restored). Nothing is published then.

local function last_generated_id()
    local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
    if info.err then
        return '0-0'
    end
    for index = 1, #info, 2 do
        if info[index] == 'last-generated-id' then
            return info[index + 1]
        end
    end
end

local function parts(id)
    local milliseconds, sequence = id:match('^(%d+)-(%d+)$')
    return tonumber(milliseconds), tonumber(sequence)
end

local function is_lower(id, other)
    local milliseconds, sequence = parts(id)
    local other_milliseconds, other_sequence = parts(other)
    return milliseconds < other_milliseconds or (milliseconds == other_milliseconds and sequence < other_sequence)
end

local last = last_generated_id()
if redis.call('GET', KEYS[2]) ~= ARGV[1] or is_lower(last, ARGV[2]) then
    return false
end
for index = 4, #ARGV do
    last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[index])
end
return last
