-- Call every command that the service uses, so that the account is found to lack the right to some; change nothing.
-- KEYS[1]: a key that does not exist, named as the service's keys are. Commands that would store something are called
-- with a value that they refuse, or what they store is deleted.
-- Returns the refusals, each as the command, a space and the server's reason.
local KEY = KEYS[1]
local CALLS = {
  {'TIME'}, {'ECHO', 'x'}, {'TYPE', KEY}, {'EXISTS', KEY}, {'PTTL', KEY}, {'RENAME', KEY, KEY},
  {'SET', KEY, 'x', 'y'}, {'GET', KEY},
  {'HSET', KEY, 'x', 'y', 'z'}, {'HGET', KEY, 'x'}, {'HMGET', KEY, 'x'}, {'HGETALL', KEY}, {'HLEN', KEY},
  {'HEXISTS', KEY, 'x'}, {'HDEL', KEY, 'x'}, {'HINCRBYFLOAT', KEY, 'x', 'y'},
  {'ZADD', KEY, 'x', 'y'}, {'ZINCRBY', KEY, 'x', 'y'}, {'ZSCORE', KEY, 'x'}, {'ZCARD', KEY}, {'ZRANGE', KEY, 0, 0},
  {'ZRANGEBYSCORE', KEY, 0, 0}, {'ZREM', KEY, 'x'}, {'ZREMRANGEBYRANK', KEY, 0, 0}, {'ZREMRANGEBYSCORE', KEY, 0, 0},
  {'ZUNIONSTORE', KEY, 1, KEY},
  {'RPUSH', KEY, 'x'}, {'LRANGE', KEY, 0, 0}, {'LSET', KEY, 0, 'x'}, {'LTRIM', KEY, 0, 0},
  {'PERSIST', KEY}, {'EXPIRE', KEY, 1}, {'PEXPIRE', KEY, 1}, {'DEL', KEY}, {'UNLINK', KEY},
}
local refusals = {}
for _, call in ipairs(CALLS) do
  local reply = redis.pcall(unpack(call))
  local reason = type(reply) == 'table' and reply.err or ''
  if string.find(reason, 'NOPERM', 1, true) or string.find(reason, "can't run this command", 1, true)
      or string.find(string.lower(reason), 'permission', 1, true) then
    refusals[#refusals + 1] = call[1] .. ' ' .. reason
  end
end
return refusals
