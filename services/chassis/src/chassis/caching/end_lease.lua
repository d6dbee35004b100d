-- A lease is a random token that a load of a cached key writes to Redis, so that only one process loads the key at a
-- time. This script frees a load's lease and, if the load passes an entry (the loaded value with its times), stores the
-- entry. If Redis no longer contains the load's token, the script changes nothing. An invalidation deletes the lease
-- together with the entries. So a load that began before the invalidation does not find its token, and stores nothing.
-- The check and the write are one script, because an invalidation could arrive between two separate commands.
--
-- KEYS[1]  the entries of one cached key: a hash with a field per schema
-- KEYS[2]  the lease of this cached key
-- ARGV[1]  the token that the load wrote as its lease
-- ARGV[2]  the field for the schema of the load's value
-- ARGV[3]  the entry to store; with an empty ARGV[3], the script only frees the lease
-- ARGV[4]  the expiry of the entry in milliseconds; with 0, the script only replaces an entry that is stored, and keeps
--          the expiry of the stored entry
-- Returns  1 if the load still held the lease, else 0

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
-- During a rollout the old and the new release each have one field in this hash. If the hash has more than two fields,
-- some belong to releases that no longer run, so the script deletes all fields.
if redis.call('HLEN', KEYS[1]) > 2 then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
