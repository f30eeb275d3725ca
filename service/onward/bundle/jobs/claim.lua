-- Take a job: one whose worker was lost, else the one that waits longest. One whose workers were lost too often fails.
-- KEYS: queue, running. ARGV: prefix, worker, seconds of the lease, most tries.
-- Returns the id and all fields of the job, nothing if there is none.
local prefix, worker, lease, tries = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(redis.call('TIME')[1])

local function take(id)
  local key = prefix .. 'job:' .. id
  redis.call('HINCRBY', key, 'tries', 1)
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'lease', now + lease, 'started', now, 'step', '')
  redis.call('SADD', KEYS[2], id)
  return {id, redis.call('HGETALL', key)}
end

for _, id in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local key = prefix .. 'job:' .. id
  local job = redis.call('HMGET', key, 'lease', 'tries', 'cancelling', 'worker')
  if tonumber(job[1] or '0') < now then
    redis.call('SREM', KEYS[2], id)
    if job[3] == '1' then
      redis.call('HSET', key, 'state', 'cancelled', 'finished', now)
    elseif tonumber(job[2] or '0') >= tries then
      local error = 'its worker ' .. (job[4] or '') .. ' was lost, as the one before it was'
      redis.call('HSET', key, 'state', 'failed', 'finished', now, 'error', error)
    else
      return take(id)
    end
  end
end
while true do
  local id = redis.call('RPOP', KEYS[1])
  if not id then return false end
  if redis.call('HGET', prefix .. 'job:' .. id, 'state') == 'waiting' then return take(id) end
end
