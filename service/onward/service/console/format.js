// Numbers, times and names as text.

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));
export const compact = (value) => (value === null || value === undefined ? "–" : COMPACT.format(value));
export const fixed = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(share * 100).toFixed(digits)}\u00a0%`);
export const plural = (count, noun) => `${NUMBER.format(count)} ${noun}${count === 1 ? "" : "s"}`;
/** The first digits of a digest, enough to tell bundles apart. */
export const short = (digest) => digest?.slice(0, 8) ?? "–";
export const clock = (time) => new Date(time).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
export const time = (moment) => new Date(moment).toLocaleTimeString("en-GB");
export const dateTime = (time) => (time ? new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "–");

/** How long ago, as in "3h ago". */
export function ago(time) {
  if (!time) return "–";
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? UNITS.at(-1);
  return RELATIVE.format(Math.round(seconds / size), unit);
}

/** What an item is called: its title or name, or else its id. */
export const titleOf = (item) => String(item.attributes?.title ?? item.attributes?.name ?? item.id);

/** An item's attributes but its title, as one line. */
export function detailsOf(item, names = null) {
  return Object.entries(item.attributes ?? {})
    .filter(([name, value]) => !["title", "name", "available"].includes(name) && value !== null && (!names || names.includes(name)))
    .slice(0, 4)
    .map(([, value]) => (Array.isArray(value) ? value.join(", ") : typeof value === "number" ? number(value) : String(value)))
    .join(" · ");
}
