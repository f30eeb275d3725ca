-- Cancel a job that waits; have the worker of one that runs end it.
-- KEYS: the job, queue. ARGV: id. Returns 1; 0 if it has ended, -1 if there is none.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if state == 'waiting' then
  redis.call('LREM', KEYS[2], 0, ARGV[1])
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', redis.call('TIME')[1])
elseif state == 'running' then
  redis.call('HSET', KEYS[1], 'cancelling', '1')
else
  return 0
end
return 1
