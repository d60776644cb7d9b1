/** What the API answers, as far as the page reads it. The whole of it: /api/v1/openapi.json. */

export type Mode = "enforce" | "audit";
export type State = "healthy" | "unhealthy" | "draining" | "suspect" | string;

export interface Missing {
  why: string;
  reason: string;
}

export interface Page<T> {
  items: T[];
  total: number;
  revision: number;
  next?: string;
  asked?: number;
  missing?: Record<string, Missing>;
}

export interface Mesh {
  name: string;
  host: string;
  version: string;
  revision: number;
  age_s: number | null;
  etcd_connected: boolean;
  services: number;
  instances: number;
  agents: number;
  policies: number;
  refused: number;
  held: number;
  suspects: number;
}

export interface Me {
  who: string;
  by_way_of: string;
  role: string;
  may: { read: boolean; tap: boolean; operate: boolean; write: boolean };
  write: string;
  mesh: string;
  host: string;
  login: string;
  logout: string;
}

export interface PolicyRef {
  kind: string;
  pattern: string;
  revision: number;
  mode: Mode;
}

export interface Policy extends PolicyRef {
  document: unknown;
}

export interface Service {
  name: string;
  instances: number;
  healthy: number;
  draining: number;
  versions: Record<string, number>;
  policies: PolicyRef[];
}

export interface Instance {
  service: string;
  id: string;
  address: string;
  port: number;
  version: string;
  zone: string;
  weight: number;
  agent: string;
  state: State;
  since: string;
  reason: string;
  metadata: Record<string, string>;
}

export interface Change {
  host: string;
  revision: number;
  what: string[];
  at: number;
  took_s: number | null;
}

export interface JudgedRow {
  host: string;
  service: string;
  kind: string;
  document: string;
  done: string;
  would: string;
  requests: number;
}

export interface Checked {
  host: string;
  service: string;
  id: string;
  how: "http" | "tcp" | "command" | "ttl";
  /** Null: there was none so far. */
  at: number | null;
  ok: boolean;
  reason: string;
  took_s: number;
  every_s: number;
  unable: string;
}

export interface ServiceDetail extends Service {
  members: Instance[];
  in_force: Policy[];
  watched: Policy[];
  closed: { kind: string; pattern: string; reason: string }[];
  callers: string[];
  calls: string[];
}

export interface Figure {
  service: string;
  caller: string;
  route: string;
  version: string;
  instance: string;
  requests: number;
  rate: number;
  errors: number;
  statuses: Record<string, number>;
  p50_s: number | null;
  p95_s: number | null;
  p99_s: number | null;
  in_flight: number;
  pending: number;
  refused: Record<string, number>;
  shed: Record<string, number>;
}

export interface Figures extends Page<Figure> {
  until: number;
  covered_s: number;
  folded: number;
}

export type Points = (number | null)[];

export interface SeriesRow {
  service: string;
  caller: string;
  version: string;
  instance: string;
  rate: Points;
  errors: Points;
  p50_s: Points;
  p95_s: Points;
  p99_s: Points;
  in_flight: Points;
  pending?: Points;
  refused: Points;
  shed: Points;
}

export interface Series extends Page<SeriesRow> {
  until: number;
  step_s: number;
}

export interface Agent {
  host: string;
  address: string;
  zone: string;
  version: string;
  started: string;
  stopping: boolean;
  instances: number;
  certificate_ends: string;
  runs: number | null;
  ready: boolean | null;
  build: string | null;
  refused: number | null;
  etcd_connected: boolean | null;
}

export interface Refused {
  host: string;
  kind: string;
  pattern: string;
  path: string;
  reason: string;
  revision: number;
  last_good: number;
  closed: boolean;
  watched: boolean;
}

export interface Alert {
  id: string;
  severity: "error" | "warning" | "info";
  where: string;
  what: string;
  next: string;
  /** Whose agents say so of themselves; empty: it stands in etcd. */
  hosts: string[];
}

export interface Alerts extends Page<Alert> {
  counts: Record<Alert["severity"], number>;
}

export interface MeshEvent {
  host: string;
  time: string;
  type: string;
  subject: string;
  service: string;
  reason: string;
  state: string;
  id: string;
}

/** What a target of a split gets of what comes to its rule. */
export interface Share {
  to: string;
  percent: number;
}

export interface Decision {
  phase: string;
  decision: string;
  reason: string;
  policy: string;
  /** 0 with a policy: it is only supposed. */
  revision: number;
  mode: string;
  host: string;
  /** Of the whole split of a route, whatever was drawn. */
  shares?: Share[];
}

/** Who was seen to call whom. */
export interface Call {
  host: string;
  caller: string;
  service: string;
  requests: number;
}

export interface Explained {
  decisions: Decision[];
  endpoint: Record<string, unknown> | null;
  status: number | null;
  /** Documents for its service that are not in force. */
  refused: Refused[];
}

export interface ExplainAsked {
  url: string;
  method: string;
  caller?: string;
  headers?: { name: string; value: string }[];
  claims?: Record<string, string>;
  /** As if they were put; without a text: as if they were removed. */
  documents?: { kind: string; pattern: string; mode: Mode; text?: string }[];
  /** Two questions with the same one differ by what their documents say. */
  seed?: number;
}

/** A record of a request: docs/logs.md. */
export interface Recorded {
  time: number;
  direction: string;
  caller: string;
  service: string;
  endpoint: string;
  method: string;
  host: string;
  target: string;
  status: number;
  duration_s: number;
  flag: string;
  why: string;
  trace_id: string;
  request_id: string;
  verdicts: string[];
  attempts: number;
}

export interface OfHost {
  items: Recorded[];
  lost: number;
  begun: boolean;
  recorded: boolean;
}

export interface Requests {
  hosts: Record<string, OfHost>;
  next: string;
  missing: Record<string, Missing>;
}

export interface Scaled {
  host: string;
  service: string;
  replicas: number;
  instances: number;
  ready: number;
  least: number;
  most: number;
  panic: boolean;
  whole: boolean;
  reason: string;
  policy: string;
  revision: number;
  mode: Mode;
}

export interface ComparedField {
  field: string;
  raw: number;
  noise: number;
  relative_percent: number;
  absolute_percent: number;
  regression: boolean;
  examples: { request: string; primary: string; candidate: string }[];
}

export interface Comparison {
  service: string;
  outcome: string;
  total: number;
  skipped: Record<string, number>;
  median_s: Record<string, number | null>;
  thresholds: Record<string, number>;
  fields: ComparedField[];
  agents: string[];
  left_out: Record<string, string>;
}

export interface AuditFound {
  hosts: string[];
  missing: Record<string, string>;
  total: number;
  records: Record<string, unknown>[];
}

/** As it stands in etcd: only a page that `shoal dashboard` serves can ask for it, and write it. */
export interface Stored {
  kind: string;
  pattern: string;
  mode: Mode;
  text: string;
  revision: number;
}

export interface Link {
  service: string;
  within_s: number;
  timeout_s: number;
  try_s: number;
  attempts: number;
  requests: number;
  breaker: boolean;
  fallback: string;
  backpressure: boolean;
  policies: Record<string, string>;
  again: boolean;
  calls: Link[];
}

export interface Chain {
  chain: Link;
  findings: { kind: string; path: string[]; reason: string }[];
  asked: number;
  missing: Record<string, Missing>;
}
