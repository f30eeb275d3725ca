-- Store how a job ended; a worker that stops gives it back with the state 'waiting', as if it had not been taken.
-- KEYS: the job, running, queue. ARGV: id, worker, state, result, error.
-- Returns 1; 0 if the job is no longer this worker's.
local job = redis.call('HMGET', KEYS[1], 'worker', 'state')
if job[1] ~= ARGV[2] or job[2] ~= 'running' then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
if ARGV[3] == 'waiting' then
  redis.call('HINCRBY', KEYS[1], 'tries', -1)
  redis.call('HSET', KEYS[1], 'state', 'waiting')
  redis.call('RPUSH', KEYS[3], ARGV[1])
else
  local now = redis.call('TIME')[1]
  redis.call('HSET', KEYS[1], 'state', ARGV[3], 'finished', now, 'result', ARGV[4], 'error', ARGV[5], 'step', '')
end
return 1
