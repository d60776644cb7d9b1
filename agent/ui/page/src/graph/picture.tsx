/** The graph, drawn: SVG that scrolls, with what somebody without a mouse or without colours needs. */

import { rate, seconds, share } from "../format";
import { belowOf, type Edge, type Graph, type Health, type Node } from "./model";
import type { Placed, Point } from "./layout";
import { NODE_HEIGHT, widthOf } from "./placing";

/** Each health has a shape of its own beside its colour. */
export const GLYPH: Record<Health, string> = { good: "●", warn: "▲", bad: "■", idle: "○" };
export const HEALTH_WORD: Record<Health, string> = { good: "well", warn: "something is wrong", bad: "failing", idle: "idle" };

export function Picture(props: { graph: Graph; placed: Placed; zoom: number; href: (node: Node) => string; focus: string }) {
  const { graph, placed, zoom, href, focus } = props;
  const nodes = graph.nodes.filter((node) => placed.nodes[node.id]);
  return (
    <svg
      class="graph"
      role="group"
      aria-label={`${nodes.length} services and groups, ${graph.edges.length} ways between them`}
      viewBox={`0 0 ${placed.width} ${placed.height}`}
      width={placed.width * zoom}
      height={placed.height * zoom}
    >
      <defs>
        {(["good", "warn", "bad"] as const).map((health) => (
          <marker key={health} id={`arrow-${health}`} viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
            <path class={`arrow ${health}`} d="M0 0 L8 4 L0 8 z" />
          </marker>
        ))}
      </defs>
      {graph.edges.map((edge) => placed.edges[edge.id] && <EdgeLine key={edge.id} edge={edge} points={placed.edges[edge.id] ?? []} />)}
      {nodes.map((node) => (
        <NodeBox key={node.id} node={node} at={placed.nodes[node.id] as Point} href={href(node)} focused={node.id === focus} />
      ))}
    </svg>
  );
}

function EdgeLine({ edge, points }: { edge: Edge; points: Point[] }) {
  if (points.length === 0) return null;
  const middle = points[Math.floor(points.length / 2)] as Point;
  const words = `${edge.from} calls ${edge.to}: ${rate(edge.rate)}, ${share(1 - edge.errors)} succeed, p95 ${seconds(edge.p95_s)}`;
  return (
    <g class={`edge ${edge.health}`} role="img" aria-label={words}>
      <title>{words}</title>
      <path d={curve(points)} stroke-width={1 + Math.min(5, Math.log10(1 + edge.rate) * 1.4)} marker-end={`url(#arrow-${edge.health === "idle" ? "good" : edge.health})`} />
      <text x={middle.x} y={middle.y - 5} text-anchor="middle">
        {rate(edge.rate)}
        {edge.errors > 0 ? ` · ${share(edge.errors)} fail` : ""} · p95 {seconds(edge.p95_s)}
      </text>
    </g>
  );
}

/** Through the middles between the points of the layout. */
export function curve(points: readonly Point[]): string {
  const first = points[0];
  const last = points[points.length - 1];
  if (!first || !last) return "";
  let path = `M${first.x} ${first.y}`;
  for (let at = 1; at < points.length - 1; at++) {
    const here = points[at] as Point;
    const next = points[at + 1] as Point;
    const end = at === points.length - 2 ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
    path += ` Q${here.x} ${here.y} ${end.x} ${end.y}`;
  }
  return points.length === 2 ? `${path} L${last.x} ${last.y}` : path;
}

function NodeBox({ node, at, href, focused }: { node: Node; at: Point; href: string; focused: boolean }) {
  const width = widthOf(node);
  const left = at.x - width / 2;
  const top = at.y - NODE_HEIGHT / 2;
  const below = belowOf(node);
  const words = `${node.name}: ${HEALTH_WORD[node.health]}, ${below}`;
  const box = (
    <g class={`node ${node.health} ${node.kind}${focused ? " focused" : ""}`}>
      <title>{words}</title>
      <rect x={left} y={top} width={width} height={NODE_HEIGHT} rx="8" />
      <text class="name" x={left + 10} y={top + 19}>
        <tspan class="glyph">{GLYPH[node.health]}</tspan> {cut(node.name, Math.floor((width - 34) / 7.2))}
      </text>
      <text class="below" x={left + 10} y={top + 36}>
        {cut(below, Math.floor((width - 16) / 5.9))}
      </text>
    </g>
  );
  return node.kind === "outside" ? (
    box
  ) : (
    <a href={href} aria-label={words}>
      {box}
    </a>
  );
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}
