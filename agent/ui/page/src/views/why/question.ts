/** A question: what the address says that is asked, and how it is said in words. Pure. */

import type { Call, ExplainAsked } from "../../api/types";
import { claimsOf, headersOf } from "./reading";

export function askedBy(words: URLSearchParams): ExplainAsked {
  const headers = headersOf(words.get("headers") ?? "");
  const claims = claimsOf(words.get("claims") ?? "");
  return {
    url: words.get("url") ?? "",
    method: words.get("method") || "GET",
    ...(words.get("caller") ? { caller: words.get("caller") ?? "" } : {}),
    ...(headers.length ? { headers } : {}),
    ...(Object.keys(claims).length ? { claims } : {}),
  };
}

/** GET http://pets.production/cats as shop.production, with x-tier: free */
export function inWords({ url, method, caller, headers, claims }: ExplainAsked): string {
  const more = [...(headers ?? []).map((each) => `${each.name}: ${each.value}`), ...Object.entries(claims ?? {}).map(([name, value]) => `${name}=${value}`)];
  return `${method} ${url}${caller ? ` as ${caller}` : ""}${more.length ? `, with ${more.join(", ")}` : ""}`;
}

export const isSame = (one: ExplainAsked, other: ExplainAsked): boolean => JSON.stringify(one) === JSON.stringify(other);

/** The service that a URL names. */
export function serviceOf(url: string): string {
  return (/^(?:[a-z]+:)?(?:\/\/)?([^/?#:]*)/i.exec(url)?.[1] ?? "").toLowerCase();
}

/** Who calls a service most, of those that say who they are; empty: nobody is known. */
export function usualCaller(calls: readonly Call[], service: string): string {
  const counts = new Map<string, number>();
  for (const each of calls) if (each.service === service && each.caller) counts.set(each.caller, (counts.get(each.caller) ?? 0) + each.requests);
  return [...counts].sort(([one, many], [other, more]) => more - many || one.localeCompare(other))[0]?.[0] ?? "";
}
