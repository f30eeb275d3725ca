-- Add weights of events to items, and read the most popular ones.
-- A weight counts for less and less: by 2^(-age / half-life). Instead of lessening all of them, a newer one is enlarged,
-- by 2^((now - landmark) / half-life). Before that grows too large, all are divided and the landmark is moved to now.
-- KEYS, in one slot: the enlarged weights, a sorted set; the landmark and the half-life, a hash.
-- ARGV: now and the half-life in ms, items to keep, items to read, then for each item its id and its weight as of now.
-- Returns what divides the enlarged weights to give those of now, then the items read and their enlarged weights.
local now_ms, half_life_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local LARGEST_POWER = 64
local landmark_ms = math.min(now_ms, tonumber(redis.call('HGET', KEYS[2], 'landmark_ms') or now_ms))
local half_life_so_far_ms = tonumber(redis.call('HGET', KEYS[2], 'half_life_ms') or half_life_ms)
local power = (now_ms - landmark_ms) / half_life_so_far_ms
local writes = #ARGV > 4

if writes and (power > LARGEST_POWER or half_life_so_far_ms ~= half_life_ms) then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', string.format('%.17g', 2 ^ math.max(-power, -1000)))
  landmark_ms, power = now_ms, 0
end
if writes then
  redis.call('HSET', KEYS[2], 'landmark_ms', landmark_ms, 'half_life_ms', half_life_ms)
  for place = 5, #ARGV, 2 do
    redis.call('ZINCRBY', KEYS[1], string.format('%.17g', tonumber(ARGV[place + 1]) * 2 ^ power), ARGV[place])
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[3]) - 1)
end
local read = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[4]) - 1, 'REV', 'WITHSCORES')
return {string.format('%.17g', 2 ^ math.min(power, 1000)), unpack(read)}
