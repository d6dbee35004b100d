-- Publish events to a stream, if Redis still is the Redis that we published to before and we still are the one relay.
--
-- KEYS[1] the stream, KEYS[2] its epoch, KEYS[3] the term of its last leader, KEYS[4] the owner of our prefix
-- ARGV[1] the epoch we expect, ARGV[2] the last id we know to have been given ('' begins the epoch with this call),
-- ARGV[3] our term: leaders that came later have a higher one, ARGV[4] entries to keep (approximately)
-- ARGV[5] our installation, ARGV[6...] the events
--
-- Returns one of
--   {'published', last id, number of events, group}  fewer than given when that group, the slowest, is so far behind
--                                                    that its unread entries would be trimmed; '' when it is not
--   {'foreign', owner}  the prefix belongs to another installation
--   {'deposed', term}  a leader of that term, which is higher, has published
--   {'forgotten'}  another epoch or none (Redis was emptied, or a consumer missed entries), or a last id below ours
--                  (an older snapshot was restored, or a failover lost the last writes)

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

-- How many entries the slowest group has not read, and its name.
local function furthest_behind()
    local most, slowest = 0, ''
    local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
    for _, group in ipairs(groups.err and {} or groups) do
        local found = {}
        for index = 1, #group, 2 do
            found[group[index]] = group[index + 1]
        end
        if found['lag'] and found['lag'] > most then
            most, slowest = found['lag'], found['name']
        end
    end
    return most, slowest
end

local epoch, last_id, term, kept = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local owner = redis.call('GET', KEYS[4])
if owner and owner ~= ARGV[5] then
    return {'foreign', owner}
end
local last_term = tonumber(redis.call('GET', KEYS[3]) or 0)
if last_term > term then
    return {'deposed', last_term}
end
local last = last_generated_id()
if last_id == '' then
    redis.call('SET', KEYS[2], epoch)
elseif redis.call('GET', KEYS[2]) ~= epoch or is_lower(last, last_id) then
    return {'forgotten'}
end
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[5])

local behind, slowest = furthest_behind()
local count = math.min(#ARGV - 5, math.max(0, kept - behind))
for index = 6, 5 + count do
    last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[index])
end
return {'published', last, count, count < #ARGV - 5 and slowest or ''}
