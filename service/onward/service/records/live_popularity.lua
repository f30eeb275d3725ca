-- Add the weights of events to items, and read the most popular items.
-- Weights decay exponentially, by 2^(-age / half-life). Instead of decaying all stored weights, forward decay scales up
-- each new one, by 2^((now - landmark) / half-life). Before this factor grows too large, all weights are scaled down
-- and the landmark is moved to now. Now is the time of the server, so that no worker's clock affects the weights.
-- KEYS, in one hash slot: the scaled weights, a sorted set; the landmark and the half-life, a hash.
-- ARGV: the half-life in ms, items to keep, items to read, then for each item its id and its weight as of now.
-- Returns the factor by which to divide scaled weights to get those of now, then the items read and their scaled
-- weights.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local half_life_ms = tonumber(ARGV[1])
local MAX_POWER = 64
-- Return a stored time; the default if there is none above the least, or if it cannot be read, as "nan".
local function stored_ms(name, default, least)
  local number = tonumber(redis.call('HGET', KEYS[2], name) or '')
  return number and number > least and number < math.huge and number or default
end

local landmark_ms = math.min(now_ms, stored_ms('landmark_ms', now_ms, -math.huge))
local stored_half_life_ms = stored_ms('half_life_ms', half_life_ms, 0)
local power = (now_ms - landmark_ms) / stored_half_life_ms
local writes = #ARGV > 3

if writes and (power > MAX_POWER or stored_half_life_ms ~= half_life_ms) then
  redis.call('ZUNIONSTORE', KEYS[1], 1, KEYS[1], 'WEIGHTS', string.format('%.17g', 2 ^ math.max(-power, -1000)))
  landmark_ms, power = now_ms, 0
end
if writes then
  redis.call('HSET', KEYS[2], 'landmark_ms', landmark_ms, 'half_life_ms', half_life_ms)
  for index = 4, #ARGV, 2 do
    redis.call('ZINCRBY', KEYS[1], string.format('%.17g', tonumber(ARGV[index + 1]) * 2 ^ power), ARGV[index])
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
end
local heaviest = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1, 'REV', 'WITHSCORES')
return {string.format('%.17g', 2 ^ math.min(power, 1000)), unpack(heaviest)}
