-- Add amounts to counters.
-- KEYS: a hash of counters for each period, in one hash slot.
-- ARGV: the most counters of one hash, the time to live of each hash in ms, then for each counter its name and an
-- amount.
-- Returns how many additions were refused because the hash was full, how many because its key or its counter
-- holds something else, and an error of the latter ('' for none).
local first = #KEYS + 2
local refused, misplaced, reason = 0, 0, ''
for number, key in ipairs(KEYS) do
  local names = redis.pcall('HLEN', key)
  if type(names) == 'table' then
    misplaced, reason = misplaced + (#ARGV - first + 1) / 2, names.err
  else
    for index = first, #ARGV, 2 do
      if redis.call('HLEN', key) < tonumber(ARGV[1]) or redis.call('HEXISTS', key, ARGV[index]) == 1 then
        local sum = redis.pcall('HINCRBYFLOAT', key, ARGV[index], ARGV[index + 1])
        if type(sum) == 'table' then misplaced, reason = misplaced + 1, sum.err end
      else
        refused = refused + 1
      end
    end
    redis.call('PEXPIRE', key, ARGV[number + 1])
  end
end
return {refused, misplaced, reason}
