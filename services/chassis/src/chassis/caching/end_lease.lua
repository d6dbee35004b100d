-- Ends a lease, and stores an entry if there is one: only for the holder of the lease. Invalidation deletes the lease
-- together with the entry, so a load that began before it finds its token gone and writes nothing. One script, because
-- between a GET of the token and a write of the entry an invalidation could slip in.
--
-- KEYS[1]  the entries of one cached thing: a hash with a field for each schema in use    KEYS[2]  their lease
-- ARGV[1]  the holder's token
-- ARGV[2]  the field
-- ARGV[3]  the entry to store; empty: only give the lease back
-- ARGV[4]  milliseconds to keep it; 0: as long as the one that it replaces, if that is still there
-- Returns  1 if the lease was still held, else 0

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
if ARGV[3] == '' then
  return 1
end
if ARGV[4] == '0' then
  if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
  end
  return 1
end
-- The old and the new release of a rollout share the hash; a third field is of a release that has gone.
if redis.call('HLEN', KEYS[1]) > 2 then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
