/** Figures as people read them. */

const DASH = "–";

export function rate(perS: number | null | undefined): string {
  if (perS === null || perS === undefined) return DASH;
  if (perS === 0) return "0/s";
  if (perS >= 1000) return `${(perS / 1000).toFixed(perS >= 10_000 ? 0 : 1)}k/s`;
  return `${perS >= 100 ? perS.toFixed(0) : perS >= 10 ? perS.toFixed(1) : perS.toFixed(2)}/s`;
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return DASH;
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.1 ? 1 : 0)} ms`;
  return `${Number.isInteger(value) ? value : value.toFixed(2)} s`;
}

export function share(part: number | null | undefined): string {
  if (part === null || part === undefined) return DASH;
  const percent = part * 100;
  if (percent === 0 || percent === 100) return `${percent}%`;
  if (percent < 0.1) return "<0.1%";
  // Few that fail are not none.
  if (percent > 99) return percent > 99.9 ? ">99.9%" : `${percent.toFixed(1)}%`;
  return `${percent.toFixed(percent < 10 ? 1 : 0)}%`;
}

export function clock(unixS: number): string {
  return new Date(unixS * 1000).toLocaleTimeString([], { hour12: false });
}

/** With its day. */
export function moment(unixS: number): string {
  return `${new Date(unixS * 1000).toLocaleDateString()} ${clock(unixS)}`;
}

/** How far away a time is, in words: in 3 h, 5 min ago. Empty for what is no time. */
export function away(when: string, nowMs: number): string {
  const at = Date.parse(when);
  if (Number.isNaN(at)) return "";
  const s = (at - nowMs) / 1000;
  const size = Math.abs(s);
  const text = size < 90 ? `${size.toFixed(0)} s` : size < 5400 ? `${(size / 60).toFixed(0)} min` : size < 129_600 ? `${(size / 3600).toFixed(0)} h` : `${(size / 86_400).toFixed(0)} d`;
  return s >= 0 ? `in ${text}` : `${text} ago`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** The namespace of a service: payments.production is in production. */
export function namespaceOf(service: string): string {
  const at = service.indexOf(".");
  return at < 0 ? "" : service.slice(at + 1);
}
