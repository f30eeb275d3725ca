-- Renew a worker's lease of a job, and store what it does and new lines of its log.
-- KEYS: the job, its log. ARGV: worker, seconds of the lease, the step, most lines to keep, then new lines.
-- Returns 'go on', 'cancel' if it is to end, 'lost' if the job is no longer this worker's.
local job = redis.call('HMGET', KEYS[1], 'worker', 'state', 'cancelling')
if job[1] ~= ARGV[1] or job[2] ~= 'running' then return 'lost' end
redis.call('HSET', KEYS[1], 'lease', tonumber(redis.call('TIME')[1]) + tonumber(ARGV[2]), 'step', ARGV[3])
for line = 5, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[line]) end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[4]), -1)
return job[3] == '1' and 'cancel' or 'go on'
