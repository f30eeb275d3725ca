// Intervals of shares.

/** 95 % interval of a share (Wilson), as [low, high]; null without trials. */
export function interval(successes, trials) {
  if (!trials) return null;
  const z = 1.96, share = Math.min(1, successes / trials), scale = 1 + (z * z) / trials;
  const middle = (share + (z * z) / (2 * trials)) / scale;
  const half = (z * Math.sqrt((share * (1 - share)) / trials + (z * z) / (4 * trials * trials))) / scale;
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}
