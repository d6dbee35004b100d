-- Publish events to a stream. The script publishes only if Redis still has the entries that this outbox published
-- before, and if no later leader (a relay that took over from the caller) has published.
--
-- KEYS[1] the stream, KEYS[2] the stream's epoch (an id that the relay's database stores, too)
-- KEYS[3] the term of the stream's latest leader, KEYS[4] the id of the database that owns our key prefix
-- ARGV[1] the epoch that the relay expects, ARGV[2] the id of the last entry that Redis must have, or '' if a new
-- epoch begins
-- ARGV[3] the relay's term (a later leader has a higher term), ARGV[4] the approximate length to trim the stream to
-- ARGV[5] the id of the relay's database, ARGV[6...] the events
--
-- Returns one of these lists:
-- - {'published', last id, number of published events, group}: The script has published all events, or has stopped
--   because a further entry would trim an entry that the slowest consumer group has not read. If the script has
--   stopped, `group` is the name of this group, and otherwise ''.
-- - {'foreign', owner}: The key prefix belongs to another database, `owner`.
-- - {'deposed', term}: A later leader, which has the higher term `term`, has published.
-- - {'forgotten'}: Redis has lost entries. The stream's epoch is missing or differs from ARGV[1] if Redis was emptied
--   or a consumer missed entries. The stream's last id is lower than ARGV[2] if an older snapshot was restored or a
--   failover lost the last writes.

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

-- The number of entries that the slowest consumer group has not read, and the name of that group.
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

local epoch, last_id, term, max_length = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
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
local count = math.min(#ARGV - 5, math.max(0, max_length - behind))
for index = 6, 5 + count do
    last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[index])
end
return {'published', last, count, count < #ARGV - 5 and slowest or ''}
