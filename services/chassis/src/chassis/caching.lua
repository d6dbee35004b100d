-- Ends a lease, and stores the loaded value if there is one: only for the holder of the lease. Invalidation deletes
-- the lease together with the value, so a load that began before it finds its token gone and writes nothing. One
-- script, because between a GET of the token and a SET of the value an invalidation could slip in.
--
-- KEYS[1]  the value    KEYS[2]  its lease
-- ARGV[1]  the holder's token
-- ARGV[2]  the value to store; empty: only give the lease back
-- ARGV[3]  milliseconds until the value expires
-- Returns  1 if the lease was still held, else 0

if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
if ARGV[2] ~= '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
