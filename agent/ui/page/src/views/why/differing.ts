/** What is other between two explanations. Pure.
 *
 * Law: what only a draw or somebody's turn has moved is no difference. Whom the balancer picks, and how it is got there, is one
 * only where the route or a document of these is another one.
 */

import type { Decision, Share } from "../../api/types";

const MOVED_BY_LOAD = ["balance", "hop"];

/** Which of `mine` are not among `others`, as what they decide. */
export function differing(mine: readonly Decision[], others: readonly Decision[]): Set<number> {
  const routed = same(routes(mine), routes(others));
  const still = MOVED_BY_LOAD.filter((phase) => routed && same(documents(mine, phase), documents(others, phase)));
  const left = new Map<string, number>();
  for (const each of others) left.set(words(each), (left.get(words(each)) ?? 0) + 1);
  const found = new Set<number>();
  mine.forEach((each, at) => {
    const count = left.get(words(each)) ?? 0;
    if (count > 0) left.set(words(each), count - 1);
    else if (!still.includes(each.phase)) found.add(at);
  });
  return found;
}

/** The shares of a decision, each with what the target had over there; null: there it was not in the split, undefined: there was none. */
export function sharesOf(mine: Decision, others: readonly Decision[] = []): (Share & { was: number | null | undefined })[] {
  const over = others.find((each) => each.phase === mine.phase && each.mode === mine.mode && each.shares?.length);
  return (mine.shares ?? []).map((each) => ({ ...each, was: over ? (over.shares?.find((one) => one.to === each.to)?.percent ?? null) : undefined }));
}

const words = (each: Decision): string => `${each.phase}\n${each.decision}\n${each.policy}\n${each.mode}\n${JSON.stringify(each.shares ?? [])}`;
const routes = (of: readonly Decision[]): Set<string> => new Set(of.filter((each) => each.phase === "route").map(words));
const documents = (of: readonly Decision[], phase: string): Set<string> =>
  new Set(of.filter((each) => each.phase === phase).map((each) => `${each.policy} ${each.revision} ${each.mode}`));
const same = (one: Set<string>, other: Set<string>): boolean => one.size === other.size && [...one].every((each) => other.has(each));
