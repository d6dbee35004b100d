-- Frees a lease and stores an entry, if the caller passes one. Does both only if the caller holds the lease.
-- An invalidation deletes the lease together with the entries, so a load that began before the invalidation finds its
-- token gone and stores nothing. This must be one script: between a GET of the token and a write of the entry an
-- invalidation could arrive.
--
-- KEYS[1]  the entries of one cached key: a hash with a field per schema
-- KEYS[2]  the key's lease
-- ARGV[1]  the holder's token
-- ARGV[2]  the field of the holder's schema
-- ARGV[3]  the entry to store; empty: only free the lease
-- ARGV[4]  the expiry in milliseconds; 0: keep the expiry of the replaced entry, or store nothing if it is gone
-- Returns  1 if the token held the lease, else 0

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
-- During a rollout the old and the new release share the hash. A third field belongs to a release that is gone.
if redis.call('HLEN', KEYS[1]) > 2 then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
