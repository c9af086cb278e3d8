// Words for numbers, and elements.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes, with a unit. */
export function bytes(n) {
  if (!Number.isFinite(n)) return "?";
  let unit = 0;
  while (Math.abs(n) >= 1024 && unit < UNITS.length - 1) { n /= 1024; unit += 1; }
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${UNITS[unit]}`;
}

/** Nanoseconds, with a unit. */
export function time(ns) {
  if (!Number.isFinite(ns)) return "?";
  for (const [limit, size, unit] of [[1e3, 1, "ns"], [1e6, 1e3, "µs"], [1e9, 1e6, "ms"]]) {
    if (ns < limit) return `${(ns / size).toPrecision(3)} ${unit}`;
  }
  return `${(ns / 1e9).toPrecision(3)} s`;
}

/** Creates an element. Text is always text: names come from images and guests. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") made.setAttribute(name, value); else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const by = (id) => document.getElementById(id);
