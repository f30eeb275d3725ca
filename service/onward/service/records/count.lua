-- Add to counters.
-- KEYS: a hash of counters for each period, in one slot.
-- ARGV: the most counters of a hash, milliseconds that each hash lives, then for each counter its name and what to add.
-- Returns how many counters there was no room for.
local first = #KEYS + 2
local refused = 0
for number, key in ipairs(KEYS) do
  for place = first, #ARGV, 2 do
    if redis.call('HLEN', key) < tonumber(ARGV[1]) or redis.call('HEXISTS', key, ARGV[place]) == 1 then
      redis.call('HINCRBYFLOAT', key, ARGV[place], ARGV[place + 1])
    else
      refused = refused + 1
    end
  end
  redis.call('PEXPIRE', key, ARGV[number + 1])
end
return refused
