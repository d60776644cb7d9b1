/** Where somebody is on the page: behind the #, so that a link to a view can be shared, and that nothing of it is sent.
 *
 *     #/service/pets.production?tab=policies
 */

import { computed, signal } from "@preact/signals";

export interface Place {
  parts: string[];
  query: URLSearchParams;
}

export function read(hash: string): Place {
  const text = hash.startsWith("#") ? hash.slice(1) : hash;
  const at = text.indexOf("?");
  const path = at < 0 ? text : text.slice(0, at);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(at < 0 ? "" : text.slice(at + 1)) };
}

/** What somebody typed need not be an escape. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function link(parts: readonly string[], query: Record<string, string | undefined> = {}): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) found.set(name, value);
  const text = found.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

const hash = signal(typeof location === "undefined" ? "" : location.hash);
if (typeof window !== "undefined") window.addEventListener("hashchange", () => (hash.value = location.hash));

export const place = computed(() => read(hash.value));

export function go(to: string): void {
  location.hash = to.replace(/^#/, "");
}

/** Another word of the query, in place: going back does not step through every letter that was typed. */
export function say(words: Record<string, string | undefined>): void {
  const here = place.peek();
  const all = { ...Object.fromEntries(here.query), ...words };
  history.replaceState(null, "", link(here.parts, all));
  hash.value = location.hash;
}
