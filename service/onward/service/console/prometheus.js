// Figures of operation from /metrics, which sums over all workers: rates and percentiles between two readings.

/** Read the text format: a map from the name of a metric to its [{labels, value}]. */
export function parse(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const [, name, labels = "", value] = found;
    if (!metrics.has(name)) metrics.set(name, []);
    metrics.get(name).push({ labels: Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text])), value: Number(value) });
  }
  return metrics;
}

/** Sum the values of a metric whose labels pass a test. */
export function sum(metrics, name, isWanted = () => true) {
  return (metrics.get(name) ?? []).filter(({ labels }) => isWanted(labels)).reduce((total, { value }) => total + value, 0);
}

/** Estimate quantiles, in the metric's unit, of what came between two readings of a histogram; null if nothing came. */
export function quantiles(before, after, name, shares, isWanted = () => true) {
  const bounds = [...new Set((after.get(`${name}_bucket`) ?? []).map(({ labels }) => labels.le))];
  const counts = bounds.map((le) => {
    const within = (labels) => labels.le === le && isWanted(labels);
    return sum(after, `${name}_bucket`, within) - sum(before, `${name}_bucket`, within);
  });
  const total = counts.at(-1) ?? 0;
  return shares.map((share) => {
    if (total <= 0) return null;
    const place = counts.findIndex((count) => count >= share * total);
    const lower = place > 0 ? Number(bounds[place - 1]) : 0, below = place > 0 ? counts[place - 1] : 0;
    if (bounds[place] === "+Inf") return lower;
    return lower + ((share * total - below) / (counts[place] - below || 1)) * (Number(bounds[place]) - lower);
  });
}

/** 95 % interval of a share (Wilson), as [low, high]; null without trials. */
export function interval(successes, trials) {
  if (!trials) return null;
  const z = 1.96, share = Math.min(1, successes / trials), scale = 1 + (z * z) / trials;
  const middle = (share + (z * z) / (2 * trials)) / scale;
  const half = (z * Math.sqrt((share * (1 - share)) / trials + (z * z) / (4 * trials * trials))) / scale;
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}
