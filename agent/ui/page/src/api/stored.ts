/** Documents as they stand in etcd, and putting them: by `shoal dashboard`, which has the person's own rights. */

import { ask } from "./http";
import type { Mode, Stored } from "./types";

const at = (kind: string, pattern: string): string => `/dashboard/policies/${encodeURIComponent(kind)}/${encodeURIComponent(pattern)}`;

export const stored = (kind: string, pattern: string, mode: Mode, signal?: AbortSignal): Promise<Stored> =>
  ask<Stored>(`${at(kind, pattern)}?mode=${mode}`, signal ? { signal } : {});

export interface Put {
  kind: string;
  pattern: string;
  mode: Mode;
  text: string;
  reason: string;
  /** The revision that was seen; 0: there was none. */
  replaces: number;
  force: boolean;
}

export interface Done {
  revision: number;
  /** What whoever puts it should know: agents that do not know a field of it. */
  warnings?: string[];
}

export const put = ({ kind, pattern, mode, text, reason, replaces, force }: Put): Promise<Done> =>
  ask(at(kind, pattern), { method: "PUT", body: { text, reason, replaces, mode, force } });

/** What would be wrong with the mesh, were it put: nothing is. */
export const judged = async ({ kind, pattern, mode, text, replaces }: Omit<Put, "reason" | "force">): Promise<string[]> =>
  (await ask<Done>(at(kind, pattern), { method: "PUT", body: { text, replaces, mode, force: true, dry_run: true } })).warnings ?? [];

export const remove = ({ kind, pattern, mode, reason, replaces, force }: Omit<Put, "text">): Promise<Done> =>
  ask(at(kind, pattern), { method: "DELETE", body: { reason, replaces, mode, force } });
