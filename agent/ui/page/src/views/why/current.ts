/** A document as it is now, where this page can ask for it. */

import { get, Problem, query } from "../../api/http";
import { stored } from "../../api/stored";
import type { Mode, Page, Policy } from "../../api/types";
import { authorOf } from "./document";

export interface Stands {
  text: string;
  /** 0: there is none. */
  revision: number;
  by: string;
  reason: string;
}

/** As it stands in etcd, where this page may write; else as the agent has it in force. */
export async function current(kind: string, pattern: string, mode: Mode, may: boolean): Promise<{ text: string; revision: number }> {
  if (may) return stored(kind, pattern, mode);
  if (mode === "audit") {
    const { items } = await get<Page<Policy>>(query("/policies", { kind, mode, limit: 1000 }));
    const watched = items.find((each) => each.pattern === pattern);
    if (!watched) throw new Problem(404, `no ${kind} is watched for ${pattern}`);
    return { text: JSON.stringify(watched.document, null, 2), revision: watched.revision };
  }
  const found = await get<Policy>(`/policies/${encodeURIComponent(kind)}/${encodeURIComponent(pattern)}`);
  return { text: JSON.stringify(found.document, null, 2), revision: found.revision };
}

/** The same, of what somebody else has put meanwhile; null: it cannot be asked for. */
export async function standing(kind: string, pattern: string, mode: Mode): Promise<Stands | null> {
  try {
    const { text, revision } = await stored(kind, pattern, mode);
    return { text, revision, ...authorOf(text) };
  } catch (error) {
    return error instanceof Problem && error.status === 404 ? { text: "", revision: 0, by: "", reason: "" } : null;
  }
}
