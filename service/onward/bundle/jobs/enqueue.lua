-- Store a job that waits, unless one of its id is stored; forget finished jobs beyond those to keep.
-- KEYS: queue, all, running, the job. ARGV: prefix, id, most waiting jobs, jobs to keep, then fields and texts.
-- Returns 1; 0 if the id is taken, -1 if too many jobs wait.
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[4], unpack(ARGV, 5))
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[2])
redis.call('LPUSH', KEYS[1], ARGV[2])
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -tonumber(ARGV[4]) - 1)) do
  local state = redis.call('HGET', ARGV[1] .. 'job:' .. id, 'state')
  if state ~= 'waiting' and state ~= 'running' then
    redis.call('UNLINK', ARGV[1] .. 'job:' .. id, ARGV[1] .. 'log:' .. id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return 1
