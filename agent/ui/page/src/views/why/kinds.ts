/** Kinds of documents, as `policies/catalogue.py` has them (a test compares), and what somebody meant who misspelt one. Pure. */

export const KINDS = [
  ...["isolation", "export", "tls", "egress", "path", "authn", "authz", "audit", "ratelimit", "fault", "route", "import", "timeout"],
  ...["breaker", "outlier", "shed", "balance", "retry", "shadow", "trace", "log", "health", "scale", "rego", "webhook"],
] as const;

export const isKind = (kind: string): boolean => (KINDS as readonly string[]).includes(kind);

/** Why a kind is none, with the nearest that there is, if any is near. */
export function noKind(kind: string): string {
  const near = KINDS.map((each) => ({ each, steps: distance(kind.toLowerCase(), each) })).sort((one, other) => one.steps - other.steps)[0];
  const meant = near && near.steps <= Math.max(1, Math.floor(near.each.length / 3)) ? ` (did you mean ${near.each}?)` : "";
  return `there is no kind ${kind}${meant}`;
}

/** Letters to put in, to take out, or to change, to come from one to the other; two that changed places are one. */
export function distance(one: string, other: string): number {
  let before: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, n) => n);
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1] ? 0 : 1;
      let least = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) least = Math.min(least, (before[j - 2] ?? 0) + 1);
      row.push(least);
    }
    before = last;
    last = row;
  }
  return last[other.length] ?? 0;
}

/** What a document may be for: services, their namespaces, everybody. */
export function patternsOf(services: readonly string[]): string[] {
  const namespaces = new Set(services.filter((each) => each.includes(".")).map((each) => `*.${each.slice(each.indexOf(".") + 1)}`));
  return [...services, ...namespaces, "*"];
}
